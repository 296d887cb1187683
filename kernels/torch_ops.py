"""The same operations in plain torch: differentiable, traceable by torch.export and torch.compile.

Half-precision features are computed in float32, and results come in float32 (float64 for float64), so that an
FP16 graph keeps its head exact. The arguments arrive checked (see edge_ad.kernels.dispatch).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from edge_ad.kernels.reference import FusedScore, gaussian


def normalized(features: torch.Tensor, *, dim: int = 1, eps: float = 1e-6) -> torch.Tensor:
    """Features over their length along `dim`: v / max(|v|, eps); the gradient at a zero vector is finite.

    Taken over the largest entry first, as edge_ad.kernels.reference does; the result doesn't depend on that scale, so
    no gradient goes through it. Not torch.linalg.vector_norm, which takes many times as long along the channels of a
    CPU tensor.
    """
    features = _floating(features)
    if torch.compiler.is_exporting():  # a trained network's features have a length: graphs stay lean
        return features / (features * features).sum(dim, keepdim=True).clamp_min(eps * eps).sqrt()
    scale = features.detach().abs().amax(dim, keepdim=True).clamp_min(eps)
    scaled = features / scale
    return scaled / torch.maximum((scaled * scaled).sum(dim, keepdim=True), (eps / scale) ** 2).sqrt()


def cosine_map(
    teacher_features: torch.Tensor, student_features: torch.Tensor, *, channels_last: bool, eps: float
) -> torch.Tensor:
    """Difference map [B,h,w], |t̂ - ŝ|² / 2, as edge_ad.kernels.reference defines it."""
    dim = -1 if channels_last else 1
    difference = normalized(teacher_features, dim=dim, eps=eps) - normalized(student_features, dim=dim, eps=eps)
    return 0.5 * (difference * difference).sum(dim)


def head_input(teacher_features: torch.Tensor, student_features: torch.Tensor, *, eps: float) -> torch.Tensor:
    """C · t̂ · ŝ [B,C,h,w]."""
    teacher = normalized(teacher_features, eps=eps) * teacher_features.shape[1]
    return teacher * normalized(student_features, eps=eps)


def upsample(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps [B,h,w] at `size`, bilinear with align_corners=False."""
    return F.interpolate(_floating(maps)[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def blur(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Maps [B,H,W] under a Gaussian of `sigma` pixels, edges repeated."""
    weights = torch.as_tensor(gaussian(sigma), dtype=maps.dtype, device=maps.device)
    radius = len(weights) // 2
    padded = F.pad(maps[:, None], [radius] * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))[:, 0]


def topk_mean(pixel_scores: torch.Tensor, k: int) -> torch.Tensor:
    """Mean of the `k` largest scores of each image [B]; NaN counts as the largest, so it reaches the result."""
    return _floating(pixel_scores).flatten(1).topk(k, dim=1).values.mean(1)


def combine(maps: Sequence[torch.Tensor], how: str, weights: Sequence[float]) -> torch.Tensor:
    """Maps of one size made into one: weighted mean, sum, or product of powers."""
    total = maps[0].pow(weights[0]) if how == "product" else maps[0] * weights[0]
    for layer, weight in zip(maps[1:], weights[1:], strict=True):
        total = total * layer.pow(weight) if how == "product" else total + layer * weight
    return total / sum(weights) if how == "mean" else total


def fused_score(
    teacher_features: Sequence[torch.Tensor],
    student_features: Sequence[torch.Tensor],
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


def _floating(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
