"""What ages or goes astray between camera and part, at stated strengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from edge_ad.data.images import Frame, decode_image

Change = Callable[[Frame, float, np.random.Generator], Frame]


class Disturbance(NamedTuple):
    """change(frame, strength, rng) -> frame; strengths: growing; unit: of the strengths, for people."""

    change: Change
    strengths: tuple[float, ...]
    unit: str


def _gain(frame: Frame, strength: float, rng: np.random.Generator) -> Frame:
    del rng
    return _rounded(frame.astype(np.float32) * np.float32(1 + strength / 100))


def _blur(frame: Frame, strength: float, rng: np.random.Generator) -> Frame:
    del rng
    return np.asarray(cv2.GaussianBlur(frame, (0, 0), strength), np.uint8)


def _noise(frame: Frame, strength: float, rng: np.random.Generator) -> Frame:
    return _rounded(frame + np.float32(strength) * rng.standard_normal(frame.shape, np.float32))


def _jpeg(frame: Frame, strength: float, rng: np.random.Generator) -> Frame:
    del rng
    coded = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(strength)])[1]
    return decode_image(coded.tobytes(), "JPEG")


def _moved(frame: Frame, move: np.ndarray) -> Frame:
    size = frame.shape[1], frame.shape[0]
    return np.asarray(
        cv2.warpAffine(frame, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def _shift(frame: Frame, strength: float, rng: np.random.Generator) -> Frame:
    del rng
    return _moved(frame, np.array([[1, 0, strength / 100 * frame.shape[1]], [0, 1, 0]], np.float32))


def _turn(frame: Frame, strength: float, rng: np.random.Generator) -> Frame:
    del rng
    return _moved(frame, cv2.getRotationMatrix2D((frame.shape[1] / 2, frame.shape[0] / 2), strength, 1.0))


def _dirt(frame: Frame, strength: float, rng: np.random.Generator) -> Frame:
    """A soft dark blot out of focus, covering a share of the picture, always at the same place: on the lens."""
    del rng
    height, width = frame.shape[:2]
    radius = np.sqrt(strength / 100 * height * width / np.pi)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    distance = np.hypot(rows - 0.4 * height, columns - 0.6 * width)
    blot = np.clip(1.5 - distance / np.float32(radius), 0, 1) * np.float32(0.7)
    return _rounded(frame * (1 - blot[..., None]) + blot[..., None] * np.float32(40))


def _rounded(values: np.ndarray) -> Frame:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


DISTURBANCES = {
    "darker light": Disturbance(_gain, (-5, -10, -20, -35, -50), "% exposure"),
    "brighter light": Disturbance(_gain, (5, 10, 20, 35, 50), "% exposure"),
    "blur": Disturbance(_blur, (0.5, 1, 1.5, 2.5, 4), "px (sigma)"),
    "noise": Disturbance(_noise, (2, 4, 8, 15, 25), "gray levels (sigma)"),
    "JPEG": Disturbance(_jpeg, (90, 75, 50, 30, 15), "quality"),
    "shift": Disturbance(_shift, (0.5, 1, 2, 4, 8), "% of the width"),
    "rotation": Disturbance(_turn, (0.5, 1, 2, 4, 8), "degrees"),
    "occluded lens": Disturbance(_dirt, (0.2, 0.5, 1, 3, 8), "% of the picture"),
}
