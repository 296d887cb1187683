"""Random shapes: gradient (Perlin) noise and the masks cut from it, drawn from a seeded generator."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

SCALES = tuple(2**power for power in range(6))  # lattice cells along a side
TRIES = 3


def perlin_noise(size: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Gradient noise [H,W], about -1..1 and smooth.

    Sum over the four lattice corners of fade(distance) * <gradient, offset>, fade(t) = 6t^5 - 15t^4 + 10t^3,
    times sqrt(2).

    Args:
        size: (H, W) in pixels.
        cells: lattice cells along (y, x), each >= 1; they need not divide the size.
        rng: where the gradients come from.

    Source: Perlin, "Improving noise", 2002; the sums over y are done once a lattice column.
    """
    height, width = size
    rows, columns = cells
    angle = rng.uniform(0, 2 * np.pi, (rows + 1, columns + 1)).astype(np.float32)
    i, dy, fade_y = _lattice(height, rows)
    j, dx, fade_x = _lattice(width, columns)
    along_x, along_y = np.cos(angle), np.sin(angle)
    low, high = (1 - fade_y)[:, None], fade_y[:, None]
    slope = low * along_x[i] + high * along_x[i + 1]  # [H, columns+1]: factor of the offset in x
    level = low * along_y[i] * dy[:, None] + high * along_y[i + 1] * (dy[:, None] - 1)
    left = slope[:, j] * dx + level[:, j]
    right = slope[:, j + 1] * (dx - 1) + level[:, j + 1]
    noise: Floats = (left + fade_x * (right - left)) * np.float32(np.sqrt(2))
    return noise


def perlin_mask(
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    scales: tuple[int, ...] = SCALES,
    threshold: float = 0.5,
    rotate: bool = True,
    min_area: float = 0.001,
    max_area: float = 0.4,
    inside: Mask | None = None,
    morphology: int = 0,
    parts: int | None = None,
) -> Mask:
    """A random mask [H,W], never empty: noise > threshold, cut to `inside`.

    The lattice is drawn a side at a time from `scales`. An area out of bounds is drawn again, and after a
    few tries the threshold moves to the quantile that meets the bound, so small scales can't come out empty.

    Args:
        size: (H, W) in pixels.
        rng: where everything random comes from; the same state gives the same mask.
        scales: lattice cells along a side to choose from (paper: 2^0..2^5).
        threshold: on noise of range -1..1.
        rotate: turn the noise by a random angle, so that edges don't follow the lattice.
        min_area, max_area: bounds on the area, as fractions of `inside` (or of the frame).
        inside: bool [H,W], where the mask may lie; None is everywhere.
        morphology: > 0 dilates by that many pixels, < 0 erodes (and gives up eroding rather than be empty).
        parts: keep at most that many connected parts, the choice being random; None keeps all.

    Raises:
        ValueError: `inside` is empty, or the bounds are not 0 < min_area <= max_area <= 1.

    Source: Zavrtanik et al., DRAEM, 2021, section 3.2, with bounds on the area added.
    """
    if not 0 < min_area <= max_area <= 1:
        raise ValueError(f"area bounds must be 0 < min <= max <= 1, got {min_area} and {max_area}")
    room = int(inside.sum()) if inside is not None else size[0] * size[1]
    if room == 0:
        raise ValueError("no room for a mask: `inside` is empty")
    for _ in range(TRIES):
        noise = _turned_noise(size, scales, rotate, rng)
        mask = noise > threshold
        if inside is not None:
            mask &= inside
        if min_area * room <= mask.sum() <= max_area * room:
            break
    else:
        mask = _at_bound(noise, threshold, inside, min_area, max_area)
    if morphology:
        mask = _grown(mask, morphology, inside)
    return _some_parts(mask, parts, rng) if parts else mask


def value_noise(size: tuple[int, int], cells: float, rng: np.random.Generator, octaves: int = 3) -> Floats:
    """Smooth noise [H,W] in 0..1 with `octaves` of detail, cheaper than Perlin's: upsampled random grids.

    Args:
        size: (H, W) in pixels.
        cells: grid cells along the longer side in the coarsest octave; each octave doubles them at half height.
    """
    height, width = size
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        n = min(cells * 2**octave, max(size))
        shape = [max(2, round(n * side / max(size)) + 1) for side in size]
        grid = rng.random(shape, dtype=np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(0.5**octave)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _lattice(length: int, cells: int) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Per pixel: lattice cell, offset in it (0..1), faded offset."""
    position = (np.arange(length, dtype=np.float32) + 0.5) * np.float32(cells / length)
    cell = np.minimum(position.astype(np.intp), cells - 1)
    offset = position - cell.astype(np.float32)
    return cell, offset, offset * offset * offset * (offset * (offset * 6 - 15) + 10)


def _turned_noise(size: tuple[int, int], scales: tuple[int, ...], rotate: bool, rng: np.random.Generator) -> Floats:
    cells = (int(rng.choice(scales)), int(rng.choice(scales)))
    noise = perlin_noise(size, cells, rng)
    if not rotate:
        return noise
    height, width = size
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.uniform(-90, 90)), 1.0)
    turned: Any = cv2.warpAffine(noise, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
    return turned


def _at_bound(noise: Floats, threshold: float, inside: Mask | None, low: float, high: float) -> Mask:
    """The mask with the nearest allowed area: the threshold moved to a quantile of the noise."""
    values = noise[inside] if inside is not None else noise.ravel()
    area = float((values > threshold).mean())
    wanted = max(1, round(min(max(area, low), high) * values.size))
    cut = np.partition(values, values.size - wanted)[values.size - wanted]
    mask = noise >= cut
    return mask & inside if inside is not None else mask


def _grown(mask: Mask, pixels: int, inside: Mask | None) -> Mask:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(pixels) + 1,) * 2)
    change = cv2.dilate if pixels > 0 else cv2.erode
    grown = change(mask.view(np.uint8), kernel).view(np.bool_)
    if inside is not None:
        grown = grown & inside
    return grown if grown.any() else mask


def _some_parts(mask: Mask, parts: int, rng: np.random.Generator) -> Mask:
    """At most `parts` connected parts; specks are chosen last, since a part stands for a defect."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    if count - 1 <= parts:
        return mask
    weight = np.sqrt(stats[1:, cv2.CC_STAT_AREA].astype(np.float64))
    chosen = 1 + rng.choice(count - 1, parts, replace=False, p=weight / weight.sum())
    return np.isin(labels, chosen)
