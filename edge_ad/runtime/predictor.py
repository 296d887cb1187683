"""From a frame to a verdict: preprocessing, graph, threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ad.artifact import Artifact
from edge_ad.data.images import preprocess, read_image
from edge_ad.errors import DataError
from edge_ad.runtime.engines.runner import Array, Outputs, Runner, choose_precision, open_runner, say_once
from edge_ad.runtime.products import ALL, calibration_for


@dataclass(frozen=True)
class Prediction:
    """What the detector says of one frame.

    image_score: higher is more anomalous, unbounded. pixel_scores: [256, 256]. threshold: None before calibration.
    is_anomalous: image_score > threshold, None before calibration.
    """

    image_score: float
    pixel_scores: Array
    threshold: float | None
    is_anomalous: bool | None


class Predictor:
    """An artifact with a runner. Close it, or use it in a `with` statement."""

    def __init__(self, artifact: Artifact, runner: Runner, product: str = ALL) -> None:
        """product: whose threshold holds, see `edge_ad.runtime.products`."""
        self.artifact, self.runner = artifact, runner
        self.preprocessing = artifact.manifest.preprocessing
        calibration: dict[str, Any] = calibration_for(artifact.manifest, product)
        self.threshold: float | None = calibration.get("image_threshold")
        precision = calibration.get("precision", "fp32")
        if self.threshold is not None and not runner.name.endswith(precision):
            say_once(
                f"the threshold was calibrated in {precision} and runs in {runner.name}: calibrate again "
                "with that --precision, its false-alarm rate holds for the scores it was computed from"
            )

    def prepare(self, frame: npt.NDArray[np.uint8]) -> Array:
        """The frame [H, W, 3] (uint8 RGB, any size) as float32 [3, h, w]. DataError: it is none."""
        how = self.preprocessing
        try:
            image: Array = preprocess(frame, how.image_size, how.mean, how.std)
        except ValueError as error:
            raise DataError(
                str(error), "give uint8 RGB or gray; drop an alpha channel, and scale other depths to 0..255"
            ) from error
        return image

    def predict(self, frame: npt.NDArray[np.uint8] | str | Path) -> Prediction:
        """The verdict on a frame [H, W, 3] (uint8 RGB), or on an image file. DataError: neither can be used."""
        return self.predict_batch([frame])[0]

    def predict_batch(self, frames: Sequence[npt.NDArray[np.uint8] | str | Path]) -> list[Prediction]:
        """Verdicts on several frames, in one call of the runner."""
        if not frames:
            return []
        arrays = [read_image(frame) if isinstance(frame, (str, Path)) else frame for frame in frames]
        outputs: Outputs = self.runner(np.stack([self.prepare(frame) for frame in arrays]))
        return [
            Prediction(
                float(score), pixels, self.threshold, None if self.threshold is None else bool(score > self.threshold)
            )
            for score, pixels in zip(outputs.image_score, outputs.pixel_scores, strict=True)
        ]

    def close(self) -> None:
        """Free the runner."""
        self.runner.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    path: Path | str,
    *,
    product: str = "",
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Predictor:
    """The trained detector in the folder `path`, ready for `.predict(frame)`. Needs no torch.

    product: whose threshold holds, for an artifact that was trained on several; "all" for their common one.
    backend, precision, threads: as `edge_ad.runtime.engines.runner.open_runner` takes them.
    """
    artifact = Artifact.open(path)
    calibration_for(artifact.manifest, product)  # refuse an ambiguous product before the graph is loaded
    runner = open_runner(artifact, backend, choose_precision(artifact, precision), threads)
    return Predictor(artifact, runner, product)
