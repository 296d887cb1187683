"""A prefetcher: threads assemble batches before the step that asks for them, so that a GPU needn't wait."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
MOST_WORKERS = 8


def default_workers(device: str, processes: int) -> int:
    """Threads of one training process: none on a CPU, which the training itself keeps busy."""
    return 0 if device == "cpu" else max(0, min(MOST_WORKERS, (os.cpu_count() or 1) // processes - 1))


class Prefetcher(Generic[T]):
    """load(first), load(first + 1), ... computed by `workers` threads, or on demand without any.

    load: depends on its number alone; what it raises is raised by `get`. It runs mostly in NumPy and OpenCV, which
    let other threads run. Processes would be faster, but a fork beside torch's and ONNX Runtime's threads can hang.
    """

    def __init__(self, load: Callable[[int], T], workers: int) -> None:
        self._load, self._depth = load, 2 * workers
        self._pool = ThreadPoolExecutor(workers, "prefetch") if workers else None
        self._pending: dict[int, Future[T]] = {}
        self.waited_seconds = 0.0  # in `get`, by whoever asked

    def get(self, number: int) -> T:
        """Item `number`; soonest when asked for in order."""
        began = time.perf_counter()
        try:
            return self._get(number)
        finally:
            self.waited_seconds += time.perf_counter() - began

    def _get(self, number: int) -> T:
        if self._pool is None:
            return self._load(number)
        wanted = range(number, number + self._depth)
        for other in [n for n in self._pending if n not in wanted]:
            self._pending.pop(other).cancel()
        for n in wanted:
            if n not in self._pending:
                self._pending[n] = self._pool.submit(self._load, n)
        return self._pending.pop(number).result()

    def close(self) -> None:
        """Drop what nobody asked for; waits for what is being loaded."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
