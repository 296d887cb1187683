"""Read photos ahead of their use; broken ones are named and left out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from edge_ad.data.images import Frame, read_image
from edge_ad.data.samples import Problem, Sample
from edge_ad.errors import DataError

T = TypeVar("T")


def read_frames(
    samples: Iterable[Sample], problems: MutableSequence[Problem], *, threads: int = 2
) -> Iterator[tuple[Sample, Frame]]:
    """Each sample with its frame, in order; a file that can't be read is left out and added to `problems`."""
    return read_each(samples, lambda sample: read_image(sample.path), problems, threads=threads)


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
                    problems.append(Problem(sample.path, _reason(error, sample.path)))
                else:
                    yield sample, value
                fill(1)
        finally:
            for _, future in ahead:
                future.cancel()


def _reason(error: DataError, path: Path) -> str:
    return " ".join(error.message.replace(str(path), "").split()).strip(": ")
