"""The scores that a station's threshold is held against, outside of the running line: for calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ad.artifact import Artifact
from edge_ad.data.any_image import frame_of
from edge_ad.runtime.engines.runner import Runner
from edge_ad.runtime.line.geometry import FrameFixer, cut_tiles, merge_tiles
from edge_ad.runtime.line.policy import Policy
from edge_ad.runtime.prediction import Prediction
from edge_ad.runtime.predictor import Predictor
from edge_ad.runtime.settings import StationSettings


class StationPredictor(Predictor):
    """A Predictor whose frames go the way of a station's: straightened, cut out, tiled, regions left out.

    A prediction's image_score is then the part's, as `edgead run` compares it with the artifact's threshold, and
    its pixel_scores are -inf where the settings ignore a region.
    straightened: the frames were kept by the line, which had straightened and cut them already.
    """

    def __init__(
        self, artifact: Artifact, runner: Runner, station: StationSettings, *, straightened: bool = False
    ) -> None:
        super().__init__(artifact, runner, station.product)
        self._fixer = FrameFixer(station.frame)
        self._policy = Policy(station.policy, artifact.manifest.calibration or {})
        self._straightened = straightened

    def predict_batch(self, frames: Sequence[Any]) -> list[Prediction]:
        """One call of the runner a frame, with all of its tiles."""
        return [self._part(frame_of(frame)) for frame in frames]

    def _part(self, frame: npt.NDArray[np.uint8]) -> Prediction:
        shown = frame if self._straightened else self._fixer.apply(frame)
        size = (shown.shape[0], shown.shape[1])
        tiles = self._fixer.tiles(*size)
        score, scores = merge_tiles(self.runner(cut_tiles(shown, tiles, self.prepare)), tiles, size)
        score, scores = self._policy.part_score(score, scores, size)
        return self._prediction(score, scores, shown)
