"""The live picture: painted and encoded only when somebody asks, once for all who ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from edge_ad.data.images import encode_image
from edge_ad.runtime.overlay import Frame, ScoreScale, blend_heat, draw_boxes, resize_to, scale_boxes
from edge_ad.runtime.page.data import Newest

WIDEST = 1280  # pixels; a page needs no more, and encoding grows with the area
COLOURS = {"OK": (31, 191, 117), "NG": (255, 77, 61), "UNSURE": (255, 197, 61)}


class LivePicture:
    """JPEGs of the newest picture; the last one of each camera is kept."""

    def __init__(
        self, newest: Callable[[str | None], Newest | None], *, quality: int = 80, fps: float = 12.0
    ) -> None:
        """fps: pictures a second at most, whatever the number of watchers."""
        self._newest, self._quality, self._gap_s = newest, quality, 1.0 / fps
        self._lock = threading.Lock()
        self._kept: dict[tuple[str | None, bool], tuple[int, float, bytes]] = {}

    def after(self, sequence: int, camera: str | None, heat: bool) -> tuple[int, bytes] | None:
        """The newest picture with its sequence number, unless it is the one called `sequence`."""
        newest = self._newest(camera)
        if newest is None or newest.sequence == sequence:
            return None
        with self._lock:
            key = (camera, heat)
            kept = self._kept.get(key)
            if kept and (kept[0] == newest.sequence or time.monotonic() - kept[1] < self._gap_s):
                return None if kept[0] == sequence else (kept[0], kept[2])
            if len(self._kept) > 16:
                self._kept.clear()
            data = encode_image(paint(newest) if heat else shrink(newest.frame), ".jpg", self._quality)
            self._kept[key] = (newest.sequence, time.monotonic(), data)
            return newest.sequence, data


def shrink(frame: Frame) -> Frame:
    """The frame, at most WIDEST pixels wide."""
    height, width = frame.shape[:2]
    return frame if width <= WIDEST else resize_to(frame, (max(1, round(height * WIDEST / width)), WIDEST))


def paint(newest: Newest) -> Frame:
    """The frame with a heat map over whatever is suspicious, and boxes round the defects.

    The map is transparent up to half of the pixel threshold and full at twice of it, so that a good part looks
    like itself.
    """
    drawn = shrink(newest.frame)
    if newest.pixel_scores is not None:
        limit = newest.pixel_threshold or float(np.quantile(newest.pixel_scores, 0.99)) or 1.0
        drawn = blend_heat(drawn, newest.pixel_scores, ScoreScale(limit / 2, 2 * limit))
    boxes = scale_boxes(newest.boxes, drawn.shape[1] / newest.frame.shape[1])
    return draw_boxes(drawn, boxes, COLOURS.get(newest.decision, (242, 246, 250)))
