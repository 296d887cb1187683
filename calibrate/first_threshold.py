"""The threshold that an artifact leaves training with, from the normals that training did not see."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_ad.artifact import Artifact, is_known_photo
from edge_ad.calibrate.calibration import Scores, ThresholdRequest, calibration_record, score_frames, with_product
from edge_ad.calibrate.golden import add_golden_photos
from edge_ad.data.loader import PhotoReader
from edge_ad.data.samples import Sample
from edge_ad.progress import Progress
from edge_ad.runtime.engines.opening import open_runner
from edge_ad.runtime.predictor import Predictor

log = logging.getLogger("edge_ad.training")


def set_first_threshold(
    artifact: Artifact, held_out: Sequence[Sample], reader: PhotoReader, progress: Progress
) -> Scores:
    """Calibrate with the strictest promise that the held-out normals allow, at most 1 % false alarms; one of each
    product's own where there are several. Copies of photos trained on are left out, and said.

    Returns the scores that the thresholds rest on.
    """
    samples = without_training_photos(held_out, artifact.trained_on() or frozenset())
    progress.phase("first threshold", len(samples))
    add_golden_photos(artifact, [sample.path for sample in samples], reader.read)
    with Predictor(artifact, open_runner(artifact, "onnxruntime", "fp32")) as predictor:
        frames = (reader.read(sample.path) for sample in samples)
        scores = score_frames(predictor, frames, advance=lambda: progress.advance(1))

    categories = np.array([sample.category for sample in samples])
    products = sorted(set(categories))
    calibration: dict[str, Any] | None = None
    for product in ["", *(products if len(products) > 1 else ())]:
        chosen = (categories == product) | (product == "")
        count = int(chosen.sum())
        rate = max(0.01, 1 / (count + 1))
        part = Scores(scores.image_scores[chosen], scores.pixel_maxima[chosen])
        record = calibration_record(part, ThresholdRequest(rate), precision="fp32", backend="onnxruntime")
        calibration = record if calibration is None else with_product(calibration, record, product)
        if rate > 0.01:
            progress.say(
                f"the first threshold{product and f' of {product}'} rests on {count} held-out photos: about one good "
                f"part in {count + 1} is a false alarm; `edgead calibrate` with more photos does better",
                "dim",
            )
    artifact.update(calibration=calibration)
    return scores


def without_training_photos(held_out: Sequence[Sample], trained_on: frozenset[str]) -> list[Sample]:
    """The held-out photos less copies of training photos; all of them where nothing else is left."""
    apart = [sample for sample in held_out if not is_known_photo(sample.path, trained_on)]
    if len(apart) < len(held_out):
        log.warning(
            "%d of %d held-out photos are copies of photos trained on: %s",
            len(held_out) - len(apart),
            len(held_out),
            "left out of the first threshold" if apart else "the first threshold is worth nothing",
        )
    return apart or list(held_out)
