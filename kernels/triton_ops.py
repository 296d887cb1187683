# mypy: disallow-untyped-decorators=False
"""The operations in Triton, for tensors on an NVIDIA GPU: custom operators that torch.compile and graphs can hold.

float32, float16 and bfloat16 features, float32 sums and results. A kernel is compiled once for each class of shapes
and nothing is tuned; call once before capturing a CUDA graph. The arguments arrive checked (see
edge_ad.kernels.dispatch). docs/gpu.md says what was run and timed on which card.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from edge_ad.kernels import torch_ops
from edge_ad.kernels.reference import FusedScore
from edge_ad.kernels.triton_kernels import (
    cosine_map_gradient_kernel,
    cosine_map_kernel,
    head_input_gradient_kernel,
    head_input_kernel,
    maps_kernel,
)
from edge_ad.kernels.triton_scores import combine_kernel, maxima_kernel, topk_mean_kernel

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton decides when it is imported
MAX_LAYERS = 4  # that one launch joins
MAX_CHANNELS = 4096  # that a program holds in registers
MAX_HELD = 16384  # scores that one program selects among
MAX_TILE = 16384  # numbers of each of two tensors that a program holds: 64 registers a thread
SECTOR_BYTES = 32  # that memory gives at least

upsample = torch_ops.upsample  # torch's own kernel is one pass already


class TopkPlan(NamedTuple):
    """How many neighbouring scores make a group, how many groups there are, and room for those that may matter."""

    group: int
    groups: int
    slots: int

    @property
    def held(self) -> int:
        """Numbers that the selecting program holds at a time, at most."""
        return int(max(triton.next_power_of_2(self.groups), self.slots * self.group))


def topk_plan(count: int, k: int) -> TopkPlan | None:
    """The groups for the k largest of `count` scores that ask least of one program; None where they ask too much."""
    slots = triton.next_power_of_2(max(k + k // 8, 16))  # some more than k: the search for the bound ends early
    plans = [TopkPlan(1 << i, triton.cdiv(count, 1 << i), slots) for i in range(11)]
    best = min((plan for plan in plans if plan.groups >= k), key=lambda plan: plan.held)
    return best if best.held <= MAX_HELD else None


def feature_block(
    channels: int, pixels: int, element_size: int, *, channels_last: bool, most: int = MAX_TILE
) -> tuple[int, int, int]:
    """Positions and channels of each tensor that a program holds, and its warps.

    16 KiB or more of each tensor are on their way at once. Where channels come first, a row of positions is at least
    one whole sector of the memory, two where that leaves room for two programs on a multiprocessor.
    """
    block_c = max(triton.next_power_of_2(channels), 4)
    sector = 0 if channels_last else block_c * (SECTOR_BYTES // element_size)
    tile = max(4096, min(2 * sector, 8192), min(sector, most))
    block_p = min(max(tile // block_c, 1), triton.next_power_of_2(max(pixels, 1)))
    return block_p, block_c, min(max(block_p * block_c // 512, 4), 16)


def cosine_map(teacher_features: Tensor, student_features: Tensor, *, channels_last: bool, eps: float) -> Tensor:
    """Difference map [B,h,w], differentiable once in both arguments."""
    if channels_last:
        teacher_features, student_features = teacher_features.movedim(-1, 1), student_features.movedim(-1, 1)
    if teacher_features.shape[1] > MAX_CHANNELS:
        return torch_ops.cosine_map(teacher_features, student_features, channels_last=False, eps=eps)
    return torch.ops.edge_ad.cosine_map(teacher_features, student_features, eps)


def head_input(teacher_features: Tensor, student_features: Tensor, *, eps: float) -> Tensor:
    """C · t̂ · ŝ [B,C,h,w], differentiable once in both arguments."""
    if teacher_features.shape[1] > MAX_CHANNELS:
        return torch_ops.head_input(teacher_features, student_features, eps=eps)
    return torch.ops.edge_ad.head_input(teacher_features, student_features, eps)


def topk_mean(pixel_scores: Tensor, k: int) -> Tensor:
    """Mean of the `k` largest scores of each image [B]; gradients, and a k too large, go through plain torch."""
    scores = pixel_scores.flatten(1)
    if (scores.requires_grad and torch.is_grad_enabled()) or topk_plan(scores.shape[1], k) is None:
        return torch_ops.topk_mean(pixel_scores, k)
    return torch.ops.edge_ad.topk_mean(scores, k)


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
    """Pixel scores and image scores in three launches: all maps; upsampling, joining and groups' maxima; selection.

    More than four layers, or smoothing, take torch's kernels between, and so does a k too large to hold.
    """
    if combine_by == "mean":
        weights = [weight / sum(weights) for weight in weights]
    product = combine_by == "product"
    pairs = list(zip(teacher_features, student_features, strict=True))
    layers = len(pairs) <= MAX_LAYERS and max(t.shape[1] for t in teacher_features) <= MAX_CHANNELS
    if layers and sigma == 0 and topk_plan(size[0] * size[1], k) is not None:
        scores, image_score = torch.ops.edge_ad.fused_score(
            list(teacher_features), list(student_features), list(weights), product, *size, k, eps
        )
        return FusedScore(scores if return_pixel_scores else None, image_score)
    maps = [upsample(cosine_map(t, s, channels_last=False, eps=eps), size) for t, s in pairs]
    scores = torch_ops.combine(maps, "product" if product else "sum", weights)
    if sigma > 0:
        scores = torch_ops.blur(scores, sigma)
    return FusedScore(scores if return_pixel_scores else None, topk_mean(scores, k))


def _mergeable(features: Tensor) -> Tensor:
    """The features if (h, w) can be read with one stride and nothing overlaps, else a copy that can."""
    flat = features.shape[2] == 1 or features.stride(2) == features.shape[3] * features.stride(3)
    dense = features.permute(0, 2, 3, 1).is_contiguous() or features.is_contiguous()
    return features if flat and dense else features.contiguous()


def _strides(features: Tensor) -> tuple[int, int, int]:
    """Of image, channel and position."""
    return features.stride(0), features.stride(1), features.stride(3) if features.shape[3] > 1 else features.stride(2)


def _launch(
    kernel: Any, teacher: Tensor, student: Tensor, rest: Sequence[Tensor], strided: Sequence[Tensor], eps: float
) -> None:
    """Launch over all positions; `rest` are the other tensors, and `strided` those of them that have channels."""
    batch, channels, height, width = teacher.shape
    if teacher.numel() == 0:
        return
    featured = [teacher, student, *strided]
    last = all(x.stride(1) == 1 for x in featured)
    most = MAX_TILE // 2 if kernel is head_input_gradient_kernel else MAX_TILE  # it holds three
    block_p, block_c, warps = feature_block(
        channels, height * width, teacher.element_size(), channels_last=last, most=most
    )
    with torch.cuda.device_of(teacher):
        kernel[(triton.cdiv(height * width, block_p), batch)](
            teacher, student, *rest, channels, height * width, *(n for x in featured for n in _strides(x)), eps,
            BLOCK_P=block_p, BLOCK_C=block_c, num_warps=warps,
        )  # fmt: skip


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
    out = torch.empty_like(
        student, dtype=torch.float32
    )  # laid out as the student: what is read in rows is so written
    _launch(head_input_kernel, teacher, student, [out], [out], eps)
    return out


@_head_input.register_fake
def _(teacher: Tensor, student: Tensor, eps: float) -> Tensor:
    return torch.empty_like(_mergeable(student), dtype=torch.float32)


# Both maps are the same with their arguments swapped, so one kernel gives the gradient of either.
@torch.library.custom_op("edge_ad::cosine_map_gradient", mutates_args=())
def _cosine_map_gradient(other: Tensor, features: Tensor, grad: Tensor, eps: float) -> Tensor:
    other, features = _mergeable(other), _mergeable(features)
    out = torch.empty_like(features)
    _launch(cosine_map_gradient_kernel, other, features, [grad.contiguous(), out], [out], eps)
    return out


@torch.library.custom_op("edge_ad::head_input_gradient", mutates_args=())
def _head_input_gradient(other: Tensor, features: Tensor, grad: Tensor, eps: float) -> Tensor:
    other, features, grad = _mergeable(other), _mergeable(features), _mergeable(grad)
    out = torch.empty_like(features)
    _launch(head_input_gradient_kernel, other, features, [grad, out], [grad, out], eps)
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


@torch.library.custom_op("edge_ad::topk_mean", mutates_args=())
def _topk_mean(scores: Tensor, k: int) -> Tensor:
    scores = scores.contiguous()
    (batch, count), plan = scores.shape, topk_plan(scores.shape[1], k)
    assert plan is not None, "the caller asks for no more than a program holds"
    maxima = scores.new_empty((batch, plan.groups), dtype=torch.int32)
    if batch:
        block = max(8192 if INTERPRETED else 1024, plan.group)
        with torch.cuda.device_of(scores):
            maxima_kernel[(triton.cdiv(count, block), batch)](
                scores, maxima, count, plan.groups, BLOCK=block, GROUP=plan.group
            )
    return _select(scores, maxima, plan, k)


@_topk_mean.register_fake
def _(scores: Tensor, k: int) -> Tensor:
    return scores.new_empty(scores.shape[0], dtype=torch.float32)


def _select(scores: Tensor, maxima: Tensor, plan: TopkPlan, k: int) -> Tensor:
    """Mean of the k largest scores [B, n] of each image, from the maxima of its groups."""
    out = scores.new_empty(len(scores), dtype=torch.float32)
    if len(scores):
        chosen = maxima.new_empty((len(scores), plan.slots))
        with torch.cuda.device_of(scores):
            topk_mean_kernel[(len(scores),)](
                scores, maxima, chosen, out, scores.shape[1], plan.groups, k,
                GROUP=plan.group, GROUPS=triton.next_power_of_2(plan.groups), SLOTS=plan.slots,
                num_warps=min(max(plan.held // 512, 4), 16),
            )  # fmt: skip
    return out


@torch.library.custom_op("edge_ad::fused_score", mutates_args=())
def _fused_score(
    teacher: list[Tensor], student: list[Tensor], weights: list[float], product: bool,
    height: int, width: int, k: int, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, plan = len(teacher[0]), topk_plan(height * width, k)
    assert plan is not None, "the caller asks for no more than a program holds"
    scores = teacher[0].new_empty((batch, height, width), dtype=torch.float32)
    maxima = scores.new_empty((batch, plan.groups), dtype=torch.int32)
    if batch:
        with torch.cuda.device_of(scores):
            maps = _maps(teacher, student, eps)
            sizes = [m.shape[1:] for m in _filled(maps)]
            block = max(8192 if INTERPRETED else 512, plan.group)
            combine_kernel[(triton.cdiv(height * width, block), batch)](
                *_filled(maps), scores, maxima, height, width, plan.groups,
                *(length for pair in sizes for length in pair), *_scales(sizes, height, width), *_filled(weights),
                LAYERS=len(maps), PRODUCT=product, BLOCK=block, GROUP=plan.group,
            )  # fmt: skip
    return scores, _select(scores.flatten(1), maxima, plan, k)


@_fused_score.register_fake
def _(
    teacher: list[Tensor], student: list[Tensor], weights: list[float], product: bool,
    height: int, width: int, k: int, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    scores = teacher[0].new_empty((len(teacher[0]), height, width), dtype=torch.float32)
    return scores, scores.new_empty(len(scores))


def _maps(teacher: Sequence[Tensor], student: Sequence[Tensor], eps: float) -> list[Tensor]:
    """The difference maps of up to four layers: one launch makes all that have the same shape."""
    last = all(x.permute(0, 2, 3, 1).is_contiguous() for x in [*teacher, *student])
    if not last:
        teacher, student = [x.contiguous() for x in teacher], [x.contiguous() for x in student]
    maps = [t.new_empty((t.shape[0], *t.shape[2:]), dtype=torch.float32) for t in teacher]
    for shape in {t.shape: None for t in teacher}:
        own = [i for i, t in enumerate(teacher) if t.shape == shape]
        batch, channels, pixels = shape[0], shape[1], shape[2] * shape[3]
        block_p, block_c, warps = feature_block(channels, pixels, teacher[0].element_size(), channels_last=last)
        programs = batch * triton.cdiv(pixels, block_p)
        maps_kernel[(programs * len(own),)](
            *(x for i in _filled(own) for x in (teacher[i], student[i])), *(maps[i] for i in _filled(own)),
            channels, pixels, programs, eps, LAST=last, BLOCK_P=block_p, BLOCK_C=block_c, num_warps=warps,
        )  # fmt: skip
    return maps


def _filled(values: Sequence[Any]) -> list[Any]:
    """As many as a launch takes: the first stands where there is no layer."""
    return [*values, *[values[0]] * (MAX_LAYERS - len(values))]
