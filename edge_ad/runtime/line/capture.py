"""Capture: one thread that reads a source, keeps the right frames, and notices when the camera fails."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge_ad.errors import DataError, EdgeAdError
from edge_ad.runtime.settings import SourceSettings
from edge_ad.runtime.sources.base import Picture, Source, SourceLost, Unreadable

CameraState = Literal["starting", "up", "lost", "frozen", "black", "ended"]
MARGIN_S = 1.0  # a source that keeps its own limit is not interrupted
OPENING_S = 10.0  # what opening may take beyond that: logging in, finding out what a stream holds
STOP_S = 1.5  # a source that hangs is left behind after this long
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fault:
    """No usable frame. outage: the camera as a whole failed, otherwise one image was broken."""

    reason: str
    number: int
    time_ns: int
    captured_ns: int
    label: str = ""
    outage: bool = False


class Ended(Exception):
    """The source has no more frames, and all were taken."""


class Capture(threading.Thread):
    """Reads frames until stopped.

    keep: "newest" drops the older of the waiting frames beyond `depth`, "every" waits for room.
    keep_trying: also when the very first opening fails (a service starting before its camera).
    A live camera that freezes, goes black or whose `read` hangs yields one Fault and no frames until it recovers: a
    picture that isn't of this moment must never be judged.
    """

    def __init__(
        self,
        source: Source,
        settings: SourceSettings,
        *,
        keep: Literal["newest", "every"],
        depth: int,
        keep_trying: bool = False,
    ) -> None:
        super().__init__(name=f"capture-{source.name}", daemon=True)
        self.source, self.settings = source, settings
        self.state: CameraState = "starting"
        self.seen = self.dropped = self.reconnects = 0
        self.last_frame_ns = time.monotonic_ns()
        self.failure: Exception | None = None  # what ended a source that can't be retried
        self._keep, self._depth, self._keep_trying = keep, depth, keep_trying
        self._items: deque[Picture | Fault] = deque()
        self._room = threading.Condition()
        self._stopping = self._over = False
        self._stop_by = float("inf")
        self._call: tuple[float, float] | None = None  # the open or read under way: when it began, when it hangs
        self._signature, self._same_since = 0, 0
        self._stamps: deque[int] = deque(maxlen=30)

    def get(self, timeout_s: float) -> Picture | Fault | None:
        """The next frame or fault; None when none came in time. Ended: there will be no more."""
        with self._room:
            self._room.wait_for(lambda: self._items or self._over, min(timeout_s, self._left_s()))
            if not self._items and self._hangs():
                self._lose(f"{self.source.name} sends no whole frame within {self.source.longest_s:g} s")
                self.source.interrupt()
            if self._items:
                item = self._items.popleft()
                self._room.notify_all()
                return item
            if self._over or self._left_s() <= 0:
                raise Ended
            return None

    def problem(self) -> str:
        """What is wrong with the camera now, in words; empty when nothing is."""
        if self.state in ("lost", "frozen", "black"):
            return self.state
        silent_s = (time.monotonic_ns() - self.last_frame_ns) / 1e9
        if self.source.live and self.state != "ended" and silent_s > self.settings.timeout_s + MARGIN_S:
            return f"no whole frame for {silent_s:.0f} s"
        return "starting" if self.source.live and self.state == "starting" else ""

    def hanging_s(self) -> float:
        """Seconds that the source's present call lasts."""
        call = self._call
        return time.monotonic() - call[0] if call else 0.0

    def _hangs(self) -> bool:
        call = self._call
        return call is not None and time.monotonic() > call[1]

    def _left_s(self) -> float:
        return max(self._stop_by - time.monotonic(), 0.0)

    def fps(self) -> float:
        """Frames a second, over the last second or so."""
        span_s = (time.monotonic_ns() - self._stamps[0]) / 1e9 if self._stamps else 0.0
        return len(self._stamps) / span_s if span_s > 0 and self.state == "up" else 0.0

    def stop(self) -> None:
        """Ask the thread to end; frames already taken stay available. A source that hangs is not waited for."""
        with self._room:
            if not self._stopping:
                self._stop_by = time.monotonic() + STOP_S
            self._stopping = True
            self._room.notify_all()
        if self.source.live:  # others are taken from a place where they would be missing
            self.source.interrupt()

    def run(self) -> None:
        try:
            self._read_all()
        except Exception as error:
            self.failure = error
        finally:
            try:
                self.source.close()
            except Exception as error:
                log.warning("closing %s: %s", self.source.name, error)
            if self.state != "lost":
                self.state = "ended"
            with self._room:
                self._over = True
                self._room.notify_all()

    def _read_all(self) -> None:
        pause, longest = self.settings.reconnect_s
        opened = False
        while not self._stopping:
            try:
                with self._limit(OPENING_S):
                    self.source.open()
                self.reconnects += opened
                opened = True
                while not self._stopping:
                    if not self._read_one():
                        return
                    pause = self.settings.reconnect_s[0]
            except SourceLost as error:
                if self._stopping:
                    return
                if not opened and not self._keep_trying:
                    raise
                opened = True
                self.source.close()
                with self._room:
                    self._lose(error.message)
                    self._room.wait_for(lambda: self._stopping, pause)
                pause = min(pause * 2, longest)

    @contextlib.contextmanager
    def _limit(self, more_s: float = 0.0) -> Iterator[None]:
        """While a call to the source is under way, when it counts as hanging."""
        now = time.monotonic()
        longest_s = self.source.longest_s
        self._call = (now, now + longest_s + MARGIN_S + more_s if longest_s is not None else float("inf"))
        try:
            yield
        finally:
            self._call = None

    def _read_one(self) -> bool:
        try:
            with self._limit():
                picture = self.source.read()
        except TimeoutError:  # a watched folder without news
            self._works()
            return True
        except Unreadable:
            raise
        except DataError as error:
            number = self.seen
            self.seen += 1
            self._put(Fault(error.message, number, time.time_ns(), time.monotonic_ns()))
            return True
        except EdgeAdError:
            raise
        except Exception as error:  # a driver's own kind of error
            raise SourceLost(f"{self.source.name} failed: {error}", "") from error
        if picture is None:
            return False
        self.seen += 1
        self.last_frame_ns = picture.captured_ns
        self._stamps.append(picture.captured_ns)
        problem = self._problem(picture) if self.source.live else None
        if problem:
            self._outage(*problem)
        else:
            self._works()
            picture.frame.setflags(write=False)  # sinks share it
            self._put(picture)
        return True

    def _works(self) -> None:
        if self.state in ("lost", "frozen", "black"):
            log.warning("%s is back", self.source.name)
        self.state = "up"

    def _problem(self, picture: Picture) -> tuple[Literal["frozen", "black"], str] | None:
        """Every 16th pixel is enough: a sensor's noise changes some of them in every frame."""
        sample = np.ascontiguousarray(picture.frame[::16, ::16])
        if self.settings.black_level and float(sample.mean()) < self.settings.black_level:
            return "black", f"{self.source.name} sends a black picture (brightness {sample.mean():.1f} of 255)"
        signature = zlib.crc32(sample.data)
        if signature != self._signature:
            self._signature, self._same_since = signature, picture.captured_ns
        still_s = (picture.captured_ns - self._same_since) / 1e9
        if self.settings.frozen_s and still_s >= self.settings.frozen_s:
            return "frozen", f"{self.source.name} repeats the same picture since {still_s:.1f} s"
        return None

    def _outage(self, state: CameraState, reason: str) -> None:
        if fault := self._fault(state, reason):
            self._put(fault)

    def _lose(self, reason: str) -> None:
        """As an outage, from any thread that holds `_room`: the fault waits for no room."""
        if fault := self._fault("lost", reason):
            self._items.append(fault)
            self._room.notify_all()

    def _fault(self, state: CameraState, reason: str) -> Fault | None:
        if self.state == state:
            return None
        self.state = state
        log.error("%s", reason)
        return Fault(reason, self.seen, time.time_ns(), time.monotonic_ns(), outage=True)

    def _put(self, item: Picture | Fault) -> None:
        with self._room:
            if self._keep == "every":
                self._room.wait_for(lambda: len(self._items) < self._depth or self._stopping)
            elif sum(isinstance(waiting, Picture) for waiting in self._items) >= self._depth:
                oldest = next(i for i, waiting in enumerate(self._items) if isinstance(waiting, Picture))
                del self._items[oldest]
                self.dropped += 1
            self._items.append(item)
            self._room.notify_all()
