"""A live RTSP camera on loopback: read by the line, with a login, killed and started again."""

import importlib.util
import json
from pathlib import Path

import pytest

from edge_ad.runtime.line.inspector import Inspector
from edge_ad.runtime.settings import SourceSettings
from edge_ad.runtime.sources.base import SourceLost
from edge_ad.runtime.sources.opening import open_source


def _load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rtsp_server, cameras = _load("rtsp_server"), _load("cameras")
needs_server = pytest.mark.skipif(
    rtsp_server.python_with_gstreamer() is None,
    reason="GStreamer's RTSP server (gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-ugly) is not installed",
)
LOGIN = ("line", "s3cret-word")


@pytest.fixture
def stills(tmp_path):
    folder = tmp_path / "stills"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:05}.jpg").write_bytes(cameras.jpeg(cameras.numbered(number)))
    return folder


@needs_server
def test_frames_come_in_order_and_a_killed_server_is_lost(stills):
    with rtsp_server.RtspServer(stills, fps=20) as server:
        stream = open_source(SourceSettings(server.url, timeout_s=20.0))
        stream.open()
        numbers = [cameras.number_of(stream.read().frame) for _ in range(15)]
        assert numbers == [(numbers[0] + n) % 40 for n in range(15)]
        server.kill()
        with pytest.raises(SourceLost, match="sends no frames"):  # noqa: PT012  (frames on their way come first)
            for _ in range(1000):
                stream.read()
        with pytest.raises(SourceLost, match="can't be opened"):
            stream.open()
        server.start()
        stream.open()
        assert stream.read() is not None
        stream.close()


@needs_server
def test_a_login_is_asked_for_and_never_shown(stills, tmp_path, capfd):
    word = tmp_path / "word"
    word.write_text(LOGIN[1])
    with rtsp_server.RtspServer(stills, login=LOGIN) as server:
        stream = open_source(SourceSettings(server.url, username=LOGIN[0], password_file=str(word), timeout_s=20.0))
        stream.open()
        assert stream.read() is not None
        stream.close()
        wrong = open_source(SourceSettings(server.url.replace("//", "//line:wr0ng-word@"), timeout_s=20.0))
        with pytest.raises(SourceLost) as caught:
            wrong.open()
    said = "".join(capfd.readouterr())
    assert "user and password" in caught.value.hint
    for secret in (LOGIN[1], "wr0ng-word"):
        assert secret not in f"{caught.value} {wrong.name} {stream.name} {said}"


@needs_server
def test_the_line_comes_back_when_the_server_was_killed(run_settings, stills, stored, wait_for):
    import threading

    with rtsp_server.RtspServer(stills, fps=20) as server:
        address = {"address": server.url, "reconnect_s": [0.1, 0.5], "timeout_s": 20.0}
        inspector = Inspector(run_settings({"name": "side", "source": address}))
        thread = threading.Thread(target=inspector.run)
        thread.start()
        station = inspector.stations[0]
        try:
            wait_for(lambda: station.inspected > 5)
            server.kill()
            wait_for(lambda: station.capture.state == "lost")
            server.start()
            wait_for(lambda: station.capture.reconnects == 1)
            before = station.inspected
            wait_for(lambda: station.inspected > before + 5)
        finally:
            inspector.stop()
            thread.join(60)
    verdicts = stored()
    assert [v.part for v in verdicts] == [str(n + 1) for n in range(len(verdicts))]
    assert [v.decision for v in verdicts].count("ERROR") == 1
    assert "sends no frames" in json.dumps([v.reason for v in verdicts])
