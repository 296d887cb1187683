"""Inspector: stations, engines, sinks and store, from start to a drained end."""

from __future__ import annotations

import gc
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_ad.errors import ConfigError
from edge_ad.runtime.engines.loaded import Engine, LoadedArtifact
from edge_ad.runtime.line.golden import GoldenGate
from edge_ad.runtime.line.station import Station
from edge_ad.runtime.settings import RunSettings
from edge_ad.runtime.sinks.base import Sink
from edge_ad.runtime.sinks.delivery import SinkState
from edge_ad.runtime.sinks.hub import SinkHub
from edge_ad.runtime.sinks.store import Store
from edge_ad.runtime.stats import memory_mb

TICK_S = 0.2
RELOAD_S = 1.0  # between two looks at the artifacts' manifests
GOLDEN_S = 1.0  # between two looks at whether golden parts are due
DRAIN_S = 15.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What a run did. latency_ms: by stage, over all stations with one name a stage: count, p50, p95, p99, max."""

    seconds: float
    seen: int
    inspected: int
    dropped: int
    reconnects: int
    late: int
    decisions: dict[str, int]
    stored: int
    unstored: int
    latency_ms: dict[str, dict[str, dict[str, float]]]
    sinks: list[SinkState]
    memory_mb: float


class Inspector:
    """Everything of one run, built and checked before anything starts.

    sinks: where verdicts go besides the store. frames: inspect that many, then stop; None: until the end.
    keep_trying: wait for a camera that isn't there yet instead of failing.
    EdgeAdError: a setting, source or artifact is unusable.
    """

    def __init__(
        self,
        settings: RunSettings,
        sinks: Sequence[Sink] = (),
        *,
        frames: int | None = None,
        keep_trying: bool = False,
    ) -> None:
        self.settings = settings
        self._stop = threading.Event()
        self._frames_left = frames
        self._lock = threading.Lock()
        self.engines: dict[Path, Engine] = {}
        chosen = settings.store
        path = Path(chosen.path) if chosen.path else Path(settings.out) / "verdicts.sqlite"
        engines = [self._engine(station.artifact or settings.artifact) for station in settings.station]
        self.store = Store(path, days=chosen.days, max_bytes=int(chosen.max_mb * 1e6), durable=chosen.durable)
        if self.store.set_aside:
            log.error("the verdict store was damaged; it was set aside as %s", self.store.set_aside)
        self.hub = SinkHub(sinks, self.store)
        try:
            self.stations = [
                Station(station, engine, self.hub, may_take=self._may_take, keep_trying=keep_trying)
                for station, engine in zip(settings.station, engines, strict=True)
            ]
        except BaseException:
            self._close()
            raise
        names = [station.name for station in self.stations]
        if len(set(names)) != len(names):
            self._close()
            raise ConfigError(f"two stations are called {names}", "give each a name of its own")
        try:
            for station in self.stations:
                station.gate = GoldenGate(station, self.store) if station.settings.golden.good else None
        except BaseException:
            self._close()
            raise
        self._started = time.monotonic()
        self.gates = [station.gate for station in self.stations if station.gate]
        self._reloader = threading.Thread(target=self._reload_loop, name="reload", daemon=True)
        self._golden = threading.Thread(target=self._golden_loop, name="golden", daemon=True)

    def run(self, on_tick: Callable[[Inspector], None] | None = None) -> Summary:
        """Inspect until the sources end, `frames` were taken, or `stop`; then deliver everything.

        on_tick: called about five times a second. Raises what ended a station, after everything was written.
        """
        self._started = time.monotonic()
        self.hub.open()
        try:
            for gate in self.gates:
                gate.tick()
            for station in self.stations:
                station.start()
            gc.collect()
            gc.freeze()  # long-lived objects: later collections needn't walk them
            self._reloader.start()
            self._golden.start()
            while not self._stop.wait(TICK_S) and any(station.running for station in self.stations):
                if any(station.failure for station in self.stations):
                    break
                if on_tick:
                    on_tick(self)
        finally:
            self._stop.set()
            for station in self.stations:
                station.stop()
            for station in self.stations:
                station.join(DRAIN_S)
            self.hub.close(DRAIN_S)
            for thread in (self._reloader, self._golden):
                if thread.is_alive():
                    thread.join(DRAIN_S)
            summary = self.summary()
            self._close()
            gc.unfreeze()
        for station in self.stations:
            if station.failure:
                raise station.failure
        return summary

    def stop(self) -> None:
        """End the run soon; may be called from a signal handler or another thread."""
        self._stop.set()

    def reload(self) -> None:
        """Load every artifact again soon, whether or not it seems changed."""
        for engine in self.engines.values():
            engine.force_reload()

    def summary(self) -> Summary:
        """What happened until now."""
        stations = self.stations
        decisions: dict[str, int] = {"OK": 0, "NG": 0, "UNSURE": 0, "ERROR": 0}
        for station in stations:
            for decision, count in station.counts.items():
                decisions[decision] += count
        return Summary(
            seconds=time.monotonic() - self._started,
            seen=sum(station.capture.seen for station in stations),
            inspected=sum(station.inspected for station in stations),
            dropped=sum(station.capture.dropped for station in stations),
            reconnects=sum(station.capture.reconnects for station in stations),
            late=sum(station.judge.late for station in stations),
            decisions=decisions,
            stored=self.hub.stored,
            unstored=self.hub.unstored,
            latency_ms={station.name: station.times.summary() for station in stations},
            sinks=self.hub.states(),
            memory_mb=memory_mb(),
        )

    def problems(self) -> dict[str, str]:
        """What doesn't work now, by component (camera, store, sink): empty when all is well."""
        found: dict[str, str] = {}
        for station in self.stations:
            if problem := station.capture.problem():
                found[f"camera {station.name}"] = problem
        for gate in self.gates:
            if why := gate.blocks():
                found[f"golden parts {gate.station.name}"] = why
        if self.hub.store_error:
            found["store"] = self.hub.store_error
        for state in self.hub.states():
            if state.state in ("retrying", "stalled"):
                found[f"sink {state.name}"] = f"{state.state}: {state.last_error}"
        return found

    def _engine(self, artifact: str) -> Engine:
        if not artifact:
            raise ConfigError("no artifact was given", "name the folder that `edgead train` wrote")
        path = Path(artifact).absolute()
        if path not in self.engines:
            self.engines[path] = Engine(path, self.settings.engine)
        return self.engines[path]

    def _reload_loop(self) -> None:
        """Beside the loop: loading a large graph takes seconds, and building an engine minutes."""
        while self.settings.engine.reload and not self._stop.wait(RELOAD_S):
            for engine in self.engines.values():
                before = engine.loaded
                if engine.reload_if_changed():
                    self._note_change(engine, before)

    def _note_change(self, engine: Engine, before: LoadedArtifact) -> None:
        """Write down, for each station that judges by it, which artifact and threshold are in force now."""
        after = engine.loaded
        for station in self.stations:
            if station.engine is not engine:
                continue
            was, now = (station.calibration(one).get("image_threshold") for one in (before, after))
            facts = {"from": before.digest, "to": after.digest, "threshold_from": was, "threshold_to": now}
            text = f"artifact {before.digest} -> {after.digest}, threshold {_figure(was)} -> {_figure(now)}"
            if (before.digest, was) == (after.digest, now):
                continue  # only reports in the manifest changed
            try:
                self.store.add_event(station.name, "artifact-changed", text, facts)
            except sqlite3.Error as error:  # a full disk must not stop the line
                log.error("%s: %s could not be stored: %s", station.name, text, error)

    def _golden_loop(self) -> None:
        while self.gates and not self._stop.wait(GOLDEN_S):
            for gate in self.gates:
                gate.tick()

    def _may_take(self) -> bool:
        with self._lock:
            if self._frames_left is None:
                return True
            self._frames_left -= 1
            return self._frames_left >= 0

    def _close(self) -> None:
        for engine in self.engines.values():
            engine.close()
        self.store.close()


def _figure(threshold: float | None) -> str:
    return "none" if threshold is None else f"{threshold:.4g}"
