"""Explain: an artifact and a photo in, why the photo got its score out."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np

from edge_ad.artifact import Artifact, photo_key
from edge_ad.data.held_out import training_photos
from edge_ad.data.images import read_image
from edge_ad.data.samples import scan
from edge_ad.errors import DataError
from edge_ad.progress import NoProgress, Progress
from edge_ad.runtime.explain.explanation import Explanation, NearestNormal
from edge_ad.runtime.explain.scores import explain_frame
from edge_ad.runtime.predictor import load

PHOTOS = 48  # photos of good parts that are searched: under a minute on two CPU cores
_TITLE = "Nearest patch of a good part: "


def explain(
    artifact: str | Path,
    photo: str | Path,
    *,
    normals: str | Path | None = None,
    photos: int = PHOTOS,
    product: str = "",
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Why the detector gives this photo its score; `edge_ad.runtime.explain` makes sentences and a picture of it.

    normals: folder of good parts' photos in which the nearest patch is searched; None takes the photos that training
    saw. photos: how many of them at most, evenly chosen; 0 searches none. product, backend, precision, threads: as
    `edge_ad.load` takes them. The search runs the weights in torch; where torch or the photos are missing, the rest
    is told without it, and `left_out` says why.
    Raises DataError for a photo that can't be read, and for a folder `normals` without photos.
    """
    progress = progress or NoProgress()
    frame = read_image(photo)
    with load(artifact, product=product, backend=backend, precision=precision, threads=threads) as predictor:
        progress.phase(f"scoring with {predictor.runner.name}", 1)
        found = explain_frame(predictor, frame, str(photo), product)
        progress.advance(1)
        opened = predictor.artifact
    nearest, why_not = _nearest(opened, found, Path(photo), normals, photos, progress)
    left_out = found.left_out if nearest else (*found.left_out, _TITLE + why_not)
    return dataclasses.replace(found, nearest=nearest, example=None if nearest else found.example, left_out=left_out)


def _nearest(
    artifact: Artifact, found: Explanation, photo: Path, normals: str | Path | None, most: int, progress: Progress
) -> tuple[NearestNormal | None, str]:
    """The nearest normal patch and "", or None and why none was searched."""
    if not most:
        return None, "not searched, as asked."
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("timm") is None:
        return None, (
            "it is searched with PyTorch, which this machine doesn't have. Ask on the machine that trained, or "
            "`pip install 'edge-ad[train]'`."
        )
    if not artifact.has("weights.safetensors"):
        return None, f"{artifact.path} was copied here without its weights.safetensors."
    try:
        paths = _good_photos(artifact, normals)
    except DataError as error:
        if normals is not None:
            raise
        return None, f"{error.message}. Name photos of good parts with --normals DIR."
    own = photo_key(photo)
    others = [path for path in paths if photo_key(path) != own]
    if len(others) < 2:
        return None, f"{len(others)} other photos of good parts were found, and two are needed."
    from edge_ad.pipeline.nearest import nearest_normal  # noqa: PLC0415  (torch)

    chosen = [
        others[i] for i in np.unique(np.linspace(0, len(others) - 1, min(most, len(others))).round().astype(int))
    ]
    progress.phase("searching good parts", len(chosen))
    at = (found.x or 0, found.y or 0)
    return nearest_normal(artifact, found.frame, at, chosen, len(others), lambda: progress.advance(1)), ""


def _good_photos(artifact: Artifact, normals: str | Path | None) -> list[Path]:
    """Photos of good parts: those of the folder, or those that training saw."""
    if normals is None:
        return sorted(sample.path for sample in training_photos(artifact).seen)
    found = sorted(sample.path for sample in scan(normals).normals)
    if not found:
        raise DataError(f"{normals} has no photo of a good part", "name another folder")
    return found
