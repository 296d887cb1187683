"""Soft shapes (coverage 0..1) that procedural defects are made of."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.synthesis.perlin import Floats, value_noise

Points = NDArray[np.float64]  # [N,2], (x, y)

SUBPIXEL_BITS = 4  # cv2 draws at 1/16 pixel


def blob(size: tuple[int, int], rng: np.random.Generator, *, ragged: float = 0.5, soft: float = 0.15) -> Floats:
    """An irregular patch in the middle of [H,W], zero at the window's edge.

    A turned ellipse whose radius is disturbed by noise; coverage falls from 1 to 0 over `soft` of the radius.

    Args:
        ragged: 0 is an ellipse, 1 has bays and islands.
        soft: width of the edge as a fraction of the radius; 0.02 looks cut, 1 fades from the middle.
    """
    height, width = size
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) * np.float32(2 / height) - 1
    x = (np.arange(width, dtype=np.float32)[None, :] + 0.5) * np.float32(2 / width) - 1
    angle = rng.uniform(0, np.pi)
    narrow = rng.uniform(1.0, 2.2)
    along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    across = (np.float32(np.cos(angle)) * y - np.float32(np.sin(angle)) * x) * np.float32(narrow)
    radius = np.sqrt(along * along + across * across)
    bumps = value_noise(size, rng.uniform(2, 5), rng, octaves=4) - 0.5
    level = np.float32(0.72) - radius + np.float32(ragged) * bumps
    edge = np.clip(np.minimum(1 - np.abs(x), 1 - np.abs(y)) * 6, 0, 1)  # never cut off by the window
    return np.clip(level / np.float32(max(soft, 0.01)), 0, 1) * edge


def polygon(size: tuple[int, int], rng: np.random.Generator, corners: int) -> Floats:
    """A jagged polygon round the window's middle, as a chip or a broken piece has it."""
    height, width = size
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(0.35, 0.98, corners)
    points = np.stack([np.cos(angles) * radius * width / 2, np.sin(angles) * radius * height / 2], axis=1)
    return fill(size, points + np.array([width / 2, height / 2]))


def fill(size: tuple[int, int], points: Points) -> Floats:
    """A filled polygon with smooth edges."""
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [_fixed(points)], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return canvas.astype(np.float32) / np.float32(255)


def curve(
    start: tuple[float, float],
    length: float,
    rng: np.random.Generator,
    *,
    angle: float,
    bend: float = 0.5,
    jitter: float = 0.0,
    steps: int = 24,
) -> Points:
    """Points of a line that turns steadily (`bend` radians in all) and shakes (`jitter` radians a step)."""
    turns = bend / steps + rng.normal(0, jitter, steps) if jitter else np.full(steps, bend / steps)
    heading = angle + np.cumsum(turns)
    step = length / steps
    moves = np.stack([np.cos(heading), np.sin(heading)], axis=1) * step
    points: Points = np.vstack([[start], np.array(start) + np.cumsum(moves, axis=0)])
    return points


def clip_to_window(size: tuple[int, int], points: Points, margin: int = 2) -> Points:
    """The stretch of a line round its middle point that stays in the window; at least two points."""
    low, high = np.array([margin, margin]), np.array([size[1] - 1 - margin, size[0] - 1 - margin])
    outside = np.flatnonzero(((points < low) | (points > high)).any(axis=1))
    middle = len(points) // 2
    first = max((i + 1 for i in outside if i <= middle), default=0)
    last = min((i for i in outside if i > middle), default=len(points))
    return points[min(first, len(points) - 2) : max(last, first + 2)]


def stroke(
    size: tuple[int, int],
    points: Points,
    thickness: float,
    *,
    taper: bool = False,
    rng: np.random.Generator | None = None,
) -> Floats:
    """Coverage of a line of `thickness` pixels; below 1 pixel it gets fainter instead of thinner.

    Args:
        taper: thinner towards both ends.
        rng: if given, the line's strength varies along it and may break, as scratches do.
    """
    canvas = np.zeros(size, np.uint8)
    count = len(points) - 1
    position = (np.arange(count) + 0.5) / count
    width = thickness * np.sqrt(np.sin(np.pi * position)) if taper else np.full(count, thickness)
    strength = np.ones(count)
    if rng is not None:
        knots = rng.uniform(0.15, 1.0, max(3, count // 4))
        strength = np.interp(position, np.linspace(0, 1, len(knots)), knots)
    fixed = _fixed(points)
    for i in range(count):
        level = int(255 * strength[i] * min(1.0, max(width[i], 0.25)))
        first, second = tuple(map(int, fixed[i])), tuple(map(int, fixed[i + 1]))
        cv2.line(canvas, first, second, level, max(1, round(width[i])), cv2.LINE_AA, SUBPIXEL_BITS)
    return canvas.astype(np.float32) / np.float32(255)


def shading(height_map: Floats, light: float) -> Floats:
    """How much brighter (+) or darker (-) a bumpy surface is under light from the angle `light`, about -1..1."""
    slope_x: Any = cv2.Sobel(height_map, cv2.CV_32F, 1, 0, ksize=3)
    slope_y: Any = cv2.Sobel(height_map, cv2.CV_32F, 0, 1, ksize=3)
    lit = np.float32(np.cos(light)) * slope_x + np.float32(np.sin(light)) * slope_y
    return lit / max(float(np.abs(lit).max()), 1e-6)


def _fixed(points: Points) -> NDArray[np.int32]:
    return np.round(points * 2**SUBPIXEL_BITS).astype(np.int32)
