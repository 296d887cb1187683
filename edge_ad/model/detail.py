"""Fine detail: a small pretrained CNN whose features are held against those of normals, beside the teacher."""

from __future__ import annotations

from collections.abc import Mapping

import timm
import torch
import torch.nn.functional as F
from torch import nn

from edge_ad.config import ModelConfig
from edge_ad.errors import ConfigError, DataError
from edge_ad.model.prototypes import PrototypeMemory
from edge_ad.model.resampling import upsampling_matrix

STAGES = (2, 3)  # of the CNN's feature levels, those at an eighth and a sixteenth of the image's size


class DetailMemory(PrototypeMemory):
    """A frozen CNN, and prototypes of its features of normals: each place is as far off as from the nearest one.

    A ViT's patches of 14 pixels average over hair cracks and pits; a CNN at stride 8 does not. Nothing is trained:
    the prototypes are taken from the training normals, as many of each product. Features and nearest neighbours are
    PatchCore's (Roth et al. 2022), with two of the CNN's levels, each averaged over 3 x 3 places.

    image_size: (H, W) in pixels. state: the CNN's pretrained weights under timm's names; None when a trained
    detector's weights are loaded afterwards. Raises ConfigError for a model that has no such levels, DataError for
    weights that don't fit.
    """

    def __init__(
        self, config: ModelConfig, image_size: tuple[int, int], state: Mapping[str, torch.Tensor] | None
    ) -> None:
        cnn = timm.create_model(config.detail, pretrained=False, num_classes=0)
        levels = getattr(cnn, "feature_info", [])
        if not hasattr(cnn, "prune_intermediate_layers") or len(levels) <= max(STAGES) or hasattr(cnn, "patch_embed"):
            raise ConfigError(
                f"'{config.detail}' is no CNN with levels of features", "choose an efficientnet or resnet"
            )
        if state is not None:
            _load(cnn, config.detail, state)
        super().__init__(config.prototypes, sum(levels[stage]["num_chs"] for stage in STAGES))
        cnn.prune_intermediate_layers(list(STAGES), prune_head=True)
        self.cnn = cnn.requires_grad_(False).eval()
        own = cnn.pretrained_cfg
        # the detector's images come in the teacher's normalisation
        mean, std, cnn_mean, cnn_std = (
            torch.tensor(values)[:, None, None] for values in (config.mean, config.std, own["mean"], own["std"])
        )
        self.register_buffer("gain", std / cnn_std, persistent=False)
        self.register_buffer("shift", (mean - cnn_mean) / cnn_std, persistent=False)
        with torch.no_grad():
            fine, coarse = self._levels(torch.zeros(1, 3, *image_size))
        self.grid: tuple[int, int] = (fine.shape[2], fine.shape[3])
        for axis, name in enumerate("yx"):
            matrix = upsampling_matrix(coarse.shape[2 + axis], self.grid[axis])
            self.register_buffer(f"coarse_{name}", matrix, persistent=False)

    def train(self, mode: bool = True) -> DetailMemory:
        """Stay in eval mode: nothing here learns."""
        del mode
        return super().train(False)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Unit features [B, C, h, w], h and w an eighth of the image's, of images [B, 3, H, W] as the teacher's."""
        fine, coarse = self._levels(images)
        return F.normalize(torch.cat([fine, self.coarse_y @ coarse @ self.coarse_x.T], 1), dim=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Cosine distances [B, h, w], 0..2, to the nearest prototype, of images [B, 3, H, W] as the teacher's."""
        features = self.features(images)
        similarity = features.flatten(2).transpose(1, 2) @ self.prototypes.T
        return (1 - similarity.amax(-1)).unflatten(-1, self.grid)

    def _levels(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Both levels' features, averaged over 3 x 3 places."""
        levels = self.cnn.forward_intermediates(
            images * self.gain + self.shift, indices=list(STAGES), stop_early=True, intermediates_only=True
        )
        return [F.avg_pool2d(level, 3, 1, 1) for level in levels]


def _load(cnn: nn.Module, name: str, state: Mapping[str, torch.Tensor]) -> None:
    """Load what the CNN has a place for: a hub's weights hold a classifier, too."""
    wanted = {key for key in cnn.state_dict() if not key.endswith("num_batches_tracked")}
    missing = sorted(wanted - state.keys())
    wrong = [key for key in wanted - set(missing) if state[key].shape != cnn.state_dict()[key].shape]
    if missing or wrong:
        raise DataError(
            f"the weights don't fit {name}: {len(missing)} tensors missing {missing[:2]}, {len(wrong)} of another "
            f"shape {wrong[:2]}",
            "give weights made for this model, with timm's names",
        )
    cnn.load_state_dict({key: state[key].float() for key in wanted}, strict=False)
