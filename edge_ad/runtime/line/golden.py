"""Golden parts: parts of known quality that a station must judge right before any part of its gets an OK.

They are demanded at the start, after a change of artifact or threshold, and every few hours. A wrong verdict blocks
OK until a person releases the line; a restart doesn't lift the block. Every step is an event in the store.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from edge_ad.data.images import read_image
from edge_ad.errors import DataError
from edge_ad.runtime.engines.loaded import Engine, LoadedArtifact
from edge_ad.runtime.line.one_picture import judge_picture
from edge_ad.runtime.line.policy import Judgement
from edge_ad.runtime.settings import StationSettings
from edge_ad.runtime.sinks.store import Store
from edge_ad.runtime.watch.stations import identity_of

State = Literal["due", "passed", "blocked", "released"]
REPEATED = "; repeated since: "
CONCLUSIONS = ("golden-passed", "golden-blocked", "golden-released")  # kinds of events that outlive a restart
log = logging.getLogger(__name__)


class Station(Protocol):
    """What is needed of a station."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> StationSettings: ...

    @property
    def engine(self) -> Engine: ...

    def calibration(self, loaded: LoadedArtifact | None = None) -> dict[str, Any]: ...


@dataclass(frozen=True)
class GoldenVerdict:
    """What the station said of a golden part. decision: "" while it was not shown yet."""

    part: str
    expected: Literal["OK", "NG"]
    decision: str = ""
    score: float | None = None
    threshold: float | None = None

    @property
    def wrong(self) -> bool:
        """It was judged, and not as it must be: also when the station was unsure."""
        return self.decision not in ("", self.expected)

    def __str__(self) -> str:
        """One clause for people."""
        part = "/".join(Path(self.part).parts[-2:])  # of a photo: its folder says what it is
        if not self.decision:
            return f"{part} was not shown yet"
        score = f" (score {self.score:.4g}, limit {self.threshold:.4g})" if self.score and self.threshold else ""
        return f"{part} must be {self.expected} and was {self.decision}{score}"


class GoldenGate:
    """Lets a station say OK, or not. Safe to use from several threads; `tick` is called by one, about once a second.

    store: where every step is kept, and where an earlier run's block is found. clock: seconds that never jump.
    DataError: a golden photo can't be read.
    """

    def __init__(self, station: Station, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self.station, self.settings = station, station.settings.golden
        self._store, self._clock = store, clock
        self._lock = threading.RLock()
        names = [*((n, "OK") for n in self.settings.good), *((n, "NG") for n in self.settings.bad)]
        self._blank = {name: GoldenVerdict(name, expected) for name, expected in names}  # type: ignore[arg-type]
        self._verdicts = dict(self._blank)
        if self.settings.kind == "photos":
            for name in self._blank:
                read_image(name)
        self._approved = self._checking = ""  # identities of what was proven, and of what is being proven
        self._known: tuple[LoadedArtifact, str] | None = None
        self._state: State = "due"
        self._why, self._since, self._proven_s = "the start", time.time(), self._clock()
        earlier = next((one for one in store.events(station.name, 1000) if one.kind in CONCLUSIONS), None)
        if earlier is not None and earlier.kind == "golden-blocked":
            self._state, self._why = "blocked", f"{earlier.text} (before the restart)"
        if min(len(self.settings.good), len(self.settings.bad)) < 2:
            log.warning("%s: two good and two bad golden parts prove more than one of each", station.name)

    def apply(self, part: str, judgement: Judgement, loaded: LoadedArtifact | None) -> Judgement:
        """The judgement as it may be given: no OK while OK is blocked, and none for a golden part.

        part: the part's identity. loaded: what judged it.
        """
        with self._lock:
            golden = self._golden_part(part)
            if golden is not None:
                self._count(judged(golden, judgement), loaded)
                reason = f"golden part {golden.part}, which must be {golden.expected}: {judgement.decision}"
            elif why := self._blocks(loaded):
                reason = why
            else:
                return judgement
        if judgement.decision != "OK":
            return replace(judgement, reason=f"{reason}; {judgement.reason}") if golden else judgement
        return replace(judgement, decision=self.settings.instead, reason=f"{reason}; {judgement.reason}")

    def tick(self) -> None:
        """Demand the golden parts when it is time, and inspect them where they are photos."""
        loaded = self.station.engine.current()
        try:
            with self._lock:
                identity = self._identity(loaded)
                if self._approved and identity != self._approved and identity != self._checking:
                    self.demand("the artifact or its threshold was changed")
                hours = (self._clock() - self._proven_s) / 3600
                if self._state in ("passed", "released") and 0 < self.settings.every_h <= hours:
                    # photos are proven within a second: OK goes on meanwhile
                    self.demand(f"{self.settings.every_h:g} h have passed", block=self.settings.kind == "parts")
                    self._proven_s = self._clock()
                self._checking = identity
                wanted = self.settings.kind == "photos" and any(not one.decision for one in self._verdicts.values())
            if wanted:
                for name, golden in self._blank.items():
                    judgement = self._inspect(name, loaded)
                    with self._lock:
                        self._count(judged(golden, judgement), loaded)
        finally:
            loaded.release()

    def demand(self, why: str, *, block: bool = True) -> None:
        """The golden parts are asked for once more, and OK is blocked until then. why: what happened, for people."""
        with self._lock:
            self._verdicts = dict(self._blank)
            self._record("golden-due", f"golden parts are due: {why}")
            if block and self._state != "blocked":
                self._set("due", why)

    def release(self, by: str, note: str) -> None:
        """A person takes it on themselves that OK is given again. DataError: without a name; there is no block."""
        if not by.strip():
            raise DataError("a release without a name", "say who releases the line")
        with self._lock:
            if self._state != "blocked":
                raise DataError(f"{self.station.name} is not blocked", "nothing to release")
            self._approve("released", f"released by {by.strip()}" + (f": {note.strip()}" if note.strip() else ""))
            self._record("golden-released", self._why, {"by": by.strip(), "note": note.strip()})

    def blocks(self) -> str:
        """Why no part gets an OK now, for people; empty when OK is given."""
        with self._lock:
            return self._blocks(self.station.engine.loaded)

    def report(self) -> dict[str, Any]:
        """Plain values for the page. due_s: seconds until the parts are demanded again, None where that is open."""
        with self._lock:
            left_s = self.settings.every_h * 3600 - (self._clock() - self._proven_s)
            waits = self.settings.every_h and self._state in ("passed", "released")
            return {
                "station": self.station.name,
                "state": self._state,
                "why": self._why,
                "blocks": self.blocks(),
                "since": self._since,
                "due_s": max(left_s, 0.0) if waits else None,
                "kind": self.settings.kind,
                "parts": [asdict(one) | {"wrong": one.wrong} for one in self._verdicts.values()],
            }

    def _golden_part(self, part: str) -> GoldenVerdict | None:
        if self.settings.kind == "photos":
            return None
        if self.settings.named:
            return self._blank.get(part)
        missing = [name for name, one in self._verdicts.items() if not one.decision]
        return self._blank[missing[0]] if missing else None

    def _inspect(self, name: str, loaded: LoadedArtifact) -> Judgement:
        try:
            return judge_picture(
                read_image(name),
                self.station.settings,
                self.station.calibration(loaded),
                loaded.prepare,
                loaded.infer,
            )
        except Exception as error:  # whatever the engine raises, or a photo that is gone: that is no proof either
            log.error("golden part %s could not be inspected: %s", name, error)
            return Judgement("ERROR", None, None, (), 0, str(error))

    def _count(self, verdict: GoldenVerdict, loaded: LoadedArtifact | None) -> None:
        """Takes a golden part's verdict, and draws the conclusion."""
        self._record("golden-part", str(verdict), asdict(verdict))
        if not verdict.wrong and (loaded is None or self._identity(loaded) != self._checking):
            return  # judged right by an artifact that has been replaced meanwhile: no proof of the new one
        self._verdicts[verdict.part] = verdict
        wrong = [one for one in self._verdicts.values() if one.wrong]
        if verdict.wrong:
            self._set("blocked", "; ".join(map(str, wrong)))
            self._record("golden-blocked", self._why)
            log.error("%s: OK is blocked: golden part %s", self.station.name, self._why)
        elif not wrong and all(one.decision for one in self._verdicts.values()):
            right = f"{len(self._verdicts)} golden parts were judged right"
            if self._state == "blocked":
                self._why = f"{self._why.partition(REPEATED)[0]}{REPEATED}{right}"
            else:
                self._approve("passed", right)
                self._record("golden-passed", right)

    def _blocks(self, loaded: LoadedArtifact | None) -> str:
        if self._state == "blocked":
            return f"OK is blocked: golden part {self._why}"
        if self._state == "due":
            return f"golden parts are due ({self._why})"
        if loaded is not None and self._identity(loaded) != self._approved:
            return "golden parts are due (the artifact or its threshold was changed)"
        return ""

    def _approve(self, state: State, why: str) -> None:
        self._approved = self._checking or self._identity(self.station.engine.loaded)
        self._proven_s = self._clock()
        self._set(state, why)

    def _set(self, state: State, why: str) -> None:
        self._state, self._why, self._since = state, why, time.time()

    def _identity(self, loaded: LoadedArtifact) -> str:
        """The same for what gives the same verdicts."""
        if self._known is None or self._known[0] is not loaded:
            self._known = (loaded, identity_of(loaded, self.station.calibration(loaded)))
        return self._known[1]

    def _record(self, kind: str, text: str, facts: dict[str, Any] | None = None) -> None:
        try:
            self._store.add_event(self.station.name, kind, text, facts)
        except sqlite3.Error as error:  # a full disk must not stop the line; the block itself holds
            log.error("%s: %s could not be stored: %s", self.station.name, text, error)


def judged(golden: GoldenVerdict, judgement: Judgement) -> GoldenVerdict:
    """The golden part with what was said of it."""
    return replace(golden, decision=judgement.decision, score=judgement.score, threshold=judgement.threshold)
