"""The segmentation head: from the discrepancy of teacher and student to a logit per position."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edge_ad import kernels
from edge_ad.config import ModelConfig

UPSCALE = 2  # the head answers at twice the feature size


class SegmentationHead(nn.Module):
    """Two residual blocks, atrous pyramid pooling, and a logit at twice the feature size.

    head_input `product`: C * t_hat * s_hat of every group; `map`: the difference maps of eq. 5; `both`.
    """

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        self.kind = config.head_input
        width = config.head_channels
        inputs = {"product": channels, "map": 1, "both": channels + 1}[self.kind] * config.groups
        self.stem = nn.Sequential(nn.Conv2d(inputs, width, 1), _norm(width), nn.ReLU())
        self.residual = nn.Sequential(ResidualBlock(width), ResidualBlock(width))
        self.pyramid = AtrousPyramid(width)
        self.up = nn.ConvTranspose2d(width, width // 2, UPSCALE, UPSCALE)
        self.logit = nn.Conv2d(width // 2, 1, 3, padding=1)
        # defects are rare: start at a probability of about 2 %
        nn.init.constant_(self.logit.bias, -4.0)

    def forward(self, teacher: torch.Tensor, student: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Logits [B, 2h, 2w] of features [B, G, C, h, w] and their difference maps [B, G, h, w]."""
        parts = []
        if self.kind != "map":
            batch, groups = teacher.shape[:2]
            product = kernels.head_input(teacher.flatten(0, 1), student.flatten(0, 1))
            parts.append(product.reshape(batch, groups * teacher.shape[2], *teacher.shape[3:]))
        if self.kind != "product":
            parts.append(10 * maps)  # maps are around 0.1, products around 1
        x = self.pyramid(self.residual(self.stem(torch.cat(parts, 1))))
        return self.logit(F.relu(self.up(x)))[:, 0]


def _norm(channels: int) -> nn.GroupNorm:
    # no batch statistics: one process with a batch of 2B and two with B must learn the same
    return nn.GroupNorm(min(8, channels), channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            _norm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            _norm(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.body(x))


class AtrousPyramid(nn.Module):
    """ASPP: parallel convolutions with growing dilation and the image's mean, merged (DeepLabv3, section 3.3)."""

    def __init__(self, channels: int, dilations: tuple[int, ...] = (1, 3, 6)) -> None:
        super().__init__()
        part = channels // 2
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, part, 3, padding=dilation, dilation=dilation) for dilation in dilations
        )
        self.whole = nn.Conv2d(channels, part, 1)
        self.merge = nn.Sequential(
            nn.Conv2d(part * (len(dilations) + 1), channels, 1, bias=False), _norm(channels), nn.ReLU()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = self.whole(x.mean((2, 3), keepdim=True)).expand(-1, -1, x.shape[2], x.shape[3])
        return self.merge(F.relu(torch.cat([*(branch(x) for branch in self.branches), whole], 1)))
