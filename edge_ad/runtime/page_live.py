"""The live picture: painted and encoded only when somebody asks, once for all who ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import cv2
import numpy as np

from edge_ad.data.images import encode_image
from edge_ad.runtime.page_data import Newest

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


def shrink(frame: np.ndarray) -> np.ndarray:
    """The frame, at most WIDEST pixels wide."""
    height, width = frame.shape[:2]
    if width <= WIDEST:
        return frame
    return cv2.resize(frame, (WIDEST, max(1, round(height * WIDEST / width))), interpolation=cv2.INTER_AREA)


def paint(newest: Newest) -> np.ndarray:
    """[H, W, 3] uint8: the frame with a heat map over whatever is suspicious, and boxes round the defects.

    The map is transparent up to half of the pixel threshold and full at twice of it, so that a good part looks
    like itself.
    """
    small = shrink(newest.frame)
    height, width = small.shape[:2]
    if newest.pixel_scores is not None:
        scores = np.asarray(newest.pixel_scores, np.float32)
        limit = newest.pixel_threshold or float(np.quantile(scores, 0.99)) or 1.0
        level = np.clip((scores / limit - 0.5) / 1.5, 0.0, 1.0)
        level = cv2.resize(level, (width, height), interpolation=cv2.INTER_LINEAR)
        if level.any():
            colours = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
            weight = (0.75 * np.sqrt(level))[:, :, None]
            small = (small * (1 - weight) + colours * weight).astype(np.uint8)
    scale = width / newest.frame.shape[1]
    if newest.boxes:
        small = np.ascontiguousarray(small).copy()
        colour = COLOURS.get(newest.decision, (242, 246, 250))
        for box in newest.boxes:
            corner = (round((box.x - 2) * scale), round((box.y - 2) * scale))
            opposite = (round((box.x + box.width + 2) * scale), round((box.y + box.height + 2) * scale))
            cv2.rectangle(small, corner, opposite, colour, max(2, width // 320))
    return small
