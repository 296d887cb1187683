"""The student: from an image, perhaps a defective one, to the teacher's features of the normal one."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block
from torch import nn

from edge_ad.config import ModelConfig
from edge_ad.errors import ConfigError
from edge_ad.model.prototypes import PrototypeMemory
from edge_ad.model.teacher import Encoder


class MemoryDecoder(PrototypeMemory):
    """Normal features recalled by attention over prototypes, then refined by a small network.

    Each token asks with its groups' unit features; keys and values are P prototypes of normal tokens, as many of each
    product, taken from the training normals and not trained (with a high sharpness this is a soft nearest neighbour,
    which detects defects before any training). The refinement reads the recalled features and a noisy view of the
    token, sees its neighbourhood through depth-wise convolutions, and starts at zero.
    """

    def __init__(self, config: ModelConfig, channels: int) -> None:
        width = channels * config.groups
        super().__init__(config.prototypes, width)
        self.groups, self.channels = config.groups, channels
        self.register_buffer("sharpness", torch.tensor(40.0))
        self.noise = nn.Dropout(config.bottleneck_dropout)
        inner = config.decoder_channels
        self.squeeze = nn.Linear(width, inner // 4)
        self.mix = nn.Linear(width + inner // 4, inner)
        self.blocks = nn.ModuleList(ConvBlock(inner) for _ in range(config.decoder_depth))
        self.expand = nn.Linear(inner, width)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def recall(self, features: torch.Tensor) -> torch.Tensor:
        """Soft nearest prototypes [B, N, G*C] of features [B, G, C, h, w]; each group has unit length on entry."""
        tokens = unit_tokens(features)
        similarity = tokens @ self.prototypes.T / self.groups
        return torch.softmax(similarity * self.sharpness, dim=-1) @ self.prototypes

    def forward(self, features: torch.Tensor, recalled: torch.Tensor | None = None) -> torch.Tensor:
        """Normal features [B, G, C, h, w]; recalled [B, N, G*C] may be given where it was computed before."""
        height, width = features.shape[-2:]
        recalled = self.recall(features) if recalled is None else recalled
        seen = self.squeeze(self.noise(unit_tokens(features)))
        x = self.mix(torch.cat([recalled, seen], -1) * self.channels**0.5)
        for block in self.blocks:
            x = block(x, height, width)
        normal = recalled + self.expand(x) * self.channels**-0.5
        return normal.transpose(1, 2).unflatten(1, (self.groups, self.channels)).unflatten(-1, (height, width))


class ConvBlock(nn.Module):
    """Depth-wise 5x5 convolution, then an MLP, around a residual; tokens [B, N, C] in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        grid = x.transpose(1, 2).unflatten(-1, (height, width))
        return x + self.mlp(self.norm(self.spatial(grid).flatten(2).transpose(1, 2)))


class TransformerDecoder(nn.Module):
    """A noisy bottleneck and a stack of transformer blocks; groups are read off in reverse order.

    The first blocks answer for the deepest group, the last for the shallowest, as the encoder's mirror image.
    """

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        if config.decoder_depth < config.groups:
            raise ConfigError(
                f"decoder_depth {config.decoder_depth} is less than the {config.groups} groups it must answer for",
                "raise model.decoder_depth or lower model.groups",
            )
        self.groups, self.channels = config.groups, channels
        drop = config.bottleneck_dropout
        self.bottleneck = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Dropout(drop),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Dropout(drop),
            nn.Linear(4 * channels, channels),
            nn.Dropout(drop),
        )
        heads = max(1, channels // 64)
        self.blocks = nn.ModuleList(Block(channels, heads, qkv_bias=True) for _ in range(config.decoder_depth))
        self.heads = nn.ModuleList(nn.Linear(channels, channels) for _ in range(config.groups))
        self.apply(_init_linear)

    def forward(self, features: torch.Tensor, recalled: torch.Tensor | None = None) -> torch.Tensor:
        """Normal features [B, G, C, h, w] of the student encoder's [B, G, C, h, w]."""
        del recalled
        size = features.shape[-2:]
        x = self.bottleneck(features.mean(1).flatten(2).transpose(1, 2))
        per_group: list[list[torch.Tensor]] = [[] for _ in range(self.groups)]
        for i, block in enumerate(self.blocks):
            x = block(x)
            per_group[self.groups - 1 - i * self.groups // len(self.blocks)].append(x)
        normal = [head(sum(outputs) / len(outputs)) for head, outputs in zip(self.heads, per_group, strict=True)]
        return torch.stack(normal, 1).transpose(2, 3).unflatten(-1, tuple(size))


class IdentityDecoder(nn.Module):
    """The student encoder's own features: the ablation without a decoder."""

    def forward(self, features: torch.Tensor, recalled: torch.Tensor | None = None) -> torch.Tensor:
        del recalled
        return features


class Student(nn.Module):
    """Encoder (shared with the teacher, or its own) and decoder."""

    def __init__(self, config: ModelConfig, teacher: Encoder) -> None:
        super().__init__()
        if config.student == "shared" and config.decoder == "none":
            raise ConfigError(
                "a student that shares the teacher's encoder and has no decoder repeats the teacher",
                "set model.student = 'separate', or choose a decoder",
            )
        if config.student == "separate" and config.decoder == "memory":
            raise ConfigError(
                "the memory decoder asks in the teacher's own feature space",
                "set model.student = 'shared', or model.decoder = 'transformer'",
            )
        self.encoder: Encoder | None = None
        if config.student == "separate":
            self.encoder = copy.deepcopy(teacher).requires_grad_(True)
            if not config.student_pretrained:
                self.encoder.vit.init_weights("")
            self.encoder.__class__ = Encoder  # a Teacher would refuse to train
            self.encoder.train()
        kinds: dict[str, Any] = {"memory": MemoryDecoder, "transformer": TransformerDecoder}
        self.decoder: Any = (
            kinds[config.decoder](config, teacher.channels) if config.decoder in kinds else IdentityDecoder()
        )

    def forward(
        self, images: torch.Tensor | None, teacher_features: torch.Tensor, recalled: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Normal features [B, G, C, h, w].

        images [B, 3, H, W]: read by a separate encoder, else unused. teacher_features [B, G, C, h, w]: the
        teacher's of the same images, which a shared student starts from.
        """
        if self.encoder is None:
            return self.decoder(teacher_features, recalled)
        assert images is not None
        return self.decoder(self.encoder(images))


def unit_tokens(features: torch.Tensor) -> torch.Tensor:
    """Tokens [B, N, G*C] of features [B, G, C, h, w], each group's part with length 1."""
    unit = F.normalize(features, dim=2)
    return unit.flatten(1, 2).flatten(2).transpose(1, 2)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
