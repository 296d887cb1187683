"""Resizing as products with constant matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def upsampling_matrix(size: int, target: int, sigma: float = 0.0) -> torch.Tensor:
    """Matrix [target, size]: bilinear upsampling (half-pixel centres) and Gaussian smoothing of one axis.

    sigma: in target pixels; 0 smooths nothing. Two such products replace resize and blur: engines run them anywhere
    and alike.
    """
    line = torch.eye(size, dtype=torch.float64)[:, None]
    up = F.interpolate(line, size=target, mode="linear", align_corners=False)[:, 0]
    if not sigma:
        return up.T.float().contiguous()
    radius = int(4 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    padded = F.pad(up[:, None], (radius, radius), mode="replicate")
    return F.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0].T.float().contiguous()
