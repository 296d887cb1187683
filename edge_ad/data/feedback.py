"""What people found out about parts after their verdict: defects that were let pass, good parts that were rejected.

    ARTIFACT/bad/<name>.png     a confirmed miss: every new threshold, graph and model must catch it
    ARTIFACT/good/<name>.png    a good part that was rejected: the next training learns it
    ARTIFACT/.../<name>.json    its product, how the line cuts its pictures, who said so, when, and why

The folders belong to the artifact, yet not to its hash: what is learnt about a detector doesn't change it. A picture
that somebody copied in by hand counts too, without a .json as a whole picture of the artifact's only product.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edge_ad.artifact import FEEDBACK, Artifact, hash_file, write_atomically
from edge_ad.config import read_section
from edge_ad.data.images import encode_image, images_below, read_image
from edge_ad.errors import ConfigError, DataError

Kind = Literal["bad", "good"]
NAME = re.compile(r"[^0-9A-Za-z._-]+")


@dataclass(frozen=True)
class Known:
    """What is known of a picture besides its pixels.

    product: one of the artifact's; "" where it has one. station: the line's `frame` and `policy.regions` as settings
    tables; empty for whole pictures. straightened: the line had cut and turned the picture before it was kept.
    verdict: id in the line's store. sha256: of the picture's file when it was added; "" for one copied in by hand.
    """

    product: str = ""
    station: dict[str, Any] = field(default_factory=dict)
    straightened: bool = False
    by: str = ""
    note: str = ""
    verdict: str = ""
    time: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Entry:
    """One picture of the folder `kind`."""

    path: Path
    kind: Kind
    known: Known

    @property
    def name(self) -> str:
        """As people name it: `bad/scratch.png`."""
        return f"{self.kind}/{self.path.relative_to(_folder_of(self.path, self.kind)).as_posix()}"

    def check(self) -> None:
        """DataError when the picture is another one than was added."""
        if self.known.sha256 and hash_file(self.path)[0] != self.known.sha256:
            raise DataError(
                f"{self.path} was changed after it was added", "restore it, or take it out: edgead feedback --forget"
            )


def entries(artifact: Path | str, kind: Kind) -> list[Entry]:
    """The pictures of that kind, by name; DataError for a .json that can't be read."""
    folder = Path(artifact) / kind
    try:
        return [Entry(path, kind, _known(path)) for path in images_below(folder)]
    except OSError as error:
        raise DataError(f"can't list {folder}: {error.strerror}", "check its rights") from error


def add(artifact: Path | str, kind: Kind, picture: Path, known: Known, *, name: str = "") -> Entry:
    """File a picture, as PNG, with what is known of it; the same picture again only replaces what is known.

    name: default: the file's. DataError where there is no artifact or the picture can't be read; ArtifactError where
    the folder can't be written.
    """
    root = Artifact.open(artifact).path
    frame = read_image(picture)
    data = picture.read_bytes() if picture.suffix.lower() == ".png" else encode_image(frame)
    digest = hashlib.sha256(data).hexdigest()
    stem = NAME.sub("-", name or picture.stem).strip(".-") or "part"
    folder = root / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"can't make the folder {folder}: {error.strerror}", "check the artifact's rights") from error
    number, target = 1, folder / f"{stem}.png"
    while target.exists() and hash_file(target)[0] != digest:
        number += 1
        target = folder / f"{stem}-{number}.png"
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    known = replace(known, time=known.time or now, sha256=digest)
    write_atomically(target.with_suffix(".json"), json.dumps(asdict(known), indent=1).encode())
    write_atomically(target, data)
    return Entry(target, kind, known)


def forget(artifact: Path | str, name: str) -> None:
    """Take out the picture `bad/NAME` or `good/NAME`; DataError when there is none."""
    known = {one.name: one for kind in FEEDBACK for one in entries(artifact, kind)}
    if name not in known:
        raise DataError(f"{artifact} has no {name}", f"it has: {', '.join(known) or 'no feedback yet'}")
    known[name].path.unlink()
    known[name].path.with_suffix(".json").unlink(missing_ok=True)


def inherit(earlier: Path | str, artifact: Path | str) -> int:
    """How many pictures `artifact` got from `earlier`, whose feedback it lacked."""
    count = 0
    have = {hash_file(one.path)[0] for kind in FEEDBACK for one in entries(artifact, kind)}
    for kind in FEEDBACK:
        for one in entries(earlier, kind):
            if hash_file(one.path)[0] not in have:
                add(artifact, kind, one.path, one.known)
                count += 1
    return count


def _folder_of(path: Path, kind: Kind) -> Path:
    return next(parent for parent in path.parents if parent.name == kind)


def _known(path: Path) -> Known:
    beside = path.with_suffix(".json")
    try:
        return read_section(Known, dict(json.loads(beside.read_text(encoding="utf-8"))), "")
    except FileNotFoundError:
        return Known()
    except (ValueError, TypeError, ConfigError, OSError) as error:
        raise DataError(f"{beside} can't be read: {error}", "repair it, or add the picture again") from error
