"""The definitions: every kernel operation in plain NumPy. The other backends are tested against these in float64.

Floating-point arrays keep their precision; float16 is computed and returned in float32. The arguments arrive
checked (see edge_ad.kernels.dispatch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

PRECISION_BITS = 22  # of Pillow's 8-bit resize: 32 less 8 for the pixel and 2 for sums outside 0..255
BLUR_TRUNCATE = 4.0  # standard deviations after which the Gaussian is cut, as SciPy does


class FusedScore(NamedTuple):
    """Pixel scores [B,H,W] (None when not asked for) and image scores [B]; higher is more anomalous."""

    pixel_scores: Any
    image_score: Any


class Defect(NamedTuple):
    """One connected region above the threshold: box (x, y, width, height) and area in pixels, highest score."""

    box: tuple[int, int, int, int]
    area: int
    peak: float


def normalized(features: Array, *, axis: int = 1, eps: float = 1e-6) -> Array:
    """Features over their length along `axis`: v / max(|v|, eps), so that a zero vector stays zero.

    Taken over the largest entry first, so that no square overflows or vanishes: any finite vector has a length.
    NaN or Inf in a vector gives NaN for all of it.
    """
    scale = np.maximum(np.max(np.abs(features), axis=axis, keepdims=True), features.dtype.type(eps))
    with np.errstate(invalid="ignore"):  # Inf / Inf
        scaled = features / scale
    norm = np.sqrt(np.sum(scaled * scaled, axis=axis, keepdims=True))
    return np.asarray(scaled / np.maximum(norm, features.dtype.type(eps) / scale))


def cosine_map(teacher_features: Array, student_features: Array, *, channels_last: bool, eps: float) -> Array:
    """Difference map [B,h,w], A = |t̂ - ŝ|² / 2, which is 1 - <t̂, ŝ> wherever both lengths reach `eps`.

    The squared distance loses no digits where the two agree, and is never negative. A zero vector is 0.5 from
    every unit vector and 0 from another zero vector. NaN or Inf in a feature gives NaN at its position.
    Source: equations 4 and 5 of arXiv 2604.19240, in this safer form.
    """
    axis = -1 if channels_last else 1
    difference = normalized(_floating(teacher_features), axis=axis, eps=eps)
    difference -= normalized(_floating(student_features), axis=axis, eps=eps)
    return np.asarray(0.5 * np.sum(difference * difference, axis=axis), difference.dtype)


def head_input(teacher_features: Array, student_features: Array, *, eps: float) -> Array:
    """C · t̂ · ŝ [B,C,h,w]: products of unit vectors are about 1/C, so C brings them back to about 1."""
    teacher = normalized(_floating(teacher_features), eps=eps)
    student = normalized(_floating(student_features), eps=eps)
    return np.asarray(teacher * student * teacher.dtype.type(teacher.shape[1]))


def upsample(maps: Array, size: tuple[int, int]) -> Array:
    """Maps [B,h,w] at `size`: bilinear between pixel centres, torch's `interpolate(align_corners=False)`."""
    maps = _floating(maps)
    low, high, weight = _taps(maps.shape[2], size[1], maps.dtype)
    maps = maps[:, :, low] * (1 - weight) + maps[:, :, high] * weight
    low, high, weight = _taps(maps.shape[1], size[0], maps.dtype)
    return np.asarray(maps[:, low] * (1 - weight[:, None]) + maps[:, high] * weight[:, None])


def blur(maps: Array, sigma: float) -> Array:
    """Maps [B,H,W] under a Gaussian of `sigma` pixels, edges repeated: SciPy's gaussian_filter(mode="nearest")."""
    weights = gaussian(sigma)
    radius = len(weights) // 2
    for axis in (1, 2):
        widths = [(0, 0)] * 3
        widths[axis] = (radius, radius)
        padded = np.pad(maps, widths, mode="edge")
        length = maps.shape[axis]
        shifted = (np.take(padded, range(i, i + length), axis) * maps.dtype.type(w) for i, w in enumerate(weights))
        maps = np.asarray(sum(shifted), maps.dtype)
    return maps


def gaussian(sigma: float) -> NDArray[np.float64]:
    """Weights of a Gaussian of `sigma` pixels, cut at four sigma; they add up to 1."""
    radius = int(BLUR_TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def topk_mean(pixel_scores: Array, k: int) -> Array:
    """Mean of the `k` largest scores of each image [B] (equation 6). NaN anywhere in an image gives NaN for it."""
    scores = _floating(pixel_scores).reshape(len(pixel_scores), math.prod(pixel_scores.shape[1:]))
    largest = np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k :]  # NaN sorts last
    return np.asarray(largest.mean(axis=1, dtype=np.float64), scores.dtype)


def combine(maps: Sequence[Array], how: str, weights: Sequence[float]) -> Array:
    """Maps of one size made into one: sum of w·m, that over the sum of w ("mean"), or product of m to the w."""
    if how == "product":
        total = maps[0] ** maps[0].dtype.type(weights[0])
        for layer, weight in zip(maps[1:], weights[1:], strict=True):
            total = total * layer ** layer.dtype.type(weight)
        return np.asarray(total)
    scale = 1.0 / sum(weights) if how == "mean" else 1.0
    return np.asarray(sum(m * m.dtype.type(w * scale) for m, w in zip(maps, weights, strict=True)))


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
    """Every layer's difference map, upsampled, combined, smoothed, and the mean of the k largest pixels."""
    pairs = zip(teacher_features, student_features, strict=True)
    maps = [upsample(cosine_map(t, s, channels_last=False, eps=eps), size) for t, s in pairs]
    scores = combine(maps, combine_by, weights)
    if sigma > 0:
        scores = blur(scores, sigma)
    return FusedScore(scores if return_pixel_scores else None, topk_mean(scores, k))


def resize_taps(length: int, out: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """First source pixel [out] and fixed-point weights [out, taps] of Pillow's antialiased bilinear resize."""
    scale = length / out
    stretch = max(scale, 1.0)  # when shrinking, the triangle widens so that every source pixel counts
    center = (np.arange(out) + 0.5) * scale
    first = np.maximum((center - stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((center + stretch + 0.5).astype(np.int64), length)
    position = first[:, None] + np.arange(int(np.ceil(stretch)) * 2 + 1)
    weights = 1.0 - np.abs((position - center[:, None] + 0.5) * (1.0 / stretch))
    weights = np.where((position < last[:, None]) & (weights > 0), weights, 0.0)
    total = np.zeros(out)
    for tap in weights.T:  # one after another, as Pillow adds them: np.sum would round differently
        total += tap
    fixed = (0.5 + weights / total[:, None] * (1 << PRECISION_BITS)).astype(np.int32)
    return first.astype(np.int32), fixed


def resize(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Frame [H,W,...] at `size`, equal to Pillow's Image.resize(BILINEAR) in every byte: rows first, then columns.

    Pillow from 13 on shrinks columns first where the height shrinks much more than the width, which rounds
    differently; ours doesn't depend on the version.
    """
    return _resize_rows(_resize_rows(frame.swapaxes(0, 1), size[1]).swapaxes(0, 1), size[0])


def levels(mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Table [3,256] of (x / 255 - mean) / std in float32; every backend reads it, so all give the same bytes."""
    shade = np.arange(256, dtype=np.float32) / np.float32(255)
    return np.asarray((shade - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None])


def preprocess(
    frame: NDArray[np.uint8], size: tuple[int, int], mean: Sequence[float], std: Sequence[float], *, channels: str
) -> NDArray[np.float32]:
    """Network input [3,h,w] from a frame: resized in 8 bits, then (x / 255 - mean) / std."""
    small = resize(frame, size)
    if small.ndim == 2:
        small = np.repeat(small[:, :, None], 3, axis=2)
    elif channels == "bgr":
        small = small[:, :, ::-1]
    return np.stack([table[small[:, :, c]] for c, table in enumerate(levels(mean, std))])


def find_defects(pixel_scores: Array, threshold: float, *, min_area: int) -> list[Defect]:
    """8-connected regions of scores above `threshold`, highest peak first; NaN is not above anything."""
    above = pixel_scores.astype(np.float64) > threshold  # in float32 the threshold would be rounded
    runs: list[tuple[int, int, int]] = []  # row, first column, column after the last
    parent: list[int] = []
    before: list[int] = []  # runs of the row above
    for y in np.flatnonzero(above.any(axis=1)):
        edges = np.flatnonzero(np.diff(above[y].astype(np.int8), prepend=0, append=0))
        here = range(len(runs), len(runs) + len(edges) // 2)
        before = [run for run in before if runs[run][0] == y - 1]
        for run in here:
            start, stop = edges[2 * (run - here.start) : 2 * (run - here.start) + 2]
            runs.append((int(y), int(start), int(stop)))
            parent.append(run)
            for other in before:
                if runs[other][1] <= stop and start <= runs[other][2]:  # touching at a corner counts
                    parent[_root(parent, run)] = _root(parent, other)
        before = list(here)
    regions: dict[int, list[tuple[int, int, int]]] = {}
    for run, place in enumerate(runs):
        regions.setdefault(_root(parent, run), []).append(place)
    defects = [_defect(pixel_scores, region) for region in regions.values()]
    return sort_defects(defect for defect in defects if defect.area >= min_area)


def sort_defects(defects: Any) -> list[Defect]:
    """Highest peak first; equal peaks from top to bottom, then from left to right."""
    return sorted(defects, key=lambda d: (-d.peak, d.box[1], d.box[0], -d.area))


def _defect(scores: Array, region: list[tuple[int, int, int]]) -> Defect:
    top, left = min(y for y, _, _ in region), min(x for _, x, _ in region)
    height, width = max(y for y, _, _ in region) + 1 - top, max(x for _, _, x in region) - left
    peak = max(float(scores[y, start:stop].max()) for y, start, stop in region)
    return Defect((left, top, width, height), sum(stop - start for _, start, stop in region), peak)


def _root(parent: list[int], run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


def _floating(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _taps(length: int, out: int, dtype: Any) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
    """Left and right source index and the weight of the right one, in the map's own precision as torch does."""
    number = np.dtype(dtype).type
    scale = number(length) / number(out)
    position = np.maximum((np.arange(out, dtype=dtype) + number(0.5)) * scale - number(0.5), number(0))
    low = np.minimum(position.astype(np.intp), length - 1)
    return low, np.minimum(low + 1, length - 1), position - low.astype(dtype)


def _resize_rows(frame: NDArray[np.uint8], out: int) -> NDArray[np.uint8]:
    first, weights = resize_taps(len(frame), out)
    total = np.full((out, *frame.shape[1:]), 1 << (PRECISION_BITS - 1), np.int32)
    for tap in range(weights.shape[1]):
        row = np.minimum(first + tap, len(frame) - 1)  # past the end the weight is 0
        total += frame[row].astype(np.int32) * weights[:, tap].reshape(-1, *[1] * (frame.ndim - 1))
    return np.asarray(np.clip(total >> PRECISION_BITS, 0, 255), np.uint8)
