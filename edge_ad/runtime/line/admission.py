"""Admission control: when a station may take the next frame, so that what reaches the engine is of this moment."""

from __future__ import annotations

import threading

SLOW = 8  # an inference this many times longer than the preprocessing makes overlapping the two worthless
SMOOTHING = 0.2  # weight of the newest duration in the moving averages


class Admission:
    """Backpressure between camera and engine: one frame at a time, for cameras whose frames may be dropped.

    A frame that is taken while the engine is busy waits for it and grows old. So the next one is admitted only when
    the engine has begun the one before (the two stages overlap), or, where preprocessing takes no time to speak of
    beside the inference, when it is done: one step older than the camera's newest, at a few per cent of the rate.
    """

    def __init__(self) -> None:
        self._free = threading.Semaphore(1)
        self._prepare_ns = self._infer_ns = 0.0

    @property
    def overlaps(self) -> bool:
        """Whether the next frame is preprocessed while the engine works."""
        return self._infer_ns < SLOW * self._prepare_ns

    def acquire(self, timeout_s: float) -> bool:
        """Wait until a frame may be taken, at most `timeout_s` seconds; False when that time passed."""
        return self._free.acquire(timeout=timeout_s)

    def release(self) -> None:
        """Let the next frame be taken."""
        self._free.release()

    def add_prepare_time(self, duration_ns: int) -> None:
        """Count the nanoseconds that preprocessing a frame took."""
        self._prepare_ns += SMOOTHING * (duration_ns - self._prepare_ns) if self._prepare_ns else duration_ns

    def add_inference_time(self, duration_ns: int) -> None:
        """Count the nanoseconds that an inference took, its wait for other stations included."""
        self._infer_ns += SMOOTHING * (duration_ns - self._infer_ns) if self._infer_ns else duration_ns
