"""The three losses of the method: cosine on features (eq. 4), focal and L1 on the head's answer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from edge_ad.config import TrainingConfig
from edge_ad.model.detector import difference_maps


def cosine_loss(teacher_features: torch.Tensor, student_features: torch.Tensor) -> torch.Tensor:
    """Mean over groups, images and positions of 1 - <t_hat, s_hat> (eq. 4); features [B, G, C, h, w]."""
    return difference_maps(teacher_features, student_features).mean()


def focal_loss(logits: torch.Tensor, masks: torch.Tensor, gamma: float) -> torch.Tensor:
    """Mean of -(1 - p_t)^gamma log p_t, with p_t the probability given to the truth (Lin et al. 2017, eq. 4).

    logits [B, h, w]; masks [B, h, w] in 0..1 (a share of a position's pixels is a soft label). No class weight:
    the paper names none.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    probability = torch.sigmoid(logits)
    miss = (probability - masks).abs()
    return (miss**gamma * cross_entropy).mean()


def l1_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean of |p - M| with p the head's probability; logits and masks [B, h, w]."""
    return (torch.sigmoid(logits) - masks).abs().mean()


def weighted_loss(losses: Mapping[str, torch.Tensor], settings: TrainingConfig, progress: float) -> torch.Tensor:
    """The training loss: the sum of the losses by their weights.

    progress: share of the schedule that is over, 0..1; in two phases the student is trained until 0.5, then the head.
    """
    weights = {"cosine": settings.cosine_weight, "focal": settings.focal_weight, "l1": settings.l1_weight}
    if settings.two_phase:
        weights = {name: weight * ((name == "cosine") == (progress < 0.5)) for name, weight in weights.items()}
    return sum((weight * losses[name] for name, weight in weights.items() if name in losses), torch.zeros(()))
