import dataclasses
import sqlite3
import threading
import time

import numpy as np
import pytest

from edge_ad.runtime.sinks.base import Sink
from edge_ad.runtime.sinks.hub import SinkHub
from edge_ad.runtime.sinks.store import Store
from edge_ad.runtime.verdict import Verdict, new_id

FAST = (0.01, 0.05)


def verdict(number):
    return Verdict(new_id(), time.time_ns(), 0, "camera", number, str(number), "OK", 0.1, 0.5)


class Recorder(Sink):
    """A real sink that keeps frame numbers, and fails, hangs or refuses while told to."""

    def __init__(self, name, delivery="stored"):
        self.name, self.delivery = name, delivery
        self.seen, self.frames, self.opened, self.closed = [], [], 0, 0
        self.broken = self.absent = False
        self.gate = threading.Event()
        self.gate.set()

    def open(self):
        if self.absent:
            raise ConnectionRefusedError("nobody there")
        self.opened += 1

    def write(self, verdict, frame, pixel_scores):
        self.gate.wait(120)
        if self.broken:
            raise OSError("cable pulled")
        self.seen.append(verdict.frame)
        self.frames.append(frame)

    def close(self):
        self.closed += 1


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "v.sqlite", durable=False) as store:
        yield store


def test_every_sink_gets_every_verdict_once_in_order(store):
    sinks = [Recorder("a", "now"), Recorder("b", "stored"), Recorder("c", "replayed")]
    frame = np.zeros((2, 2, 3), np.uint8)
    with SinkHub(sinks, store, queue_size=1000) as hub:
        for n in range(200):
            hub.submit(verdict(n), frame)
    assert [sink.seen for sink in sinks] == [list(range(200))] * 3
    assert hub.stored == store.count() == 200
    assert hub.unstored == 0
    assert store.undelivered("c") == []
    assert [(sink.opened, sink.closed) for sink in sinks] == [(1, 1)] * 3
    assert any(seen is frame for seen in sinks[0].frames)  # handed on, not copied


def test_a_hanging_sink_stalls_nobody(store, wait_for):
    slow, quick = Recorder("slow"), Recorder("quick")
    slow.gate.clear()
    hub = SinkHub([slow, quick], store, queue_size=8)
    hub.open()
    for n in range(300):
        hub.submit(verdict(n))
    assert slow.seen == []  # it still hangs in its first write: nobody waited for it
    wait_for(lambda: hub.stored == 300)
    wait_for(lambda: quick.seen[-1:] == [299])
    state = hub.states()[0]
    assert state.dropped + state.queued + 1 == 300
    slow.gate.set()
    hub.close()
    assert slow.seen[-1] == 299


def test_a_sink_that_fails_catches_up_from_the_outbox(store, wait_for):
    sink = Recorder("mqtt", "replayed")
    hub = SinkHub([sink], store, queue_size=4, retry_s=FAST)
    hub.open()
    hub.submit(verdict(0))
    wait_for(lambda: sink.seen == [0])
    sink.broken = True
    for n in range(1, 200):
        hub.submit(verdict(n))
    wait_for(lambda: hub.states()[0].state == "retrying" and hub.stored == 200)
    assert "cable pulled" in hub.states()[0].last_error
    sink.broken = False
    for n in range(200, 210):
        hub.submit(verdict(n))
    wait_for(lambda: len(sink.seen) >= 210)
    hub.close()
    assert sink.seen == list(range(210))
    assert hub.states()[0].dropped == 0
    assert store.undelivered("mqtt") == []


def test_a_sink_is_back_when_it_delivered_not_when_it_opened(store, wait_for, caplog):
    sink = Recorder("webhook", "replayed")  # its open() connects to nobody
    hub = SinkHub([sink], store, retry_s=FAST)
    hub.open()
    sink.broken = True
    hub.submit(verdict(0))
    wait_for(lambda: sink.opened >= 4)
    assert hub.states()[0].state == "retrying"
    assert "is back" not in caplog.text
    assert caplog.text.count("will be retried") == 1
    sink.broken = False
    wait_for(lambda: sink.seen == [0])
    wait_for(lambda: hub.states()[0].state == "up")
    assert caplog.text.count("is back") == 1
    sink.absent, sink.broken = True, True
    hub.close()


def test_what_a_run_owes_the_next_run_delivers(store, wait_for):
    away = Recorder("mqtt", "replayed")
    away.absent = True
    with SinkHub([away], store, retry_s=FAST) as hub:
        for n in range(30):
            hub.submit(verdict(n))
        wait_for(lambda: hub.stored == 30)
    assert away.seen == []
    there = Recorder("mqtt", "replayed")
    with SinkHub([there], store, retry_s=FAST) as hub:
        hub.submit(verdict(30))
        wait_for(lambda: len(there.seen) == 31)
    assert there.seen == list(range(31))


@pytest.fixture
def full(store, monkeypatch):
    """While it is set, the store's disk is full."""
    add, full = store.add, threading.Event()

    def add_or_fail(*arguments):
        if full.is_set():
            raise sqlite3.OperationalError("database or disk is full")
        return add(*arguments)

    monkeypatch.setattr(store, "add", add_or_fail)
    return full


def test_a_failing_store_silences_no_sink_and_catches_up(store, full, wait_for):
    sinks = [Recorder("now", "now"), Recorder("stored"), Recorder("replayed", "replayed")]
    hub = SinkHub(sinks, store, queue_size=100, retry_s=FAST)
    hub.open()
    hub.submit(verdict(0))
    wait_for(lambda: hub.stored == 1)
    full.set()
    for n in range(1, 20):
        hub.submit(verdict(n))
        time.sleep(0.01)
    wait_for(lambda: all(sink.seen == list(range(20)) for sink in sinks))
    assert "full" in hub.store_error
    assert hub.unstored == 19
    full.clear()
    wait_for(lambda: hub.stored == 20)
    hub.close()
    assert [row.verdict.frame for row in store.recent(30)][::-1] == list(range(20))
    assert [sink.seen for sink in sinks] == [list(range(20))] * 3
    assert store.undelivered("replayed") == []


def test_a_dead_receiver_while_the_disk_is_full_still_gets_everything(store, full, wait_for):
    """Handed over unstored to a sink that fails, or whose queue is short: the outbox must not call it delivered."""
    sink = Recorder("replayed", "replayed")
    with SinkHub([sink], store, queue_size=4, retry_s=FAST) as hub:
        hub.submit(verdict(0))
        wait_for(lambda: sink.seen == [0])
        full.set()
        sink.broken = True
        for n in range(1, 30):
            hub.submit(verdict(n))
        wait_for(lambda: hub.states()[0].dropped > 20)
        full.clear()
        wait_for(lambda: hub.stored == 30)
        sink.broken = False
        wait_for(lambda: set(sink.seen) == set(range(30)))
        wait_for(lambda: hub.states()[0].queued == 0)
    assert store.undelivered("replayed") == []


def test_verdicts_reach_sinks_at_once_while_the_disk_is_full(store, full, wait_for):
    """Not only when the store tries again, which it does less and less often."""
    full.set()
    sink = Recorder("stored")
    hub = SinkHub([sink], store, queue_size=4, retry_s=FAST)
    hub.open()
    for n in range(100):
        hub.submit(verdict(n))
        wait_for(lambda n=n: sink.seen[-1:] == [n])
    assert sink.seen == list(range(100))
    full.clear()
    hub.close()
    assert store.count() == 100


def test_frames_do_not_pile_up_behind_a_slow_disk(store, monkeypatch, wait_for):
    gate = threading.Event()
    add = store.add
    monkeypatch.setattr(store, "add", lambda *arguments: (gate.wait(120), add(*arguments))[1])
    sink = Recorder("pictures")
    hub = SinkHub([sink], store, queue_size=1000)
    hub.open()
    for n in range(100):
        hub.submit(verdict(n), np.zeros((4, 4, 3), np.uint8))
    gate.set()
    wait_for(lambda: len(sink.seen) == 100)
    hub.close()
    assert sum(frame is not None for frame in sink.frames) <= 20


def test_close_leaves_a_hanging_sink_behind(store):
    sink = Recorder("hung")
    sink.gate.clear()
    hub = SinkHub([sink], store)
    hub.open()
    hub.submit(verdict(0))
    hub.close(timeout_s=0.3)
    assert sink.seen == []  # it still hangs
    assert store.count() == 1
    sink.gate.set()


def test_a_verdict_that_no_store_can_take_holds_up_no_other(store, caplog, wait_for):
    there = Recorder("mqtt", "replayed")
    with SinkHub([there], store, retry_s=FAST) as hub:
        hub.submit(dataclasses.replace(verdict(0), frame=1 << 70))
        hub.submit(verdict(1))
        wait_for(lambda: hub.stored == 1)
        wait_for(lambda: len(there.seen) == 2)
        assert hub.unstored == 1
    assert "can't be stored" in caplog.text


def test_a_verdict_that_had_reached_the_failing_disk_is_stored_once(store, monkeypatch, wait_for):
    """The try that failed had written it; the next finds its id, while the disk fails once more."""
    add, get, tries = store.add, store.get, []

    def add_but_fail(*arguments):
        tries.append("add")
        seq = add(*arguments)
        if len(tries) == 1:
            raise sqlite3.OperationalError("disk I/O error")
        return seq

    def get_but_fail(id):
        tries.append("get")
        if tries.count("get") == 1:
            raise sqlite3.OperationalError("disk I/O error")
        return get(id)

    monkeypatch.setattr(store, "add", add_but_fail)
    monkeypatch.setattr(store, "get", get_but_fail)
    with SinkHub([], store) as hub:
        hub.submit(verdict(0))
        hub.submit(verdict(1))
        wait_for(lambda: hub.stored == 2)
    assert (hub.unstored, store.count()) == (0, 2)


def test_what_a_sink_could_not_take_is_counted(store, wait_for):
    away = Recorder("images")
    away.absent = True
    with SinkHub([away], store, retry_s=FAST) as hub:
        for n in range(5):
            hub.submit(verdict(n))
        wait_for(lambda: hub.stored == 5)
    assert [(state.delivered, state.dropped) for state in hub.states()] == [(0, 5)]


def test_names_must_differ():
    with pytest.raises(ValueError, match="different names"):
        SinkHub([Recorder("a"), Recorder("a")])
