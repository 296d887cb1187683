"""The operations in C++ on NumPy arrays: float32 inside, results equal to the definitions up to rounding.

Half precision is widened first; channels-first views of channels-last memory are read as they lie, other strides
are copied. The arguments arrive checked (see edge_ad.kernels.dispatch).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_ad.kernels import _cpp
from edge_ad.kernels.reference import Array, Defect, FusedScore, gaussian, levels, resize_taps, sort_defects

set_threads = _cpp.set_threads


def cosine_map(teacher_features: Array, student_features: Array, *, channels_last: bool, eps: float) -> Array:
    """Difference map [B,h,w]."""
    if channels_last:
        return _cpp.cosine_map(_floats(teacher_features), _floats(student_features), True, eps)
    return _cpp.cosine_map(*_pair(teacher_features, student_features), eps)


def cosine_map_gradient(teacher_features: Array, student_features: Array, grad: Array, *, eps: float) -> Array:
    """Gradient of the difference map in the student's features [B,C,h,w], for the gradient [B,h,w] of the map."""
    return _cpp.cosine_map_gradient(_floats(teacher_features), _floats(student_features), _floats(grad), eps)


def head_input(teacher_features: Array, student_features: Array, *, eps: float) -> Array:
    """C · t̂ · ŝ [B,C,h,w]."""
    return _cpp.head_input(_floats(teacher_features), _floats(student_features), eps)


def upsample(maps: Array, size: tuple[int, int]) -> Array:
    """Maps [B,h,w] at `size`."""
    return _cpp.upsample(_floats(maps), *size)


def topk_mean(pixel_scores: Array, k: int) -> Array:
    """Mean of the `k` largest scores of each image [B]."""
    pixels = int(np.prod(pixel_scores.shape[1:]))
    return _cpp.topk_mean(_floats(pixel_scores).reshape(len(pixel_scores), pixels), k)


def fused_score(
    teacher_features: Sequence[Array],
    student_features: Sequence[Array],
    *,
    size: tuple[int, int],
    combine_by: str,
    weights: Sequence[float],
    sigma: float,
    k: int,
    return_pixel_scores: bool,
    eps: float,
) -> FusedScore:
    """Pixel scores and image scores of all layers."""
    pairs = [_pair(t, s) for t, s in zip(teacher_features, student_features, strict=True)]
    teacher, student, last = (list(column) for column in zip(*pairs, strict=True))
    smoothing = gaussian(sigma).astype(np.float32).tolist() if sigma > 0 else []
    return FusedScore(
        *_cpp.fused_score(
            teacher, student, last, *size, combine_by, list(weights), smoothing, k, return_pixel_scores, eps
        )
    )


def preprocess(
    frame: NDArray[np.uint8], size: tuple[int, int], mean: Sequence[float], std: Sequence[float], *, channels: str
) -> NDArray[np.float32]:
    """Network input [3,h,w] from a frame."""
    if frame.strides[1:] != ((3, 1) if frame.ndim == 3 else (1,)):  # rows may lie apart, pixels may not
        frame = np.ascontiguousarray(frame)
    across, down = _taps(frame.shape[1], size[1]), _taps(frame.shape[0], size[0])
    return _cpp.preprocess(frame, *across, *down, _levels(tuple(mean), tuple(std)), channels == "bgr")


def find_defects(pixel_scores: Array, threshold: float, *, min_area: int) -> list[Defect]:
    """8-connected regions of scores above `threshold`."""
    return sort_defects(Defect(*defect) for defect in _cpp.find_defects(_floats(pixel_scores), threshold, min_area))


_taps = functools.lru_cache(maxsize=16)(resize_taps)  # a camera's frames are all of one size
_levels = functools.lru_cache(maxsize=16)(levels)


def _floats(array: Array) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, np.float32)


def _pair(teacher: Array, student: Array) -> tuple[NDArray[np.float32], NDArray[np.float32], bool]:
    """Both as they lie in memory, and whether their channels come last there."""
    if not (teacher.flags.c_contiguous and student.flags.c_contiguous):
        last = [array.transpose(0, 2, 3, 1) for array in (teacher, student)]
        if all(array.flags.c_contiguous for array in last):
            return _floats(last[0]), _floats(last[1]), True
    return _floats(teacher), _floats(student), False
