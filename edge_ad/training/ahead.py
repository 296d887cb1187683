"""Batches made by worker processes ahead of the step that asks for them: a GPU must not wait for pictures."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from edge_ad import kernels
from edge_ad.errors import EdgeAdError

T = TypeVar("T")
MOST_WORKERS = 8


def default_workers(device: str, processes: int) -> int:
    """Worker processes of one training process: none on a CPU, which the training itself keeps busy."""
    # only fork gives a worker the photos that were read and the triplets' sources without pickling them
    if device == "cpu" or sys.platform != "linux" or "fork" not in multiprocessing.get_all_start_methods():
        return 0
    return max(0, min(MOST_WORKERS, len(os.sched_getaffinity(0)) // processes - 1))


class Ahead(Generic[T]):
    """make(first), make(first + 1), ... computed in order by `workers` processes, or on demand without any.

    make: depends on its number alone and returns NumPy arrays in tuples, which must not live on a GPU. What it raises
    is raised by `get`.
    """

    def __init__(self, make: Callable[[int], T], workers: int) -> None:
        self._make, self._workers = make, workers
        self._next = -1
        self._made: Iterator[Any] = iter(())

    def get(self, number: int) -> T:
        """Item `number`; asking out of order starts the workers anew."""
        if not self._workers:
            return self._make(number)
        if number != self._next:
            loader = DataLoader(
                _Items(self._make),
                batch_size=None,
                sampler=range(number, sys.maxsize),
                num_workers=self._workers,
                collate_fn=_unchanged,
                multiprocessing_context="fork",
                generator=torch.Generator(),  # of its own, or the workers' seeds would shift the training's noise
                worker_init_fn=_set_up_worker,
            )
            with warnings.catch_warnings():
                # Python 3.12 warns of fork in a process with threads; the workers use NumPy, OpenCV and our C++ on
                # one thread each, and none of the parent's
                warnings.filterwarnings("ignore", message=".*multi-threaded", category=DeprecationWarning)
                self._made = iter(loader)
        self._next = number + 1
        item = next(self._made)
        if isinstance(item, EdgeAdError):
            raise item
        return item


class _Items(Dataset[Any]):
    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> Any:
        try:
            return self._make(number)
        except EdgeAdError as error:  # as a value: DataLoader would rewrite its message around a traceback
            return error


def _unchanged(item: T) -> T:
    return item  # arrays stay arrays: tensors would need shared memory, which containers keep small


def _set_up_worker(worker: int) -> None:
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's, which ends the workers after the step
    cv2.setNumThreads(1)
    kernels.set_threads(1)
