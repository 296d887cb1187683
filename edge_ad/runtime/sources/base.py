"""Source: where frames come from, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_ad.errors import BackendError, DataError


class SourceLost(BackendError):
    """The camera or stream stopped or can't be reached now; opening it again may help."""


class Unreadable(DataError):
    """Nothing more can be read here, and opening it again would not help: the run ends with this reason."""


@dataclass(frozen=True)
class Picture:
    """One frame with its place and time.

    frame: uint8 [H, W, 3] RGB. number: its number in the source, from 0, counting dropped ones.
    time_ns: wall clock, captured_ns: monotonic clock, both when it was taken. label: the file's name, else empty.
    """

    frame: npt.NDArray[np.uint8]
    number: int
    time_ns: int
    captured_ns: int
    label: str = ""


class Source:
    """Frames one after the other; used by one thread.

    name: for verdicts and logs, without credentials. live: a camera, which goes on whether or not we look.
    longest_s: a `read` that lasts longer hangs; None: it may last.
    """

    name: str
    live: bool
    longest_s: float | None = None

    def open(self) -> None:
        """Connect; may be called again after `close`. SourceLost: not reachable now."""

    def read(self) -> Picture | None:
        """The next frame; None at the end. SourceLost: the camera is gone, or sent no whole frame within `timeout_s`.

        DataError: this one image is broken; it is used up, and the next call goes on with the next. Unreadable:
        nothing was used up, and no call would use up anything. TimeoutError: none yet, where that is no fault.
        """
        raise NotImplementedError

    def interrupt(self) -> None:
        """Make a `read` or `open` that waits in another thread end, where that can be done."""

    def close(self) -> None:
        """Release the device; may be called twice."""
