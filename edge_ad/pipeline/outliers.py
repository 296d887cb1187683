"""Good photos that look like no other: some folders of "good" parts hold bad ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Frame
from edge_ad.data.loader import PhotoReader
from edge_ad.errors import DataError
from edge_ad.training.photos import Photos

FEWEST = 8  # photos of a product among which one can stand out
MEMORY = 8192  # patches of all photos that a photo's patches are compared with
STRANGEST = 0.01  # share of a photo's patches whose mean distance is the photo's
FAR = 3.0  # interquartile ranges above the third quartile: Tukey's "far out"


class Outlier(NamedTuple):
    """A photo that stands out. distance: 1 - cos, of its strangest patches; usual: median of the others'; photos: of
    the product, that it was compared with."""

    path: Path
    distance: float
    usual: float
    photos: int


def find_outliers(
    photos: Photos,
    features: Callable[[Frame], npt.NDArray[np.float32]],
    advance: Callable[[], None] = lambda: None,
    seed: int = 0,
) -> list[Outlier]:
    """The photos that stand out among the good ones of their product, the strangest first.

    features: of a frame, [C, h, w], such as the teacher's. advance: called once a photo. Each patch has the distance
    of the nearest patch of any other photo (leave one out). Products with fewer than 8 photos are left out.
    """
    found: list[Outlier] = []
    for category in photos.categories:
        paths = [sample.path for sample in photos.samples if sample.category == category]
        if len(paths) < FEWEST:
            continue
        distances = leave_one_out(paths, photos.reader, features, advance, seed)
        first, usual, third = np.quantile(distances, (0.25, 0.5, 0.75))
        far = third + FAR * (third - first)
        found += [
            Outlier(path, float(distance), float(usual), len(paths))
            for path, distance in zip(paths, distances, strict=True)
            if distance > far
        ]
    return sorted(found, key=lambda one: -one.distance / one.usual)


def leave_one_out(
    paths: Sequence[Path],
    reader: PhotoReader,
    features: Callable[[Frame], npt.NDArray[np.float32]],
    advance: Callable[[], None] = lambda: None,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """[n]: how far each photo's strangest patches are from the nearest ones of all other photos, 1 - cos.

    DataError for fewer than two photos.
    """
    if len(paths) < 2:
        raise DataError(f"{len(paths)} photo: there is no other to compare it with", "give several")
    rng = np.random.default_rng(seed)
    patches = []
    for path in paths:
        taken = features(reader.read(path))
        flat = taken.reshape(len(taken), -1).T
        patches.append((flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)).astype(np.float16))
        advance()
    kept = [own[rng.permutation(len(own))[: max(1, MEMORY // len(paths))]] for own in patches]
    owner = np.repeat(np.arange(len(paths)), [len(own) for own in kept])
    memory = np.concatenate(kept).astype(np.float32)
    distances = np.empty(len(paths))
    for index, own in enumerate(patches):
        nearest = 1 - (own.astype(np.float32) @ memory[owner != index].T).max(axis=1)
        distances[index] = np.sort(nearest)[-max(1, round(STRANGEST * len(nearest))) :].mean()
    return distances
