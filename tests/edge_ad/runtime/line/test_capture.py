import importlib.util
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edge_ad.errors import DataError
from edge_ad.runtime.line.capture import Capture, Ended, Fault
from edge_ad.runtime.settings import SourceSettings
from edge_ad.runtime.sources.base import Picture, Source, SourceLost, Unreadable
from edge_ad.runtime.sources.opening import open_source

spec = importlib.util.spec_from_file_location("cameras", Path(__file__).parents[1] / "sources" / "cameras.py")
cameras = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cameras)
QUICK = {"reconnect_s": (0.05, 0.2), "timeout_s": 30.0}


class Scripted(Source):
    """A source that does what a list says: a picture, or raise."""

    name = "scripted"

    def __init__(self, script, live=True, every_ms=0):
        """every_ms: how far apart the pictures were taken, as they say; they come as fast as they are read."""
        self.script, self.live, self.every_ns = iter(script), live, every_ms * 1_000_000
        self.number = self.opened = 0

    def open(self):
        self.opened += 1

    def read(self):
        step = next(self.script, None)
        if isinstance(step, Exception):
            raise step
        if step is None:
            return None
        self.number += 1
        captured_ns = self.number * self.every_ns if self.every_ns else time.monotonic_ns()
        return Picture(step, self.number - 1, time.time_ns(), captured_ns)

    def close(self):
        pass


def capture(source, keep="every", depth=100, **settings):
    thread = Capture(source, SourceSettings(address="x", **(QUICK | settings)), keep=keep, depth=depth)
    thread.start()
    return thread


def drain(thread, timeout_s=60):
    items = []
    while True:
        try:
            item = thread.get(timeout_s)
        except Ended:
            return items
        assert item is not None, "timed out"
        items.append(item)


def test_every_frame_waits_for_room_and_arrives(wait_for):
    thread = capture(Scripted([cameras.numbered(n) for n in range(30)], live=False), depth=2)
    wait_for(lambda: thread.seen == 3)  # two wait in the queue, and one for room there
    time.sleep(0.05)
    assert thread.seen == 3
    assert [item.number for item in drain(thread)] == list(range(30))
    assert (thread.dropped, thread.state) == (0, "ended")


def test_newest_frame_never_waits():
    thread = capture(Scripted([cameras.numbered(n) for n in range(30)]), keep="newest", depth=1)
    thread.join(60)
    assert [item.number for item in drain(thread)] == [29]
    assert thread.dropped == 29


def test_black_and_frozen_pictures_are_outages_not_frames():
    black, still = np.zeros((240, 320, 3), np.uint8), cameras.numbered(7)
    script = [cameras.numbered(0), *[black] * 5, cameras.numbered(1), *[still] * 30, cameras.numbered(2)]
    thread = capture(Scripted(script, every_ms=10), frozen_s=0.15)
    items = drain(thread)
    faults = [item for item in items if isinstance(item, Fault)]
    assert [("black" in f.reason, "same picture" in f.reason) for f in faults] == [(True, False), (False, True)]
    assert all(fault.outage for fault in faults)
    numbers = [cameras.number_of(item.frame) for item in items if isinstance(item, Picture)]
    assert numbers[:2] == [0, 1]
    assert numbers[-1] == 2
    assert numbers.count(7) == 15
    assert not any(item.frame.flags.writeable for item in items if isinstance(item, Picture))


def test_broken_image_is_a_fault_and_the_rest_goes_on():
    script = [cameras.numbered(0), DataError("part7.jpg is broken"), cameras.numbered(1)]
    kinds = [type(item).__name__ for item in drain(capture(Scripted(script, live=False)))]
    assert kinds == ["Picture", "Fault", "Picture"]


def test_a_driver_that_raises_anything_is_reconnected():
    script = [cameras.numbered(0), OSError("ioctl"), cameras.numbered(1), SourceLost("gone"), cameras.numbered(2)]
    source = Scripted(script)
    thread = capture(source)
    items = drain(thread)
    assert [cameras.number_of(i.frame) for i in items if isinstance(i, Picture)] == [0, 1, 2]
    assert (source.opened, thread.reconnects) == (3, 2)


def test_first_failure_ends_it_unless_told_to_keep_trying():
    source = open_source(SourceSettings(address="http://127.0.0.1:9/x", **QUICK))
    thread = capture(source)
    thread.join(60)
    assert isinstance(thread.failure, SourceLost)
    patient = Capture(source, SourceSettings(address="x", **QUICK), keep="newest", depth=1, keep_trying=True)
    patient.start()
    item = patient.get(60)
    assert isinstance(item, Fault)
    assert patient.state == "lost"
    patient.stop()
    patient.join(60)
    assert patient.failure is None


def test_stream_server_stopped_and_restarted_three_times(wait_for):
    server = cameras.MjpegServer(fps=100)
    thread = capture(open_source(SourceSettings(address=server.url, **QUICK)), keep="newest", depth=1)
    assert isinstance(thread.get(60), Picture)
    for round_ in range(3):
        server.stop()
        wait_for(lambda: thread.state == "lost")
        server.start()
        wait_for(lambda: thread.state == "up")
        assert thread.reconnects == round_ + 1
    before = thread.seen
    wait_for(lambda: thread.seen > before + 10)
    thread.stop()
    thread.join(60)
    server.stop()
    assert not thread.is_alive()


@pytest.mark.parametrize("keep", ["newest", "every"])
def test_stop_ends_a_blocked_thread(keep):
    thread = capture(Scripted([cameras.numbered(n) for n in range(50)]), keep=keep, depth=1)
    thread.stop()
    thread.join(60)
    assert not thread.is_alive()


class Hanging(Scripted):
    """A camera whose next read after its pictures lasts until it is interrupted, or for ever."""

    def __init__(self, frames, *, deaf=False, **more):
        super().__init__(frames, **more)
        self.deaf, self.longest_s, self.released = deaf, 0.1, threading.Event()

    def read(self):
        picture = super().read()
        if picture is None:
            self.released.wait(30)
            self.released.clear()
            self.script = iter([cameras.numbered(9)])
            raise SourceLost("interrupted")
        return picture

    def interrupt(self):
        if not self.deaf:
            self.released.set()


def test_a_read_that_hangs_is_an_outage_and_is_interrupted(caplog, monkeypatch):
    monkeypatch.setattr("edge_ad.runtime.line.capture.MARGIN_S", 0.1)
    source = Hanging([cameras.numbered(0)])
    thread = capture(source)
    assert isinstance(thread.get(60), Picture)
    fault = next(item for item in iter(lambda: thread.get(0.05), "") if item)
    assert fault.outage
    assert "no whole frame within 0.1 s" in fault.reason
    assert isinstance(thread.get(60), Picture)
    assert caplog.text.count("is back") == 1
    thread.stop()
    thread.join(60)


@pytest.mark.parametrize("live", [True, False])
def test_stopping_leaves_a_source_behind_that_hangs(live, monkeypatch):
    monkeypatch.setattr("edge_ad.runtime.line.capture.STOP_S", 0.2)
    source = Hanging([cameras.numbered(0)], deaf=True, live=live)
    thread = capture(source)
    thread.stop()
    assert [type(item) for item in drain(thread)] in ([Picture], [])
    source.released.set()
    thread.join(60)


def test_a_camera_that_opens_but_sends_nothing_is_not_back(caplog, wait_for):
    source = Scripted([cameras.numbered(0), *[SourceLost("no frames")] * 3, cameras.numbered(1)])
    thread = capture(source)
    drain(thread)
    assert (thread.reconnects, caplog.text.count("is back")) == (3, 1)


def test_the_age_of_the_last_frame_is_a_problem():
    thread = Capture(Scripted([]), SourceSettings(address="x", timeout_s=5), keep="newest", depth=1)
    assert thread.problem() == "starting"
    thread.state = "up"
    assert not thread.problem()
    thread.last_frame_ns -= 7_000_000_000
    assert thread.problem() == "no whole frame for 7 s"


def test_what_cannot_be_read_ends_the_source_with_its_reason():
    thread = capture(Scripted([cameras.numbered(0), Unreadable("nothing more"), cameras.numbered(1)], live=False))
    assert [type(item).__name__ for item in drain(thread)] == ["Picture"]
    assert isinstance(thread.failure, Unreadable)
