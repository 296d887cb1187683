"""A re-calibration set: pictures of what the line sees now, for `edgead calibrate --normals DIR/good`.

    DIR/good/accepted-<id>.png   a uniform sample of all accepted parts
    DIR/good/labelled-<id>.png   rejected parts that a person called good (false alarms)
    DIR/bad/labelled-<id>.png    parts that a person called defective, for a check, never for the threshold
    DIR/set.json                 how many parts stood behind the sample

The pictures are the inspected ones, straightened and cut as the settings say; set.json tells `edgead calibrate` so.

A threshold calibrated on false alarms alone would be far too high, so the sample of accepted parts is the bulk of
the set; it is a reservoir: every accepted part since `begin` has the same chance to be in it.
"""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Literal

import numpy as np

from edge_ad.artifact import write_atomically
from edge_ad.data.images import encode_image, read_image
from edge_ad.errors import DataError

ID = re.compile(r"[0-9A-Za-z_-]{1,64}")  # names no folder but its own


class RecalibrationSet:
    """The set in `folder`; taken up again where it was left."""

    def __init__(self, folder: Path, *, size: int = 500, seed: int | None = None) -> None:
        """size: accepted parts kept. Raises DataError where the folder holds another kind of set."""
        if size < 1:
            raise DataError(f"a re-calibration set of {size} pictures", "keep at least 1; a few hundred are useful")
        self.folder, self.size = folder, size
        self._random = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self.offered = 0
        state = folder / "set.json"
        if state.exists():
            try:
                self.offered = int(json.loads(state.read_text(encoding="utf-8"))["offered"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{state} is damaged: {error}", "move the folder away and begin a new set") from error
        self._kept = sorted((folder / "good").glob("accepted-*.png"))

    def offer(self, id: str, frame: np.ndarray) -> bool:
        """Offers an accepted part; True where it was taken.

        id: the verdict's. frame: [H, W, 3] uint8 RGB, as it was inspected, without heat map. Writes a PNG when
        taken, so keep it off the loop's own thread.
        """
        with self._lock:
            self.offered += 1
            # Part number n enters with chance size / n and pushes out any one: Vitter's algorithm R.
            place = len(self._kept) if len(self._kept) < self.size else int(self._random.integers(self.offered))
            if place >= self.size:
                if self.offered % 100 == 0:
                    self._write_state()
                return False
            path = self._path("good", "accepted", id)
            self._write(path, encode_image(frame))
            if place < len(self._kept):
                self._kept[place].unlink(missing_ok=True)
                self._kept[place] = path
            else:
                self._kept.append(path)
            self._write_state()
            return True

    def label(self, id: str, label: Literal["good", "defect"] | None, picture: Path | None) -> None:
        """Files a labelled part's picture under what it was; None takes it out.

        picture: the camera's picture as it was kept; None where none was, and then only the sample is put right.
        """
        with self._lock:
            for room in ("good", "bad"):
                self._path(room, "labelled", id).unlink(missing_ok=True)
            if label == "defect":  # a missed defect has no place among the normals
                accepted = self._path("good", "accepted", id)
                accepted.unlink(missing_ok=True)
                self._kept = [path for path in self._kept if path != accepted]
            sampled = self._path("good", "accepted", id).exists()
            if label is None or picture is None or sampled:
                return
            target = self._path("good" if label == "good" else "bad", "labelled", id)
            is_png = picture.suffix.lower() == ".png"
            self._write(target, picture if is_png else encode_image(read_image(picture)))

    def counts(self) -> dict[str, int]:
        """Pictures in the set and parts that stood behind the sample."""
        good = len(list((self.folder / "good").glob("labelled-*.png")))
        bad = len(list((self.folder / "bad").glob("labelled-*.png")))
        return {"accepted": len(self._kept), "false_alarms": good, "defects": bad, "offered": self.offered}

    def close(self) -> None:
        """Writes down how many parts were offered."""
        with self._lock:
            if self.offered:
                self._write_state()

    def _path(self, room: str, how: str, id: str) -> Path:
        if not ID.fullmatch(id):
            raise DataError(f"{id!r} is no verdict's id", "letters, digits, - and _ only")
        return self.folder / room / f"{how}-{id}.png"

    def _write_state(self) -> None:
        self._write(self.folder / "set.json", json.dumps({"offered": self.offered, "size": self.size}).encode())

    def _write(self, path: Path, data: bytes | Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)


def is_inspected(folder: Path) -> bool:
    """Whether the folder belongs to such a set: its pictures went through the line's straightening already."""
    return any((place / "set.json").is_file() for place in (folder, folder.parent))
