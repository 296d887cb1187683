"""Test marks of exact size and contrast, put into photos of good parts, and the measure of real defects in masks.

They share no code with edge_ad.synthesis, whose defects the detector was trained on: a limit found with them is an
optical limit (this much must change for the detector to see it), no miss rate of real defects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Frame, Mask

KINDS = ("hair scratch", "spot")
CONTRASTS = (25, 50, 100)  # gray levels of 255


class Probe(NamedTuple):
    """A mark. size: length of a scratch, diameter of a spot, pixels. contrast: gray levels it is brighter or darker
    by. y, x: its middle. angle: of a scratch, radians. width: of a scratch, pixels."""

    kind: str
    size: float
    contrast: float
    y: float
    x: float
    angle: float = 0.0
    width: float = 1.0


def hair_width(size: tuple[int, ...]) -> float:
    """What counts as hair-thin in a picture (H, W): 0.4 % of its longest side, 1 pixel or more."""
    return max(1.0, 0.004 * max(size[:2]))


def draw_probe(frame: Frame, probe: Probe) -> Frame:
    """A copy of the frame [H, W, 3] with the mark in it, edges smoothed over one pixel.

    It is darker than its surroundings where these are brighter than mid-gray, else brighter, so that the whole
    contrast fits in.
    """
    reach = probe.size / 2 + probe.width + 2
    top, left = max(0, math.floor(probe.y - reach)), max(0, math.floor(probe.x - reach))
    window = (slice(top, math.ceil(probe.y + reach) + 1), slice(left, math.ceil(probe.x + reach) + 1))
    marked = frame.copy()
    patch = frame[window].astype(np.float32)
    rows, columns = np.mgrid[: patch.shape[0], : patch.shape[1]].astype(np.float32)
    dy, dx = rows - np.float32(probe.y - top), columns - np.float32(probe.x - left)
    if probe.kind == "spot":
        coverage = np.clip(probe.size / 2 + 0.5 - np.hypot(dy, dx), 0, 1)
    else:
        along = np.cos(probe.angle) * dx + np.sin(probe.angle) * dy
        across = np.cos(probe.angle) * dy - np.sin(probe.angle) * dx
        outside = np.maximum(np.abs(along) - max(0.0, probe.size - probe.width) / 2, 0)
        coverage = np.clip(probe.width / 2 + 0.5 - np.hypot(outside, across), 0, 1)
    surroundings = float(patch[coverage > 0].mean()) if (coverage > 0).any() else 0.0
    signed = -probe.contrast if surroundings > 127 else probe.contrast
    marked[window] = np.clip(patch + coverage[..., None] * np.float32(signed) + 0.5, 0, 255).astype(np.uint8)
    return marked


class Measured(NamedTuple):
    """Of a real defect: length (longest extent) and mean width of what stands out, pixels; contrast, gray levels."""

    length: float
    width: float
    contrast: float


def measure_defect(frame: Frame, mask: Mask) -> Measured | None:
    """Size and contrast of the largest region of the mask [H, W]; None where the mask is empty.

    What stands out is the pixels that differ from the surroundings by half as much as the region's 90th percentile
    or more, in the colour where that is greatest: so a hair in a generously drawn mask counts with its own gray and
    width. Contrast is their median difference, width their area over the length. The surroundings are carried across
    the defect from all around it (a Gaussian mean of the pixels outside the mask), since parts are shaded and printed
    on.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    region = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    points = cv2.findNonZero(region.astype(np.uint8))
    length = max(cv2.minAreaRect(points)[1]) + 1.0
    width = float(np.count_nonzero(region)) / length  # of the mask
    reach = max(2.0, width / 2)
    window = _window(cv2.boundingRect(points), math.ceil(4 * reach), mask.shape)
    patch, outside = frame[window].astype(np.float32), np.float32(~mask[window])
    near = cv2.GaussianBlur(outside, (0, 0), reach)
    around = cv2.GaussianBlur(patch * outside[..., None], (0, 0), reach) / np.maximum(near, 1e-6)[..., None]
    inside = region[window] & (near > 1e-4)  # the middle of a defect as wide as the picture has no surroundings
    if not inside.any():
        return Measured(length, width, 0.0)
    differences = np.abs(patch - around)[inside]
    high = np.percentile(differences, 90, axis=0)
    seen = differences[:, int(high.argmax())]
    strong = seen >= high.max() / 2
    return Measured(length, max(1.0, width * float(strong.mean())), float(np.median(seen[strong])))


def _window(box: Sequence[int], more: int, size: tuple[int, ...]) -> tuple[slice, slice]:
    """The box (x, y, width, height) with so many pixels around it, within the picture."""
    x, y, width, height = box
    return (
        slice(max(0, y - more), min(size[0], y + height + more)),
        slice(max(0, x - more), min(size[1], x + width + more)),
    )


def places_on(inside: npt.NDArray[np.bool_] | None, size: tuple[int, int], cells: int) -> list[tuple[int, int]]:
    """Middles (y, x) of a grid's cells that lie on the part; cells: along the longer side of the part."""
    if inside is None or not inside.any():
        inside = np.ones(size, np.bool_)
    x0, y0, width, height = cv2.boundingRect(inside.astype(np.uint8))
    side = max(width, height) / cells
    middles = [
        (
            round(y0 + (row + 0.5) * height / max(1, round(height / side))),
            round(x0 + (col + 0.5) * width / max(1, round(width / side))),
        )
        for row in range(max(1, round(height / side)))
        for col in range(max(1, round(width / side)))
    ]
    return [(y, x) for y, x in middles if inside[min(y, size[0] - 1), min(x, size[1] - 1)]]


def is_rim(inside: npt.NDArray[np.bool_] | None, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """[H, W]: nearer to the part's outline (or the picture's) than a tenth of the part's smaller extent."""
    padded = np.zeros((size[0] + 2, size[1] + 2), np.uint8)
    padded[1:-1, 1:-1] = 1 if inside is None else inside
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    return np.asarray(distance < 0.1 * min(cv2.boundingRect(padded)[2:]))
