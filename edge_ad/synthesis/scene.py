"""What a procedural defect may know of its surroundings: colours at hand, light, the object's shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edge_ad.synthesis.defects import Frame
from edge_ad.synthesis.perlin import Floats, Mask, value_noise

RUST = ((150, 75, 30), (105, 60, 35), (175, 110, 50), (85, 55, 40))


class Window(NamedTuple):
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class Scene:
    """The frame, where the object is, and the window that a defect is drawn into."""

    frame: Frame
    inside: Mask | None
    window: Window
    centre: tuple[int, int]  # (y, x) in the frame, on the object
    grey: bool  # the frame has no colour, so neither have its defects, mostly

    @property
    def size(self) -> tuple[int, int]:
        return self.window.height, self.window.width

    def backdrop(self, rng: np.random.Generator) -> Floats:
        """Colour behind the object [3]; on a texture its darkest or brightest tenth, as seen through a hole."""
        if self.inside is not None and not self.inside.all():
            pixels = self.frame[~self.inside]
            return np.median(pixels[:: max(1, len(pixels) // 500)], axis=0).astype(np.float32)
        pixels = self.frame[::7, ::7].reshape(-1, 3).astype(np.float32)
        order = np.argsort(pixels.sum(axis=1))
        tenth = max(1, len(order) // 10)
        ends = order[:tenth] if rng.random() < 0.6 else order[-tenth:]
        return pixels[ends].mean(axis=0)

    def elsewhere(self, rng: np.random.Generator) -> Floats:
        """The colour [3] of a random pixel of the frame, on the object if there is one."""
        height, width = self.frame.shape[:2]
        for _ in range(8):
            y, x = int(rng.integers(height)), int(rng.integers(width))
            if self.inside is None or self.inside[y, x]:
                break
        return self.frame[y, x].astype(np.float32)

    def colour(self, rng: np.random.Generator) -> Floats:
        """A colour [3] dirt, rust, paint or another part may have; grey on grey frames nine times in ten."""
        draw = rng.random()
        if draw < 0.25:
            chosen = np.full(3, rng.uniform(5, 60)) + rng.normal(0, 5, 3)
        elif draw < 0.4:
            chosen = np.full(3, rng.uniform(170, 255)) + rng.normal(0, 5, 3)
        elif draw < 0.6:
            chosen = np.array(RUST[int(rng.integers(len(RUST)))]) * rng.uniform(0.7, 1.3) + rng.normal(0, 8, 3)
        elif draw < 0.75:
            chosen = self.elsewhere(rng).astype(np.float64) * rng.uniform(0.6, 1.4)
        elif draw < 0.88:
            chosen = np.full(3, rng.uniform(60, 190)) + rng.normal(0, 8, 3)
        else:
            chosen = rng.uniform(0, 255, 3)
        if self.grey and rng.random() < 0.9:
            chosen = np.full(3, chosen.mean())
        return np.clip(chosen, 0, 255).astype(np.float32)

    def crop(self, rng: np.random.Generator, reach: float | None = None) -> Floats:
        """A window of the same size from elsewhere in the frame, float32 [h,w,3].

        Args:
            reach: how far away at most, in pixels; None is anywhere.
        """
        height, width = self.frame.shape[:2]
        free_y, free_x = height - self.window.height, width - self.window.width
        if reach is None:
            top, left = int(rng.integers(free_y + 1)), int(rng.integers(free_x + 1))
        else:
            angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1) * reach
            top = int(np.clip(round(self.window.top + far * np.sin(angle)), 0, free_y))
            left = int(np.clip(round(self.window.left + far * np.cos(angle)), 0, free_x))
        part = self.frame[top : top + self.window.height, left : left + self.window.width]
        return part.astype(np.float32)


def mix(patch: Floats, other: Floats, coverage: Floats) -> Floats:
    """patch + coverage * (other - patch), other being [h,w,3] or a colour [3]."""
    mixed: Floats = patch + coverage[..., None] * (other - patch)
    return mixed


def grain(size: tuple[int, int], rng: np.random.Generator, fine: float = 8.0) -> Floats:
    """Zero-mean surface roughness [h,w], about -1..1, from coarse to single pixels."""
    coarse = value_noise(size, rng.uniform(3, 12), rng, octaves=4) - 0.5
    speck = rng.standard_normal(size, dtype=np.float32)
    return coarse * 2 + speck * np.float32(rng.uniform(0, 1) * fine / 40)
