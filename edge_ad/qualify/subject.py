"""What is qualified: a detector with its threshold, and the photos it is tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Frame, read_image
from edge_ad.data.loader import batches
from edge_ad.data.samples import Sample
from edge_ad.runtime.prediction import Prediction
from edge_ad.runtime.predictor import Predictor
from edge_ad.synthesis.foreground import find_foreground


@dataclass(frozen=True)
class Subject:
    """good: photos of good parts that training never saw. bad: real defects, with masks where they have some.
    photos: how many of them a study takes at most. advance: told of every frame scored."""

    predictor: Predictor
    threshold: float
    good: Sequence[Path]
    bad: Sequence[Sample] = ()
    photos: int = 40
    seed: int = 0
    advance: Callable[[], None] = field(default=lambda: None)

    def predict(self, frames: Iterable[Frame]) -> list[Prediction]:
        """Predictions of the frames, four at a time."""
        found: list[Prediction] = []
        for group in batches(frames, 4):
            found += self.predictor.predict_batch(group)
            for _ in group:
                self.advance()
        return found

    def scores(self, frames: Iterable[Frame]) -> npt.NDArray[np.float64]:
        """Image scores [n] of the frames."""
        return np.array([prediction.image_score for prediction in self.predict(frames)], np.float64)

    def chosen(self, paths: Sequence[Path]) -> list[Path]:
        """As many of the paths as a study takes, spread over them evenly."""
        if len(paths) <= self.photos:
            return list(paths)
        return [paths[i] for i in np.linspace(0, len(paths) - 1, self.photos).round().astype(int)]


@lru_cache(maxsize=64)
def canvas(path: Path) -> tuple[Frame, npt.NDArray[np.bool_] | None]:
    """A photo and where the part is on it; None where the whole picture is the part."""
    frame = read_image(path)
    return frame, find_foreground(frame, grow=0.0)
