"""`edgead run`, `edgead doctor` and `edgead bench run` as a user starts them."""

import json
import os
import signal
import subprocess
import sys
import types
import urllib.request

import pytest

from edge_ad.bench import run as bench_run
from edge_ad.cli import doctor
from edge_ad.runtime.line import service
from edge_ad.runtime.settings import EngineSettings
from edge_ad.runtime.sinks.store import Store


def edgead(*words, **options):
    command = [sys.executable, "-m", "edge_ad", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finished(process, code=0):
    out, words = process.communicate(timeout=300)
    assert process.returncode == code, words
    return out, words


def test_folder_to_json_lines_store_and_summary(line_artifact, part_folder, product, tmp_path, lines):
    out, words = finished(
        edgead("run", line_artifact.path, "--source", part_folder, "--out", tmp_path / "o", "--headless", "--json")
    )
    verdicts = lines(out)
    assert [v["decision"] for v in verdicts] == ["NG" if product[1](n) else "OK" for n in range(20)]
    assert "p50" in words
    assert "16 OK, 4 NG" in words
    with Store(tmp_path / "o" / "verdicts.sqlite") as store:
        assert [row.verdict.id for row in store.recent(99)][::-1] == [v["id"] for v in verdicts]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_everything_written(line_artifact, cameras, product, tmp_path, lines, number):
    video = tmp_path / "seen.avi"
    with cameras.MjpegServer(picture=product[0]) as server:
        process = edgead(
            "run", line_artifact.path, "--source", server.url, "--out", tmp_path / "o", "--headless", "--json",
            "--video", video,
        )  # fmt: skip
        first = [process.stdout.readline() for _ in range(5)]
        process.send_signal(number)
        out = process.stdout.read()  # communicate() would miss what readline() took into its buffer
        words = process.communicate(timeout=300)[1]
    assert process.returncode == 0, words
    printed = lines("".join(first) + out)
    with Store(tmp_path / "o" / "verdicts.sqlite") as store:
        assert store.count() == len(printed)
        assert store.check() == []
    assert video.stat().st_size > 1000


def test_kill_9_of_a_running_line_loses_no_printed_verdict(line_artifact, cameras, product, tmp_path):
    acknowledged = []
    with cameras.MjpegServer(picture=product[0], fps=200) as server:
        for count in (1, 7, 20):
            process = edgead(
                "run", line_artifact.path, "--source", server.url, "--out", tmp_path, "--headless", "--json"
            )
            acknowledged += [process.stdout.readline() for _ in range(count)]
            process.kill()
            rest = process.stdout.read()
            process.communicate(timeout=300)
            acknowledged += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    with Store(tmp_path / "verdicts.sqlite") as store:
        assert store.check() == []
        stored = {row.verdict.id for row in store.recent(10**6)}
    assert {json.loads(line)["id"] for line in acknowledged} <= stored


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "nowhere.mp4"], "does not exist"),
        (["--source", "a", "--camera", "0"], "both --camera and --source"),
        (["--camera", "97"], "/dev/video97"),
        ([], "no camera or source"),
        (["--source", "video.mp4"], "no video that can be read"),
        (["--source", ".", "--out", "/proc/nothing"], "cannot make the folder"),
        (["--source", "video.mp4", "--product", "gears"], "no product 'gears'"),
        (["--source", "."], "lies in the source"),
    ],
)
def test_wrong_use_is_two_lines_an_error_and_a_hint(line_artifact, tmp_path, words, message):
    (tmp_path / "video.mp4").write_text("no video")
    # in a process of its own: FFmpeg decides at its first use whether it mutters
    done = subprocess.run(
        [sys.executable, "-m", "edge_ad", "run", str(line_artifact.path), "--out", str(tmp_path / "o"), *words],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )
    error, hint = done.stderr.splitlines()
    assert done.returncode == 1
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("hint: ")


def test_page_health_drift_and_metrics_around_a_line(
    line_artifact, calibration, cameras, product, tmp_path, wait_for
):
    from edge_ad.runtime.line.line import Line
    from edge_ad.runtime.settings import settings_from

    pytest.importorskip("fastapi")
    pytest.importorskip("prometheus_client")
    import threading

    with cameras.MjpegServer(picture=product[0]) as server:
        table = {
            "artifact": str(line_artifact.path), "out": str(tmp_path / "o"),
            "station": [{"name": "top", "source": {"address": server.url}, "policy": {"threshold": 123.0}}],
            "page": {"port": 0}, "health": {"port": 0}, "drift": {}, "recalibration": {"size": 3},
            "sink": {"prometheus": {"port": 0}}, "engine": {"threads": 1},
        }  # fmt: skip
        line = Line(settings_from(table), [])
        thread = threading.Thread(target=line.run, daemon=True)
        thread.start()
        wait_for(lambda: line.inspector.stations[0].counts["OK"] > 3)
        wait_for(lambda: line._server is not None and line.health.report().ready)
        for address in (f"http://127.0.0.1:{line._server.port}/readyz", line.page.address + "/"):
            with urllib.request.urlopen(address, timeout=60) as reply:
                assert reply.status == 200
        with urllib.request.urlopen(line.page.address + "/metrics", timeout=60) as reply:
            assert b'edgead_verdicts_total{decision="OK",source="top"}' in reply.read()
        with urllib.request.urlopen(line.page.address + "/api/threshold?camera=top", timeout=60) as reply:
            shown = json.load(reply)
        assert shown["image_threshold"] == 123.0
        assert shown["false_alarm_rate"] is None  # a threshold set by hand promises nothing
        newest = line.page.app.app.state.data.view.newest("top")
        assert newest.pixel_threshold == calibration["pixel_threshold"]
        line.inspector.stop()
        thread.join(60)
        assert not thread.is_alive()
    assert len(list((tmp_path / "o" / "recalibration" / "good").iterdir())) == 3
    assert (tmp_path / "o" / "drift-top.json").exists()


def test_unit_file_and_its_quoting(tmp_path, monkeypatch):
    text = service.unit_text(["a b", "--settings=100%.toml", "--x=$HOME"], user=True)
    assert '"a b" --settings=100%%.toml --x=$$HOME --headless --keep-trying' in text
    for line in ("Type=notify", "Restart=always", "WatchdogSec=30", "WantedBy=default.target"):
        assert line in text.splitlines()
    assert "User=" not in text
    monkeypatch.setenv("HOME", str(tmp_path))
    done = service.install(["artifact"], user=True)
    assert (tmp_path / ".config/systemd/user/edgead.service").read_text().startswith("[Unit]")
    assert "wrote" in done[0]


def test_the_watchdog_is_fed_while_the_line_is_well(tmp_path, monkeypatch):
    import socket
    from types import SimpleNamespace

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000")
        dog = service.Watchdog()
        dog.ready()
        assert b"READY=1" in systemd.recv(100)
        camera = SimpleNamespace(live=True)
        capture = SimpleNamespace(hanging_s=lambda: 0.0, source=camera)
        well = SimpleNamespace(failure=None, capture=capture)
        assert dog.beat(SimpleNamespace(stations=[well]))
        assert systemd.recv(100) == b"WATCHDOG=1"
        ill = SimpleNamespace(failure=RuntimeError(), capture=capture)
        dog._last = 0.0
        assert not dog.beat(SimpleNamespace(stations=[ill]))
        hung = SimpleNamespace(hanging_s=lambda: 1.0, source=camera)  # two periods are 60 ms
        assert not dog.beat(SimpleNamespace(stations=[SimpleNamespace(failure=None, capture=hung)]))
        camera.live = False  # a pipe may be silent
        assert dog.beat(SimpleNamespace(stations=[SimpleNamespace(failure=None, capture=hung)]))
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not service.notify("READY=1")


def test_doctor_names_a_tensorrt_that_computes_wrong(monkeypatch):
    monkeypatch.setattr(doctor, "_installed", lambda package: package == "tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", types.SimpleNamespace(__version__="10.3.0"))
    (found,) = [finding for finding in doctor.examine() if finding.what == "tensorrt"]
    assert "TensorRT 10.3: DINOv3 ViTs in FP16" in found.found
    assert "build --fp32" in found.advice


def test_doctor_looks_at_everything(line_artifact, capsys):
    findings = {finding.what: finding for finding in doctor.examine(str(line_artifact.path))}
    expected = {"machine", "C++ kernels", "ONNX Runtime", "tensorrt", "cameras (V4L2)", "GStreamer in OpenCV", "disk"}
    assert expected <= findings.keys()
    assert findings["artifact"].level == "good"
    assert all(f.advice for f in findings.values() if f.level != "good"), "each shortcoming says what to do"
    graph = line_artifact.path / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    broken = {finding.what: finding for finding in doctor.examine(str(line_artifact.path))}
    assert broken["artifact"].level == "broken"


def test_doctor_times_every_graph_here_and_holds_it_against_the_cycle(line_artifact):
    out, _ = finished(edgead("doctor", line_artifact.path, "--cycle-ms", "60000", "--json"))
    found = json.loads(out)
    graphs = [row for row in found if row["what"] == "graph"]
    assert {"onnxruntime-cpu"} <= {row["backend"] for row in graphs if row["state"] != "absent"}
    assert [row["current"] for row in graphs].count(True) == 1
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in graphs if row["state"] in ("passed", "untested"))
    assert found[-1]["what"] == "cycle time"
    assert found[-1]["found"].endswith("for a cycle of 60000 ms: kept")
    out, _ = finished(edgead("doctor", line_artifact.path, "--cycle-ms", "0.001"))
    assert "NOT kept. What would help:" in out
    assert "in use" in out
    assert "name its folder" in finished(edgead("doctor", "--cycle-ms", "5"), 1)[1]


@pytest.mark.parametrize(("cycle_ms", "word"), [(60000, ": kept"), (0.001, "not kept; most takes")])
def test_a_run_says_whether_it_kept_the_cycle_time(line_artifact, part_folder, tmp_path, cycle_ms, word):
    _, words = finished(
        edgead(
            "run", line_artifact.path, "--source", part_folder, "--out", tmp_path, "--headless", "--no-images",
            "--cycle-ms", cycle_ms,
        )
    )  # fmt: skip
    assert "p99" in words
    assert word in words
    with Store(tmp_path / "verdicts.sqlite") as store:
        assert {row.verdict.engine for row in store.recent(99)} == {"onnxruntime-cpu fp32"}


def test_bench_run_measures_every_stage(line_artifact):
    result = bench_run.measure(
        str(line_artifact.path), EngineSettings("onnxruntime", "fp32", 1), size=(120, 160), frames=40, fps=0
    )
    assert result["frames"] == result["stages_ms"]["total"]["count"] == 40
    assert result["dropped"] == 0
    assert {"wait", "prepare", "queue", "infer", "judge", "loop", "engine alone"} <= result["stages_ms"].keys()
    assert result["memory_mb"] > 10
