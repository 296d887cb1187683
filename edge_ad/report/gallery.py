"""The few best and worst photos of an evaluation, kept while it runs."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Frame, Mask, shrink
from edge_ad.evaluation import ScoredPhoto

_SIDE = 224  # longest side of a picture in the report, pixels
_SHOWN = 6  # photos per row of the gallery
ROWS = ("missed", "alarming", "found", "quiet")  # the worst first
Calibrations = Mapping[str, Mapping[str, Any]]  # by category; they give the heat maps' scales and what is boxed


class GalleryPhoto(NamedTuple):
    """A photo kept for the report, already small."""

    name: str
    kind: str
    image_score: float
    frame: Frame
    pixel_scores: npt.NDArray[np.float32]
    mask: Mask | None


@dataclass
class Gallery:
    """Keeps the few best and worst photos of each category while an evaluation runs: `evaluate(on_photo=gallery)`."""

    kept: dict[tuple[str, str], list[tuple[float, int, GalleryPhoto]]] = field(default_factory=dict)
    _count: Any = field(default_factory=itertools.count)

    def __call__(self, photo: ScoredPhoto) -> None:
        """Look at one photo; keep it if it is among the extremes of its category."""
        low, high = ("missed", "found") if photo.sample.label else ("quiet", "alarming")
        for row, rank in ((low, -photo.image_score), (high, photo.image_score)):
            heap = self.kept.setdefault((photo.sample.category, row), [])
            if len(heap) < _SHOWN:
                heapq.heappush(heap, (rank, next(self._count), _shrink(photo)))
            elif rank > heap[0][0]:
                heapq.heapreplace(heap, (rank, next(self._count), _shrink(photo)))

    def row(self, category: str, row: str) -> list[GalleryPhoto]:
        """The photos of a row, the most extreme first."""
        return [shown for _, _, shown in sorted(self.kept.get((category, row), ()), key=lambda item: -item[0])]


def _shrink(photo: ScoredPhoto) -> GalleryPhoto:
    frame = shrink(photo.frame, _SIDE)
    mask = None
    if photo.mask is not None:  # any covered pixel counts, so that small defects stay visible
        mask = np.asarray(
            cv2.resize(photo.mask.astype(np.float32), frame.shape[1::-1], interpolation=cv2.INTER_AREA) > 0
        )
    name = photo.sample.path.name
    return GalleryPhoto(name, photo.sample.kind, photo.image_score, frame, photo.pixel_scores.copy(), mask)
