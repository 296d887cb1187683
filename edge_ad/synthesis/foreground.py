"""Where the object is, on photos with a plain background; everywhere on textures and full-frame parts."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.synthesis.defects import Frame
from edge_ad.synthesis.perlin import Floats, Mask

WORK_SIDE = 192  # the estimate is made at this size, longest side
NEAR = 26.0  # grey levels within which a border pixel counts as background
PLAIN_SHARE = 0.6  # of the border that must be background for the background to count as plain


def find_foreground(frame: Frame, *, grow: float = 0.01) -> Mask | None:
    """The object's mask, bool [H,W], or None where there is no plain background to tell it from.

    A plane a + b x + c y per channel is fitted to the border's pixels, robustly, so that uneven light doesn't
    matter; what differs from it by more than Otsu's threshold is object. None when the border isn't plain
    (the frame is full of texture) or the object would be under 2 % or over 97 % of the frame.

    Args:
        frame: uint8 [H,W,3] RGB.
        grow: widen the object by that fraction of the longer side, so that its rim belongs to it.
    """
    height, width = frame.shape[:2]
    scale = min(1.0, WORK_SIDE / max(height, width))
    small_size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small: Any = cv2.resize(frame, small_size, interpolation=cv2.INTER_AREA)
    distance = _distance_to_background(cv2.GaussianBlur(small, (0, 0), 0.8).astype(np.float32))
    if distance is None:
        return None
    levels = np.clip(distance, 0, 255).astype(np.uint8)
    cut, _ = cv2.threshold(np.minimum(levels, 120), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    mask = (levels > np.clip(cut * 0.6, 12, 45)).astype(np.uint8)
    mask = _whole(mask)
    share = float(mask.mean())
    if not 0.02 <= share <= 0.97:
        return None
    reach = max(1, round(grow * max(small_size)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    grown = cv2.dilate(mask, kernel).astype(np.float32)
    full: Any = cv2.resize(grown, (width, height), interpolation=cv2.INTER_LINEAR)
    return full >= 0.5


def _distance_to_background(small: Floats) -> Floats | None:
    """Largest channel's |pixel - background plane| [h,w]; None when the border isn't plain."""
    height, width = small.shape[:2]
    rim = max(2, round(0.03 * max(height, width)))
    border = np.ones((height, width), np.bool_)
    border[rim:-rim, rim:-rim] = False
    y, x = np.nonzero(border)
    pixels = small[border]
    base = _common_colour(pixels)
    near = np.abs(pixels - base).max(axis=1) < 1.5 * NEAR  # uneven light: wide at first
    terms = np.stack([np.ones_like(x), x / width, y / height], axis=1).astype(np.float64)
    plane = np.zeros((3, 3))
    for _ in range(2):
        if near.mean() < PLAIN_SHARE:
            return None
        plane, *_ = np.linalg.lstsq(terms[near], pixels[near].astype(np.float64), rcond=None)
        near = np.abs(pixels - terms @ plane).max(axis=1) < NEAR
    if near.mean() < PLAIN_SHARE:
        return None
    spread = np.abs(pixels[near] - (terms @ plane)[near]).mean()
    if spread > NEAR / 3:  # a fine texture can stay within the band without being plain
        return None
    all_y, all_x = np.mgrid[0:height, 0:width]
    everywhere = np.stack([np.ones((height, width)), all_x / width, all_y / height], axis=-1) @ plane
    return np.abs(small - everywhere).max(axis=2).astype(np.float32)


def _common_colour(pixels: Floats) -> Floats:
    """The mode of the border's colours, on a coarse grid: a part that touches the border can't pull it."""
    bins = (pixels // 24).astype(np.int64) @ np.array([121, 11, 1])
    common = np.bincount(bins).argmax()
    return np.median(pixels[bins == common], axis=0).astype(np.float32)


def _whole(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Close gaps, drop specks and fill holes of less than 0.4 % of the frame (reflections of the background)."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= 0.005 * mask.size
    keep[0] = False
    solid = keep[labels]
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~solid).astype(np.uint8), connectivity=4)
    hole = stats[:, cv2.CC_STAT_AREA] < 0.004 * mask.size
    hole[0] = False
    return (solid | hole[labels]).astype(np.uint8)
