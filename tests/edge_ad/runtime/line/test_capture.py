import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest

from edge_ad.errors import DataError
from edge_ad.runtime.line.capture import Capture, Ended, Fault
from edge_ad.runtime.settings import SourceSettings
from edge_ad.runtime.sources.base import Picture, SourceLost
from edge_ad.runtime.sources.opening import open_source

spec = importlib.util.spec_from_file_location("cameras", Path(__file__).parents[1] / "sources" / "cameras.py")
cameras = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cameras)
QUICK = {"reconnect_s": (0.05, 0.2), "timeout_s": 1.0}


class Scripted:
    """A source that does what a list says: a picture, or raise."""

    name = "scripted"

    def __init__(self, script, live=True, pace_s=0.0):
        self.script, self.live, self.pace_s = iter(script), live, pace_s
        self.number = self.opened = 0

    def open(self):
        self.opened += 1

    def read(self):
        time.sleep(self.pace_s)
        step = next(self.script, None)
        if isinstance(step, Exception):
            raise step
        if step is None:
            return None
        self.number += 1
        return Picture(step, self.number - 1, time.time_ns(), time.monotonic_ns())

    def close(self):
        pass


def capture(source, keep="every", depth=100, **settings):
    thread = Capture(source, SourceSettings(address="x", **(QUICK | settings)), keep=keep, depth=depth)
    thread.start()
    return thread


def drain(thread, timeout_s=5):
    items = []
    while True:
        try:
            item = thread.get(timeout_s)
        except Ended:
            return items
        assert item is not None, "timed out"
        items.append(item)


def test_every_frame_waits_for_room_and_arrives():
    thread = capture(Scripted([cameras.numbered(n) for n in range(30)], live=False), depth=2)
    time.sleep(0.2)
    assert thread.seen <= 4
    assert [item.number for item in drain(thread)] == list(range(30))
    assert (thread.dropped, thread.state) == (0, "ended")


def test_newest_frame_never_waits():
    thread = capture(Scripted([cameras.numbered(n) for n in range(30)]), keep="newest", depth=1)
    thread.join(5)
    assert [item.number for item in drain(thread)] == [29]
    assert thread.dropped == 29


def test_black_and_frozen_pictures_are_outages_not_frames():
    black, still = np.zeros((240, 320, 3), np.uint8), cameras.numbered(7)
    script = [cameras.numbered(0), *[black] * 5, cameras.numbered(1), *[still] * 30, cameras.numbered(2)]
    thread = capture(Scripted(script, pace_s=0.01), frozen_s=0.15)
    items = drain(thread)
    faults = [item for item in items if isinstance(item, Fault)]
    assert [("black" in f.reason, "same picture" in f.reason) for f in faults] == [(True, False), (False, True)]
    assert all(fault.outage for fault in faults)
    numbers = [cameras.number_of(item.frame) for item in items if isinstance(item, Picture)]
    assert numbers[:2] == [0, 1]
    assert numbers[-1] == 2
    assert 1 <= numbers.count(7) < 25
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
    thread.join(5)
    assert isinstance(thread.failure, SourceLost)
    patient = Capture(source, SourceSettings(address="x", **QUICK), keep="newest", depth=1, keep_trying=True)
    patient.start()
    item = patient.get(5)
    assert isinstance(item, Fault)
    assert patient.state == "lost"
    patient.stop()
    patient.join(5)
    assert patient.failure is None


def test_stream_server_stopped_and_restarted_three_times(wait_for):
    server = cameras.MjpegServer(fps=100)
    thread = capture(open_source(SourceSettings(address=server.url, **QUICK)), keep="newest", depth=1)
    assert isinstance(thread.get(5), Picture)
    for round_ in range(3):
        server.stop()
        wait_for(lambda: thread.state == "lost")
        time.sleep(0.1)
        server.start()
        wait_for(lambda: thread.state == "up")
        assert thread.reconnects == round_ + 1
    before = thread.seen
    wait_for(lambda: thread.seen > before + 10)
    thread.stop()
    thread.join(5)
    server.stop()
    assert not thread.is_alive()


@pytest.mark.parametrize("keep", ["newest", "every"])
def test_stop_ends_a_blocked_thread(keep):
    thread = capture(Scripted([cameras.numbered(n) for n in range(50)]), keep=keep, depth=1)
    thread.stop()
    thread.join(5)
    assert not thread.is_alive()
