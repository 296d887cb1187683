"""Arguments of the kernels: each is checked once, and a ValueError names what was expected and what came."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

FLOATS = ("float16", "bfloat16", "float32", "float64")  # of tensors
SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_ARRAY_FLOATS = frozenset(map(np.dtype, ("float16", "float32", "float64")))


def describe(value: Any) -> str:
    """Type, element type and shape of an argument, for a message."""
    if not hasattr(value, "dtype"):
        return f"{type(value).__name__} {value!r}" if np.isscalar(value) else type(value).__name__
    device = f" on {value.device}" if hasattr(value, "is_cuda") else ""
    return f"{type(value).__name__} {_dtype(value)} {list(value.shape)}{device}"


def pair(teacher: Any, student: Any, channel_axis: int) -> None:
    """Two feature maps of one kind, type, device and shape, with channels."""
    floats("teacher_features", teacher)
    floats("student_features", student)
    names = "[B,h,w,C]" if channel_axis == 3 else "[B,C,h,w]"
    if len(teacher.shape) != 4 or teacher.shape[channel_axis] == 0:
        raise ValueError(f"teacher_features: expected {names} with C of at least 1, received {describe(teacher)}")
    if not _like(teacher, student) or teacher.shape != student.shape:
        raise ValueError(f"student_features: expected {describe(teacher)}, received {describe(student)}")


def layers(teacher_features: Sequence[Any], student_features: Sequence[Any]) -> None:
    """As many teacher as student layers, all of one batch, kind, type and device."""
    if not len(teacher_features) == len(student_features) >= 1:
        count = f"{len(teacher_features)} teacher and {len(student_features)} student layers"
        raise ValueError(f"features: expected as many teacher as student layers, at least 1, received {count}")
    first = teacher_features[0]
    for teacher, student in zip(teacher_features, student_features, strict=True):
        pair(teacher, student, 1)
        if not _like(first, teacher) or teacher.shape[0] != first.shape[0] or 0 in tuple(teacher.shape[2:]):
            expected = f"layers like the first, {describe(first)}, but for C and for h and w of at least 1"
            raise ValueError(f"features: expected {expected}, received {describe(teacher)}")


def maps(value: Any) -> None:
    """Maps [B,h,w] with pixels."""
    floats("maps", value)
    if len(value.shape) != 3 or 0 in tuple(value.shape[1:]):
        raise ValueError(f"maps: expected [B,h,w] with h and w of at least 1, received {describe(value)}")


def scores(value: Any) -> None:
    """Scores [B, ...]."""
    floats("pixel_scores", value)
    if len(value.shape) < 2:
        raise ValueError(f"pixel_scores: expected [B, ...], received {describe(value)}")


def score_image(value: Any, threshold: float) -> None:
    """Scores [H,W] in NumPy, and a threshold that can be compared with."""
    if not isinstance(value, np.ndarray) or value.dtype not in _ARRAY_FLOATS or value.ndim != 2:
        raise ValueError(f"pixel_scores: expected a NumPy array [H,W] of floats, received {describe(value)}")
    if math.isnan(threshold):
        raise ValueError(f"threshold: expected a number, received {threshold}")


def frame(value: Any, mean: Sequence[float], std: Sequence[float], channels: str) -> None:
    """A picture [H,W,3] or [H,W] of bytes, with the numbers that normalise it."""
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
        raise ValueError(f"frame: expected a NumPy array of uint8, received {describe(value)}")
    if not (value.ndim == 2 or (value.ndim == 3 and value.shape[2] == 3)) or 0 in value.shape:
        raise ValueError(f"frame: expected [H,W,3] or [H,W], received {describe(value)}")
    if channels not in ("rgb", "bgr"):
        raise ValueError(f"channels: expected rgb or bgr, received {channels!r}")
    if not (len(mean) == len(std) == 3 and all(map(math.isfinite, [*mean, *std])) and min(std) > 0):
        raise ValueError(f"mean, std: expected three finite numbers each, std above 0, received {mean}, {std}")


def floats(name: str, value: Any) -> None:
    """A NumPy array or a torch tensor of floating-point numbers."""
    if not (value.dtype in _ARRAY_FLOATS if isinstance(value, np.ndarray) else _is_float_tensor(value)):
        expected = "a NumPy array of float16, float32 or float64, or a torch tensor of these or of bfloat16"
        raise ValueError(f"{name}: expected {expected}, received {describe(value)}")


def size(value: tuple[int, int]) -> tuple[int, int]:
    """(H, W), both at least 1."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"size: expected (H, W), received {value!r}")
    return at_least_one("size", value[0]), at_least_one("size", value[1])


def top(k: int, count: int) -> int:
    """How many scores to average: from 1 to all of an image."""
    number = _whole(k)
    if not 1 <= number <= count:
        raise ValueError(f"k: expected 1 to {count}, the scores of an image, received {k!r}")
    return number


def smoothing(sigma: float, size: tuple[int, int]) -> float:
    """A Gaussian's standard deviation in pixels, at most the longer side."""
    if not 0 <= sigma <= max(size):
        raise ValueError(f"sigma: expected a number from 0 to {max(size)}, the longer side, received {sigma}")
    return float(sigma)


def at_least_one(name: str, value: int) -> int:
    """A whole number above 0."""
    if (number := _whole(value)) < 1:
        raise ValueError(f"{name}: expected a whole number of at least 1, received {value!r}")
    return number


def length(name: str, value: float) -> float:
    """A number above 0 that float32 holds in full."""
    if not SMALLEST <= value <= LARGEST:
        raise ValueError(f"{name}: expected a number from {SMALLEST:.1e} to {LARGEST:.1e}, received {value}")
    return float(value)


def weights(value: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """One finite weight for each layer, none negative, not all 0."""
    if value is None:
        return (1.0,) * count
    numbers = tuple(float(weight) for weight in value)
    if len(numbers) != count or not all(math.isfinite(w) and w >= 0 for w in numbers) or sum(numbers) == 0:
        expected = f"{count} finite numbers, none negative and not all 0"
        raise ValueError(f"weights: expected {expected}, received {list(value)}")
    return numbers


def _whole(value: Any) -> int:
    """The whole number, or 0, which none of the callers takes, for anything else."""
    try:
        return 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return 0


def _like(first: Any, other: Any) -> bool:
    """Of one kind, element type and device."""
    if isinstance(first, np.ndarray) or isinstance(other, np.ndarray):
        return isinstance(first, np.ndarray) and isinstance(other, np.ndarray) and first.dtype == other.dtype
    return bool(first.dtype == other.dtype and first.device == other.device)


def _is_float_tensor(value: Any) -> bool:
    return hasattr(value, "is_cuda") and _dtype(value) in FLOATS


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")
