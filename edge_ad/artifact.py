"""A trained detector on disk: a folder with a manifest, hashed files, and nothing that runs code when read."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from edge_ad.config import Config, read_section, to_plain
from edge_ad.errors import ArtifactError, ConfigError

FORMAT = 1
MANIFEST = "manifest.json"
PHOTOS = "training_photos.txt"  # one `photo_key` a line
PICTURE = "training.png"  # how the training went, for people: no file of the manifest, so that it may be deleted
FEEDBACK: tuple[Literal["bad", "good"], ...] = ("bad", "good")  # folders of edge_ad.data.feedback, outlive a training


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a frame before the graph: resize (bilinear, antialiased), scale to 0..1, normalise."""

    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class FileRecord:
    """Hash and size of one file of the artifact."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What the artifact holds and how it came to be.

    teacher: name, source and sha256 of the weights the teacher had. training: steps, seconds, seed, data.
    calibration: thresholds and the promise that goes with them (edge_ad.calibrate). reports: what exports and
    evaluations recorded.
    """

    name: str
    config: dict[str, Any]
    preprocessing: Preprocessing
    classes: tuple[str, ...] = ()
    teacher: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None
    reports: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)
    created: str = ""
    edge_ad: str = ""
    format: int = FORMAT


class Artifact:
    """A trained detector in a folder. Every file is checked against its hash before its path is handed out."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._checked: set[str] = set()

    @classmethod
    def open(cls, path: Path | str) -> Artifact:
        """Read the manifest; ArtifactError when there is none, or it is damaged or from a newer version."""
        path = Path(path)
        text = _read_manifest(path)
        try:
            data = json.loads(text)
            if not isinstance(data, dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise ArtifactError(
                f"{path / MANIFEST} is damaged: {error}", "restore it from a backup or train again"
            ) from error
        if data.get("format") != FORMAT:
            raise ArtifactError(
                f"{path} has artifact format {data.get('format')!r}, this version reads {FORMAT}",
                "use the EdgeAD version that wrote it, or train again",
            )
        files = data.pop("files", {})
        try:
            manifest = read_section(Manifest, data, "")
            records = {name: read_section(FileRecord, record, f"files.{name}") for name, record in files.items()}
        except (ConfigError, AttributeError) as error:
            raise ArtifactError(f"{path / MANIFEST} is damaged: {error}", "restore it or train again") from error
        return cls(path, dataclasses.replace(manifest, files=records))

    @classmethod
    def create(cls, path: Path | str, manifest: Manifest, files: Mapping[str, bytes | Path]) -> Artifact:
        """Build the folder beside `path` and swap it in, so that a reader sees all of it or nothing.

        An artifact that was there is replaced (its feedback stays); any other non-empty folder is an ArtifactError.
        """
        path = Path(path)
        if path.exists() and not (path / MANIFEST).exists() and any(path.iterdir()):
            raise ArtifactError(f"{path} exists and is no artifact", "choose another --out folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            artifact = cls(building, _stamped(manifest))
            for name, data in files.items():
                artifact._store(name, data)
            artifact._write_manifest()
            _carry_over(path, building)
            building.chmod(0o755)
            _swap(building, path)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return cls.open(path)

    def file(self, name: str) -> Path:
        """The file's path, after its size and SHA-256 were checked (once per process)."""
        record = self.manifest.files.get(name)
        if record is None:
            have = ", ".join(sorted(self.manifest.files)) or "none"
            raise ArtifactError(f"{self.path} has no {name}", f"files it has: {have}; `edgead export` adds more")
        path = self.path / name
        if name not in self._checked:
            digest, size = _digest(path)
            if (digest, size) != (record.sha256, record.bytes):
                raise ArtifactError(
                    f"{path} was changed: SHA-256 {digest[:12]}... instead of {record.sha256[:12]}...",
                    "restore the file, or train or export again; never run a detector that failed this check",
                )
            self._checked.add(name)
        return path

    def has(self, name: str) -> bool:
        """Whether the manifest lists the file."""
        return name in self.manifest.files

    def add(self, name: str, data: bytes | Path) -> Path:
        """Add or replace one file, atomically: the new bytes are on disk before the manifest names them."""
        self._store(name, data)
        self._write_manifest()
        self._checked.add(name)
        return self.path / name

    def update(self, **changes: Any) -> None:
        """Replace manifest fields such as `calibration`; `reports` is merged key by key."""
        if "reports" in changes:
            changes["reports"] = {**self.manifest.reports, **changes["reports"]}
        self.manifest = dataclasses.replace(self.manifest, **changes)
        self._write_manifest()

    @property
    def config(self) -> Config:
        """The settings it was trained with."""
        # what an older version did not know is off: not as its preset has it by now
        return read_section(Config, self.manifest.config, "", Config())

    def trained_on(self) -> frozenset[str] | None:
        """`photo_key` of every photo it was trained on; None where the artifact keeps no record of them."""
        return frozenset(self.file(PHOTOS).read_text(encoding="utf-8").split()) if self.has(PHOTOS) else None

    def check_writable(self, needed: int = 1 << 20) -> None:
        """ArtifactError, before any work is done for it, where `needed` more bytes could not be written into it."""
        check_folder(self.path, needed)

    def size(self) -> int:
        """Bytes of all its files together."""
        return sum(record.bytes for record in self.manifest.files.values())

    def digest(self) -> str:
        """SHA-256 over the manifest's file list: one short name for exactly these weights and graphs."""
        listing = {name: record.sha256 for name, record in sorted(self.manifest.files.items())}
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()

    def _store(self, name: str, data: bytes | Path) -> None:
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or name == MANIFEST:
            raise ArtifactError(f"'{name}' is no file name inside an artifact", "use a relative path")
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, data)
        digest, size = _digest(target)
        self.manifest = dataclasses.replace(
            self.manifest, files={**self.manifest.files, name: FileRecord(digest, size)}
        )

    def _write_manifest(self) -> None:
        text = json.dumps(to_plain(self.manifest), indent=1, sort_keys=True)
        write_atomically(self.path / MANIFEST, text.encode())


def write_atomically(target: Path, data: bytes | Path) -> None:
    """Write bytes, or copy a file, so that `target` is the old file or the whole new one, also after a crash.

    A link stays one: what it leads to is written. A device, pipe or anything else that is no plain file is written
    through.
    """
    if _is_written_through(target):
        try:
            with target.open("wb") as out, data.open("rb") if isinstance(data, Path) else io.BytesIO(data) as given:
                shutil.copyfileobj(given, out, 1 << 20)
        except OSError as error:
            raise _cannot_write(target, error) from error
        return
    target = Path(os.path.realpath(target)) if target.is_symlink() else target
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        with os.fdopen(handle, "wb") as out:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, out, 1 << 20)
            else:
                out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(name, 0o644)
        os.replace(name, target)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise _cannot_write(target, error) from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _is_written_through(target: Path) -> bool:
    """Whether this is a device, a pipe, or one of the process's own streams, which no file may take the place of."""
    try:
        mode = target.stat().st_mode
    except OSError:
        return False
    streams = str(target.absolute()).startswith(("/dev/", "/proc/"))
    return not stat.S_ISDIR(mode) and (streams or not stat.S_ISREG(mode))


def check_target(target: Path) -> None:
    """ArtifactError, before any work is done for it, where `write_atomically` could not write `target`."""
    if not target.parent.is_dir():
        raise ArtifactError(f"the folder {target.parent} does not exist", "create it first")
    if target.is_dir():
        raise ArtifactError(f"{target} is a folder", "name a file in it")
    if _is_written_through(target):
        if not os.access(target, os.W_OK):
            raise ArtifactError(f"can't write {target}: no right to", "check its owner and rights")
        return
    _check_room(Path(os.path.realpath(target)).parent, target)


def check_folder(folder: Path, needed: int = 1 << 20) -> None:
    """ArtifactError, before any work is done for it, where nothing could be written into `folder`.

    folder: made later where it doesn't exist yet. needed: bytes that will be written.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise ArtifactError(f"{place} is a file, not a folder", "choose another folder")
    _check_room(place, folder, needed)


def _check_room(place: Path, wanted: Path, needed: int = 1 << 16) -> None:
    """Write a little into the folder `place`, as quotas and network drives only tell when written to."""
    try:
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(bytes(min(needed, 1 << 16)))
            probe.flush()
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise _cannot_write(wanted, error) from error
    if free < needed:
        raise ArtifactError(
            f"can't write {wanted}: {free / 1e6:.1f} MB are free, {needed / 1e6:.1f} MB are needed",
            "free some disk space or choose another folder",
        )


def _cannot_write(target: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"can't write {target}: {error.strerror or error}", "free some disk space or choose another folder"
    )


def _read_manifest(path: Path) -> str:
    try:
        return (path / MANIFEST).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "does not exist" if not path.exists() else "is no artifact: it has no manifest.json"
        raise ArtifactError(f"{path} {what}", "name the folder that `edgead train --out` wrote") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"can't read {path / MANIFEST}: {error}", "check the path and its rights") from error


def _stamped(manifest: Manifest) -> Manifest:
    from edge_ad import __version__  # noqa: PLC0415  (edge_ad/__init__ must not import this file first)

    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return dataclasses.replace(manifest, created=manifest.created or now, edge_ad=__version__)


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 as 64 hex digits, and the size in bytes; OSError when the file can't be read."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as source:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def photo_key(path: Path) -> str:
    """A photo's key, by its file's content: the first 16 hex digits of its SHA-256; ArtifactError if unreadable."""
    return _digest(path)[0][:16]


def is_known_photo(path: Path, known: frozenset[str]) -> bool:
    """Whether the photo's key is among the known ones; False where it can't be read, which decoding it will say."""
    try:
        return photo_key(path) in known
    except ArtifactError:
        return False


def _digest(path: Path) -> tuple[str, int]:
    try:
        return hash_file(path)
    except OSError as error:
        raise ArtifactError(
            f"can't read {path}: {error.strerror}", "restore the file, or train or export again"
        ) from error


def _carry_over(earlier: Path, building: Path) -> None:
    """Copy the feedback folders of the artifact that is about to be replaced."""
    for kind in FEEDBACK:
        if (earlier / kind).is_dir():
            shutil.copytree(earlier / kind, building / kind, dirs_exist_ok=True)


def _swap(building: Path, path: Path) -> None:
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        if path.exists():
            os.replace(path, old / "artifact")
        os.replace(building, path)
    finally:
        shutil.rmtree(old, ignore_errors=True)
