"""The handshake between a PLC and a camera that every line engineer knows, as plain state.

Modbus and OPC UA speak it:

    PLC                                   inspector
    trigger enable   = 1            ->    trigger ready = 1
    trigger          = 1            ->    takes the picture; acquisition id = n, trigger ack = 1
    trigger          = 0            ->    trigger ack = 0, trigger ready = 1
                                          result for acquisition n, result valid = 1,
                                          inspection complete changes its value
    result ack       = 1            ->    result valid = 0
    result ack       = 0            ->    with `buffer results`: the next waiting result, if any

A trigger while trigger ready is 0 takes no picture: acquisition error = 1 with a code, until `reset`. Without
`buffer results` a new result replaces the last one; with it, up to 64 wait for their acknowledgement, and one more
sets `overrun` and is not kept (it is in the store). While golden parts are due or were judged wrong, `ok blocked` is
1: parts are inspected, and none gets an OK. A line that runs freely gets results with ids of their own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from edge_ad.runtime.verdict import DECISIONS, Verdict

ERROR_NONE, ERROR_NOT_READY, ERROR_NO_RESULT = 0, 1, 2
DECISION_CODES = {name: code for code, name in enumerate(DECISIONS, 1)}  # OK 1, NG 2, UNSURE 3, ERROR 4; 0 is none
HIGHEST_ID = 65535


@dataclass(frozen=True)
class Signals:
    """What the inspector shows the PLC."""

    online: bool = False
    trigger_ready: bool = False
    trigger_ack: bool = False
    acquisition_id: int = 0
    acquisition_error: bool = False
    error_code: int = ERROR_NONE
    result_valid: bool = False
    inspection_complete: bool = False  # changes with every result
    overrun: bool = False
    ok_blocked: bool = False  # golden parts are due or were judged wrong: no part gets an OK
    result_id: int = 0  # the acquisition that `result` belongs to
    result: Verdict | None = None
    counts: dict[str, int] = field(default_factory=dict)  # results by decision since the start


class Handshake:
    """The inspector's side. Safe to use from several threads; `changed` is called after every change, unlocked."""

    def __init__(
        self,
        on_trigger: Callable[[str], None] | None = None,
        *,
        waiting: int = 64,
        in_flight: int = 4,
        timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """on_trigger: takes a picture for the part so named; the verdict of that part answers it; None: no triggers.

        waiting: results kept for acknowledgement. in_flight: triggers that may wait for their results. timeout_s:
        after which a trigger without a result is an acquisition error.
        """
        self.changed: Callable[[], None] = lambda: None
        self._on_trigger, self._waiting, self._in_flight = on_trigger, waiting, in_flight
        self._timeout_s, self._clock = timeout_s, clock
        self._lock = threading.RLock()
        self._signals = Signals(counts=dict.fromkeys(DECISIONS, 0))
        self._enable = self._trigger = self._buffer = self._ack = False
        self._flying: deque[tuple[str, int, float]] = deque()  # part, acquisition id, when
        self._results: deque[tuple[int, Verdict]] = deque()
        self._last_id = 0

    def signals(self) -> Signals:
        """What the PLC sees now."""
        with self._lock:
            self._expire()
            return self._signals

    def set_online(self, online: bool) -> None:
        """Set the signal that the inspector can inspect."""
        self._set(lambda: self._show(online=online))

    def set_ok_blocked(self, blocked: bool) -> None:
        """Says whether golden parts keep every part from getting an OK."""
        self._set(lambda: self._show(ok_blocked=blocked))

    def plc(
        self,
        *,
        enable: bool | None = None,
        trigger: bool | None = None,
        buffer: bool | None = None,
        ack: bool | None = None,
        reset: bool | None = None,
        part: int = 0,
    ) -> None:
        """Takes the PLC's signals; None leaves one as it was. part: the PLC's number of the part, 0 for none."""
        wanted: list[str] = []

        def change() -> None:
            self._enable = self._enable if enable is None else enable
            self._buffer = self._buffer if buffer is None else buffer
            self._ready()  # enable and trigger may come in one write
            if reset:
                self._show(acquisition_error=False, error_code=ERROR_NONE, overrun=False)
            if trigger is not None and trigger != self._trigger:
                self._trigger = trigger
                wanted.extend(self._rise(part)) if trigger else self._show(trigger_ack=False)
            if ack is not None and ack != self._ack:
                self._ack = ack
                if ack:
                    self._acknowledge()
                else:
                    self._next()

        self._set(change)
        for name in wanted:
            assert self._on_trigger is not None
            self._on_trigger(name)  # outside the lock: taking a picture may take a while

    def complete(self, verdict: Verdict) -> int:
        """Shows a verdict, or lets it wait for its turn; returns the acquisition id it belongs to."""
        with self._lock:
            id = self._landed(verdict.part)
            self._signals.counts[verdict.decision] += 1
            if not self._buffer:
                self._results.clear()
                self._present(id, verdict)
            elif len(self._results) >= self._waiting:
                self._show(overrun=True)
            else:
                self._results.append((id, verdict))
                self._next()
            self._ready()
        self.changed()
        return id

    def _set(self, change: Callable[[], None]) -> None:
        with self._lock:
            before = self._signals
            self._expire()
            change()
            self._ready()
            same = before == self._signals
        if not same:
            self.changed()

    def _show(self, **values: object) -> None:
        self._signals = replace(self._signals, **values)  # type: ignore[arg-type]

    def _ready(self) -> None:
        room = len(self._flying) < self._in_flight
        able = self._on_trigger is not None and self._signals.online and self._enable
        self._show(trigger_ready=able and room and not self._trigger)

    def _rise(self, part: int) -> list[str]:
        if not self._signals.trigger_ready:
            self._show(acquisition_error=True, error_code=ERROR_NOT_READY)
            return []
        id = self._new_id()
        name = str(part) if part else f"acquisition-{id}"
        self._flying.append((name, id, self._clock()))
        self._show(trigger_ack=True, acquisition_id=id)
        return [name]

    def _landed(self, part: str) -> int:
        for entry in self._flying:
            if entry[0] == part:
                self._flying.remove(entry)
                return entry[1]
        id = self._new_id()
        if not self._flying:  # free running: nobody waits for an id of a trigger
            self._show(acquisition_id=id)
        return id

    def _new_id(self) -> int:
        self._last_id = self._last_id % HIGHEST_ID + 1
        return self._last_id

    def _expire(self) -> None:
        while self._flying and self._clock() - self._flying[0][2] > self._timeout_s:
            self._flying.popleft()
            self._show(acquisition_error=True, error_code=ERROR_NO_RESULT)
            self._ready()

    def _present(self, id: int, verdict: Verdict) -> None:
        complete = not self._signals.inspection_complete
        self._show(result_id=id, result=verdict, result_valid=True, inspection_complete=complete)

    def _acknowledge(self) -> None:
        if self._signals.result_valid and self._results and self._results[0][0] == self._signals.result_id:
            self._results.popleft()
        self._show(result_valid=False)

    def _next(self) -> None:
        if self._results and not self._signals.result_valid and not self._ack:
            self._present(*self._results[0])
