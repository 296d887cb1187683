"""The threads behind SinkHub: one that stores, one for each sink; queues between them and the loop."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple

from edge_ad.runtime.sinks.base import Delivery, Frame, PixelScores, Sink
from edge_ad.runtime.sinks.store import Store
from edge_ad.runtime.verdict import Verdict

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SinkState:
    """How a sink is doing.

    state: starting, up, retrying (last_error says why) or stalled (a write has lasted over 10 s)
    delivered, dropped: verdicts since the start; queued: waiting now
    """

    name: str
    state: Literal["starting", "up", "retrying", "stalled"]
    delivered: int
    dropped: int
    queued: int
    last_error: str


class Item(NamedTuple):
    seq: int | None  # number in the store; None: not stored (no store, or it is failing)
    verdict: Verdict
    frame: Frame | None
    pixel_scores: PixelScores | None


class StoreWorker(threading.Thread):
    """Writes verdicts in order; a failing disk makes them wait in memory while the sinks go on."""

    FRAMES = 16  # verdicts deep in the queue give up their frames: they are large
    LIMIT = 10_000

    def __init__(self, store: Store, owed: tuple[str, ...], later: Sequence[SinkWorker]) -> None:
        super().__init__(name="store", daemon=True)
        self.store, self.owed, self.later = store, owed, later
        self.stored = self.lost = 0
        self.error = ""
        self._queue: deque[Item] = deque()
        self._handed_on: set[str] = set()  # ids that sinks got before they could be stored
        self._ready = threading.Condition()
        self._stopping = False

    @property
    def waiting(self) -> int:
        """Verdicts that aren't stored yet."""
        return len(self._queue)

    def has_room(self) -> bool:
        """A frame handed over now would be kept, or waiting would not help."""
        return bool(self.error) or len(self._queue) < self.FRAMES

    def put(self, item: Item) -> None:
        deep = len(self._queue) >= self.FRAMES
        with self._ready:
            self._queue.append(item._replace(frame=None, pixel_scores=None) if deep else item)
            if len(self._queue) > self.LIMIT:
                self._handed_on.discard(self._queue.popleft().verdict.id)
                self.lost += 1
            failing = bool(self.error)
            if failing:
                self._handed_on.add(item.verdict.id)
            self._ready.notify()
        if failing:  # a full disk must not silence the plant
            self._hand_on(item)

    def stop(self, timeout_s: float) -> None:
        with self._ready:
            self._stopping = True
            self._ready.notify()
        self.join(timeout_s)

    def run(self) -> None:
        pause = 0.1
        while True:
            with self._ready:
                self._ready.wait_for(lambda: bool(self._queue) or self._stopping, timeout=60)
                if not self._queue:
                    if self._stopping:
                        return
                    item = None
                else:
                    item = self._queue[0]
            if item is None:
                self._tidy()
            elif self._write(item):
                pause = 0.1
            else:
                if self._stopping:
                    return
                with self._ready:
                    self._ready.wait_for(lambda: self._stopping, timeout=pause)
                pause = min(pause * 2, 5.0)

    def _write(self, item: Item) -> bool:
        try:
            seq = self._add(item.verdict)
        except (ValueError, OverflowError) as error:  # SQLite will never take this one; the next must not wait for it
            log.error("verdict %s can't be stored and is lost: %s", item.verdict.id, error)
            self._done_with(item)
            self.lost += 1
            if item.verdict.id not in self._handed_on:
                self._hand_on(item)
            return True
        except sqlite3.Error as error:
            if not self.error:
                log.error("the store cannot write (%s): verdicts wait in memory", error)
            with self._ready:
                self.error = str(error)
                fresh = [waiting for waiting in self._queue if waiting.verdict.id not in self._handed_on]
                self._handed_on |= {waiting.verdict.id for waiting in fresh}
            for waiting in fresh:
                self._hand_on(waiting)
            return False
        if self.error:
            log.warning("the store writes again after: %s", self.error)
        self.error = ""
        self._done_with(item)
        self.stored += 1
        if item.verdict.id in self._handed_on:
            self._handed_on.discard(item.verdict.id)
            with suppress(sqlite3.Error):
                for worker in self.later:
                    if worker.replays and worker.has_delivered(item.verdict.id):
                        self.store.mark_delivered(worker.sink.name, [seq])
        else:
            self._hand_on(item._replace(seq=seq))
        if self.stored % 256 == 0:
            self._tidy()
        return True

    def _add(self, verdict: Verdict) -> int:
        try:
            return self.store.add(verdict, self.owed)
        except sqlite3.IntegrityError as error:
            found = self.store.get(verdict.id)  # there, when an earlier try did reach the disk
            if found is None:
                raise ValueError(f"the store refuses it: {error}") from error
            return found.seq

    def _done_with(self, item: Item) -> None:
        with self._ready:
            if self._queue and self._queue[0].verdict.id == item.verdict.id:  # `put` may have given it up
                self._queue.popleft()

    def _hand_on(self, item: Item) -> None:
        for worker in self.later:
            worker.put(item)

    def _tidy(self) -> None:
        try:
            self.store.retain()
        except sqlite3.Error as error:
            log.warning("the store could not remove old verdicts: %s", error)


class SinkWorker(threading.Thread):
    """One sink's thread: live from its queue, or catching up from the store's outbox."""

    STALLED_S = 10.0
    OWED_BATCH = 50

    def __init__(self, sink: Sink, store: Store | None, queue_size: int, retry_s: tuple[float, float]) -> None:
        super().__init__(name=f"sink-{sink.name}", daemon=True)
        self.sink, self.store, self.retry_s = sink, store, retry_s
        self.delivery: Delivery = sink.delivery
        self.replays = self.delivery == "replayed" and store is not None
        self.delivered = self.dropped = 0
        self.error = ""
        self._opened = False
        self._proven = True  # opening says that it works; not after a write failed that will be tried again
        self._behind = self.replays  # what an earlier run left owing comes first
        self._last_seq = 0
        self._taken: set[str] = set()  # ids delivered before they had a number in the store
        self._done: list[int] = []
        self._writing_since: float | None = None
        self._queue: deque[Item] = deque()
        self._size = queue_size
        self._ready = threading.Condition()
        self._stopping = False

    def put(self, item: Item) -> None:
        with self._ready:
            if len(self._queue) >= self._size:
                oldest = self._queue.popleft()
                if self.replays and oldest.seq is not None:
                    self._behind = True  # not lost: it is in the outbox
                else:
                    self.dropped += 1
            self._queue.append(item)
            self._ready.notify()

    def has_delivered(self, id: str) -> bool:
        """Whether a verdict that was handed over unstored is delivered; if not, it comes again from the outbox."""
        with self._ready:
            if id in self._taken:
                self._taken.discard(id)
                return True
            self._queue = deque(item for item in self._queue if item.verdict.id != id)
            self._behind = True
            self._ready.notify()
            return False

    def has_room(self) -> bool:
        """Half of the queue is free, or waiting would not help."""
        return len(self._queue) <= self._size // 2 or bool(self.error) or self.state().state == "stalled"

    def stop_soon(self) -> None:
        with self._ready:
            self._stopping = True
            self._ready.notify()

    def state(self) -> SinkState:
        since = self._writing_since
        stalled = since is not None and time.monotonic() - since > self.STALLED_S
        state: Literal["starting", "up", "retrying", "stalled"] = (
            "stalled" if stalled else "retrying" if self.error else "up" if self._opened else "starting"
        )
        return SinkState(self.sink.name, state, self.delivered, self.dropped, len(self._queue), self.error)

    def run(self) -> None:
        pause = self.retry_s[0]
        while True:
            try:
                if not self._opened:
                    self.sink.open()
                    self._opened = True
                    if self._proven:
                        self._works()
                while self._step():
                    pause = self.retry_s[0]
                break
            except Exception as error:
                self._failed(error)
            if self._stopping:
                break
            with self._ready:
                self._ready.wait_for(lambda: self._stopping, timeout=pause)
            pause = min(pause * 2, self.retry_s[1])
        with suppress(Exception):
            self._settle()
        if not self.replays:
            self.dropped += len(self._queue)
        if self._opened:
            with suppress(Exception):
                self.sink.close()

    def _step(self) -> bool:
        """Deliver something, or wait a second; False when stopped and empty."""
        if self._behind:
            self._catch_up()
            return True
        with self._ready:
            self._ready.wait_for(lambda: bool(self._queue) or self._stopping, timeout=1.0)
            item = self._queue.popleft() if self._queue else None
        if item is None:
            self._settle()
            return not self._stopping
        if item.seq is None or item.seq > self._last_seq or not self.replays:
            self._write(item)
        return True

    def _catch_up(self) -> None:
        assert self.store is not None
        self._settle()
        with self._ready:
            self._behind = False  # put() sets it again when more overflows meanwhile
        owed = self.store.undelivered(self.sink.name, self.OWED_BATCH)
        if owed:
            self._behind = True
        for stored in owed:
            self._write(Item(stored.seq, stored.verdict, None, None))

    def _write(self, item: Item) -> None:
        self._writing_since = time.monotonic()
        try:
            self.sink.write(item.verdict, item.frame, item.pixel_scores)
        except Exception:
            if self.replays and item.seq is not None:
                self._behind = True
                self._proven = False
            else:
                self.dropped += 1
            raise
        finally:
            self._writing_since = None
        self.delivered += 1
        self._works()
        if self.replays and item.seq is None:
            self._taken.add(item.verdict.id)
        elif self.replays and item.seq is not None:
            self._last_seq = max(self._last_seq, item.seq)
            self._done.append(item.seq)
            if len(self._done) >= self.OWED_BATCH:
                self._settle()

    def _works(self) -> None:
        if self.error:
            log.warning("sink %s is back after: %s", self.sink.name, self.error)
        self._proven, self.error = True, ""

    def _settle(self) -> None:
        if self._done and self.store is not None:
            self.store.mark_delivered(self.sink.name, self._done)
            self._done = []

    def _failed(self, error: Exception) -> None:
        if not self.error:
            log.warning("sink %s failed and will be retried: %s", self.sink.name, error)
        self.error = str(error) or type(error).__name__
        if self._opened:
            self._opened = False
            with suppress(Exception):
                self.sink.close()
