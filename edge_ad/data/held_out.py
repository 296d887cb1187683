"""Photos of good parts that an artifact's training set apart, found again in the folders it was trained on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edge_ad.artifact import Artifact, photo_key
from edge_ad.data.loader import PhotoReader
from edge_ad.data.samples import Problem, Sample, scan
from edge_ad.errors import DataError

_HINT = "name photos of good parts: add --normals DIR"


class TrainingPhotos(NamedTuple):
    """Usable photos of the folders. seen: what the detector was fitted to; unseen: held out, or added since."""

    seen: tuple[Sample, ...]
    unseen: tuple[Sample, ...]
    folders: tuple[Path, ...]
    broken: tuple[Problem, ...]


def relative_folders(folders: Sequence[Path], artifact: Path) -> list[str]:
    """The folders as the manifest keeps them: from the artifact, so that both may move together."""
    return [Path(os.path.relpath(folder.resolve(), artifact.resolve())).as_posix() for folder in folders]


def photo_folders_of(artifact: Artifact) -> tuple[Path, ...]:
    """The folders that the artifact was trained on, as seen from the working folder.

    Raises DataError where it keeps no record of them, or where one of them is gone.
    """
    recorded = artifact.manifest.training.get("photos") or ()
    if not recorded:
        raise DataError(f"{artifact.path} keeps no record of the folder of its training photos", _HINT)
    found = []
    for name in recorded:
        folder = Path(os.path.relpath(os.path.normpath(artifact.path.resolve() / name)))
        if not folder.is_dir():
            raise DataError(f"{folder}, on which {artifact.path} was trained, is not there any more", _HINT)
        found.append(folder)
    return tuple(found)


def training_photos(artifact: Artifact) -> TrainingPhotos:
    """The good photos in the folders that the artifact was trained on, by whether training saw them.

    Photos that another one equals in every byte count once, as seen where one of them was.
    Raises DataError where the folders aren't known or are gone, or the artifact keeps no record of what it saw.
    """
    folders = photo_folders_of(artifact)
    known = artifact.trained_on()
    if known is None:
        raise DataError(f"{artifact.path} keeps no record of its training photos", _HINT)
    seen: dict[str, Sample] = {}
    unseen: dict[str, Sample] = {}
    for sample in (sample for folder in folders for sample in scan(folder).train):
        key = photo_key(sample.path)
        (seen if key in known else unseen).setdefault(key, sample)
    usable, broken = PhotoReader(budget=0).decodable(unseen.values())  # training could decode the others
    return TrainingPhotos(tuple(seen.values()), tuple(one.sample for one in usable), folders, tuple(broken))
