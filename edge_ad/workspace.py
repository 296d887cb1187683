"""Workspace: a working folder that remembers which detector the verbs mean when none is named.

`edgead.toml` in that folder holds two lines at most. It may be read, edited, committed and deleted.
"""

from __future__ import annotations

import datetime
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from edge_ad.artifact import MANIFEST, Artifact, check_folder, write_atomically
from edge_ad.config import read_section
from edge_ad.data.folders import photo_folders
from edge_ad.errors import ArtifactError, ConfigError, DataError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "edgead.toml"
_ROOM = 64 << 20  # bytes that even a small detector and its feature cache take
DETECTORS = "detectors"  # where training puts artifacts that were given no --out
_HEADER = """\
# Which detector the verbs of edgead mean when none is named. Change it with `edgead use NAME`, or here.
# candidate: trained since, and beside `current` until `edgead promote`; `edgead run` goes on with `current`.
"""
_GOOD_FOLDERS = frozenset({"train", "good", "ok", "normal", "normals"})  # say nothing about the part


@dataclass(frozen=True)
class Memory:
    """What edgead.toml says: paths from its folder, "" for none."""

    current: str = ""
    candidate: str = ""


class Workspace:
    """A working folder with its memory; `folder` is the present one by default."""

    def __init__(self, folder: Path | str = ".") -> None:
        self.folder = Path(folder)
        self.memory = self._read()

    @property
    def current(self) -> Path | None:
        """The detector that `edgead run` takes; None where there is none yet."""
        return self._path(self.memory.current)

    @property
    def candidate(self) -> Path | None:
        """A detector trained since, not promoted yet; None where there is none."""
        return self._path(self.memory.candidate)

    def find(self, name: str | Path | None = None, *, on_line: bool = False) -> Path:
        """The artifact's folder that a person means.

        name: a path, or the name of a folder in detectors/. None: the candidate, else the current one.
        on_line: for `edgead run`, which never takes a candidate unasked.
        Raises ArtifactError where nothing is named and nothing is remembered.
        """
        if name is not None and str(name):
            path, known = self.folder / name, self.folder / DETECTORS / name
            # a folder of photos may well be called as its detector is
            return known if (known / MANIFEST).exists() and not (path / MANIFEST).exists() else path
        found = (None if on_line else self.candidate) or self.current
        if found is None:
            trained = self.artifacts()
            raise ArtifactError(
                "no detector was named, and this folder remembers none",
                f"choose one: `edgead use {trained[0].name}`"
                if trained
                else "train one first: `edgead train PHOTOS`",
            )
        if not (found / MANIFEST).exists():
            raise ArtifactError(
                f"{FILE} names {found}, which is not there", "`edgead list` shows what is; `edgead use NAME` chooses"
            )
        return found

    def artifacts(self) -> list[Path]:
        """Every artifact in detectors/ and those remembered, sorted by name."""
        inside = self.folder / DETECTORS
        found = {path.parent for path in inside.glob(f"*/{MANIFEST}")} if inside.is_dir() else set()
        found |= {path for path in (self.current, self.candidate) if path and (path / MANIFEST).exists()}
        return sorted(path for path in found if not path.name.startswith("."))

    def use(self, path: Path) -> None:
        """Make the artifact at `path` the current one; a candidate is forgotten, not removed."""
        Artifact.open(path)
        self._write(Memory(self._name(path)))

    def remember(self, trained: Path, beside: Path | None) -> None:
        """Note a training's artifact: as the candidate for `beside`, or as the current one where that is None.

        One that lies outside this folder is not noted: it belongs to another.
        """
        if self.folder.resolve() not in trained.resolve().parents:
            return
        name = self._name(trained)
        memory = Memory(name) if beside is None else Memory(self._name(beside), name)
        if beside is None and name == self.memory.candidate:  # a resumed run of the candidate
            memory = self.memory
        self._write(memory)

    def promoted(self, place: Path) -> None:
        """Note that a candidate has taken its place."""
        self._write(Memory(self._name(place)))

    def _path(self, name: str) -> Path | None:
        return self.folder / name if name else None

    def _name(self, path: Path) -> str:
        """As the file holds it: from the working folder where it lies inside, else absolute."""
        inside = os.path.relpath(path.absolute(), self.folder.absolute())
        return path.resolve().as_posix() if inside.startswith("..") else Path(inside).as_posix()

    def _read(self) -> Memory:
        file = self.folder / FILE
        try:
            data = tomllib.loads(file.read_text(encoding="utf-8"))
            return read_section(Memory, data, "")
        except FileNotFoundError:
            return Memory()
        except (OSError, ValueError, ConfigError) as error:
            raise ConfigError(f"can't read {file}: {error}", "mend it, or delete it and `edgead use NAME`") from error

    def _write(self, memory: Memory) -> None:
        values = {key: value for key, value in vars(memory).items() if value}
        write_atomically(self.folder / FILE, (_HEADER + tomli_w.dumps(values)).encode())
        self.memory = memory


def describe(path: Path) -> str:
    """The artifact in words: where it is and when it was trained."""
    return f"{path}, trained {ago(Artifact.open(path).manifest.created)}"


def ago(moment: str) -> str:
    """How long ago an ISO 8601 moment was, in words; "at an unknown time" where it is none."""
    try:
        then = datetime.datetime.fromisoformat(moment)
        seconds = (datetime.datetime.now(datetime.timezone.utc) - then).total_seconds()
    except (ValueError, TypeError):
        return "at an unknown time"
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (count != 1)} ago"
    return "just now"


@dataclass(frozen=True)
class Place:
    """Where a training's artifact goes. beside: the artifact that stays as it is meanwhile; None: there is none."""

    path: Path
    beside: Path | None = None


def place_for(out: Path, *, resume: bool = False, replace_old: bool = False) -> Place:
    """A folder for a new artifact that overwrites none: `out`, or the first of `out-2`, `out-3`, ... that is free.

    resume: the newest of them that has an unfinished run. replace_old: `out` in any case.
    """
    if replace_old or not (out / MANIFEST).exists():
        return Place(out)
    number = 2
    while (path := out.with_name(f"{out.name}-{number}")).exists():
        number += 1
    if resume:
        tried = [path, *(out.with_name(f"{out.name}-{n}") for n in range(number - 1, 1, -1)), out]
        path = next((one for one in tried if _unfinished(one)), path)
        return Place(path, None if path == out else out)
    return Place(path, out)


def _unfinished(path: Path) -> bool:
    work = path.with_name(f"{path.name}.training")
    return (work / "checkpoint.pt").exists() or (work / "cache").exists()


def check_output(out: Path) -> None:
    """ArtifactError, before any work is done, when `out` must not be replaced, or can't be written."""
    if out.exists() and not (out / MANIFEST).exists() and (out.is_file() or any(out.iterdir())):
        raise ArtifactError(f"{out} exists and is no artifact", "choose another --out folder")
    check_folder(out.absolute().parent, _ROOM)


def default_out(photos: Sequence[Path]) -> Path:
    """detectors/NAME, after the folders of photos; of .../bottle/train/good it is bottle."""
    names = []
    for folder in photos:
        path = folder.resolve()
        while path.name.lower() in _GOOD_FOLDERS and path.parent.name:
            path = path.parent
        names.append(re.sub(r"[^\w.+-]+", "_", path.name).strip("._-") or "detector")
    unique = list(dict.fromkeys(names))
    return Path(DETECTORS) / ("+".join(unique) if len(unique) < 4 else f"{unique[0]}+{len(unique) - 1}")


def find_training_folder(here: Path | str = ".") -> Path:
    """The folder of photos that `edgead train` means when none is named: this one, or the only one in it.

    Raises DataError where there is none, or several, which it lists.
    """
    here = Path(here)
    found = photo_folders(here)
    if len(found) == 1:
        return found[0].path
    if not found:
        raise DataError(
            f"no photos here in {here.resolve()}",
            "put photos of good parts into a folder (50 or more are good), then `edgead train FOLDER`",
        )
    listed = ", ".join(f"{one.path} ({one.what})" for one in found)
    raise DataError(
        f"several folders here could be meant: {listed}",
        f"name the one with the good parts, such as `edgead train {found[0].path}`; several make one model for all",
    )
