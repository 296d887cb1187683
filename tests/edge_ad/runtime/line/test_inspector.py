import shutil
import subprocess
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.artifact import Artifact
from edge_ad.errors import ArtifactError, BackendError, ConfigError
from edge_ad.runtime.engines.loaded import Engine
from edge_ad.runtime.line.inspector import Inspector
from edge_ad.runtime.settings import EngineSettings
from edge_ad.runtime.sinks.base import Sink
from edge_ad.runtime.sinks.files import ImageSink, VideoSink
from edge_ad.runtime.sinks.store import Store, read_events


class Running:
    """An inspector in a thread."""

    def __init__(self, settings, **options):
        self.inspector = Inspector(settings, **options)
        self.result = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self.result = self.inspector.run()
        except Exception as error:
            self.result = error

    def stop(self):
        self.inspector.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.result


def station(address, **tables):
    source = {"address": str(address), "reconnect_s": [0.05, 0.2], "timeout_s": 30.0, **tables.pop("source", {})}
    return {"source": source, **tables}


def test_folder_to_verdicts(run_settings, part_folder, product, stored):
    summary = Inspector(run_settings(station(part_folder))).run()
    verdicts = stored()
    assert [v.decision for v in verdicts] == ["NG" if product[1](n) else "OK" for n in range(20)]
    assert [v.frame for v in verdicts] == list(range(20))
    assert (summary.seen, summary.inspected, summary.stored, summary.unstored) == (20, 20, 20, 0)
    assert summary.decisions == {"OK": 16, "NG": 4, "UNSURE": 0, "ERROR": 0}
    ng = next(v for v in verdicts if v.decision == "NG")
    assert ng.boxes
    assert "004.png" in ng.reason
    assert "feature distance" in ng.reason
    assert set(ng.latency_ms) == {"wait", "prepare", "queue", "infer", "judge", "total"}
    assert ng.latency_ms["total"] == pytest.approx(sum(ng.latency_ms.values()) - ng.latency_ms["total"], abs=0.01)
    assert summary.latency_ms["parts"]["total"]["count"] == 20


def test_the_loop_gives_the_predictors_scores(run_settings, part_folder, stored, line_artifact, product):
    from edge_ad.runtime.predictor import load

    Inspector(run_settings(station(part_folder))).run()
    with load(line_artifact.path, threads=1) as predictor:
        expected = [predictor.predict(product[0](n)).image_score for n in range(20)]
    assert [v.score for v in stored()] == pytest.approx(expected, abs=1e-6)


def test_frames_option_and_video_and_images(run_settings, part_folder, tmp_path, stored):
    settings = run_settings(station(part_folder), video={"path": str(tmp_path / "seen.avi"), "height": 120})
    sinks = [ImageSink(tmp_path / "out" / "images", settings.images), VideoSink(settings.video)]
    Inspector(settings, sinks, frames=10).run()
    verdicts = stored()
    assert len(verdicts) == 10
    capture = cv2.VideoCapture(str(tmp_path / "seen.avi"))
    count = 0
    while capture.read()[0]:
        count += 1
    assert count == 10
    names = {path.name.split(".")[0] for path in (tmp_path / "out" / "images").rglob("*.jpg")}
    rejects = {v.id for v in verdicts if v.decision == "NG"}
    assert rejects < names
    assert len(names) == len(rejects) + 1  # and the first accept


def test_broken_images_get_error_verdicts(run_settings, part_folder, stored):
    (part_folder / "003.png").write_bytes(b"")
    (part_folder / "005.png").write_bytes((part_folder / "005.png").read_bytes()[:500])
    Inspector(run_settings(station(part_folder))).run()
    verdicts = stored()
    assert len(verdicts) == 20
    errors = [v for v in verdicts if v.decision == "ERROR"]
    assert len(errors) == 2
    assert ["003.png" in errors[0].reason, "005.png" in errors[1].reason] == [True, True]
    assert errors[0].score is None


def test_unusual_images_are_judged_and_hopeless_ones_named(run_settings, part_folder, product, stored):
    """16 bits, CMYK, an animation and a palette are pictures like others; a bomb and a text file get ERROR."""
    image = pytest.importorskip("PIL.Image")
    good = image.fromarray(product[0](0))
    cv2.imwrite(str(part_folder / "000.png"), product[0](0)[..., ::-1].astype(np.uint16) * 257)
    (part_folder / "001.png").unlink()
    good.convert("CMYK").save(part_folder / "001.tif")
    (part_folder / "002.png").unlink()
    pages = {"save_all": True, "append_images": [image.fromarray(product[0](4))], "duration": 100, "lossless": True}
    good.save(part_folder / "002.webp", **pages)
    good.quantize(256).save(part_folder / "003.png")
    image.new("1", (20000, 20000)).save(part_folder / "005.png")
    (part_folder / "006.png").write_text("no picture")
    Inspector(run_settings(station(part_folder))).run()
    verdicts = {v.reason.rpartition("[")[2][:3]: v for v in stored() if v.decision != "ERROR"}
    assert [verdicts[name].decision for name in ("000", "001", "003")] == ["OK"] * 3
    if cv2.__version__ >= "4.11":  # before, it refuses animations
        assert verdicts["002"].decision == "OK"
    errors = [v.reason for v in stored() if v.decision == "ERROR"]
    assert any("005.png is 20000x20000" in reason for reason in errors)
    assert any("006.png" in reason for reason in errors)


def test_a_full_disk_stops_no_verdict_and_is_made_up_for(run_settings, part_folder, tmp_path, wait_for):
    """A real one: the run's folder on a tmpfs of 24 MiB, filled while the line runs and emptied again."""
    small = tmp_path / "out"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs can't be mounted here")
    try:
        told = []

        class Told(Sink):
            name = "told"

            def write(self, verdict, frame=None, pixel_scores=None):
                told.append(verdict.id)

        source = {"address": str(part_folder), "repeat": True}
        settings = run_settings({"name": "line", "source": source}, store={"durable": True})
        inspector = Inspector(settings, [Told(), ImageSink(small / "images", settings.images)])
        thread = threading.Thread(target=inspector.run)
        thread.start()
        try:
            wait_for(lambda: inspector.hub.stored > 5)
            with (small / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
                while True:
                    ballast.write(b"x" * 4096)
            wait_for(lambda: "full" in inspector.problems().get("store", ""))
            before = len(told)
            wait_for(lambda: len(told) > before + 5)  # the plant is told all the same
            (small / "ballast").unlink()
            wait_for(lambda: not inspector.hub.store_error)
        finally:
            inspector.stop()
            thread.join(60)
        summary = inspector.summary()
        assert summary.unstored == 0
        with Store(small / "verdicts.sqlite") as store:
            assert store.check() == []
            stored = [row.verdict.id for row in store.recent(10**6)]
        assert len(stored) == sum(summary.decisions.values())
        assert set(told) == set(stored)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_two_cameras_share_one_engine(run_settings, cameras, product, stored, wait_for):
    with cameras.MjpegServer(picture=product[0]) as one, cameras.MjpegServer(picture=product[0]) as two:
        top, side = station(one.url, name="top"), station(two.url, name="side")
        running = Running(run_settings(top, side))
        wait_for(lambda: all(sum(s.counts.values()) > 10 for s in running.inspector.stations))
        assert len(running.inspector.engines) == 1
        summary = running.stop()
    verdicts = stored()
    assert {v.source for v in verdicts} == {"top", "side"}
    assert len(verdicts) == summary.stored == sum(summary.decisions.values())


def test_stream_outage_is_one_error_verdict_and_then_goes_on(run_settings, cameras, product, stored, wait_for):
    server = cameras.MjpegServer(picture=product[0])
    running = Running(run_settings(station(server.url)))
    wait_for(lambda: running.inspector.stations[0].inspected > 3)
    server.stop()
    wait_for(lambda: running.inspector.stations[0].capture.state == "lost")
    assert "camera" in next(iter(running.inspector.problems()))
    server.start()
    before = running.inspector.stations[0].inspected
    wait_for(lambda: running.inspector.stations[0].inspected > before + 3)
    summary = running.stop()
    server.stop()
    assert summary.reconnects == 1
    assert [v.decision for v in stored()].count("ERROR") == 1
    assert summary.unstored == 0


def test_deadline_is_answered_on_time_and_only_once(run_settings, part_folder, stored, wait_for, monkeypatch):
    policy = {"deadline_ms": 600, "on_deadline": "NG"}
    settings = run_settings(station(part_folder, policy=policy, source={"queue": 1}))
    inspector = Inspector(settings)
    loaded = inspector.stations[0].engine.loaded
    infer, calls, answered = loaded.infer, [], []

    def slow_sometimes(images):
        calls.append(1)
        if len(calls) == 3:  # as slow as it takes: the line must have answered before this returns
            wait_for(lambda: any("deadline" in verdict.reason for verdict in stored()))
            answered.append(True)
        return infer(images)

    monkeypatch.setattr(loaded, "infer", slow_sometimes)
    summary = inspector.run()
    verdicts = stored()
    late = [v for v in verdicts if "deadline" in v.reason]
    assert len(verdicts) == 20
    assert answered
    assert summary.late == len(late) >= 1  # the slow one; some that waited behind it may be late as well
    assert all(v.latency_ms["total"] >= 600 for v in late)
    assert all(v.decision == "NG" and v.score is None for v in late)
    assert len({v.id for v in verdicts}) == 20


def test_votes_over_frames_of_a_part(run_settings, part_folder, stored):
    Inspector(run_settings(station(part_folder, policy={"frames": 5, "votes": 1}))).run()
    verdicts = stored()
    assert [v.decision for v in verdicts] == ["NG"] * 4  # one bad frame in each five
    assert [v.frame for v in verdicts] == [4, 9, 14, 19]  # the frame that shows it
    assert "1 of 5 frames NG" in verdicts[0].reason


def test_the_last_part_is_judged_with_the_frames_it_got(run_settings, part_folder, stored):
    Inspector(run_settings(station(part_folder, policy={"frames": 6, "votes": 2}))).run()
    assert ["of 6" in v.reason for v in stored()] == [True, True, True, False]


def test_tiles_find_what_the_whole_picture_hides(run_settings, tmp_path, stored, product):
    folder = tmp_path / "big"
    folder.mkdir()
    rows = [np.hstack([product[0](n) for n in (0, 1, 2)]), np.hstack([product[0](n) for n in (4, 5, 6)])]
    cv2.imwrite(str(folder / "sheet.png"), np.vstack(rows)[..., ::-1])
    frame = {"tile": [160, 160], "overlap": 0.0}
    Inspector(run_settings(station(folder, frame=frame))).run()
    (verdict,) = stored()
    assert verdict.decision == "NG"
    best = verdict.boxes[0]
    assert best.y + best.height / 2 > 160
    assert best.x + best.width / 2 < 160


def test_http_trigger_inspects_one_frame_a_signal(run_settings, cameras, product, stored, wait_for):
    trigger = {"kind": "http", "port": -1, "timeout_ms": 30_000}
    with cameras.MjpegServer(picture=product[0]) as server:
        running = Running(run_settings(station(server.url, trigger=trigger)))
        wait_for(lambda: running.inspector.stations[0].capture.state == "up")
        port = running.inspector.stations[0].listener.port
        for part in ("A-17", "A-18"):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/trigger", b'{"part": "%s"}' % part.encode(), method="POST"
            )
            with urllib.request.urlopen(request, timeout=60) as reply:
                assert reply.status == 202
        wait_for(lambda: sum(running.inspector.stations[0].counts.values()) == 2)
        seen = running.inspector.stations[0].capture.seen
        wait_for(lambda: running.inspector.stations[0].capture.seen > seen + 10)  # nobody asked for these
        running.stop()
    assert [v.part for v in stored()] == ["A-17", "A-18"]


def test_trigger_without_a_camera_is_answered_with_error(run_settings, cameras, product, stored, wait_for):
    server = cameras.MjpegServer(picture=product[0])
    trigger = {"kind": "http", "port": -1, "timeout_ms": 150}
    running = Running(run_settings(station(server.url, trigger=trigger)))
    wait_for(lambda: running.inspector.stations[0].capture.state == "up")
    server.stop()
    wait_for(lambda: running.inspector.stations[0].capture.state == "lost")
    running.inspector.stations[0].signals.fire("B-1")
    wait_for(lambda: running.inspector.stations[0].counts["ERROR"] == 1)
    running.stop()
    (verdict,) = stored()
    assert verdict.part == "B-1"
    assert "camera lost" in verdict.reason


def test_reload_misses_no_part_and_refuses_a_tampered_artifact(run_settings, cameras, product, stored, wait_for):
    with cameras.MjpegServer(picture=product[0], fps=40) as server:
        settings = run_settings(station(server.url, source={"policy": "every", "queue": 50}))
        running = Running(settings)
        wait_for(lambda: running.inspector.stations[0].inspected > 5)
        engine = next(iter(running.inspector.engines.values()))
        before = engine.loaded.digest
        artifact = Artifact.open(settings.artifact)
        artifact.add("note.txt", b"a new version")
        wait_for(lambda: engine.reloads == 1)
        count = running.inspector.stations[0].inspected
        wait_for(lambda: running.inspector.stations[0].inspected > count + 5)
        graph = artifact.path / "model.onnx"
        graph.write_bytes(graph.read_bytes()[:-1] + b"x")  # tampered: the hash in the manifest no longer holds
        artifact.update(reports={"n": 1})
        stamp = engine._stamp
        wait_for(lambda: engine._stamp != stamp)
        time.sleep(0.1)
        assert engine.reloads == 1
        running.stop()
    verdicts = stored()
    assert {v.artifact for v in verdicts} == {before, engine.loaded.digest}
    frames = [v.frame for v in verdicts]
    assert frames == list(range(len(frames)))  # not one was missed
    assert not [v for v in verdicts if v.decision == "ERROR"]
    (event,) = read_events(Path(settings.out) / "verdicts.sqlite")
    assert (event.kind, event.source) == ("artifact-changed", running.inspector.stations[0].name)
    assert (event.facts["from"], event.facts["to"]) == (before, engine.loaded.digest)
    assert f"threshold {event.facts['threshold_to']:.4g} -> " in event.text


def test_a_new_threshold_is_an_event_and_a_report_is_none(run_settings, cameras, product, wait_for):
    with cameras.MjpegServer(picture=product[0], fps=40) as server:
        settings = run_settings(station(server.url))
        running = Running(settings)
        engine = next(iter(running.inspector.engines.values()))
        artifact = Artifact.open(settings.artifact)
        was = artifact.manifest.calibration
        for count, change in enumerate([{"reports": {"n": 1}}, {"calibration": {**was, "image_threshold": 123.5}}]):
            artifact.update(**change)
            wait_for(lambda count=count: engine.reloads == count + 1)
        store = Path(settings.out) / "verdicts.sqlite"
        wait_for(lambda: read_events(store))
        running.stop()
    (event,) = read_events(store)
    assert (event.facts["threshold_from"], event.facts["threshold_to"]) == (was["image_threshold"], 123.5)


def test_clock_jumps_change_no_latency_and_no_order(run_settings, part_folder, stored, monkeypatch):
    real, calls = time.time_ns, []

    def jumping():
        calls.append(1)
        return real() + (-1) ** len(calls) * 86400 * 10**9

    monkeypatch.setattr(time, "time_ns", jumping)
    Inspector(run_settings(station(part_folder))).run()
    monkeypatch.undo()
    verdicts = stored()
    assert [v.frame for v in verdicts] == list(range(20))
    assert len({v.id for v in verdicts}) == 20
    assert all(0 <= v.latency_ms["total"] < 60_000 for v in verdicts)


@pytest.mark.parametrize("damage", ["tampered", "truncated", "foreign", "pickle", "no manifest", "other size"])
def test_bad_artifacts_are_refused_before_anything_runs(line_artifact, damage, tmp_path):
    graph = line_artifact.path / "model.onnx"
    if damage == "tampered":
        data = bytearray(graph.read_bytes())
        data[len(data) // 2] ^= 1
        graph.write_bytes(data)
    elif damage == "truncated":
        graph.write_bytes(graph.read_bytes()[:1000])
    elif damage == "foreign":
        line_artifact.add("model.onnx", b"not an onnx file")
    elif damage == "pickle":
        (line_artifact.path / "manifest.json").write_bytes(b"\x80\x04\x95 a pickle")
    elif damage == "no manifest":
        (line_artifact.path / "manifest.json").unlink()
    else:
        import dataclasses

        how = dataclasses.replace(line_artifact.manifest.preprocessing, image_size=(32, 32))
        line_artifact.update(preprocessing=how)
    with pytest.raises((ArtifactError, BackendError)) as caught:
        Engine(line_artifact.path, EngineSettings(threads=1))
    assert caught.value.hint


def test_settings_that_cannot_work_are_errors_at_the_start(run_settings, part_folder):
    with pytest.raises(ConfigError, match="no artifact"):
        Inspector(run_settings(station(part_folder), artifact=""))
    with pytest.raises(ConfigError, match="two stations"):
        Inspector(run_settings(station(part_folder), station(part_folder)))


def test_a_wrong_region_ends_the_run_with_its_reason(run_settings, part_folder, stored):
    settings = run_settings(station(part_folder, frame={"roi": [0, 0, 1000, 1000]}))
    with pytest.raises(ConfigError, match="not inside"):
        Inspector(settings).run()


def test_an_engine_that_keeps_failing_ends_the_run(run_settings, part_folder, stored, monkeypatch):
    inspector = Inspector(run_settings(station(part_folder)))

    def broken(images):
        raise BackendError("the device fell off the bus")

    monkeypatch.setattr(inspector.stations[0].engine.loaded, "infer", broken)
    with pytest.raises(BackendError, match="fell off"):
        inspector.run()
    assert {v.decision for v in stored()} == {"ERROR"}


def test_watched_folder_feeds_the_line(run_settings, part_folder, tmp_path, stored, wait_for):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    address = f"watch://{inbox}"
    running = Running(run_settings(station(address, source={"settle_s": 0.05, "after": "move"})))
    for path in sorted(part_folder.iterdir())[:6]:
        shutil.copy(path, inbox / path.name)
    wait_for(lambda: running.inspector.hub.stored == 6)
    running.stop()
    assert len(list((inbox / "done").iterdir())) == 6
    assert sorted(v.decision for v in stored()) == ["NG"] + ["OK"] * 5
