"""Read photos ahead of their use, and once; broken ones are named and left out."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from edge_ad.data.images import Frame, read_image, shrink
from edge_ad.data.samples import Problem, Sample
from edge_ad.errors import DataError

T = TypeVar("T")
log = logging.getLogger(__name__)


class DecodedPhoto(NamedTuple):
    """A photo that can be decoded. size: (H, W) in pixels."""

    sample: Sample
    size: tuple[int, int]


class PhotoReader:
    """Decodes photos, and keeps them in memory for whoever asks again.

    budget: bytes for whole photos, and as many again for shrunk copies. What comes first is kept: a run goes through
    its photos in order, again and again, and would always have just dropped what it needs next.
    """

    def __init__(self, budget: int = 1 << 30) -> None:
        self._left = {True: budget, False: budget}  # of whole photos, of shrunk ones
        self._kept: dict[tuple[Path, int | None], Frame] = {}
        self._lock = threading.Lock()

    def read(self, path: Path, side: int | None = None) -> Frame:
        """The photo as `read_image` gives it, and not to be changed in place; shrunk where its longest side is over
        `side` pixels."""
        frame = self._kept.get((path, side))
        if frame is not None:
            return frame
        if side is None:
            return self._keep(path, side, read_image(path))
        whole = self.read(path)
        small = shrink(whole, side)
        return whole if small is whole else self._keep(path, side, small)

    def decodable(self, samples: Iterable[Sample]) -> tuple[list[DecodedPhoto], list[Problem]]:
        """The photos that can be decoded, and what is wrong with the others, which is logged."""
        problems: list[Problem] = []
        read = read_each(samples, lambda sample: self.read(sample.path), problems)
        found = [DecodedPhoto(sample, (frame.shape[0], frame.shape[1])) for sample, frame in read]
        log_left_out(problems)
        return found, problems

    def _keep(self, path: Path, side: int | None, frame: Frame) -> Frame:
        with self._lock:
            if frame.nbytes <= self._left[side is None] and (path, side) not in self._kept:
                self._left[side is None] -= frame.nbytes
                self._kept[path, side] = frame
        return frame


def read_each(
    samples: Iterable[Sample], read: Callable[[Sample], T], problems: MutableSequence[Problem], *, threads: int = 2
) -> Iterator[tuple[Sample, T]]:
    """Each sample with what `read` makes of it, in order, read by `threads` threads a few samples ahead.

    OpenCV decodes without holding Python's lock. A DataError of `read` goes to `problems`, with its message but
    without the path, which the Problem has already; anything else is raised.
    """
    rest = iter(samples)
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        ahead: deque[tuple[Sample, Future[T]]] = deque()

        def fill(count: int) -> None:
            ahead.extend((sample, pool.submit(read, sample)) for sample in islice(rest, count))

        try:
            fill(2 * threads)
            while ahead:
                sample, future = ahead.popleft()
                try:
                    value = future.result()
                except DataError as error:
                    problems.append(Problem(sample.path, reason_of(error, sample.path)))
                else:
                    yield sample, value
                fill(1)
        finally:
            for _, future in ahead:
                future.cancel()


def log_left_out(problems: Sequence[Problem], most: int = 20) -> None:
    """Log how many files were left out, and the first of them by name."""
    for problem in problems[:most]:
        log.warning("skipped: %s: %s", problem.path, problem.reason)
    if len(problems) > 1:
        more = f", {most} of them named above" if len(problems) > most else ""
        log.warning("%d files were skipped%s; `edgead check` names them all", len(problems), more)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one perhaps shorter; no more than one list is in memory."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def reason_of(error: DataError, path: Path) -> str:
    """The error's message without the path, for a Problem, which has it already."""
    return " ".join(error.message.replace(str(path), "").split()).strip(": ")
