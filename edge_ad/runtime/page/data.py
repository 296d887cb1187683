"""What the operator page shows, read from the store over a connection of its own that can only read.

The inspector's own connection is never waited for: SQLite's write-ahead log lets readers and the writer pass each
other. Answers that every open page asks for again and again are kept for a moment.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from edge_ad.errors import DataError
from edge_ad.runtime.sinks.delivery import SinkState
from edge_ad.runtime.sinks.store import Review, Store
from edge_ad.runtime.verdict import DefectBox
from edge_ad.runtime.watch.health import Health
from edge_ad.runtime.watch.recalibration import RecalibrationSet
from edge_ad.runtime.watch.stations import DriftWatch

Filter = Literal["all", "rejects", "open"]
Label = Literal["good", "defect"]
PictureKind = Literal["picture", "overlay", "map"]
WHERE = {
    "all": "1",
    "rejects": "decision IN ('NG', 'UNSURE')",
    "open": "decision IN ('NG', 'UNSURE') AND review IS NULL",
}
ROW = "seq, id, time_ns, source, part, decision, score, threshold, boxes, area, reason, latency_ms, artifact, review"
SAMPLED = 20_000  # rows at most that a chart's percentiles are taken from
BINS = 60
log = logging.getLogger(__name__)


class Newest(NamedTuple):
    """The newest inspected picture of a camera: references, no copies."""

    sequence: int  # changes with every picture
    source: str
    frame: np.ndarray  # [H, W, 3] uint8 RGB
    pixel_scores: np.ndarray | None = None  # [h, w], over the whole frame
    pixel_threshold: float | None = None
    boxes: Sequence[DefectBox] = ()
    decision: str = ""


class Gate(Protocol):
    """Golden parts of a station, see edge_ad.runtime.line.golden."""

    def report(self) -> dict[str, Any]: ...

    def demand(self, why: str) -> None: ...

    def release(self, by: str, note: str) -> None: ...


@dataclass
class LineView:
    """Everything the page may see of a running line. The inspector fills it in.

    newest: newest picture of the named camera, or of any with None. cameras: rows of name, state (`running`,
    `connecting`, `reconnecting`, `frozen`, `black`, `stopped`), fps, message, dropped. sinks: the hub's states.
    pictures: files kept of a verdict, by kind. metrics: Prometheus' text, where it is made. calibration: the
    thresholds in force for a camera, of the first one with None, with the promise and the scores behind them.
    gates: of the stations where golden parts are demanded. file_label: files a labelled part's picture with the
    artifact, and says what was filed. explain: a picture that says why a part got its score, as a JPEG file; raises
    DataError where nothing was kept to explain it by.
    """

    name: str
    artifact: str
    store: Store
    health: Health
    newest: Callable[[str | None], Newest | None] = lambda camera: None
    cameras: Callable[[], list[dict[str, Any]]] = list
    sinks: Callable[[], list[SinkState]] = list
    pictures: Callable[[str], Mapping[str, Path]] = lambda id: {}
    drift: DriftWatch | None = None
    calibration: Callable[[str | None], Mapping[str, Any]] = lambda camera: {}
    recalibration: RecalibrationSet | None = None
    metrics: Callable[[], bytes] | None = None
    gates: Sequence[Gate] = ()
    file_label: Callable[[Mapping[str, Any], Label | None, Path | None], str] = lambda verdict, label, picture: ""
    explain: Callable[[Mapping[str, Any], Path | None], bytes] | None = None


class PageData:
    """The page's answers as plain values, ready for JSON."""

    def __init__(self, view: LineView, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.view, self._clock = view, clock
        self._kept: dict[tuple[Any, ...], tuple[float, Any]] = {}
        self._lock = threading.Lock()
        uri = view.store.path.absolute().as_uri() + "?mode=ro"
        self._db = sqlite3.connect(uri, uri=True, timeout=2, check_same_thread=False)

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._db.close()

    def state(self, version: str) -> dict[str, Any]:
        """What changes from part to part, and whether everything works."""
        health = self.view.health.report()
        newest = self.verdicts(limit=1)
        return {
            "line": self.view.name,
            "artifact": self.view.artifact,
            "version": version,
            "verdict": newest[0] if newest else None,
            "cameras": self.view.cameras(),
            "sinks": self._sinks(),
            "health": {"live": health.live, "ready": health.ready, "problems": list(health.problems)},
            "drift": self.view.drift.report() if self.view.drift else None,
            "golden": [gate.report() for gate in self.view.gates],
            "hour": self._for(1.0, self._hour),
            "open_reviews": self._for(1.0, self._open_reviews),
        }

    def verdicts(
        self, *, limit: int = 100, after: int | None = None, before: int | None = None, kind: Filter = "all"
    ) -> list[dict[str, Any]]:
        """Newest first, at most `limit`, of those numbered between `after` and `before`."""
        rows = self._query(
            f"SELECT {ROW} FROM verdicts WHERE {WHERE[kind]} AND seq > ? AND seq < ? ORDER BY seq DESC LIMIT ?",
            (-1 if after is None else after, 2**62 if before is None else before, limit),
        )
        return [self._row(row) for row in rows]

    def verdict(self, id: str) -> dict[str, Any] | None:
        """One verdict."""
        rows = self._query(f"SELECT {ROW} FROM verdicts WHERE id = ?", (id,))
        return self._row(rows[0]) if rows else None

    def label(self, id: str, label: Label | None) -> dict[str, Any] | None:
        """Stores what a person says the part was, and hands its picture on; None where there is no such verdict.

        It goes to the re-calibration set, and a miss or a rejected good part to the artifact: `filed` says so.
        """
        found = self.verdict(id)
        if found is None:
            return None
        self.view.store.review(id, review_of(found["decision"], label))
        picture = self.view.pictures(id).get("picture")
        if self.view.recalibration is not None:
            self.view.recalibration.label(id, label, picture)
        filed = self.view.file_label(found, label, picture)
        said = f"was called {label}" if label else "was no longer called anything"
        text = f"part {found['part'] or id}, judged {found['decision']}, {said} on the page"
        self.note(found["source"], "labelled", f"{text}. {filed}" if filed else text, {"id": id, "label": label})
        self._kept.clear()
        labelled = self.verdict(id)
        return labelled and labelled | {"filed": filed}

    def note(self, source: str, kind: str, text: str, facts: Mapping[str, Any] | None = None) -> None:
        """Writes down what was done on the page, as the store has it; a full disk is logged."""
        try:
            self.view.store.add_event(source, kind, text, facts)
        except sqlite3.Error as error:
            log.error("%s could not be stored: %s", text, error)

    def picture(self, id: str, kind: PictureKind) -> Path | None:
        """The file kept of a verdict, or None."""
        if self.verdict(id) is None:
            return None
        path = self.view.pictures(id).get(kind)
        return path if path is not None and path.is_file() else None

    def explanation(self, id: str) -> bytes | None:
        """A picture that says why the part got its score, as a JPEG file; None where there is no such verdict.

        Raises DataError where nothing was kept to explain it by.
        """
        found = self.verdict(id)
        if found is None:
            return None
        if self.view.explain is None:
            raise DataError("this line explains nothing", "ask `edgead explain`")
        return self.view.explain(found, self.picture(id, "picture"))

    def series(self, minutes: int, buckets: int) -> dict[str, Any]:
        """Yield and latency over time, one value a bucket; None where no part came."""
        return dict(self._for(4.0, self._series, minutes, buckets))

    def threshold(self, camera: str | None = None) -> dict[str, Any]:
        """A camera's threshold, its promise, and a histogram of its last scores; all cameras' with None."""
        return dict(self._for(4.0, self._threshold, camera))

    def _series(self, minutes: int, buckets: int) -> dict[str, Any]:
        width = minutes * 60_000_000_000 // buckets
        last = time.time_ns() // width
        first = last - buckets + 1
        good, measured = np.zeros(buckets), np.zeros(buckets)
        grouped = "SELECT time_ns / ?, decision, COUNT(*) FROM verdicts WHERE time_ns >= ? GROUP BY 1, 2"
        for bucket, decision, count in self._query(grouped, (width, first * width)):
            if 0 <= bucket - first < buckets:
                measured[bucket - first] += count
                good[bucket - first] += count * (decision == "OK")
        stride = max(1, int(measured.sum()) // SAMPLED)
        latencies: list[list[float]] = [[] for _ in range(buckets)]
        sampled = (
            "SELECT time_ns / ?, json_extract(latency_ms, '$.total') FROM verdicts WHERE time_ns >= ? AND seq % ? = 0"
        )
        for bucket, latency in self._query(sampled, (width, first * width, stride)):
            if latency is not None and 0 <= bucket - first < buckets:
                latencies[bucket - first].append(latency)
        return {
            "bucket_s": width / 1e9,
            "time": [(first + i) * width / 1e9 for i in range(buckets)],
            "parts": [int(n) for n in measured],
            "yield": [float(g / n) if n else None for g, n in zip(good, measured, strict=True)],
            "latency_p50_ms": [float(np.percentile(rows, 50)) if rows else None for rows in latencies],
            "latency_p99_ms": [float(np.percentile(rows, 99)) if rows else None for rows in latencies],
        }

    def _threshold(self, camera: str | None) -> dict[str, Any]:
        rows = self._query(
            "SELECT score FROM (SELECT seq, score, source FROM verdicts ORDER BY seq DESC LIMIT 20000) "
            "WHERE score IS NOT NULL AND (? IS NULL OR source = ?) ORDER BY seq DESC LIMIT 5000",
            (camera, camera),
        )
        scores = np.array([row[0] for row in rows], np.float64)
        scores = scores[np.isfinite(scores)]
        calibration = self.view.calibration(camera)
        limit = calibration.get("image_threshold")
        edges: list[float] = []
        counts: list[int] = []
        if len(scores):
            # Far outliers share the last bar; else one broken part would squeeze all others into the first.
            high = max(float(np.quantile(scores, 0.995)), 1.4 * limit if limit else float(scores[0]))
            low = min(float(scores.min()), limit if limit is not None else float(scores[0]))
            line = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
            counts = np.histogram(np.clip(scores, line[0], line[-1]), line)[0].tolist()
            edges = line.tolist()
        return {
            "image_threshold": limit,
            "false_alarm_rate": calibration.get("false_alarm_rate"),
            "normals": calibration.get("normals"),
            "score_quantiles": list(calibration.get("score_quantiles") or ()),
            "parts": len(scores),
            "edges": edges,
            "counts": counts,
        }

    def _hour(self) -> dict[str, Any]:
        since = time.time_ns() - 3_600_000_000_000
        counts = dict(self._query("SELECT decision, COUNT(*) FROM verdicts WHERE time_ns >= ? GROUP BY 1", (since,)))
        parts = sum(counts.values())
        return {
            "parts": parts,
            "rejects": counts.get("NG", 0),
            "unsure": counts.get("UNSURE", 0),
            "errors": counts.get("ERROR", 0),
            "yield": counts.get("OK", 0) / parts if parts else None,
        }

    def _sinks(self) -> list[dict[str, Any]]:
        owed = self._for(1.0, self._owed)
        return [asdict(state) | {"owed": owed.get(state.name, 0)} for state in self.view.sinks()]

    def _owed(self) -> dict[str, int]:
        return dict(self._query("SELECT sink, COUNT(*) FROM outbox GROUP BY sink", ()))

    def _open_reviews(self) -> int:
        inner = f"SELECT 1 FROM verdicts WHERE {WHERE['open']} LIMIT 100"
        return int(self._query(f"SELECT COUNT(*) FROM ({inner})", ())[0][0])

    def _row(self, row: tuple[Any, ...]) -> dict[str, Any]:
        values = dict(zip(ROW.split(", "), row, strict=True))
        boxes = [dict(zip(DefectBox.__dataclass_fields__, box, strict=True)) for box in json.loads(values["boxes"])]
        review = values.pop("review")
        values.update(
            boxes=boxes,
            time=values.pop("time_ns") / 1e9,
            latency_ms=json.loads(values["latency_ms"]).get("total"),
            review=review,
            label=label_of(review),
            pictures=sorted(self.view.pictures(values["id"]), key=("picture", "overlay", "map").index),
        )
        for name in ("score", "threshold", "latency_ms"):  # JSON has no infinities
            if values[name] is not None and not math.isfinite(values[name]):
                values[name] = None
        return values

    def _query(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._db.execute(sql, tuple(values)).fetchall()
        except sqlite3.Error as error:
            raise DataError(f"cannot read the verdict store: {error}", "see `edgead doctor`") from error

    def _for(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
        key = (function.__name__, *arguments)
        at, value = self._kept.get(key, (-math.inf, None))
        if self._clock() - at > seconds:
            value = function(*arguments)
            if len(self._kept) > 32:
                self._kept.clear()
            self._kept[key] = (self._clock(), value)
        return value


def review_of(decision: str, label: Label | None) -> Review | None:
    """What a person's word on the part says about the verdict."""
    if label is None:
        return None
    if decision == "OK":
        return "missed" if label == "defect" else "good"
    return "true_alarm" if label == "defect" else "false_alarm"


def label_of(review: str | None) -> Label | None:
    """The person's word behind a stored review."""
    if review is None:
        return None
    return "defect" if review in ("true_alarm", "missed") else "good"
