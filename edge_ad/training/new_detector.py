"""A fresh detector: the teacher's pretrained weights, a student and a head that know nothing yet."""

from __future__ import annotations

import logging

import torch

from edge_ad.config import Config
from edge_ad.model.detector import Detector
from edge_ad.model.teacher import fit_image_size
from edge_ad.model.weights import WeightsRecord, find_weights

log = logging.getLogger("edge_ad.training")


def new_detector(
    config: Config, median_size: tuple[int, int], weights: str | None = None
) -> tuple[Detector, WeightsRecord]:
    """The detector to fit, always the same for a seed, and which weights its teacher has.

    median_size: of the photos, (H, W) in pixels. weights: a safetensors file, "random", or None for what
    `find_weights` finds. Raises ConfigError for settings that can't be, and what find_weights raises.
    """
    seed = config.training.seed
    torch.manual_seed(seed)
    image_size = fit_image_size(config.model, median_size)
    state, record = find_weights(config.model.teacher, weights, seed)
    if record.source == "random":
        log.warning("the teacher has RANDOM weights: good for tests, useless for inspection")
    return Detector(config.model, image_size, state), record
