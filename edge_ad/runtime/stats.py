"""Latency histograms of constant size, and what a process uses."""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
from pathlib import Path

import numpy as np

RATIO = 1.02  # neighbouring bins; percentiles are right within 1 %
LOWEST_MS = 1e-3
BINS = math.ceil(math.log(1e8) / math.log(RATIO))  # 1 us to 100 s


class Histogram:
    """Milliseconds, binned on a logarithmic scale: memory doesn't grow with the number of frames."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS + 1, np.int64)
        self.count = 0
        self.max_ms = 0.0

    def add(self, value_ms: float) -> None:
        """Count one value; below 1 us counts as 1 us."""
        position = math.log(max(value_ms, LOWEST_MS) / LOWEST_MS) / math.log(RATIO)
        self._counts[min(round(position), BINS)] += 1
        self.count += 1
        self.max_ms = max(self.max_ms, value_ms)

    def percentile(self, percent: float) -> float:
        """The value that `percent` of the values don't exceed, milliseconds; 0 when there are none."""
        if not self.count:
            return 0.0
        rank = max(math.ceil(self.count * percent / 100), 1)
        index = int(np.searchsorted(np.cumsum(self._counts), rank))
        return float(min(LOWEST_MS * RATIO**index, self.max_ms))

    def summary(self) -> dict[str, float]:
        """count, p50, p95, p99 and max."""
        values = {f"p{p}": round(self.percentile(p), 3) for p in (50, 95, 99)}
        return {"count": self.count, **values, "max": round(self.max_ms, 3)}


class StageTimes:
    """One histogram a stage; any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[str, Histogram] = {}

    def add(self, latency_ms: dict[str, float]) -> None:
        """Count one frame's milliseconds by stage."""
        with self._lock:
            for stage, value in latency_ms.items():
                self._stages.setdefault(stage, Histogram()).add(value)

    def summary(self) -> dict[str, dict[str, float]]:
        """By stage: count, p50, p95, p99, max."""
        with self._lock:
            return {stage: histogram.summary() for stage, histogram in self._stages.items()}


def memory_mb() -> float:
    """Resident memory of this process in MiB; 0 where the system doesn't tell."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0.0


def give_memory_back() -> None:
    """Hand freed memory to the system, where the C library can (glibc keeps it in its arenas otherwise)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
