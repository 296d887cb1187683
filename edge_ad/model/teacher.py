"""The frozen teacher: a pretrained timm ViT cut after its last tap."""

from __future__ import annotations

import math
from collections.abc import Mapping

import timm
import torch
from torch import nn

from edge_ad.config import ModelConfig
from edge_ad.errors import ConfigError, DataError

State = Mapping[str, torch.Tensor]


def fit_image_size(config: ModelConfig, median_size: tuple[int, int]) -> tuple[int, int]:
    """The (H, W) to resize to: `image_size` if set, else the photos' aspect ratio within `tokens` patches.

    median_size: typical (H, W) of the photos in pixels. Both sides are multiples of the patch size, at least 4
    patches each.
    """
    patch = patch_size(config.teacher)
    if config.image_size is not None:
        if any(side % patch or side <= 0 for side in config.image_size):
            raise ConfigError(
                f"image_size {config.image_size} is no multiple of the teacher's patch size {patch}",
                f"use for example {tuple(max(1, round(side / patch)) * patch for side in config.image_size)}",
            )
        return config.image_size
    height, width = median_size
    rows = max(4, min(config.tokens // 4, round(math.sqrt(config.tokens * height / width))))
    columns = max(4, round(config.tokens / rows))
    return rows * patch, columns * patch


def patch_size(model: str) -> int:
    """Side of the ViT's square patches in pixels."""
    with torch.device("meta"):
        vit = timm.create_model(model, pretrained=False, num_classes=0)
    if not hasattr(vit, "blocks") or not hasattr(vit, "patch_embed"):
        raise ConfigError(f"'{model}' is no plain ViT", "choose a vit_* or deit_* model of timm")
    return int(vit.patch_embed.patch_size[0])


class Encoder(nn.Module):
    """A ViT up to its last tap; its taps are averaged in groups of neighbours.

    image_size: (H, W) in pixels, baked into the position embedding so that graphs are static.
    state: pretrained weights under timm's names; None when a trained detector's weights are loaded later.
    """

    def __init__(
        self, config: ModelConfig, image_size: tuple[int, int], state: Mapping[str, torch.Tensor] | None
    ) -> None:
        super().__init__()
        if len(config.taps) % config.groups:
            raise ConfigError(
                f"{len(config.taps)} taps can't be split into {config.groups} equal groups",
                "set model.groups to a divisor of the number of taps",
            )
        vit = timm.create_model(config.teacher, pretrained=False, num_classes=0, img_size=image_size)
        if max(config.taps) >= len(vit.blocks):
            raise ConfigError(
                f"tap {max(config.taps)} is beyond the {len(vit.blocks)} blocks of {config.teacher}",
                f"blocks are counted from 0 to {len(vit.blocks) - 1}",
            )
        if state is not None:
            _load(vit, config.teacher, state)
        vit.blocks = vit.blocks[: max(config.taps) + 1]
        vit.norm = nn.Identity()
        self.vit = vit
        self.taps = tuple(config.taps)
        self.groups = config.groups
        self.channels = int(vit.embed_dim)
        self.grid = tuple(vit.patch_embed.grid_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features [B, groups, C, h, w] of images [B, 3, H, W] (normalised RGB)."""
        features = self.vit.forward_intermediates(
            images, indices=list(self.taps), norm=False, intermediates_only=True
        )
        size = len(features) // self.groups
        grouped = [sum(features[i * size : (i + 1) * size]) / size for i in range(self.groups)]
        return torch.stack(grouped, 1)


class Teacher(Encoder):
    """The encoder with frozen weights, always in eval mode."""

    def __init__(
        self, config: ModelConfig, image_size: tuple[int, int], state: Mapping[str, torch.Tensor] | None
    ) -> None:
        super().__init__(config, image_size, state)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode: a frozen teacher has no other."""
        del mode
        return super().train(False)


def _load(vit: nn.Module, name: str, state: State) -> None:
    """Load strictly, except for the classifier and for the position embedding's size, which timm resamples."""
    wanted = set(vit.state_dict())
    state = {key: value.float() for key, value in state.items() if not key.startswith(("head.", "fc_norm."))}
    missing, unknown = sorted(wanted - set(state)), sorted(set(state) - wanted)
    if missing or unknown:
        raise DataError(
            f"the weights don't fit {name}: {len(missing)} tensors missing {missing[:2]}, "
            f"{len(unknown)} unknown {unknown[:2]}",
            "give weights made for this model, with timm's names",
        )
    grid = vit.patch_embed.grid_size
    if state["pos_embed"].shape != vit.pos_embed.shape:
        state["pos_embed"] = timm.layers.resample_abs_pos_embed(
            state["pos_embed"],
            new_size=list(grid),
            num_prefix_tokens=0 if getattr(vit, "no_embed_class", False) else vit.num_prefix_tokens,
        )
    try:
        vit.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise DataError(f"the weights don't fit {name}: {error}", "give weights made for this model") from error
