"""A fresh detector: the teacher's pretrained weights, a student and a head that know nothing yet."""

from __future__ import annotations

import dataclasses
import logging

import torch

from edge_ad.config import Config, ModelConfig
from edge_ad.errors import DataError
from edge_ad.model.detector import Detector
from edge_ad.model.teacher import fit_image_size
from edge_ad.model.weights import State, WeightsRecord, find_weights

log = logging.getLogger("edge_ad.training")


def new_detector(
    config: Config, median_size: tuple[int, int], weights: str | None = None
) -> tuple[Detector, WeightsRecord]:
    """The detector to fit, always the same for a seed, and which weights its frozen encoders have.

    median_size: of the photos, (H, W) in pixels. weights: the teacher's: a safetensors file, "random", or None for
    what `find_weights` finds. Raises ConfigError for settings that can't be, and what find_weights raises.
    """
    seed = config.training.seed
    torch.manual_seed(seed)
    image_size = fit_image_size(config.model, median_size)
    state, detail, record = encoder_weights(config.model, weights, seed)
    if record.source == "random":
        log.warning("the teacher has RANDOM weights: good for tests, useless for inspection")
    return Detector(config.model, image_size, state, detail), record


def encoder_weights(model: ModelConfig, weights: str | None, seed: int) -> tuple[State, State | None, WeightsRecord]:
    """Weights of the teacher and of the detail memory's CNN (None without one), and one record of both.

    weights: as `new_detector` takes them. Raises what `find_weights` raises.
    """
    state, record = find_weights(model.teacher, weights, seed)
    if not model.detail:
        return state, None, record
    try:
        detail, second = find_weights(model.detail, "random" if weights == "random" else None, seed)
    except DataError as error:
        hint = "connect to the internet once, or do without it: --config with detail = '' in [model]"
        raise DataError(error.message, hint) from error
    both = dataclasses.replace(
        record,
        description=f"{record.description}; {second.description}",
        sha256=f"{record.sha256} {second.sha256}".strip(),
    )
    return state, detail, both
