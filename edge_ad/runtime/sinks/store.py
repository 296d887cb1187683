"""Store: every verdict in one SQLite file, one transaction a verdict, and the outbox of what sinks still owe.

A verdict is acknowledged when `add` returns: from then on it survives `kill -9`, and with
`durable` (the default) a power cut too. Several processes may write to one store.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_ad.errors import DataError
from edge_ad.runtime.verdict import DefectBox, Verdict, writable

Review = Literal["true_alarm", "false_alarm", "missed", "good"]
REVIEWS: tuple[Review, ...] = ("true_alarm", "false_alarm", "missed", "good")
APPLICATION_ID = 0x45644144  # "EdAD": tells our file from somebody else's database
SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE verdicts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time_ns INTEGER NOT NULL,
    captured_ns INTEGER NOT NULL, source TEXT NOT NULL, frame INTEGER NOT NULL, part TEXT NOT NULL,
    decision TEXT NOT NULL, score REAL, threshold REAL, boxes TEXT NOT NULL, area INTEGER NOT NULL,
    reason TEXT NOT NULL, latency_ms TEXT NOT NULL, artifact TEXT NOT NULL,
    engine TEXT NOT NULL DEFAULT '', review TEXT, reviewed_ns INTEGER);
CREATE INDEX verdicts_time ON verdicts (time_ns);
CREATE INDEX verdicts_decision ON verdicts (decision, seq);
CREATE TABLE outbox (sink TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (sink, seq)) WITHOUT ROWID;
"""
UPGRADES = {1: "ALTER TABLE verdicts ADD COLUMN engine TEXT NOT NULL DEFAULT ''"}  # from that version to the next
COLUMNS = (
    "id, time_ns, captured_ns, source, frame, part, decision, score, threshold, boxes, area, reason, "
    "latency_ms, artifact, engine"
)
# What people and the line did, beside verdicts; earlier versions open a store with this table too.
EVENTS = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, time_ns INTEGER NOT NULL, source TEXT NOT NULL, kind TEXT NOT NULL,
    text TEXT NOT NULL, facts TEXT NOT NULL)"""
INSERT = f"INSERT INTO verdicts ({COLUMNS}) VALUES ({', '.join('?' * 15)})"
DELETE_BATCH = 500  # rows a retention step removes at most, so that a verdict never waits long for it


@dataclass(frozen=True)
class StoredVerdict:
    """A verdict with its place in the store and what a person said of it (None: nothing yet)."""

    seq: int
    verdict: Verdict
    review: Review | None


@dataclass(frozen=True)
class Event:
    """What a person or the line did. source: the station. kind: one word. text: for people. facts: plain values."""

    time_ns: int
    source: str
    kind: str
    text: str
    facts: Mapping[str, Any]


class Store:
    """Verdicts on disk, newest last; safe to use from several threads.

    path: the SQLite file, created with its folder when absent
    days: verdicts older than this are removed; 0 keeps all
    max_bytes: the oldest verdicts are removed while the file is larger; 0 for no limit
    durable: wait for the disk at every verdict (survives a power cut; 1-20 ms a verdict)

    A file that SQLite finds damaged is set aside as `<name>.damaged-<time>` and a new one is begun,
    because a line must not stop for its history; `set_aside` then holds the old file's path.
    DataError: the file is another program's database or a newer version's.
    """

    def __init__(self, path: str | Path, *, days: float = 0, max_bytes: int = 0, durable: bool = True) -> None:
        self.path = Path(path)
        self.days, self.max_bytes, self.durable = days, max_bytes, durable
        self.set_aside: Path | None = None
        self._lock = threading.RLock()
        # Retention reckons with a clock that can't jump: the wall clock at the start plus monotonic time.
        self._started = time.time_ns() - time.monotonic_ns()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make the folder {self.path.parent}: {error.strerror}", _OPEN_HINT) from error
        try:
            self._db = self._connect()
        except sqlite3.OperationalError as error:
            raise DataError(f"cannot open the verdict store {self.path}: {error}", _OPEN_HINT) from error
        except sqlite3.DatabaseError:
            self.set_aside = self._move_damaged()
            self._db = self._connect()

    def add(self, verdict: Verdict, outbox: Iterable[str] = ()) -> int:
        """Write the verdict, and that each sink named in `outbox` still owes it; returns its number.

        One transaction: on return all of it is stored, on an exception nothing is.
        sqlite3.Error: the disk is full, gone or read-only.
        """
        values = (
            verdict.id, verdict.time_ns, verdict.captured_ns, verdict.source, verdict.frame, verdict.part,
            verdict.decision, verdict.score, verdict.threshold, _boxes_json(verdict), verdict.area,
            verdict.reason, json.dumps(dict(verdict.latency_ms)), verdict.artifact, verdict.engine,
        )  # fmt: skip
        with self._transaction() as db:
            seq = int(db.execute(INSERT, values).lastrowid or 0)
            db.executemany("INSERT INTO outbox (sink, seq) VALUES (?, ?)", [(sink, seq) for sink in outbox])
        return seq

    def get(self, id: str) -> StoredVerdict | None:
        """The verdict with this id."""
        rows = self._select("WHERE id = ?", (id,))
        return rows[0] if rows else None

    def recent(self, limit: int = 100) -> list[StoredVerdict]:
        """The newest verdicts first, at most `limit`."""
        return self._select("ORDER BY seq DESC LIMIT ?", (limit,))

    def count(self) -> int:
        """How many verdicts are stored."""
        with self._lock:
            return int(self._db.execute("SELECT COUNT(*) FROM verdicts").fetchone()[0])

    def review(self, id: str, review: Review | None) -> bool:
        """Record what a person says of the verdict (None takes it back); False when it isn't stored."""
        if review is not None and review not in REVIEWS:
            raise DataError(f"unknown review {review!r}", f"use one of {', '.join(REVIEWS)}")
        with self._transaction() as db:
            when = None if review is None else time.time_ns()
            changed = db.execute("UPDATE verdicts SET review = ?, reviewed_ns = ? WHERE id = ?", (review, when, id))
            return changed.rowcount == 1

    def add_event(self, source: str, kind: str, text: str, facts: Mapping[str, Any] | None = None) -> None:
        """Write what was done, for whoever asks later. sqlite3.Error: the disk is full, gone or read-only."""
        values = (time.time_ns(), writable(source), kind, writable(text), json.dumps(dict(facts or {})))
        with self._transaction() as db:
            db.execute("INSERT INTO events (time_ns, source, kind, text, facts) VALUES (?, ?, ?, ?, ?)", values)

    def events(self, source: str | None = None, limit: int = 100) -> list[Event]:
        """What was done, newest first, at most `limit`; at one station, or at all with None."""
        with self._lock:
            return _events(self._db, source, limit)

    def undelivered(self, sink: str, limit: int = 100) -> list[StoredVerdict]:
        """Verdicts that the sink hasn't delivered, oldest first."""
        return self._select("JOIN outbox USING (seq) WHERE outbox.sink = ? ORDER BY seq LIMIT ?", (sink, limit))

    def mark_delivered(self, sink: str, seqs: Iterable[int]) -> None:
        """Take these verdicts out of the sink's outbox."""
        with self._transaction() as db:
            db.executemany("DELETE FROM outbox WHERE sink = ? AND seq = ?", [(sink, seq) for seq in seqs])

    def size_bytes(self) -> int:
        """Bytes in use by verdicts (pages freed by retention are used again and don't count)."""
        with self._lock:
            pages, free, size = (
                int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "freelist_count", "page_size")
            )
        return (pages - free) * size

    def retain(self) -> int:
        """Remove up to 500 verdicts that are too old or too many; returns how many were removed."""
        oldest = "SELECT seq FROM verdicts {} ORDER BY seq LIMIT ?"
        removed = 0
        with self._transaction() as db:
            if self.days > 0:
                limit_ns = self._started + time.monotonic_ns() - int(self.days * 86400e9)
                removed += self._remove(db, oldest.format("WHERE time_ns < ?"), (limit_ns, DELETE_BATCH))
            if self.max_bytes > 0 and not removed and self.size_bytes() > self.max_bytes:
                removed += self._remove(db, oldest.format(""), (DELETE_BATCH,))
        if removed:
            with self._lock:
                self._db.execute("PRAGMA incremental_vacuum").fetchall()
        return removed

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file; empty when it is intact."""
        with self._lock:
            lines = [str(row[0]) for row in self._db.execute("PRAGMA integrity_check").fetchall()]
        return [] if lines == ["ok"] else lines

    def close(self) -> None:
        """Merge the write-ahead log into the file and close it."""
        with self._lock:
            with suppress(sqlite3.Error):  # a full disk: the log stays beside the file and is read next time
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts only while the file is empty
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if self.durable else 'NORMAL'}")
        db.execute("BEGIN IMMEDIATE")  # two processes may create the file at the same moment
        application = int(db.execute("PRAGMA application_id").fetchone()[0])
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        tables = int(db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0])
        if tables and application != APPLICATION_ID:
            raise DataError(f"{self.path} is another program's database", "choose another file or folder")
        if version > SCHEMA_VERSION:
            raise DataError(
                f"{self.path} was written by a newer version (schema {version}, this one knows {SCHEMA_VERSION})",
                "upgrade edge-ad, or choose another file",
            )
        if not tables:
            for statement in filter(str.strip, SCHEMA.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        else:
            for earlier in range(version, SCHEMA_VERSION):
                db.execute(UPGRADES[earlier])
        if version != SCHEMA_VERSION:
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute(EVENTS)
        db.execute("COMMIT")

    def _move_damaged(self) -> Path:
        target = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                self.path.with_name(self.path.name + suffix).rename(target.with_name(target.name + suffix))
        return target

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    self._db.execute("ROLLBACK")
                raise

    def _remove(self, db: sqlite3.Connection, query: str, values: tuple[object, ...]) -> int:
        db.execute(f"DELETE FROM outbox WHERE seq IN ({query})", values)
        return db.execute(f"DELETE FROM verdicts WHERE seq IN ({query})", values).rowcount

    def _select(self, clause: str, values: Sequence[object]) -> list[StoredVerdict]:
        with self._lock:
            rows = self._db.execute(f"SELECT {COLUMNS}, seq, review FROM verdicts {clause}", tuple(values)).fetchall()
        return [_stored(row) for row in rows]


def read_events(path: str | Path, limit: int = 1000) -> list[Event]:
    """What people and the line did, newest first, of a store that a line may be writing to; nothing is changed.

    DataError: there is no such store.
    """
    try:
        uri = Path(path).absolute().as_uri() + "?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as db:
            if int(db.execute("PRAGMA application_id").fetchone()[0]) != APPLICATION_ID:
                raise DataError(f"{path} is no verdict store", "name the line's verdicts.sqlite")
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone():
                return []  # of a version that kept none
            return _events(db, None, limit)
    except sqlite3.Error as error:
        raise DataError(f"can't read the verdict store {path}: {error}", "name the line's verdicts.sqlite") from error


def _events(db: sqlite3.Connection, source: str | None, limit: int) -> list[Event]:
    rows = db.execute(
        "SELECT time_ns, source, kind, text, facts FROM events WHERE ? IS NULL OR source = ? "
        "ORDER BY seq DESC LIMIT ?",
        (source, source, limit),
    ).fetchall()
    return [Event(int(row[0]), str(row[1]), str(row[2]), str(row[3]), json.loads(row[4])) for row in rows]


_OPEN_HINT = "choose a folder (--out) that is writable and has free space"


def _boxes_json(verdict: Verdict) -> str:
    return json.dumps([(b.x, b.y, b.width, b.height, b.area, b.peak) for b in verdict.boxes])


def _stored(row: tuple[object, ...]) -> StoredVerdict:
    names = COLUMNS.split(", ")
    values = dict(zip(names, row, strict=False))
    values["boxes"] = tuple(DefectBox(*box) for box in json.loads(str(values["boxes"])))
    values["latency_ms"] = json.loads(str(values["latency_ms"]))
    seq, review = row[len(names) :]
    return StoredVerdict(int(str(seq)), Verdict(**values), review)  # type: ignore[arg-type]
