"""Health, readiness, systemd's messages, and the re-calibration set."""

import json
import socket
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest

from edge_ad.errors import DataError
from edge_ad.runtime.line.service import notify
from edge_ad.runtime.watch.health import Health, HealthServer
from edge_ad.runtime.watch.recalibration import RecalibrationSet


def test_a_stalled_loop_is_dead_and_a_lost_camera_is_not():
    now = [0.0]
    health = Health(stall_s=5, clock=lambda: now[0])
    assert health.report().live
    assert not health.report().ready
    health.works("inspector")
    health.beat("loop")
    assert health.report().ready
    health.fails("camera 1", "no answer")
    assert (health.report().live, health.report().ready) == (True, False)
    assert health.report().problems == ("camera 1: no answer",)
    health.works("camera 1")
    now[0] = 6
    assert health.report().problems == ("loop has stalled for 6 s",)
    assert not health.report().live
    health.beat("loop")
    assert health.report().ready


def test_probes_get_200_or_503():
    health = Health()
    server = HealthServer(health, port=0)
    try:
        assert json.load(urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz"))["ok"]
        with pytest.raises(urllib.error.HTTPError, match="503") as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/readyz")
        caught.value.close()
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/")
        caught.value.close()
    finally:
        server.close()


def test_systemd_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        assert notify("WATCHDOG=1")
        assert listener.recv(100) == b"WATCHDOG=1"


def frame(value):
    return np.full((8, 8, 3), value, np.uint8)


def test_the_sample_is_uniform_over_all_accepted_parts(tmp_path):
    counts = np.zeros(20)
    for seed in range(20):
        chosen = RecalibrationSet(tmp_path / str(seed), size=4, seed=seed)
        for part in range(20):
            chosen.offer(f"{part:02}", frame(part))
        kept = [int(path.stem[-2:]) for path in (tmp_path / str(seed) / "good").iterdir()]
        assert len(kept) == 4
        counts[kept] += 1
    # 20 sets of 4 out of 20: both halves of the shift come equally often, within 4 standard errors.
    assert abs(counts[:10].sum() - 40) < 4 * np.sqrt(20)


def test_a_restart_goes_on_and_labels_move_pictures(tmp_path):
    chosen = RecalibrationSet(tmp_path, size=2, seed=0)
    chosen.offer("a", frame(1))
    chosen.offer("b", frame(2))
    chosen.close()
    again = RecalibrationSet(tmp_path, size=2, seed=1)
    assert again.counts() == {"accepted": 2, "false_alarms": 0, "defects": 0, "offered": 2}
    cv2.imwrite(str(tmp_path / "kept.jpg"), frame(200))
    again.label("c", "good", tmp_path / "kept.jpg")
    again.label("a", "defect", None)
    assert again.counts() == {"accepted": 1, "false_alarms": 1, "defects": 0, "offered": 2}
    assert cv2.imread(str(tmp_path / "good" / "labelled-c.png")).shape == (8, 8, 3)
    again.label("c", None, None)
    assert again.counts()["false_alarms"] == 0


@pytest.mark.parametrize("id", ["../x", "a/b", "", "x" * 65, "a.b"])
def test_ids_name_no_other_place(tmp_path, id):
    with pytest.raises(DataError, match="id"):
        RecalibrationSet(tmp_path).offer(id, frame(0))


def test_a_damaged_set_is_named(tmp_path):
    (tmp_path / "set.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        RecalibrationSet(tmp_path)
    with pytest.raises(DataError, match="0 pictures"):
        RecalibrationSet(tmp_path / "new", size=0)
