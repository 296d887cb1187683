"""Quality control that a triplet's own drawing can't do: by the teacher's features, and against memorised photos."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from edge_ad.synthesis.defects import Frame, Frames, Triplet
from edge_ad.synthesis.perlin import Floats

Features = Callable[[Frame], Floats]  # frame -> [C,h,w]

THUMB = 32  # pixels a side at which images are compared


def feature_check(features: Features, least: float) -> Callable[[Triplet], str | None]:
    """A check that gives the reason to reject a triplet whose features of A and I differ by less than `least`."""
    return lambda triplet: "features hardly differ" if feature_distance(features, triplet) < least else None


def feature_distance(features: Features, triplet: Triplet) -> float:
    """Mean of 1 - cos between the features of A and I, weighted by the mask's share of each feature cell."""
    normal, defective = features(triplet.normal), features(triplet.defective)
    dot = (normal * defective).sum(axis=0)
    lengths = np.sqrt((normal**2).sum(axis=0) * (defective**2).sum(axis=0))
    distance = 1 - dot / np.maximum(lengths, 1e-12)
    size = (distance.shape[1], distance.shape[0])
    weight = cv2.resize(triplet.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return float((distance * weight).sum() / max(float(weight.sum()), 1e-12))


class MemorisationCheck:
    """A check that a generated image is no copy of a training image.

    Distances are root mean squares between 32x32 thumbnails, in grey levels. An image is a copy when the nearest
    training image is nearer than `share` of the distance at which training images themselves have theirs
    (the 5 % quantile of it), so that parts that all look alike aren't all called copies.

    Args:
        frames: the training images, uint8 [H,W,3]; at least two, else nothing is ever called a copy.
        share: 0 turns the check off.
    """

    def __init__(self, frames: Frames, share: float = 0.5) -> None:
        self._thumbs = np.stack([_thumb(frames[number]) for number in range(len(frames))])
        nearest = []
        for number, thumb in enumerate(self._thumbs):
            others = np.delete(self._thumbs, number, axis=0)
            if len(others):
                nearest.append(_distances(thumb, others).min())
        self.limit = float(share * np.quantile(nearest, 0.05)) if nearest else 0.0

    def distance(self, frame: Frame) -> float:
        """To the nearest training image, in grey levels."""
        return float(_distances(_thumb(frame), self._thumbs).min())

    def reason_to_reject(self, frame: Frame) -> str | None:
        """The reason to reject the image, or None."""
        return "copy of a training image" if self.distance(frame) < self.limit else None


def _thumb(frame: Frame) -> Floats:
    small: Floats = cv2.resize(frame, (THUMB, THUMB), interpolation=cv2.INTER_AREA).astype(np.float32)
    return small


def _distances(thumb: Floats, others: Floats) -> Floats:
    return np.sqrt(((others - thumb) ** 2).mean(axis=(1, 2, 3)))
