"""What is qualified: a detector with its threshold, and the photos it is tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Frame
from edge_ad.data.loader import PhotoReader, batches
from edge_ad.data.samples import Sample
from edge_ad.runtime.prediction import Prediction
from edge_ad.runtime.predictor import Predictor
from edge_ad.synthesis.foreground import find_foreground

BATCH = 4  # frames that the graph gets at once


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
    reader: PhotoReader = field(default_factory=PhotoReader)
    _scores: dict[Path, float] = field(default_factory=dict)  # of photos as they are
    _parts: dict[Path, npt.NDArray[np.bool_] | None] = field(default_factory=dict)

    def predict(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        """Predictions of the frames, in order."""
        for group in batches(frames, BATCH):
            yield from self.predictor.predict_batch(group)
            for _ in group:
                self.advance()

    def predict_photos(self, paths: Iterable[Path]) -> Iterator[Prediction]:
        """Predictions of photos as they are, in order; their scores are remembered."""
        paths = list(paths)
        for path, prediction in zip(paths, self.predict(map(self.reader.read, paths)), strict=True):
            self._scores[path] = prediction.image_score
            yield prediction

    def scores(self, frames: Iterable[Frame]) -> npt.NDArray[np.float64]:
        """Image scores [n] of the frames."""
        return np.array([prediction.image_score for prediction in self.predict(frames)], np.float64)

    def photo_scores(self, paths: Sequence[Path]) -> npt.NDArray[np.float64]:
        """Image scores [n] of photos as they are, each scored once for all studies."""
        for _ in self.predict_photos(path for path in paths if path not in self._scores):
            pass
        return np.array([self._scores[path] for path in paths], np.float64)

    def chosen(self, paths: Sequence[Path]) -> list[Path]:
        """As many of the paths as a study takes, spread over them evenly."""
        if len(paths) <= self.photos:
            return list(paths)
        return [paths[i] for i in np.linspace(0, len(paths) - 1, self.photos).round().astype(int)]

    def canvas(self, path: Path) -> tuple[Frame, npt.NDArray[np.bool_] | None]:
        """A photo and where the part is on it; None where the whole picture is the part."""
        frame = self.reader.read(path)
        if path not in self._parts:
            self._parts[path] = find_foreground(frame, grow=0.0)
        return frame, self._parts[path]
