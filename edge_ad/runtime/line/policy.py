"""Policy: from scores to OK, NG or UNSURE, with a reason; Votes: from the frames of a part to its decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ad.errors import ConfigError
from edge_ad.kernels import topk_mean
from edge_ad.runtime.boxes import defect_boxes
from edge_ad.runtime.settings import PolicySettings, RegionSettings
from edge_ad.runtime.verdict import Decision, DefectBox

Array = npt.NDArray[np.float32]
TOP_K = 100  # pixels in a region's score, as in the image score (eq. 6)


@dataclass(frozen=True)
class Thresholds:
    """image, pixel: above is a defect; None: not calibrated. scale: threshold - median of normals, > 0."""

    image: float | None
    pixel: float | None
    scale: float

    @classmethod
    def choose(cls, settings: PolicySettings, calibration: Mapping[str, Any]) -> Thresholds:
        """The settings' thresholds where given, else the artifact's."""
        image = calibration.get("image_threshold") if settings.threshold is None else settings.threshold
        pixel = calibration.get("pixel_threshold") if settings.pixel_threshold is None else settings.pixel_threshold
        if image is None:
            return cls(None, pixel, 1.0)
        quantiles = calibration.get("score_quantiles") or []
        median = quantiles[len(quantiles) // 2] if quantiles else 0.0
        scale = image - median
        return cls(float(image), pixel, scale if scale > 0 else max(abs(float(image)), 1e-6))


@dataclass(frozen=True)
class Judgement:
    """What one frame's scores say."""

    decision: Decision
    score: float | None
    threshold: float | None
    boxes: tuple[DefectBox, ...]
    area: int
    reason: str


class Policy:
    """Judges frames with one set of thresholds; remembers only whether the last one was NG (hysteresis)."""

    def __init__(self, settings: PolicySettings, calibration: Mapping[str, Any]) -> None:
        self.settings = settings
        self.thresholds = Thresholds.choose(settings, calibration)
        self._was_ng = False

    def judge(self, image_score: float, pixel_scores: Array, size: tuple[int, int]) -> Judgement:
        """The decision for one picture.

        image_score: the graph's. pixel_scores: [h, w] over the whole picture. size: (H, W) of the picture.
        With regions the score is taken anew from the pixels that count: mean of the 100 largest.
        """
        regions = self._places(size, pixel_scores)
        score = image_score
        if regions:
            score = top_mean(_without(pixel_scores, [place for _, place in regions]))
        boxes = self._boxes(pixel_scores, regions, size)
        main = self._decide(score, self.thresholds.image, boxes, "")
        verdicts = [main]
        for region, place in regions:
            if not region.ignore:
                limit = self.thresholds.image if region.threshold is None else region.threshold
                inside = tuple(box for box in boxes if _meets(box, region))
                verdicts.append(self._decide(top_mean(pixel_scores[place]), limit, inside, region.name))
        worst = max(verdicts, key=_severity)
        self._was_ng = worst.decision == "NG"
        shown = boxes if worst.decision != "OK" else ()
        return replace(worst, boxes=shown, area=sum(box.area for box in shown))

    def part_score(self, image_score: float, pixel_scores: Array, size: tuple[int, int]) -> tuple[float, Array]:
        """(the score that the artifact's threshold is held against, the pixel scores with ignored ones at -inf).

        Arguments as for `judge`. Regions with a threshold of their own don't count for the artifact's.
        """
        regions = self._places(size, pixel_scores)
        if not regions:
            return image_score, pixel_scores
        rest = _without(pixel_scores, [place for _, place in regions])
        inside = [pixel_scores[place] for region, place in regions if not region.ignore and region.threshold is None]
        ignored = [place for region, place in regions if region.ignore]
        return max(map(top_mean, [rest, *inside])), _without(pixel_scores, ignored)

    def _places(self, size: tuple[int, int], scores: Array) -> list[tuple[RegionSettings, tuple[slice, slice]]]:
        return [(region, _rows_columns(region, size, scores.shape)) for region in self.settings.regions]

    def _decide(self, score: float, threshold: float | None, boxes: tuple[DefectBox, ...], region: str) -> Judgement:
        where = f" in {region}" if region else ""
        if threshold is None:
            reason = f"score {score:.4g}{where}; the artifact has no threshold yet: run `edgead calibrate`"
            return Judgement("UNSURE", score, None, boxes, 0, reason)
        scale, settings = self.thresholds.scale, self.settings
        limit = threshold - settings.hysteresis * scale if self._was_ng else threshold
        band = settings.unsure * scale
        decision: Decision = "UNSURE" if abs(score - limit) <= band and band else "NG" if score > limit else "OK"
        sign = "above" if score > limit else "at or below"
        reason = f"score {score:.4g}{where} {sign} threshold {limit:.4g}"
        if limit != threshold:
            reason += f" ({threshold:.4g}, lowered after a reject)"
        if decision == "UNSURE":
            reason += f", within the unsure band of {band:.3g}"
        if decision != "OK" and settings.min_area:
            largest = max((box.area for box in boxes), default=0)
            if largest < settings.min_area:
                return Judgement(
                    "OK", score, threshold, (), 0, f"{reason}, but no defect reaches {settings.min_area} pixels"
                )
        if decision != "OK" and boxes:
            box = boxes[0]
            more = f" and {len(boxes) - 1} more" if len(boxes) > 1 else ""
            reason += f"; defect at ({box.x}, {box.y}), {box.width} x {box.height} pixels{more}"
        return Judgement(decision, score, threshold, boxes, 0, reason)

    def _boxes(
        self, scores: Array, regions: list[tuple[RegionSettings, tuple[slice, slice]]], size: tuple[int, int]
    ) -> tuple[DefectBox, ...]:
        """Defects in picture pixels, largest peak first."""
        ignored = [place for region, place in regions if region.ignore]
        return defect_boxes(_without(scores, ignored) if ignored else scores, self.thresholds.pixel, size)


class Votes:
    """Collects the judgements of one part until its decision is certain."""

    def __init__(self, settings: PolicySettings) -> None:
        self.settings = settings
        self._judged: list[Judgement] = []

    def add(self, judgement: Judgement) -> bool:
        """Count a frame; True when the part is decided."""
        self._judged.append(judgement)
        return len(self._judged) >= self.settings.frames

    def result(self) -> tuple[Judgement, int]:
        """The part's judgement and which of its frames shows it best (for the picture)."""
        judged = self._judged
        worst = max(range(len(judged)), key=lambda i: _severity(judged[i]))
        shown = judged[worst]
        if self.settings.frames == 1:
            return shown, worst
        rejects = sum(judgement.decision == "NG" for judgement in judged)
        unsure = sum(judgement.decision == "UNSURE" for judgement in judged)
        decision: Decision = "NG" if rejects >= self.settings.votes else "UNSURE" if rejects or unsure else "OK"
        counted = f"{rejects} of {len(judged)} frames NG (needed: {self.settings.votes})"
        return replace(shown, decision=decision, reason=f"{counted}; {shown.reason}"), worst


def top_mean(scores: Array, k: int = TOP_K) -> float:
    """Mean of the k largest finite scores (of all, when there are fewer); -inf when there are none."""
    values = scores[np.isfinite(scores)]
    if values.size == 0:
        return float("-inf")
    return float(topk_mean(values[None], min(k, values.size))[0])


def _without(scores: Array, places: list[tuple[slice, slice]]) -> Array:
    """A copy with -inf in these places."""
    left = scores.copy()
    for place in places:
        left[place] = -np.inf
    return left


def _severity(judgement: Judgement) -> tuple[int, float]:
    rank = {"OK": 0, "UNSURE": 1, "NG": 2, "ERROR": 3}[judgement.decision]
    score = float("-inf") if judgement.score is None else judgement.score
    return rank, score - (judgement.threshold or 0.0)


def _rows_columns(region: RegionSettings, size: tuple[int, int], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The map's pixels that the region touches. ConfigError: it lies outside the picture."""
    x, y, width, height = region.box
    if width <= 0 or height <= 0 or x < 0 or y < 0 or x + width > size[1] or y + height > size[0]:
        raise ConfigError(
            f"region '{region.name}' {region.box} is not inside the {size[1]} x {size[0]} picture",
            "give x, y, width, height within the inspected picture",
        )
    scale_y, scale_x = shape[0] / size[0], shape[1] / size[1]
    rows = slice(int(y * scale_y), max(int(np.ceil((y + height) * scale_y)), int(y * scale_y) + 1))
    columns = slice(int(x * scale_x), max(int(np.ceil((x + width) * scale_x)), int(x * scale_x) + 1))
    return rows, columns


def _meets(box: DefectBox, region: RegionSettings) -> bool:
    x, y, width, height = region.box
    return box.x < x + width and x < box.x + box.width and box.y < y + height and y < box.y + box.height
