"""Triplets on disk: an MVTec-like folder or shards, a manifest that says how each was made, and a contact sheet."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.artifact import check_folder, write_atomically
from edge_ad.data.images import encode_image
from edge_ad.data.loader import PhotoReader
from edge_ad.errors import DataError
from edge_ad.synthesis.defects import DefectSource, Frame, Triplet, choose, make_triplet
from edge_ad.synthesis.foreground import find_foreground
from edge_ad.synthesis.shards import ShardWriter, encode_pngs
from edge_ad.synthesis.sheet import triplet_sheet

MANIFEST = "manifest.json"
FORMAT = 1
SHEET = "contact_sheet.png"
SHEET_COUNT = 32
ATTEMPTS = 8  # per triplet, before the quality control's limits are called too tight


class NormalFrames:
    """Photos of good parts by number, read when asked for and shrunk to `side` (longest side, pixels)."""

    def __init__(self, paths: Sequence[Path], side: int, reader: PhotoReader) -> None:
        if not paths:
            raise DataError("no photos of good parts", "check the folder: `edgead check DATA`")
        self.paths, self._side, self._reader = list(paths), side, reader

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Frame:
        return self._reader.read(self.paths[number], self._side)


def write_triplets(
    out: Path,
    frames: NormalFrames,
    sources: Sequence[tuple[DefectSource, float]],
    count: int,
    *,
    seed: int = 0,
    fault: Callable[[Triplet], str | None] = lambda triplet: None,
    foreground: bool = True,
    visible: float = 10.0,
    per_shard: int = 0,
    notes: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """The manifest of `count` triplets, which are written below `out`.

    train/good/00000.png (I), test/<source>/00000.png (A), ground_truth/<source>/00000_mask.png (M), a contact
    sheet, and manifest.json with the seeds, the normals' names and what was rejected. Triplet k depends on
    (seed, k) and the settings alone. The manifest is written last: until then it names no triplets.

    Args:
        fault: says why a triplet is to be drawn again, or None; after ATTEMPTS in a row DataError is raised.
        per_shard: above 0, the pictures go into tar files of that many triplets instead (see `shards`).
        notes: added to the manifest, e.g. the settings.
        progress: called with (done, count).
    """
    draw = _TripletDrawer(frames, sources, fault, foreground, visible)
    records: list[dict[str, Any]] = []
    shown: list[tuple[Triplet, str]] = []
    open_folder(out)
    write_atomically(out / MANIFEST, json.dumps({"triplets": None}).encode())
    shards = ShardWriter(out, per_shard) if per_shard else None

    for index in range(count):
        triplet, number, source = draw(np.random.default_rng([seed, index]))
        area = round(float(triplet.mask.mean()), 6)
        record = {"index": index, "seed": [seed, index], "source": source, "from": str(frames.paths[number].name)}
        record = {**record, "area": area}
        files = _write(out, index, triplet, source) if shards is None else shards.add(index, triplet, record)
        records.append({**record, **files})
        if len(shown) < SHEET_COUNT:
            shown.append((triplet, source))
        progress(index + 1, count)
    if shards is not None:
        shards.close()
    manifest = {
        "format": FORMAT,
        "seed": seed,
        "count": count,
        "by_source": dict(Counter(record["source"] for record in records)),
        "drawn_again": dict(draw.drawn_again),
        "rejected": dict(draw.rejected),
        **(notes or {}),
        "triplets": records,
    }
    if shown:
        sheet = triplet_sheet([triplet for triplet, _ in shown], [name for _, name in shown])
        write_atomically(out / SHEET, encode_image(sheet))
    write_atomically(out / MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


@dataclass
class _TripletDrawer:
    """Draws triplets until one has no fault; counts what was drawn again, and what `fault` rejected."""

    frames: NormalFrames
    sources: Sequence[tuple[DefectSource, float]]
    fault: Callable[[Triplet], str | None]
    foreground: bool
    visible: float
    drawn_again: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)

    def __call__(self, rng: np.random.Generator) -> tuple[Triplet, int, str]:
        """The triplet, the number of its normal frame, and its source's name."""
        for _ in range(ATTEMPTS):
            number = int(rng.integers(len(self.frames)))
            source = choose(self.sources, rng)
            frame = self.frames[number]
            inside = find_foreground(frame) if self.foreground else None
            triplet = make_triplet(
                frame, rng, [(source, 1.0)], inside=inside, visible=self.visible, rejected=self.drawn_again
            )
            reason = self.fault(triplet)
            if reason is None:
                return triplet, number, source.name
            self.rejected[reason] += 1
        raise DataError(
            f"{ATTEMPTS} triplets in a row were rejected: {dict(self.rejected)}",
            "loosen the limit, or use another source of defects",
        )


def open_folder(out: Path) -> None:
    """Make the folder; DataError when it can't be made, or holds something else than an earlier run left there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        inside = {path.name for path in out.iterdir()}
    except OSError as error:
        raise DataError(f"can't make the folder {out}: {error.strerror}", "choose another --out") from error
    try:
        ours = inside <= {"ddpm"} or "triplets" in json.loads((out / MANIFEST).read_bytes())
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise DataError(f"{out} holds something else than synthetic defects", "choose another --out folder")
    check_folder(out)


def _write(out: Path, index: int, triplet: Triplet, source: str) -> dict[str, str]:
    files = {
        "normal": f"train/good/{index:05d}.png",
        "defective": f"test/{source}/{index:05d}.png",
        "mask": f"ground_truth/{source}/{index:05d}_mask.png",
    }
    for name, picture in encode_pngs(triplet).items():
        path = out / files[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, picture)
    return files
