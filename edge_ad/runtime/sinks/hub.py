"""SinkHub: hands each verdict to the store and to every sink, in threads of their own.

A sink that is slow or dead holds up neither the loop nor the other sinks: its queue fills, it is closed and
opened again with growing pauses, and what it owes is delivered later from the store's outbox if it wants that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from edge_ad.runtime.sinks.base import Frame, PixelScores, Sink
from edge_ad.runtime.sinks.delivery import Item, SinkState, SinkWorker, StoreWorker
from edge_ad.runtime.sinks.store import Store
from edge_ad.runtime.verdict import Verdict

log = logging.getLogger(__name__)


class SinkHub:
    """Every verdict to the store and to each sink, at once or once it is stored, as the sink's `delivery` says.

    queue_size: verdicts that may wait for one sink; the oldest is dropped (and counted) beyond that
    retry_s: first and longest pause before a failed sink is opened again
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        store: Store | None = None,
        *,
        queue_size: int = 32,
        retry_s: tuple[float, float] = (0.5, 30.0),
    ) -> None:
        names = [sink.name for sink in sinks]
        if len(set(names)) != len(names):
            raise ValueError(f"sinks must have different names, got {names}")
        self._workers = [SinkWorker(sink, store, queue_size, retry_s) for sink in sinks]
        self._now = [worker for worker in self._workers if worker.delivery == "now"]
        self._later = [worker for worker in self._workers if worker.delivery != "now"]
        owed = tuple(worker.sink.name for worker in self._later if worker.delivery == "replayed")
        self._store = None if store is None else StoreWorker(store, owed, self._later)

    def open(self) -> None:
        """Start the threads; returns at once, sinks connect in theirs."""
        for worker in self._workers:
            worker.start()
        if self._store:
            self._store.start()

    def submit(
        self,
        verdict: Verdict,
        frame: Frame | None = None,
        pixel_scores: PixelScores | None = None,
        *,
        wait_s: float = 0.0,
    ) -> None:
        """Hand over one verdict.

        wait_s: how long a full queue of a working sink is waited for. 0 on a line, which never waits; more for
        files, where nothing is lost by going slower and a complete result counts.
        """
        if wait_s:
            self._wait_for_room(wait_s)
        item = Item(None, verdict, frame, pixel_scores)
        for worker in self._now:
            worker.put(item)
        if self._store:
            self._store.put(item)
        else:
            for worker in self._later:
                worker.put(item)

    def _wait_for_room(self, wait_s: float) -> None:
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            stored = self._store is None or self._store.has_room()
            if stored and all(worker.has_room() for worker in self._workers):
                return
            time.sleep(0.001)

    def close(self, timeout_s: float = 10.0) -> None:
        """Deliver what waits (the store first), for at most `timeout_s` a stage, and stop the threads."""
        if self._store:
            self._store.stop(timeout_s)
        end = time.monotonic() + timeout_s
        for worker in self._workers:
            worker.stop_soon()
        for worker in self._workers:
            worker.join(max(end - time.monotonic(), 0.01))
            if worker.is_alive():
                log.warning("sink %s did not finish in %.0f s and was left behind", worker.sink.name, timeout_s)

    def states(self) -> list[SinkState]:
        """One entry a sink."""
        return [worker.state() for worker in self._workers]

    @property
    def stored(self) -> int:
        """Verdicts acknowledged by the store."""
        return self._store.stored if self._store else 0

    @property
    def unstored(self) -> int:
        """Verdicts that wait for the store or were given up (more than 10,000 waited)."""
        return self._store.waiting + self._store.lost if self._store else 0

    @property
    def store_error(self) -> str:
        """Why the store can't write now; empty when it can."""
        return self._store.error if self._store else ""

    def __enter__(self) -> SinkHub:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
