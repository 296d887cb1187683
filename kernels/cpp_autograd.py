"""The C++ difference map under autograd: what training on a CPU spends its time on otherwise.

Plain torch walks through the features about fifteen times for a map and its gradient, and allocates as often.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from edge_ad.kernels import cpp_ops


def fits(teacher_features: Tensor, student_features: Tensor) -> bool:
    """Whether a gradient is wanted now, and the features are what C++ computes in: float32."""
    float32 = teacher_features.dtype == student_features.dtype == torch.float32
    return float32 and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def cosine_map(teacher_features: Tensor, student_features: Tensor, eps: float) -> Tensor:
    """Difference map [B,h,w] of features [B,C,h,w], differentiable once in the student's."""
    return _CosineMap.apply(teacher_features, student_features, eps)


class _CosineMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, teacher: Tensor, student: Tensor, eps: float) -> Tensor:
        teacher, student = teacher.detach().contiguous(), student.detach().contiguous()
        ctx.save_for_backward(teacher, student)
        ctx.eps = eps
        return torch.from_numpy(cpp_ops.cosine_map(teacher.numpy(), student.numpy(), channels_last=False, eps=eps))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        """grad / |s| · (<t̂, ŝ> ŝ - t̂); below eps the length is constant and <t̂, ŝ> counts as 1."""
        teacher, student = (x.numpy() for x in ctx.saved_tensors)
        gradient = cpp_ops.cosine_map_gradient(teacher, student, grad.detach().numpy(), eps=ctx.eps)
        return None, torch.from_numpy(gradient), None
