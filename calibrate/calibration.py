"""Score good parts with the very runner that will inspect, and write the thresholds into the artifact."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_ad.calibrate.threshold import Threshold, clopper_pearson, conformal_threshold, tail_threshold
from edge_ad.data.images import Frame, read_image
from edge_ad.data.loader import batches, read_each
from edge_ad.data.samples import Problem, Sample
from edge_ad.errors import ConfigError, DataError
from edge_ad.runtime.predictor import Predictor


class Scores(NamedTuple):
    """Of n frames: image_scores [n], pixel_maxima [n] (each frame's highest pixel score), both float64."""

    image_scores: npt.NDArray[np.float64]
    pixel_maxima: npt.NDArray[np.float64]


@dataclass(frozen=True)
class ThresholdRequest:
    """What was asked of a threshold: a false-alarm rate 0..1, a confidence 0..1 or None, whether to extrapolate."""

    false_alarm_rate: float
    confidence: float | None = None
    tail_fit: bool = False

    def threshold(self, scores: npt.NDArray[np.float64]) -> Threshold:
        """The threshold that keeps the requested rate; DataError when the scores are too few to promise it."""
        if self.tail_fit:
            return tail_threshold(scores, self.false_alarm_rate)
        return conformal_threshold(scores, self.false_alarm_rate, self.confidence)


class OperatingPoint(NamedTuple):
    """A threshold with its false-alarm rate and the share of synthetic defects it misses (rates 0..1).

    missed_upper: Clopper-Pearson, 95 %. chosen: whether it is the calibration that was asked for.
    """

    false_alarm_rate: float
    threshold: float
    missed: float
    missed_upper: float
    defects: int
    chosen: bool


def score_frames(
    predictor: Predictor, frames: Iterable[Frame], batch: int = 4, advance: Callable[[], None] | None = None
) -> Scores:
    """Scores of the frames, `batch` at a time, so that memory does not grow with their number.

    advance: called once a frame, for a progress bar.
    """
    image_scores: list[float] = []
    maxima: list[float] = []
    for group in batches(frames, batch):
        for prediction in predictor.predict_batch(group):
            image_scores.append(prediction.image_score)
            maxima.append(float(prediction.pixel_scores.max()))
            if advance:
                advance()
    return Scores(np.array(image_scores), np.array(maxima))


def score_photos(
    predictor: Predictor, samples: Sequence[Sample], advance: Callable[[], None] = lambda: None
) -> tuple[Scores, list[Sample], list[Problem]]:
    """Scores of the photos that can be read and judged, those photos, and what is wrong with the others.

    Raises DataError when none is left.
    """
    problems: list[Problem] = []
    used: list[Sample] = []
    found: list[Scores] = []

    def score(group: Sequence[tuple[Sample, Frame]]) -> None:
        try:
            scores = score_frames(predictor, [frame for _, frame in group], len(group))
        except (DataError, ConfigError) as error:  # such as a photo that is smaller than the station's region
            if len(group) == 1:
                problems.append(Problem(group[0][0].path, error.message))
                return
            for one in group:
                score([one])
        else:
            found.append(scores)
            used.extend(sample for sample, _ in group)

    for group in batches(read_each(samples, lambda one: read_image(one.path), problems), 4):
        score(group)
        for _ in group:
            advance()
    if not found:
        raise DataError(
            f"none of {len(problems)} photos could be judged",
            f"the first, {problems[0].path}: {problems[0].reason}",
        )
    scores, maxima = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Scores(scores, maxima), used, problems


def calibration_record(
    scores: Scores,
    request: ThresholdRequest,
    *,
    precision: str,
    backend: str,
    classes: Sequence[str] | None = None,
    tiles: Sequence[float] = (),
) -> dict[str, Any]:
    """The manifest's `calibration`: thresholds, the promise, and the scores' quantiles.

    pixel_threshold keeps the same promise for "some pixel of a good part is marked": it comes from the frames'
    highest pixel scores. classes: the class of every frame; each class with enough good parts for the request gets
    thresholds of its own under `per_class`. tiles: height, width and overlap where the scores are those of parts
    inspected in tiles, as `edgead run` does it.
    """
    image, pixel = request.threshold(scores.image_scores), request.threshold(scores.pixel_maxima)
    per_class: dict[str, Any] = {}
    for name in sorted(set(classes or ())):
        chosen = np.array([own == name for own in classes or ()])
        try:
            own_image, own_pixel = (request.threshold(part[chosen]) for part in scores)
        except DataError:  # too few of this class: the common threshold stays
            continue
        per_class[name] = {
            "image_threshold": own_image.value, "pixel_threshold": own_pixel.value, "normals": own_image.normals,
            "score_quantiles": _quantiles(scores.image_scores[chosen]),
        }  # fmt: skip
    return {
        "image_threshold": image.value,
        "pixel_threshold": pixel.value,
        "false_alarm_rate": request.false_alarm_rate,
        "method": image.method,
        "normals": image.normals,
        "confidence": image.confidence,
        "upper_bound": None if math.isnan(image.upper_bound) else image.upper_bound,
        "promise": image.promise(),
        "score_quantiles": _quantiles(scores.image_scores),
        "precision": precision,
        "backend": backend,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "per_class": per_class,
        "tiles": list(tiles),
    }


def with_product(before: dict[str, Any] | None, record: dict[str, Any], product: str) -> dict[str, Any]:
    """The calibration with one product's thresholds replaced by those of `record`; other products keep theirs.

    Without a calibration before, the record's thresholds are also the common ones.
    """
    names = "image_threshold", "pixel_threshold", "normals", "score_quantiles", "false_alarm_rate", "promise", "tiles"
    base = before or record
    return base | {"per_class": base.get("per_class", {}) | {product: {name: record[name] for name in names}}}


RATES = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)


def operating_points(normals: Scores, defects: Scores, request: ThresholdRequest) -> list[OperatingPoint]:
    """Operating points: the requested one, and one for each of RATES that so many good parts can promise."""
    rows = []
    count = len(defects.image_scores)
    for rate in sorted({*RATES, request.false_alarm_rate}, reverse=True):
        chosen = rate == request.false_alarm_rate
        try:
            own = request if chosen else ThresholdRequest(rate)
            threshold = own.threshold(normals.image_scores).value
        except DataError:
            continue
        missed = int((defects.image_scores <= threshold).sum())
        rows.append(OperatingPoint(rate, threshold, missed / count, clopper_pearson(missed, count)[1], count, chosen))
    return rows


def median_shift(before: Sequence[float], scores: npt.NDArray[np.float64]) -> float:
    """Difference of the median scores of two calibrations, in interquartile ranges of the earlier one.

    before: `score_quantiles` of the other calibration, 101 values.
    """
    spread = max(before[75] - before[25], 1e-12)
    return float((np.median(scores) - before[50]) / spread)


def _quantiles(scores: npt.NDArray[np.float64]) -> list[float]:
    return [float(value) for value in np.quantile(scores, np.linspace(0, 1, 101))]
