import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.errors import DataError
from edge_ad.runtime.sinks.store import Store, read_events
from edge_ad.runtime.verdict import DefectBox, Verdict, new_id


def verdict(number=0, **changes):
    values = {
        "id": new_id(), "time_ns": time.time_ns(), "captured_ns": time.monotonic_ns(), "source": "camera",
        "frame": number, "part": str(number), "decision": "OK", "score": 0.25, "threshold": 0.5,
    }  # fmt: skip
    return Verdict(**(values | changes))


def test_a_verdict_comes_back_as_it_went_in(tmp_path):
    box = DefectBox(3, 4, 5, 6, 21, 0.875)
    mine = verdict(
        7,
        decision="NG",
        boxes=(box,),
        area=21,
        reason="défaut «x»",
        latency_ms={"infer": 3.5},
        artifact="ab",
        engine="openvino-cpu int8",
    )
    with Store(tmp_path / "new" / "v.sqlite") as store:
        seq = store.add(mine)
        assert store.recent() == [store.get(mine.id)]
        assert store.get(mine.id).verdict == mine
        assert store.get(mine.id).seq == seq
        assert store.get("nothing") is None
    assert json.loads(mine.to_json()) == mine.to_dict()


@settings(max_examples=30, deadline=None)
@given(
    st.floats(allow_nan=False, allow_infinity=True),
    st.text(max_size=30),
)
def test_any_score_and_text_survives(tmp_path_factory, score, text):
    with Store(tmp_path_factory.mktemp("s") / "v.sqlite", durable=False) as store:
        mine = verdict(score=score, part=text, reason=text)
        store.add(mine)
        assert store.get(mine.id).verdict == mine


def test_history_and_reviews(tmp_path):
    with Store(tmp_path / "v.sqlite", durable=False) as store:
        for n in range(20):
            store.add(verdict(n, decision="NG" if n % 4 == 0 else "OK", source=f"camera{n % 2}"))
        newest = store.recent(2)
        assert [row.verdict.frame for row in newest] == [19, 18]
        id = newest[0].verdict.id
        assert store.review(id, "false_alarm")
        assert store.get(id).review == "false_alarm"
        assert store.review(id, None)
        assert store.get(id).review is None
        assert not store.review("nothing", "good")
        with pytest.raises(DataError, match="unknown review"):
            store.review(id, "perhaps")


def test_outbox_belongs_to_the_verdicts_transaction(tmp_path):
    with Store(tmp_path / "v.sqlite", durable=False) as store:
        seqs = [store.add(verdict(n), ["mqtt", "web"]) for n in range(3)]
        with pytest.raises(sqlite3.IntegrityError):
            store.add(store.recent(1)[0].verdict, ["mqtt"])
        store.mark_delivered("mqtt", seqs[:2])
        assert [row.seq for row in store.undelivered("mqtt")] == seqs[2:]
        assert [row.seq for row in store.undelivered("web", 2)] == seqs[:2]


def test_retention_by_bytes_keeps_the_newest(tmp_path):
    with Store(tmp_path / "v.sqlite", max_bytes=400_000, durable=False) as store:
        for n in range(1500):
            store.add(verdict(n, reason="x" * 400))
        while store.retain():
            pass
        assert store.size_bytes() <= 400_000
        assert 0 < store.count() < 1500
        assert store.recent(1)[0].verdict.frame == 1499
        assert store.check() == []


def test_retention_by_days_ignores_a_jumping_clock(tmp_path, monkeypatch):
    old = time.time_ns() - 10 * 86400 * 10**9
    with Store(tmp_path / "v.sqlite", days=5, durable=False) as store:
        for n in range(4):
            store.add(verdict(n, time_ns=old if n < 2 else time.time_ns()), ["mqtt"])
        monkeypatch.setattr(time, "time_ns", lambda: 4 * 10**18)  # the year 2096
        assert store.retain() == 2
        assert store.retain() == 0
        assert [row.verdict.frame for row in store.undelivered("mqtt")] == [2, 3]


def test_a_store_of_the_first_version_is_opened_and_goes_on(tmp_path):
    path = tmp_path / "v.sqlite"
    first, second = verdict(1), verdict(2, engine="onnxruntime-cpu fp32")
    with Store(path) as store:
        store.add(first, ["mqtt"])
    with sqlite3.connect(path) as db:  # as the first version had it
        db.execute("ALTER TABLE verdicts DROP COLUMN engine")
        db.execute("PRAGMA user_version = 1")
    db.close()
    for _ in range(2):  # once upgraded it stays so
        with Store(path) as store:
            assert store.set_aside is None
            assert store.get(first.id).verdict == first
            assert [row.verdict for row in store.undelivered("mqtt")] == [first]
    with Store(path) as store:
        store.add(second)
        assert store.get(second.id).verdict == second
        assert store.check() == []


def test_foreign_newer_and_damaged_files(tmp_path):
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(DataError, match="another program"):
        Store(foreign)
    newer = tmp_path / "newer.sqlite"
    Store(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(DataError, match="newer version"):
        Store(newer)
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"not a database at all" * 500)
    with Store(damaged) as store:
        store.add(verdict())
        assert store.set_aside.read_bytes().startswith(b"not a database")
        assert store.count() == 1
    with pytest.raises(DataError, match="cannot open"):
        Store(tmp_path)


WRITER = """
import sys, time
from edge_ad.runtime.sinks.store import Store
from edge_ad.runtime.verdict import Verdict, new_id
store = Store(sys.argv[1])
for n in range(int(sys.argv[2])):
    id = new_id()
    reason = "y" * (n % 3000)
    store.add(Verdict(id, time.time_ns(), 0, sys.argv[3], n, str(n), "OK", 0.1, 0.5, reason=reason), ["mqtt"])
    sys.stdout.write(id + "\\n")
    sys.stdout.flush()
"""


def writer(path, count, name="w"):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(count), name], stdout=subprocess.PIPE, text=True
    )


def test_two_writing_processes_lose_nothing(tmp_path):
    path = tmp_path / "v.sqlite"
    writers = [writer(path, 120, f"w{n}") for n in range(2)]
    ids = [line for process in writers for line in process.communicate(timeout=300)[0].split()]
    with Store(path) as store:
        assert len(ids) == store.count() == 240
        assert {row.verdict.id for row in store.recent(300)} == set(ids)
        assert store.check() == []


def test_kill_at_random_moments_loses_no_acknowledged_verdict(tmp_path):
    """The benchmark tests/benchmarks/kill9.py does the same 200 times."""
    path, dice, acknowledged = tmp_path / "v.sqlite", random.Random(1), []
    for _ in range(8):
        process = writer(path, 100_000)
        acknowledged.append(process.stdout.readline().strip())
        time.sleep(dice.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        process.communicate(timeout=120)
        acknowledged += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    with Store(path) as store:
        assert store.check() == []
        stored = {row.verdict.id for row in store.recent(10**6)}
        assert {line.strip() for line in acknowledged} <= stored
        assert store.set_aside is None
        assert len(store.undelivered("mqtt", 10**6)) == len(stored)


def test_full_disk_is_an_error_and_heals(tmp_path):
    """RLIMIT_FSIZE stands in for the full disk: writes beyond it fail as on one."""
    code = """
import resource, signal, sqlite3, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.argv = ["x", sys.argv[1]]
from edge_ad.runtime.sinks.store import Store
from edge_ad.runtime.verdict import Verdict, new_id
store = Store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
good = failed = 0
for n in range(200):
    try:
        store.add(Verdict(new_id(), n, 0, "c", n, str(n), "OK", 0.1, 0.5, reason="z" * 4000))
        good += 1
    except sqlite3.Error:
        failed += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.add(Verdict(new_id(), 0, 0, "c", 999, "999", "OK", 0.1, 0.5))
assert failed > 10 and good > 3, (good, failed)
assert store.count() == good + 1 and store.check() == []
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "v.sqlite")], check=True, timeout=300)


def test_threads_share_a_store(tmp_path):
    with Store(tmp_path / "v.sqlite", durable=False) as store:
        threads = [threading.Thread(target=lambda: [store.add(verdict(n)) for n in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.count() == 200


def test_events_are_read_while_a_line_writes_and_nothing_is_made(tmp_path):
    with Store(tmp_path / "v.sqlite") as store:
        store.add_event("camera", "golden-released", "released by Eve", {"by": "Eve"})
        store.add_event("", "drift-acknowledged", "seen")
        assert read_events(store.path) == store.events()
        assert [event.kind for event in read_events(store.path, limit=1)] == ["drift-acknowledged"]
    with pytest.raises(DataError, match="can't read the verdict store"):
        read_events(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE events (x)")
    other.close()
    with pytest.raises(DataError, match="is no verdict store"):
        read_events(tmp_path / "other.sqlite")
    (tmp_path / "text.sqlite").write_text("none")
    with pytest.raises(DataError, match="can't read the verdict store"):
        read_events(tmp_path / "text.sqlite")
