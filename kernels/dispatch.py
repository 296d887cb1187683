"""The operations as the rest of the project calls them: arguments are checked once here, then a backend runs.

NumPy arrays run in C++ (`cpp`, or `numpy` where it was not built), torch tensors in plain torch (`torch`), and on an
NVIDIA GPU in Triton (`triton`) where edge_ad.kernels.gpu_choice says that it was measured to be faster.
EDGE_AD_BACKEND names one of these four: it then decides for arguments of its kind, raises BackendError if it can't
run, and leaves the other kind alone. Nothing here imports torch unless it is given a tensor.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BackendError
from edge_ad.kernels import checks, reference
from edge_ad.kernels.gpu_choice import TRITON
from edge_ad.kernels.reference import Defect, FusedScore

BACKENDS = {"cpp": "array", "numpy": "array", "torch": "tensor", "triton": "tensor"}
EPS = 1e-6
SMALL_BYTES = 16 << 20  # read from a GPU's caches, where launching is most of the time

log = logging.getLogger(__name__)


def cosine_map(teacher_features: Any, student_features: Any, *, channels_last: bool = False, eps: float = EPS) -> Any:
    """Difference map [B,h,w] of two feature maps: 0 where they point the same way, 1 at right angles, 2 opposed.

    A = |t̂ - ŝ|² / 2 = 1 - <t̂, ŝ> with v̂ = v / max(|v|, eps) (equations 4 and 5 of arXiv 2604.19240). A zero
    vector is 0.5 from every unit vector and 0 from another zero vector; NaN or Inf in a feature gives NaN at its
    position; vectors of any other length are told apart, however long or short. float32 for half-precision
    features; differentiable in both arguments for tensors.

    teacher_features, student_features: [B,C,h,w], or [B,h,w,C] with `channels_last`; any strides.
    eps: from 1.2e-38 to 3.4e38. Raises ValueError for other shapes, types or devices, and for no channels.
    """
    checks.pair(teacher_features, student_features, 3 if channels_last else 1)
    eps = checks.length("eps", eps)
    if not channels_last and (trained := _load_trained(teacher_features, student_features)) is not None:
        return trained.cosine_map(teacher_features, student_features, eps)
    ops = _backend("cosine_map_last" if channels_last else "cosine_map", teacher_features, student_features)
    return ops.cosine_map(teacher_features, student_features, channels_last=channels_last, eps=eps)


def head_input(teacher_features: Any, student_features: Any, *, eps: float = EPS) -> Any:
    """C · t̂ · ŝ [B,C,h,w], element by element: about 1 where the two agree. Differentiable for tensors.

    NaN or Inf in a feature gives NaN in every channel of its position.
    teacher_features, student_features: [B,C,h,w]. Raises ValueError as `cosine_map` does.
    """
    checks.pair(teacher_features, student_features, 1)
    ops = _backend("head_input", teacher_features, student_features)
    return ops.head_input(teacher_features, student_features, eps=checks.length("eps", eps))


def upsample(maps: Any, size: tuple[int, int]) -> Any:
    """Maps [B,H,W] of the wanted (H, W), bilinear, equal to torch's `interpolate(align_corners=False)`.

    maps: [B,h,w]. Raises ValueError for other shapes and for sizes below 1.
    """
    checks.maps(maps)
    return _backend("upsample", maps).upsample(maps, checks.size(size))


def topk_mean(pixel_scores: Any, k: int = 100) -> Any:
    """Mean of the `k` largest scores of each image, [B] (equation 6). NaN in an image gives NaN for it.

    pixel_scores: [B, ...]; k: from 1 to the scores of an image. Raises ValueError outside of that.
    """
    checks.scores(pixel_scores)
    return _backend("topk_mean", pixel_scores).topk_mean(
        pixel_scores, checks.top(k, math.prod(pixel_scores.shape[1:]))
    )


def fused_score(
    teacher_features: Sequence[Any],
    student_features: Sequence[Any],
    *,
    size: tuple[int, int] = (256, 256),
    combine: str = "mean",
    weights: Sequence[float] | None = None,
    sigma: float = 0.0,
    k: int = 100,
    return_pixel_scores: bool = True,
    eps: float = EPS,
) -> FusedScore:
    """Pixel scores [B,H,W] and image scores [B] of all layers: difference maps, upsampled, combined, smoothed.

    teacher_features, student_features: one [B,C,h,w] for each layer; C, h and w may differ between layers.
    size: (H, W) of the pixel scores. combine: weighted "mean", "sum" (of w·m) or "product" (of m to the w).
    weights: one for each layer, finite, not negative, not all 0; 1 by default. sigma: of a Gaussian in pixels of
    `size`, at most its longer side, cut at four sigma, edges repeated; 0 for none. k: the image score is the mean
    of the k largest pixels.
    return_pixel_scores: False leaves them out. Raises ValueError naming the argument that doesn't fit.
    """
    checks.layers(teacher_features, student_features)
    if combine not in ("mean", "sum", "product"):
        raise ValueError(f"combine: expected mean, sum or product, received {combine!r}")
    size = checks.size(size)
    sigma = checks.smoothing(sigma, size)
    tensors = [*teacher_features, *student_features]
    plain = any(getattr(x, "requires_grad", False) for x in tensors)
    result = _backend("fused_score", *tensors, plain=plain).fused_score(
        teacher_features,
        student_features,
        size=size,
        combine_by=combine,
        weights=checks.weights(weights, len(teacher_features)),
        sigma=sigma,
        k=checks.top(k, size[0] * size[1]),
        return_pixel_scores=bool(return_pixel_scores),
        eps=checks.length("eps", eps),
    )
    return cast(FusedScore, result)


def preprocess(
    frame: NDArray[np.uint8],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    channels: str = "rgb",
) -> NDArray[np.float32]:
    """Network input [3,h,w] from a camera frame: antialiased bilinear resize in 8 bits, then (x/255 - mean) / std.

    The resize equals Pillow's Image.resize(BILINEAR) in every byte (each row first, then each column), and so
    do all backends.

    frame: [H,W,3] or gray [H,W], uint8, any strides. mean, std: of R, G, B in 0..1. channels: the frame's order,
    "rgb" or "bgr". Raises ValueError for anything else.
    """
    checks.frame(frame, mean, std, channels)
    result = _backend("preprocess", frame).preprocess(frame, checks.size(size), mean, std, channels=channels)
    return cast("NDArray[np.float32]", result)


def find_defects(pixel_scores: NDArray[Any], threshold: float, *, min_area: int = 1) -> list[Defect]:
    """8-connected regions of scores above `threshold`: Defect(box (x, y, w, h), area, peak), highest peak first.

    pixel_scores: [H,W] floats; NaN is not above anything. threshold: any number but NaN. min_area: smaller
    regions are left out, in pixels. Raises ValueError for anything else.
    """
    checks.score_image(pixel_scores, threshold)
    min_area = checks.at_least_one("min_area", min_area)
    result = _backend("find_defects", pixel_scores).find_defects(pixel_scores, float(threshold), min_area=min_area)
    return cast("list[Defect]", result)


def set_threads(count: int) -> None:
    """Let the C++ kernels use at most `count` threads, in this process; they start with one.

    Raises ValueError below 1. Without the C++ kernels there is nothing to set.
    """
    count = checks.at_least_one("count", count)
    if (cpp := _load_cpp()) is not None:
        cpp.set_threads(count)


def available_backends() -> dict[str, str]:
    """Every backend and "" if it can run here, else the reason why not. Imports torch where it is installed."""
    reasons = {"cpp": "" if _load_cpp() else _CPP_MISSING, "numpy": "", "torch": "", "triton": ""}
    try:
        torch = importlib.import_module("torch")
        if not torch.cuda.is_available():
            reasons["triton"] = "there is no CUDA device"
        importlib.import_module("triton")
    except ImportError as error:
        reasons["triton"] = f"{error.name} is not installed"
        reasons["torch"] = reasons["triton"] if error.name == "torch" else ""
    return reasons


_CPP_MISSING = "edge_ad.kernels._cpp was not built"
_NO_GPU = "its tensors must be on a CUDA device"


def size_class(count: int) -> str:
    """The row of edge_ad.kernels.gpu_choice for an operation that reads so many bytes."""
    return "small" if count <= SMALL_BYTES else "large"


def _backend(operation: str, *given: Any, plain: bool = False) -> Any:
    """The module that runs the operation on what is given; `plain` if only plain torch can pass the gradients."""
    value = given[0]
    kind = "array" if isinstance(value, np.ndarray) else "tensor"
    forced = os.environ.get("EDGE_AD_BACKEND", "")
    if forced and forced not in BACKENDS:
        names = ", ".join(BACKENDS)
        raise BackendError(
            f"EDGE_AD_BACKEND={forced} names no backend", hint=f"set it to one of {names}, or unset it"
        )
    wanted = forced if forced and BACKENDS[forced] == kind else ""
    if kind == "array":
        if wanted == "numpy" or value.dtype == np.float64:  # C++ computes in float32
            return reference
        return _load_cpp(bool(wanted)) or reference
    if wanted == "torch" or plain or value.element_size() > 4 or not (wanted or _faster_in_triton(operation, given)):
        return _load_torch()
    triton_ops = _load_triton(bool(wanted))
    if triton_ops is not None and (value.is_cuda or triton_ops.INTERPRETED):
        return triton_ops
    if wanted:
        hint = "move them there, or unset EDGE_AD_BACKEND"
        raise BackendError(f"EDGE_AD_BACKEND=triton can't run on {value.device}: {_NO_GPU}", hint=hint)
    return _load_torch()


def _faster_in_triton(operation: str, given: Sequence[Any]) -> bool:
    """Whether the operation was measured to be so on a GPU, for tensors like these that are on one."""
    if not given[0].is_cuda:
        return False
    if any(x.requires_grad for x in given):
        operation += "_gradient"
    return (operation, size_class(sum(x.numel() * x.element_size() for x in given))) in TRITON


@functools.cache
def _load_cpp(required: bool = False) -> ModuleType | None:
    try:
        return importlib.import_module("edge_ad.kernels.cpp_ops")
    except ImportError as error:
        if required:
            hint = "install with a C++ compiler at hand, or unset EDGE_AD_BACKEND"
            raise BackendError(f"EDGE_AD_BACKEND=cpp can't run: {_CPP_MISSING}", hint=hint) from error
        log.warning("C++ kernels can't be loaded (%s): running the NumPy definitions, which are slower", error)
        return None


def _load_triton(required: bool = False) -> ModuleType | None:
    try:  # not cached: torch.compile sees through an import, not through a cache
        from edge_ad.kernels import triton_ops  # noqa: PLC0415
    except ImportError as error:
        if required:
            raise BackendError(f"EDGE_AD_BACKEND=triton can't run: {error}", hint="install triton") from error
        _warn_of_triton(str(error))
        return None
    return triton_ops


def _load_trained(teacher: Any, student: Any) -> ModuleType | None:
    """The C++ kernels under autograd, where a student is trained on the CPU against a frozen teacher."""
    if not getattr(student, "requires_grad", False) or teacher.requires_grad or student.device.type != "cpu":
        return None
    if os.environ.get("EDGE_AD_BACKEND", "") not in ("", "cpp") or _load_cpp() is None:
        return None
    from edge_ad.kernels import cpp_autograd  # noqa: PLC0415 - only a caller that has tensors has torch

    return cpp_autograd if cpp_autograd.fits(teacher, student) else None


@functools.cache
def _warn_of_triton(error: str) -> None:
    log.warning("Triton can't be loaded (%s): running plain torch, which is slower", error)


def _load_torch() -> ModuleType:
    from edge_ad.kernels import torch_ops  # noqa: PLC0415 - only a caller that has tensors has torch

    return torch_ops
