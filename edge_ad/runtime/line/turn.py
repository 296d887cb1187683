"""Turn: when a station may take the next frame, so that what reaches the engine is of this moment."""

from __future__ import annotations

import threading

SLOW = 8  # an inference this many times longer than preparing makes overlapping the two worthless
MEMORY = 0.2  # weight of the newest duration


class Turn:
    """One frame at a time between camera and engine, for cameras whose frames may be dropped.

    A frame that is taken while the engine is busy waits for it and grows old. So the next one is taken only when
    the engine has begun the one before (it is prepared meanwhile), or, where preparing takes no time to speak of
    beside the inference, when it is done: one step older than the camera's newest, at a few per cent of the rate.
    """

    def __init__(self) -> None:
        self._free = threading.Semaphore(1)
        self._prepare_ns = self._infer_ns = 0.0

    @property
    def early(self) -> bool:
        """Whether the next frame is prepared while the engine works."""
        return self._infer_ns < SLOW * self._prepare_ns

    def take(self, timeout_s: float) -> bool:
        """Wait for the turn; False when it didn't come in time."""
        return self._free.acquire(timeout=timeout_s)

    def give(self) -> None:
        """The next frame may be taken."""
        self._free.release()

    def prepared(self, lasted_ns: int) -> None:
        """Preparing a frame took so long."""
        self._prepare_ns += MEMORY * (lasted_ns - self._prepare_ns) if self._prepare_ns else lasted_ns

    def inferred(self, lasted_ns: int) -> None:
        """So did the engine, with its wait for other stations."""
        self._infer_ns += MEMORY * (lasted_ns - self._infer_ns) if self._infer_ns else lasted_ns
