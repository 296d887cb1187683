"""Batches made by threads ahead of the step that asks for them: a GPU must not wait for pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
MOST_WORKERS = 8


def default_workers(device: str, processes: int) -> int:
    """Threads of one training process: none on a CPU, which the training itself keeps busy."""
    return 0 if device == "cpu" else max(0, min(MOST_WORKERS, (os.cpu_count() or 1) // processes - 1))


class Ahead(Generic[T]):
    """make(first), make(first + 1), ... computed by `workers` threads, or on demand without any.

    make: depends on its number alone; what it raises is raised by `get`. It runs mostly in NumPy and OpenCV, which
    let other threads run. Processes would be faster, but a fork beside torch's and ONNX Runtime's threads can hang.
    """

    def __init__(self, make: Callable[[int], T], workers: int) -> None:
        self._make, self._ahead = make, 2 * workers
        self._pool = ThreadPoolExecutor(workers, "ahead") if workers else None
        self._made: dict[int, Future[T]] = {}

    def get(self, number: int) -> T:
        """Item `number`; soonest when asked for in order."""
        if self._pool is None:
            return self._make(number)
        wanted = range(number, number + self._ahead)
        for other in [n for n in self._made if n not in wanted]:
            self._made.pop(other).cancel()
        for n in wanted:
            if n not in self._made:
                self._made[n] = self._pool.submit(self._make, n)
        return self._made.pop(number).result()

    def close(self) -> None:
        """Drop what nobody asked for; waits for what is being made."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
