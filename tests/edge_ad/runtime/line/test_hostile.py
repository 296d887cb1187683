"""What a new or a careless user, a foreign file name or a full disk does to a run: a result or one line, no loss."""

import os
import resource
import shutil
import subprocess
import sys
import urllib.request

import cv2
import numpy as np
import pytest

import edge_ad
from edge_ad.data.images import read_image
from edge_ad.errors import ConfigError, DataError
from edge_ad.runtime.line import service
from edge_ad.runtime.line.inspector import Inspector
from edge_ad.runtime.line.line import Line
from edge_ad.runtime.settings import VideoSettings
from edge_ad.runtime.sinks.files import ImageSink, VideoSink
from edge_ad.runtime.sinks.store import Store
from edge_ad.runtime.verdict import DefectBox, Verdict, new_id


def run(line_artifact, out, *words, **options):
    """(exit code, standard error) of `edgead run` on the artifact."""
    command = [sys.executable, "-m", "edge_ad", "run", line_artifact.path, "--out", out, "--headless", *words]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=300, check=False, cwd=out.parent,
        env={**os.environ, "COLUMNS": "300"}, **options,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_file_name_in_another_encoding_is_stored_like_any_other(run_settings, part_folder, stored):
    odd = os.path.join(os.fsencode(part_folder), b"000\xff\xfe\n.png")
    os.rename(part_folder / "000.png", odd)
    summary = Inspector(run_settings({"source": {"address": str(part_folder)}})).run()
    assert (summary.stored, summary.unstored) == (20, 0)
    (first,) = [verdict for verdict in stored() if verdict.frame == 0]
    assert r"000\udcff\udcfe" in first.reason


def test_a_triggers_part_in_broken_unicode_is_stored(run_settings, cameras, product, stored, wait_for):
    with cameras.MjpegServer(picture=product[0]) as server:
        inspector = Inspector(
            run_settings({"source": {"address": server.url}, "trigger": {"kind": "http", "port": -1}})
        )
        sent = []

        def on_tick(running):
            if running.stations[0].capture.state == "up" and not sent:
                port = running.stations[0].listener.port
                for body in (b'{"part": "\\ud800"}', b'{"part": "next"}'):
                    sent.append(urllib.request.urlopen(f"http://127.0.0.1:{port}/trigger", body, timeout=60).status)
            if running.hub.stored == 2:
                running.stop()

        inspector.run(on_tick)
    assert [verdict.part for verdict in stored()] == [r"\ud800", "next"]


def test_verdicts_that_are_not_stored_make_the_run_an_error(line_artifact, part_folder, tmp_path):
    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    code, words = run(line_artifact, tmp_path / "o", "--source", part_folder, "--no-images", preexec_fn=small_disk)
    assert code == 1
    assert "verdicts are not in the store: " in words
    with Store(tmp_path / "o" / "verdicts.sqlite") as store:
        assert 0 < store.count() < 20


def test_an_annotated_video_never_replaces_its_source(line_artifact, part_folder, tmp_path):
    code, _ = run(line_artifact, tmp_path / "o", "--source", part_folder, "--video", tmp_path / "v.mp4")
    assert code == 0
    before = (tmp_path / "v.mp4").read_bytes()
    code, words = run(line_artifact, tmp_path / "o", "--source", tmp_path / "v.mp4", "--video", "./v.mp4")
    assert code == 1
    assert "is also a source" in words
    (tmp_path / "v.mp4").rename(tmp_path / "o" / "annotated.mp4")  # where the annotated copy of a video would go
    code, words = run(line_artifact, tmp_path / "o", "--source", tmp_path / "o" / "annotated.mp4")
    assert code == 1
    assert (tmp_path / "o" / "annotated.mp4").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", ".", "--threshold", "nan"], "policy.threshold = nan"),
        (["--source", "rtsp://[::1"], "no URL"),
        (["--source", "no\nfile \x1b[31m"], r"no\nfile \x1b[31m does not exist"),
        (["--service", "--user"], "no camera or source"),
        (["--source", "fakesrc " + 300 * "name=x " + "! appsink"], "fakesrc name=x"),
    ],
)
def test_wrong_use_is_two_lines(line_artifact, tmp_path, words, message):
    code, text = run(line_artifact, tmp_path / "o", *words)
    assert code == 1
    error, hint = text.splitlines()
    assert message in error
    assert hint.startswith("hint: ")
    assert not (tmp_path / ".config").exists()


def test_a_trigger_that_cannot_start_says_why(run_settings, part_folder):
    station = {"source": {"address": str(part_folder)}, "trigger": {"kind": "http", "host": "0.0.0.0"}}
    with pytest.raises(ConfigError, match="open to the network without a token"):
        Inspector(run_settings(station)).run()


def test_a_plc_trigger_without_a_plc_is_refused(run_settings, part_folder):
    station = {"source": {"address": str(part_folder)}, "trigger": {"kind": "plc"}}
    with pytest.raises(ConfigError, match="no PLC can reach it"):
        Line(run_settings(station), [])


def test_a_service_runs_where_it_was_installed(tmp_path, monkeypatch):
    folder = tmp_path / "50% of lines"
    folder.mkdir()
    monkeypatch.chdir(folder)
    text = service.unit_text(["part", "--source=photos", "--out=runs/one"], user=True)
    assert f"WorkingDirectory={tmp_path}/50%% of lines\n" in text


def test_words_of_another_encoding_end_no_command(part_folder):
    (part_folder / "000.png").rename(part_folder / "grün.png")
    shutil.copy(part_folder / "grün.png", part_folder / "copy.png")
    done = subprocess.run(
        [sys.executable, "-m", "edge_ad", "check", str(part_folder)], capture_output=True, timeout=300, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rb"copy.png = gr\xfcn.png" in done.stdout


def test_a_huge_picture_gets_an_overlay_that_fits_into_memory(tmp_path):
    sink = ImageSink(tmp_path)
    sink.open()
    verdict = Verdict(new_id(), 1, 1, "scan", 0, "1", "NG", 1.0, 0.5, (DefectBox(900, 90, 500, 50, 9, 1.0),))
    sink.write(verdict, np.full((1000, 9000, 3), 200, np.uint8), np.zeros((8, 8), np.float32))
    picture, overlay = (read_image(next(tmp_path.rglob(f"{verdict.id}{end}"))) for end in (".jpg", ".overlay.jpg"))
    assert picture.shape == (1000, 9000, 3)
    assert overlay.shape[0] * overlay.shape[1] <= 1.01 * (1 << 22)
    assert overlay.shape[1] / overlay.shape[0] == pytest.approx(9, rel=0.01)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((8, 8, 2), np.uint8), np.zeros((8, 8), np.int64), np.full((8, 8, 3), np.nan),
        np.zeros((0, 8, 3), np.uint8), np.zeros(8, np.uint8), None, 5, "no\0file", "nofile.png",
    ],
)  # fmt: skip
def test_predict_names_what_it_cannot_use(line_artifact, frame):
    with edge_ad.load(line_artifact.path, threads=1) as detector, pytest.raises(DataError) as error:
        detector.predict(frame)
    assert error.value.hint


def test_two_runs_at_once_with_one_output_write_a_video_each(tmp_path, caplog):
    """Both wrote into one file, and none could be played."""
    frame = np.full((64, 64, 3), 90, np.uint8)
    one, other = (VideoSink(VideoSettings(path=str(tmp_path / "annotated.mp4"), height=64)) for _ in range(2))
    for sink in (one, other):
        sink.open()
    for number in range(6):
        for sink in (one, other):
            sink.write(Verdict(new_id(), 0, 0, "cam", number, str(number), "OK", 0.1, 0.5), frame)
    one.close()
    other.close()
    assert "another run writes" in caplog.text
    for name in ("annotated.mp4", "annotated-1.mp4"):
        video = cv2.VideoCapture(str(tmp_path / name))
        assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 6
        video.release()
    again = VideoSink(VideoSettings(path=str(tmp_path / "annotated.mp4"), height=64))  # later: the name is free
    again.open()
    again.write(Verdict(new_id(), 0, 0, "cam", 0, "0", "OK", 0.1, 0.5), frame)
    again.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotated-1.mp4", "annotated.mp4"]
