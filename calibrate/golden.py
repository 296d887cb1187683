"""Reference pictures for the self-test, made from good parts and kept with what each graph scores them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_ad.artifact import Artifact, Preprocessing
from edge_ad.data.images import Frame, preprocess, read_image
from edge_ad.errors import BackendError, DataError
from edge_ad.runtime.engines.opening import combinations, open_backend
from edge_ad.runtime.engines.runner import GRAPHS, Array, Precision, Runner
from edge_ad.runtime.engines.self_test import (
    FLOORS,
    GOLDEN,
    WIDEST,
    Expected,
    Golden,
    deviation,
    golden_bytes,
    read_golden,
    score_golden,
)

PICTURES = 2  # of good parts; one more shows the first with a mark on it, so that a high score is held, too
MARGIN = 3.0  # engines that nobody has here may be off by so many times what those here are


def add_golden(artifact: Artifact, normals: Iterable[Array], precisions: Sequence[Precision] = ()) -> None:
    """Keep reference pictures in the artifact, with their scores by each graph that is named or has none yet.

    normals: preprocessed images of good parts, float32 [3, H, W]; the first PICTURES are taken, and only where the
    artifact has no reference pictures yet; without any, nothing is added. The scores are ONNX Runtime's on this CPU.
    A graph's tolerance is MARGIN times the largest deviation of the other engines installed here, between FLOORS and
    WIDEST.
    """
    golden = read_golden(artifact)
    expected = {} if golden is None else dict(golden.expected)
    chosen = [
        precision
        for precision, name in GRAPHS.items()
        if precision in precisions or (artifact.has(name) and precision not in expected)
    ]
    if not chosen:
        return
    if golden is None:
        first = list(islice(normals, PICTURES))
        if not first:
            return
        golden = Golden(golden_frames(first, artifact.manifest.preprocessing), {})
    for precision in chosen:
        scores, cells = _score(artifact, "onnxruntime-cpu", precision, golden.frames)
        expected[precision] = Expected(scores, cells, FLOORS[precision])
    golden = dataclasses.replace(golden, expected=expected)
    for precision in chosen:
        expected[precision] = dataclasses.replace(
            expected[precision], tolerance=_tolerance(artifact, precision, golden)
        )
    artifact.add(GOLDEN, golden_bytes(golden))


def add_golden_photos(artifact: Artifact, photos: Iterable[Path], read: Callable[[Path], Frame] = read_image) -> None:
    """As `add_golden`, from the first photos of good parts that can be read. read: gives a photo's frame."""
    how = artifact.manifest.preprocessing

    def normals() -> Iterator[Array]:
        for path in photos:
            try:
                frame = read(path)
            except DataError:  # the caller scores all of them, and names the broken ones
                continue
            yield preprocess(frame, how.image_size, how.mean, how.std)

    add_golden(artifact, normals())


def golden_frames(normals: Sequence[Array], how: Preprocessing) -> npt.NDArray[np.uint8]:
    """uint8 [N, H, W, 3] RGB at the graph's size: the first normals, and the first of them once more, marked."""
    scale, shift = (np.array(values, np.float32)[:, None, None] for values in (how.std, how.mean))
    pictures = [
        np.clip(255 * (image * scale + shift), 0, 255).round().astype(np.uint8) for image in normals[:PICTURES]
    ]
    frames = [np.ascontiguousarray(picture.transpose(1, 2, 0)) for picture in pictures]
    return np.stack([*frames, with_marked_square(frames[0])])


def with_marked_square(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The picture with a square an eighth of its shorter side wide, in the middle, in the opposite colours."""
    height, width = frame.shape[:2]
    half = max(1, min(height, width) // 16)
    rows, columns = slice(height // 2 - half, height // 2 + half), slice(width // 2 - half, width // 2 + half)
    out = frame.copy()
    out[rows, columns] = 255 - out[rows, columns]
    return out


def _tolerance(artifact: Artifact, precision: Precision, golden: Golden) -> float:
    """From how far the other engines installed here are off."""
    worst, expected = 0.0, golden.expected[precision]
    for name, kind in combinations(artifact):
        if kind != precision or name == "onnxruntime-cpu":
            continue
        try:
            scores, cells = _score(artifact, name, precision, golden.frames)
        except BackendError:  # not here, or not this graph
            continue
        worst = max(worst, deviation(scores, cells, expected))
    return float(np.clip(MARGIN * worst, FLOORS[precision], WIDEST))


def _score(
    artifact: Artifact, backend: str, precision: Precision, frames: npt.NDArray[np.uint8]
) -> tuple[Array, Array]:
    runner: Runner = open_backend(artifact, backend, precision, check=False).runner
    try:
        scores, cells, _ = score_golden(runner, artifact, frames)
    finally:
        runner.close()
    return scores, cells
