# mypy: disallow-untyped-decorators=False
"""The operations in Triton, for tensors on an NVIDIA GPU: custom operators that torch.compile and graphs can hold.

float32, float16 and bfloat16 features, float32 sums and results. Each shape is tuned at its first call, so call
once before capturing a CUDA graph. The arguments arrive checked (see edge_ad.kernels.dispatch).

These kernels are tested under Triton's interpreter and compiled ahead of time for sm_80 to sm_90; they have not
been timed on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

from edge_ad.kernels import torch_ops
from edge_ad.kernels.reference import FusedScore
from edge_ad.kernels.triton_kernels import (
    INTERPRETED,
    combine_kernel,
    cosine_map_gradient_kernel,
    cosine_map_kernel,
    head_input_gradient_kernel,
    head_input_kernel,
    topk_mean_kernel,
)

MAX_LAYERS = 4  # maps that one launch of combine_kernel joins

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
    """Pixel scores and image scores: a launch for each layer's map, one to upsample and join, one for the Top-K."""
    pairs = zip(teacher_features, student_features, strict=True)
    maps = [torch.ops.edge_ad.cosine_map(t, s, eps) for t, s in pairs]
    if combine_by == "mean":
        weights = [weight / sum(weights) for weight in weights]
    if len(maps) <= MAX_LAYERS:
        scores = torch.ops.edge_ad.combine(maps, list(weights), combine_by == "product", *size)
    else:
        how = "product" if combine_by == "product" else "sum"
        scores = torch_ops.combine([upsample(m, size) for m in maps], how, weights)
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


@torch.library.custom_op("edge_ad::combine", mutates_args=())
def _combine(maps: list[Tensor], weights: list[float], product: bool, height: int, width: int) -> Tensor:
    out = maps[0].new_empty((maps[0].shape[0], height, width))
    if out.numel() == 0:
        return out
    count, spare = len(maps), MAX_LAYERS - len(maps)
    maps = [m.contiguous() for m in maps] + [maps[0]] * spare
    scales = [(np.float32(m.shape[1]) / np.float32(height), np.float32(m.shape[2]) / np.float32(width)) for m in maps]
    block = 8192 if INTERPRETED else 512
    with torch.cuda.device_of(out):
        combine_kernel[(triton.cdiv(height * width, block), out.shape[0])](
            *maps,
            out,
            height,
            width,
            *(length for m in maps for length in m.shape[1:]),
            *(float(scale) for pair in scales for scale in pair),
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
