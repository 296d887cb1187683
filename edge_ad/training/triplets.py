"""Triplets (normal image, defective image, mask): drawn on photos with a seed each, or read from `edgead synth`'s."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edge_ad.config import Config
from edge_ad.synthesis.defects import AnomalyImages, Frames, Triplet, make_triplet
from edge_ad.synthesis.foreground import find_foreground
from edge_ad.synthesis.shards import WrittenTriplets
from edge_ad.synthesis.sources import build_sources
from edge_ad.training.photos import Photos

LONGEST_SIDE = 1024  # photos are synthesised on at most this size; the detector sees less anyway


class TripletSource(Protocol):
    """Triplets by number.

    key: what a resumed run must have in common. count: how many there are, None where there is no end. own_normals:
    whether their normal images are pictures of their own rather than the frames given to `draw`.
    """

    @property
    def key(self) -> str: ...

    @property
    def count(self) -> int | None: ...

    @property
    def own_normals(self) -> bool: ...

    def draw(self, index: int, frames: Frames) -> Triplet:
        """Triplet `index`, always the same for the same frames."""


class DrawnTriplets:
    """Triplets drawn when asked for, from the sources of defects that the settings name.

    normals: frames to take pieces from. generated: the diffusion model's images, where the settings name `ddpm`.
    """

    key, count, own_normals = "", None, False

    def __init__(self, config: Config, normals: Frames, generated: AnomalyImages | None = None) -> None:
        self._settings, self._seed, self.generated = config.synthesis, config.training.seed, generated
        self._sources = build_sources(config.synthesis, normals, generated=generated)

    def draw(self, index: int, frames: Frames) -> Triplet:
        """Triplet `index` on frame `index` modulo their number; seed and index decide what is drawn."""
        frame, rng = frames[index % len(frames)], np.random.default_rng([self._seed, index])
        inside = find_foreground(frame) if self._settings.foreground else None
        return make_triplet(frame, rng, self._sources, inside=inside, visible=self._settings.visible)


def choose_triplets(
    config: Config, photos: Photos, generated: AnomalyImages | None = None, written: WrittenTriplets | None = None
) -> TripletSource:
    """The written triplets where there are any, else triplets drawn on the photos as the settings say.

    generated: the diffusion model's images, where the settings name `ddpm` as a source of defects.
    """
    return written or DrawnTriplets(config, photos.frames(LONGEST_SIDE), generated)
