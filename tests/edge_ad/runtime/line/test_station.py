"""A station whose camera is faster than its engine: what is judged is of this moment."""

import time

import numpy as np
import pytest

from edge_ad.runtime.line.admission import SLOW, Admission
from edge_ad.runtime.line.inspector import Inspector


def test_the_turn_is_given_early_only_where_preparing_takes_long():
    admission = Admission()
    assert admission.acquire(0)
    assert not admission.acquire(0.01)
    admission.release()
    assert admission.acquire(0)
    for _ in range(50):
        admission.add_prepare_time(1000)
        admission.add_inference_time(1000)
    assert admission.overlaps
    for _ in range(50):
        admission.add_inference_time(2 * SLOW * 1000)
    assert not admission.overlaps


def test_the_next_part_is_taken_while_the_engine_works(line_artifact):
    """Taking and releasing a version wait for no inference: otherwise nothing overlaps."""
    import threading

    from edge_ad.runtime.engines.loaded import Engine
    from edge_ad.runtime.settings import EngineSettings

    engine = Engine(line_artifact.path, EngineSettings(threads=1))
    begun, done, runner = threading.Event(), threading.Event(), engine.loaded.runner

    class Held:
        image_size = runner.image_size

        def __call__(self, images):
            begun.set()
            assert done.wait(120)
            return runner(images)

        def close(self):
            runner.close()

    engine.loaded.runner = Held()
    thread = threading.Thread(target=engine.loaded.infer, args=(np.zeros((1, 3, *runner.image_size), np.float32),))
    thread.start()
    assert begun.wait(120)
    other = threading.Thread(target=lambda: engine.current().release(), daemon=True)
    other.start()
    other.join(60)
    taken = not other.is_alive()
    done.set()
    thread.join(60)
    assert taken
    engine.close()


@pytest.mark.parametrize("slow", [True, False])
def test_a_slow_engine_gets_the_cameras_newest_frame(run_settings, cameras, product, wait_for, monkeypatch, slow):
    """Counted in frames: how far the camera was ahead when the engine began. A queue would make it eight and more."""
    import threading

    ahead = []
    with cameras.MjpegServer(picture=product[0], fps=10) as server:
        inspector = Inspector(run_settings({"name": "top", "source": {"address": server.url}}))
        station = inspector.stations[0]
        infer, infer_job = station.engine.loaded.infer, station._infer

        def slowly(images):
            time.sleep(0.4 if slow else 0)
            return infer(images)

        def counted(job):
            ahead.append(station.capture.seen - 1 - job.number)
            infer_job(job)

        monkeypatch.setattr(station.engine.loaded, "infer", slowly)
        monkeypatch.setattr(station, "_infer", counted)
        thread = threading.Thread(target=inspector.run)
        thread.start()
        try:
            wait_for(lambda: len(ahead) > 8)
        finally:
            inspector.stop()
            thread.join(60)
    assert sorted(ahead[2:])[len(ahead[2:]) // 2] < 8


def test_a_camera_without_parts_or_with_faults_never_blocks(run_settings, cameras, product, stored, wait_for):
    """Frames that go to no engine, and faults, give the turn back."""
    import threading

    table = {"trigger": {"kind": "interval", "interval_ms": 100}}
    with cameras.MjpegServer(picture=product[0], fps=100, broken={3, 4, 9, 20}) as server:
        inspector = Inspector(run_settings({"name": "top", "source": {"address": server.url}, **table}))
        thread = threading.Thread(target=inspector.run)
        thread.start()
        try:
            wait_for(lambda: inspector.stations[0].inspected > 10)
        finally:
            inspector.stop()
            thread.join(60)
    assert [v.decision for v in stored()].count("ERROR") >= 1
