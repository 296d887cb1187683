# mypy: disallow-untyped-decorators=False
"""The operations in Triton, for tensors on an NVIDIA GPU: custom operators that torch.compile and graphs can hold.

float32, float16 and bfloat16 features, float32 sums and results. Each shape is tuned at its first call, so call
once before capturing a CUDA graph. The arguments arrive checked (see edge_ad.kernels.dispatch).

These kernels are tested under Triton's interpreter and compiled ahead of time for sm_80 to sm_120; they have not
been run or timed on a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

from edge_ad.kernels import torch_ops
from edge_ad.kernels.reference import FusedScore
from edge_ad.kernels.triton_fused import COUNTERS, fused_score_kernel
from edge_ad.kernels.triton_kernels import (
    INTERPRETED,
    combine_kernel,
    cosine_map_gradient_kernel,
    cosine_map_kernel,
    head_input_gradient_kernel,
    head_input_kernel,
    topk_mean_kernel,
)

MAX_LAYERS = 4  # that one launch joins
ONE_LAUNCH_BYTES = 16 << 20  # of features; above, reading them takes longer than a few launches

upsample = torch_ops.upsample  # torch's own kernel is one pass already


def cosine_map(teacher_features: Tensor, student_features: Tensor, *, channels_last: bool, eps: float) -> Tensor:
    """Difference map [B,h,w], differentiable once in both arguments."""
    if channels_last:
        teacher_features, student_features = teacher_features.movedim(-1, 1), student_features.movedim(-1, 1)
    return torch.ops.edge_ad.cosine_map(teacher_features, student_features, eps)


def head_input(teacher_features: Tensor, student_features: Tensor, *, eps: float) -> Tensor:
    """C · t̂ · ŝ [B,C,h,w], differentiable once in both arguments."""
    return torch.ops.edge_ad.head_input(teacher_features, student_features, eps)


def topk_mean(pixel_scores: Tensor, k: int) -> Tensor:
    """Mean of the `k` largest scores of each image [B]; gradients go through plain torch."""
    if pixel_scores.requires_grad and torch.is_grad_enabled():
        return torch_ops.topk_mean(pixel_scores, k)
    return torch.ops.edge_ad.topk_mean(pixel_scores.flatten(1), k)


def fused_score(
    teacher_features: Sequence[Tensor],
    student_features: Sequence[Tensor],
    *,
    size: tuple[int, int],
    combine_by: str,
    weights: Sequence[float],
    sigma: float,
    k: int,
    return_pixel_scores: bool,
    eps: float,
) -> FusedScore:
    """Pixel scores and image scores, in one launch where the features are few and nothing is smoothed.

    Elsewhere a launch makes each layer's map, one upsamples and joins them, and one takes the Top-K.
    """
    if combine_by == "mean":
        weights = [weight / sum(weights) for weight in weights]
    product = combine_by == "product"
    few = sum(t.numel() * t.element_size() for t in teacher_features) * 2 <= ONE_LAUNCH_BYTES
    if few and len(teacher_features) <= MAX_LAYERS and sigma == 0:
        scores, image_score = torch.ops.edge_ad.fused_score(
            list(teacher_features), list(student_features), list(weights), product, *size, k, eps
        )
        return FusedScore(scores if return_pixel_scores else None, image_score)
    pairs = zip(teacher_features, student_features, strict=True)
    maps = [torch.ops.edge_ad.cosine_map(t, s, eps) for t, s in pairs]
    if len(maps) <= MAX_LAYERS:
        scores = torch.ops.edge_ad.combine(maps, list(weights), product, *size)
    else:
        scores = torch_ops.combine([upsample(m, size) for m in maps], "product" if product else "sum", weights)
    if sigma > 0:
        scores = torch_ops.blur(scores, sigma)
    image_score = torch.ops.edge_ad.topk_mean(scores.flatten(1), k)
    return FusedScore(scores if return_pixel_scores else None, image_score)


def _mergeable(features: Tensor) -> Tensor:
    """The features if (h, w) can be read with one stride and nothing overlaps, else a copy that can."""
    flat = features.shape[2] == 1 or features.stride(2) == features.shape[3] * features.stride(3)
    dense = features.permute(0, 2, 3, 1).is_contiguous() or features.is_contiguous()
    return features if flat and dense else features.contiguous()


def _strides(features: Tensor) -> tuple[int, int, int]:
    """Of image, channel and position."""
    return features.stride(0), features.stride(1), features.stride(3) if features.shape[3] > 1 else features.stride(2)


def _launch(
    kernel: Any, teacher: Tensor, student: Tensor, rest: Sequence[Any], strides: Sequence[int], eps: float
) -> None:
    batch, channels, height, width = teacher.shape
    if teacher.numel() == 0:
        return
    with torch.cuda.device_of(teacher):
        kernel[lambda meta: (triton.cdiv(height * width, meta["BLOCK_P"]), batch)](
            teacher, student, *rest, channels, height * width, *_strides(teacher), *_strides(student), *strides, eps
        )


@torch.library.custom_op("edge_ad::cosine_map", mutates_args=())
def _cosine_map(teacher: Tensor, student: Tensor, eps: float) -> Tensor:
    teacher, student = _mergeable(teacher), _mergeable(student)
    out = teacher.new_empty((teacher.shape[0], *teacher.shape[2:]), dtype=torch.float32)
    _launch(cosine_map_kernel, teacher, student, [out], [], eps)
    return out


@_cosine_map.register_fake
def _(teacher: Tensor, student: Tensor, eps: float) -> Tensor:
    return teacher.new_empty((teacher.shape[0], *teacher.shape[2:]), dtype=torch.float32)


@torch.library.custom_op("edge_ad::head_input", mutates_args=())
def _head_input(teacher: Tensor, student: Tensor, eps: float) -> Tensor:
    teacher, student = _mergeable(teacher), _mergeable(student)
    out = teacher.new_empty(teacher.shape, dtype=torch.float32)
    _launch(head_input_kernel, teacher, student, [out], [], eps)
    return out


@_head_input.register_fake
def _(teacher: Tensor, student: Tensor, eps: float) -> Tensor:
    return teacher.new_empty(teacher.shape, dtype=torch.float32)


# Both maps are the same with their arguments swapped, so one kernel gives the gradient of either.
@torch.library.custom_op("edge_ad::cosine_map_gradient", mutates_args=())
def _cosine_map_gradient(other: Tensor, features: Tensor, grad: Tensor, eps: float) -> Tensor:
    other, features = _mergeable(other), _mergeable(features)
    out = torch.empty_like(features)
    _launch(cosine_map_gradient_kernel, other, features, [grad.contiguous(), out], _strides(out), eps)
    return out


@torch.library.custom_op("edge_ad::head_input_gradient", mutates_args=())
def _head_input_gradient(other: Tensor, features: Tensor, grad: Tensor, eps: float) -> Tensor:
    other, features = _mergeable(other), _mergeable(features)
    out = torch.empty_like(features)
    _launch(head_input_gradient_kernel, other, features, [grad.contiguous(), out], _strides(out), eps)
    return out


def _fake_gradient(other: Tensor, features: Tensor, grad: Tensor, eps: float) -> Tensor:
    return torch.empty_like(_mergeable(features))


_cosine_map_gradient.register_fake(_fake_gradient)
_head_input_gradient.register_fake(_fake_gradient)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    teacher, student, ctx.eps = inputs
    ctx.save_for_backward(teacher, student)


def _gradients(ctx: Any, grad: Tensor, gradient: Any) -> tuple[Tensor | None, Tensor | None, None]:
    teacher, student = ctx.saved_tensors
    of_teacher = gradient(student, teacher, grad, ctx.eps) if ctx.needs_input_grad[0] else None
    of_student = gradient(teacher, student, grad, ctx.eps) if ctx.needs_input_grad[1] else None
    return of_teacher, of_student, None


def _cosine_map_backward(ctx: Any, grad: Tensor) -> Any:
    return _gradients(ctx, grad, torch.ops.edge_ad.cosine_map_gradient)


def _head_input_backward(ctx: Any, grad: Tensor) -> Any:
    return _gradients(ctx, grad, torch.ops.edge_ad.head_input_gradient)


_cosine_map.register_autograd(_cosine_map_backward, setup_context=_keep)
_head_input.register_autograd(_head_input_backward, setup_context=_keep)


def _scales(sizes: Sequence[Sequence[int]], height: int, width: int) -> list[float]:
    """Map pixels a pixel of the result, down and across, rounded as torch rounds them."""
    down_across = [(np.float32(h) / np.float32(height), np.float32(w) / np.float32(width)) for h, w in sizes]
    return [float(scale) for pair in down_across for scale in pair]


@torch.library.custom_op("edge_ad::combine", mutates_args=())
def _combine(maps: list[Tensor], weights: list[float], product: bool, height: int, width: int) -> Tensor:
    out = maps[0].new_empty((maps[0].shape[0], height, width))
    if out.numel() == 0:
        return out
    count, spare = len(maps), MAX_LAYERS - len(maps)
    maps = [m.contiguous() for m in maps] + [maps[0]] * spare
    sizes = [m.shape[1:] for m in maps]
    block = 8192 if INTERPRETED else 512
    with torch.cuda.device_of(out):
        combine_kernel[(triton.cdiv(height * width, block), out.shape[0])](
            *maps,
            out,
            height,
            width,
            *(length for pair in sizes for length in pair),
            *_scales(sizes, height, width),
            *weights,
            *[0.0] * spare,
            LAYERS=count,
            PRODUCT=product,
            BLOCK=block,
        )
    return out


@_combine.register_fake
def _(maps: list[Tensor], weights: list[float], product: bool, height: int, width: int) -> Tensor:
    return maps[0].new_empty((maps[0].shape[0], height, width))


@torch.library.custom_op("edge_ad::topk_mean", mutates_args=())
def _topk_mean(scores: Tensor, k: int) -> Tensor:
    scores = scores.contiguous()
    out = scores.new_empty(scores.shape[0], dtype=torch.float32)
    if out.numel() > 0:
        block = 8192 if INTERPRETED else 4096
        with torch.cuda.device_of(scores):
            topk_mean_kernel[(scores.shape[0],)](scores, out, scores.shape[1], k, BLOCK=block, num_warps=16)
    return out


@_topk_mean.register_fake
def _(scores: Tensor, k: int) -> Tensor:
    return scores.new_empty(scores.shape[0], dtype=torch.float32)


def _scores(teacher: list[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Room for the scores and the images' scores."""
    scores = teacher[0].new_empty((teacher[0].shape[0], height, width), dtype=torch.float32)
    return scores, scores.new_empty(scores.shape[0])


@torch.library.custom_op("edge_ad::fused_score", mutates_args=())
def _fused_score(
    teacher: list[Tensor],
    student: list[Tensor],
    weights: list[float],
    product: bool,
    height: int,
    width: int,
    k: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    batch, count, spare = teacher[0].shape[0], len(teacher), MAX_LAYERS - len(teacher)
    scores, image_score = _scores(teacher, height, width)
    if batch == 0:
        return scores, image_score
    features = [*teacher, *student]
    first = all(x.is_contiguous() for x in features)
    last = not first and all(x.permute(0, 2, 3, 1).is_contiguous() for x in features)
    if not first and not last:
        teacher, student = [x.contiguous() for x in teacher], [x.contiguous() for x in student]
    maps = [scores.new_empty((batch, *t.shape[2:])) for t in teacher]
    sizes = [m.shape[1:] for m in [*maps, *maps[:1] * spare]]
    block_p, block_c = (8, 128) if last else (32, 32)
    block, block_k = (8192, 8192) if INTERPRETED else (1024, 4096)
    pieces = sum(triton.cdiv(h * w, block_p) for h, w in sizes[:count]) + triton.cdiv(height * width, block)
    with torch.cuda.device_of(scores):
        fused_score_kernel[(batch * pieces,)](
            *(x for pair in zip(teacher, student, strict=True) for x in pair),
            *[teacher[0]] * (2 * spare),
            *maps,
            *maps[:1] * spare,
            scores,
            image_score,
            _counters(scores, COUNTERS + batch),
            batch,
            height,
            width,
            k,
            eps,
            *(t.shape[1] for t in [*teacher, *teacher[:1] * spare]),
            *(length for pair in sizes for length in pair),
            *_scales(sizes, height, width),
            *weights,
            *[0.0] * spare,
            LAYERS=count,
            PRODUCT=product,
            LAST=last,
            BLOCK_P=block_p,
            BLOCK_C=block_c,
            BLOCK=block,
            BLOCK_K=block_k,
            num_warps=8,
        )
    return scores, image_score


@_fused_score.register_fake
def _(
    teacher: list[Tensor],
    student: list[Tensor],
    weights: list[float],
    product: bool,
    height: int,
    width: int,
    k: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    return _scores(teacher, height, width)


_SPARE = 4096  # counters on each device for calls that are captured
_kept: dict[tuple[torch.device, int], Tensor] = {}  # by stream: launches on one follow each other
_spare: dict[torch.device, Tensor] = {}
_counting = threading.Lock()  # callers on several threads


def _counters(like: Tensor, count: int) -> Tensor:
    """Zeros that no launch running at the same time has; fused_score_kernel leaves them zero.

    A captured call gets its own for good, since its graph may be replayed beside anything.
    """
    if not like.is_cuda:
        return like.new_zeros(count, dtype=torch.int32)
    stream = torch.cuda.current_stream(like.device)
    with _counting:
        if torch.cuda.is_current_stream_capturing():
            spare = _spare.get(like.device)
            if spare is None or len(spare) < count:  # captured too: one more node, which sets them at each replay
                return like.new_zeros(count, dtype=torch.int32)
            _spare[like.device] = spare[count:]
            return spare[:count]
        if like.device not in _spare:
            _spare[like.device] = _lasting_zeros(like, _SPARE, stream)
        kept = _kept.get((like.device, stream.cuda_stream))
        if kept is None or len(kept) < count:
            kept = _kept[like.device, stream.cuda_stream] = _lasting_zeros(like, max(count, 64), stream)
        return kept


def _lasting_zeros(like: Tensor, count: int, stream: Any) -> Tensor:
    """Zeros made on `stream`, by a thread of its own.

    While torch.compile warms up for CUDA graphs, whatever the caller's thread allocates comes from the graphs' memory
    and is taken for free as soon as that is over, although it is still held here.
    """

    def make() -> Tensor:
        with torch.cuda.stream(stream):
            return like.new_zeros(count, dtype=torch.int32)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()
