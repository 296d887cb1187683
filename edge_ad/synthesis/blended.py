"""Defects after equation 3: an anomaly image P blended into the frame within a random mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np

from edge_ad.synthesis.defects import AnomalyImages, Frame, blend, is_grey
from edge_ad.synthesis.perlin import Floats, Mask, perlin_mask
from edge_ad.synthesis.shapes import polygon

Edges = Literal["hard", "feathered", "seamless", "mixed"]


class BlendedDefects:
    """Blends P into a random mask with random opacity; a `DefectSource`.

    Args:
        name: what reports call it.
        images: (AnomalyImages, weight) pairs that P is drawn from.
        opacity: bounds of delta, which is drawn uniformly.
        edges: "hard" is the paper's binary mask; "feathered" blurs its edge; "seamless" also adapts P's
            brightness to the surroundings; "mixed" draws one each time, so that nobody learns blend edges.
        max_area: of the mask, as a fraction of the object.
    """

    def __init__(
        self,
        name: str,
        images: Sequence[tuple[AnomalyImages, float]],
        *,
        opacity: tuple[float, float] = (0.2, 1.0),
        edges: Edges = "mixed",
        max_area: float = 0.4,
    ) -> None:
        self.name = name
        self._images = [image for image, _ in images]
        weights = np.array([weight for _, weight in images], np.float64)
        self._chances = weights / weights.sum()
        self._opacity, self._edges, self._max_area = opacity, edges, max_area

    def __call__(self, frame: Frame, inside: Mask | None, rng: np.random.Generator) -> tuple[Frame, Mask]:
        """The frame with P blended in, uint8 [H,W,3], and the region [H,W] bool that may have changed."""
        images = self._images[int(rng.choice(len(self._images), p=self._chances))]
        anomaly = images(frame, rng)
        if is_grey(frame) and rng.random() < 0.85:  # colour alone would give the defect away
            anomaly = np.repeat(cv2.cvtColor(anomaly, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        mask = self._mask((frame.shape[0], frame.shape[1]), inside, rng)
        delta = float(rng.uniform(*self._opacity))
        edges = self._edges
        if edges == "mixed":
            edges = ("hard", "feathered", "seamless")[int(rng.choice(3, p=[0.35, 0.4, 0.25]))]
        if edges == "seamless":
            anomaly = match_colours(frame, anomaly, mask)
        if edges == "hard":
            return blend(frame, anomaly, mask, delta), mask
        weight = feather(mask, rng.uniform(0.6, 1.5 + max(mask.shape) / 150))
        return blend(frame, anomaly, weight, delta), weight > 0.05

    def _mask(self, size: tuple[int, int], inside: Mask | None, rng: np.random.Generator) -> Mask:
        """Perlin noise six times in seven, else a polygon (a pasted piece), cut to the object."""
        if rng.random() < 0.15:
            pasted = _pasted_polygon(size, inside, rng)
            if pasted is not None:
                return pasted
        max_area = float(np.exp(rng.uniform(np.log(0.02), np.log(self._max_area))))
        parts = None if rng.random() < 0.2 else int(rng.integers(1, 4))
        return perlin_mask(
            size,
            rng,
            inside=inside,
            min_area=0.004,
            max_area=max_area,
            parts=parts,
            morphology=int(rng.integers(-1, 3)),
        )


def feather(mask: Mask, sigma: float) -> Floats:
    """The mask with its edge blurred inwards, float32 0..1 [H,W]: 1 in the middle, 0 at its outline."""
    soft: Any = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), float(sigma))
    inner = np.clip(soft * 2 - 1, 0, 1)
    # thin parts would vanish altogether: keep them at half strength
    return np.where(mask, np.maximum(inner, soft * 0.5), 0).astype(np.float32)


def match_colours(frame: Frame, anomaly: Frame, mask: Mask, strength: float = 0.9) -> Frame:
    """P with its colours moved towards the frame's along the mask's outline, uint8 [H,W,3].

    P + c, with c the difference I - P just outside the mask, spread inwards by normalised blurring: a cheap
    stand-in for solving Poisson's equation (Schlueter et al., NSA, 2022), a quarter of the size on a side.
    """
    height, width = mask.shape
    small = (max(4, width // 4), max(4, height // 4))
    kernel = np.ones((5, 5), np.uint8)
    core = cv2.resize(mask.view(np.uint8), small, interpolation=cv2.INTER_AREA)
    ring = (cv2.dilate(core, kernel) - core).astype(np.float32)
    if not ring.any():
        return anomaly
    gap = cv2.resize(frame, small, interpolation=cv2.INTER_AREA).astype(np.float32)
    gap -= cv2.resize(anomaly, small, interpolation=cv2.INTER_AREA)
    sigma = max(2.0, 0.5 * float(np.sqrt(max(1, core.sum()))) / 2)
    spread = cv2.GaussianBlur(gap * ring[..., None], (0, 0), sigma)
    share = cv2.GaussianBlur(ring, (0, 0), sigma)[..., None]
    correction = cv2.resize(spread / np.maximum(share, 1e-3), (width, height), interpolation=cv2.INTER_LINEAR)
    moved: Frame = np.clip(anomaly + np.float32(strength) * correction, 0, 255).astype(np.uint8)
    return moved


def _pasted_polygon(size: tuple[int, int], inside: Mask | None, rng: np.random.Generator) -> Mask | None:
    side = np.exp(rng.uniform(np.log(0.05), np.log(0.4))) * max(size)
    height = int(np.clip(side * np.exp(rng.uniform(-0.8, 0.8)), 5, size[0]))
    width = int(np.clip(side * np.exp(rng.uniform(-0.8, 0.8)), 5, size[1]))
    top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
    mask = np.zeros(size, np.bool_)
    mask[top : top + height, left : left + width] = polygon((height, width), rng, int(rng.integers(4, 9))) > 0.5
    if inside is not None:
        mask &= inside
    return mask if mask.any() else None
