"""Why a part of the running line got its score: from what the line kept of it, without asking the engine again.

The line is never slowed by somebody who looks: the graph isn't run anew, so what is told rests on the verdict, on the
picture, and on the pixel scores where `images.scores` keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_ad.data.images import read_image
from edge_ad.errors import ArtifactError, DataError
from edge_ad.runtime.engines.loaded import Engine
from edge_ad.runtime.explain.explanation import Explanation
from edge_ad.runtime.explain.scores import example_of, good_parts, hottest_pixel, hottest_pixels
from edge_ad.runtime.overlay import Frame, score_scale
from edge_ad.runtime.settings import StationSettings
from edge_ad.runtime.verdict import DefectBox


class Station(Protocol):
    """What is needed of a station."""

    @property
    def settings(self) -> StationSettings: ...

    @property
    def engine(self) -> Engine: ...


def explain_verdict(
    station: Station, verdict: Mapping[str, Any], picture: Path | None, calibration: Mapping[str, Any]
) -> Explanation:
    """The explanation of a verdict, as the page has it.

    picture: as the line kept it, straightened and cut, with its scores beside it as .npy where they were kept.
    calibration: the thresholds in force at the station. Raises DataError where no picture was kept.
    """
    if picture is None:
        raise DataError("no picture was kept of this part", "keep more of them: see [images] in the settings")
    frame = read_image(picture)
    artifact = station.engine.loaded.artifact
    boxes = tuple(DefectBox(**box) for box in verdict["boxes"])
    score, pixel_limit = verdict["score"], calibration.get("pixel_threshold")
    left_out = [
        "The nearest patch of a good part: `edgead explain` searches it where the detector was trained.",
    ]
    if verdict["artifact"] not in ("", station.engine.loaded.digest):
        left_out.append("Another version of the detector judged this part: good parts' scores are today's version's.")
    scores = _kept_scores(picture)
    x = y = peak = hottest = None
    if scores is not None:
        x, y, peak = hottest_pixel(scores, frame)
        if score is not None:
            hottest, unlike = hottest_pixels(scores, score, artifact.config.model.top_k, pixel_limit)
            left_out += [unlike] if unlike else []
    else:
        left_out.append("The map and its hottest pixels: the line keeps them with `scores = true` under [images].")
        if boxes:
            x, y, peak = boxes[0].x + boxes[0].width // 2, boxes[0].y + boxes[0].height // 2, boxes[0].peak
    return Explanation(
        source=str(verdict["part"]), frame=frame, decision=verdict["decision"], score=score,
        limit=verdict["threshold"], pixel_limit=pixel_limit, x=x, y=y, peak=peak, boxes=boxes,
        **good_parts(calibration), hottest=hottest, example=_example(station), pixel_scores=scores,
        scale=None if pixel_limit is None else score_scale(calibration), left_out=tuple(left_out),
    )  # fmt: skip


def _kept_scores(picture: Path) -> npt.NDArray[np.float32] | None:
    path = picture.with_suffix(".npy")
    if not path.is_file():
        return None
    try:
        scores: npt.NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}", "remove it") from error
    return scores if np.isfinite(scores).any() else None


def _example(station: Station) -> Frame | None:
    """A good part's picture, where a part is judged whole: in tiles there is no same place to show."""
    if station.settings.frame.tile is not None:
        return None
    try:
        return example_of(station.engine.loaded.artifact)
    except ArtifactError:  # the explanation goes without it; whoever opens the graph next is told
        return None
