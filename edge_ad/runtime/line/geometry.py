"""From the camera's frame to the inspected picture and its tiles, and tile maps back to one map."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.errors import ConfigError
from edge_ad.runtime.engines.runner import Outputs
from edge_ad.runtime.settings import FrameSettings

Frame = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]
Tile = tuple[int, int, int, int]  # y, x, height, width


class FrameFixer:
    """Perspective, rotation and region of interest, as the settings say; a plain cut makes no copy."""

    def __init__(self, settings: FrameSettings) -> None:
        self.settings = settings
        self._matrix: npt.NDArray[np.float64] | None = None
        if settings.corners:
            corners = np.array(settings.corners, np.float32)
            height, width = settings.size or _sides(corners)
            target = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
            self._matrix = cv2.getPerspectiveTransform(corners, target)
            self._size = (width, height)

    def apply(self, frame: Frame) -> Frame:
        """The inspected picture, uint8 [h, w, 3]. ConfigError: the region lies outside the frame."""
        if self._matrix is not None:
            frame = np.asarray(cv2.warpPerspective(frame, self._matrix, self._size, flags=cv2.INTER_LINEAR))
        if self.settings.rotate % 360:
            frame = _rotated(frame, self.settings.rotate % 360)
        if self.settings.roi:
            x, y, width, height = self.settings.roi
            inside = x >= 0 and y >= 0 and width > 0 and height > 0
            if not inside or x + width > frame.shape[1] or y + height > frame.shape[0]:
                raise ConfigError(
                    f"frame.roi = {self.settings.roi} is not inside the {frame.shape[1]} x {frame.shape[0]} picture",
                    "give x, y, width, height within it",
                )
            frame = frame[y : y + height, x : x + width]
        return frame

    def tiles(self, height: int, width: int) -> list[Tile]:
        """Where the tiles of a picture of that size lie; one that covers all without `frame.tile`."""
        if self.settings.tile is None:
            return [(0, 0, height, width)]
        tile_h, tile_w = (min(t, side) for t, side in zip(self.settings.tile, (height, width), strict=True))
        return [
            (y, x, tile_h, tile_w)
            for y in _starts(height, tile_h, self.settings.overlap)
            for x in _starts(width, tile_w, self.settings.overlap)
        ]


def cut_tiles(shown: Frame, tiles: list[Tile], prepare: Callable[[Frame], Array]) -> Array:
    """The graph's input [tiles, 3, H, W] for a picture. prepare: one tile as the graph takes it, [3, H, W]."""
    parts = [prepare(shown[y : y + height, x : x + width]) for y, x, height, width in tiles]
    return parts[0][None] if len(parts) == 1 else np.stack(parts)


def merge_tiles(outputs: Outputs, tiles: list[Tile], size: tuple[int, int]) -> tuple[float, Array]:
    """(score, pixel scores) of a picture of that size: the worst tile's score, and one map."""
    return float(outputs.image_score.max()), merge_maps(outputs.pixel_scores, tiles, *size)


def merge_maps(maps: Array, tiles: list[Tile], height: int, width: int) -> Array:
    """One map of the whole picture from the tiles' maps [tiles, h, w], blended where they overlap.

    A tile's pixels count less towards its rim, where the network sees only half of the surroundings.
    The result has the tiles' resolution: as many map pixels a frame pixel as they have.
    """
    if len(tiles) == 1:
        return np.asarray(maps[0])
    map_h, map_w = maps.shape[1:]
    scale_y, scale_x = map_h / tiles[0][2], map_w / tiles[0][3]
    total = np.zeros((round(height * scale_y), round(width * scale_x)), np.float32)
    weights = np.zeros_like(total)
    weight = np.outer(_tent(map_h), _tent(map_w)).astype(np.float32)
    for tile_map, (y, x, _, _) in zip(maps, tiles, strict=True):
        top = min(round(y * scale_y), total.shape[0] - map_h)
        left = min(round(x * scale_x), total.shape[1] - map_w)
        total[top : top + map_h, left : left + map_w] += tile_map * weight
        weights[top : top + map_h, left : left + map_w] += weight
    return np.asarray(total / np.maximum(weights, 1e-6), np.float32)


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """First pixels of the tiles along one side, evenly spaced, the last ending at the picture's end."""
    step = max(int(tile * (1 - overlap)), 1)
    count = max(math.ceil((side - tile) / step), 0) + 1
    return [0] if count == 1 else [round(i * (side - tile) / (count - 1)) for i in range(count)]


def _tent(length: int) -> npt.NDArray[np.float64]:
    at = (np.arange(length) + 0.5) / length
    return np.clip(np.minimum(at, 1 - at) * 8, 1e-3, 1.0)


def _sides(corners: npt.NDArray[np.float32]) -> tuple[int, int]:
    top, right, bottom, left = (np.linalg.norm(corners[i] - corners[(i + 1) % 4]) for i in range(4))
    return max(round(float(max(left, right))), 1), max(round(float(max(top, bottom))), 1)


def _rotated(frame: Frame, degrees: float) -> Frame:
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(frame, int(degrees // 90)))
    height, width = frame.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    border = cv2.BORDER_REPLICATE  # black corners would be inspected as defects
    return np.asarray(cv2.warpAffine(frame, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border))
