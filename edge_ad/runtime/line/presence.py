"""Presence: is there a part in front of the camera; Motion: has it come to rest. Both on a small gray picture."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.images import read_image
from edge_ad.errors import ConfigError
from edge_ad.runtime.settings import PresenceSettings

Gray = npt.NDArray[np.float32]
SMALL = (96, 72)  # width, height: 1/100 of the pixels, and noise averages out
LEARNING_RATE = 0.02


def small_gray(frame: npt.NDArray[np.uint8]) -> Gray:
    """Brightness 0..255 of the frame, 72 x 96 pixels, float32."""
    small = cv2.resize(frame, SMALL, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.float32)


class Presence:
    """Whether a part is there: enough of the picture differs from the empty station.

    reference: a photo of the empty station. learned: the picture that is usual while nothing is there; it starts
    with the first frame (so start with an empty station) and follows slow changes of the light.
    """

    def __init__(self, settings: PresenceSettings) -> None:
        self.settings = settings
        self._empty: Gray | None = None
        if settings.kind == "reference":
            if not settings.reference:
                raise ConfigError("presence.reference is missing", "name a picture of the empty station")
            self._empty = small_gray(read_image(settings.reference))

    def __call__(self, gray: Gray) -> bool:
        """True when there is a part (always, when switched off)."""
        if self.settings.kind == "off":
            return True
        if self._empty is None:
            self._empty = gray.copy()
            return False
        present = changed_share(gray, self._empty, self.settings.level) >= self.settings.share
        if self.settings.kind == "learned" and not present:
            self._empty += LEARNING_RATE * (gray - self._empty)
        return present


class Motion:
    """Fires once when the picture has moved and then stood still for `settle` frames."""

    def __init__(self, settle: int, level: float, share: float) -> None:
        self.settle, self.level, self.share = settle, level, share
        self._last: Gray | None = None
        self._moved = True  # a part that lies there at the start counts
        self._quiet = 0

    def __call__(self, gray: Gray) -> bool:
        """True for the frame in which the part came to rest."""
        last, self._last = self._last, gray
        if last is None:
            return False
        if changed_share(gray, last, self.level) >= self.share / 4:  # moving parts change less from frame to frame
            self._moved, self._quiet = True, 0
            return False
        self._quiet += 1
        if self._moved and self._quiet >= self.settle:
            self._moved = False
            return True
        return False


def changed_share(gray: Gray, other: Gray, level: float) -> float:
    """Share of pixels that differ by more than `level`, after a common change of brightness is taken out."""
    difference = gray - other
    difference -= np.median(difference)
    return float(np.mean(np.abs(difference) > level))
