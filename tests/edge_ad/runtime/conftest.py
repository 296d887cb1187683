"""A calibrated small artifact, videos and folders of its product, and real stream servers."""

import importlib.util
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest


def _load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


small = _load(Path(__file__).parents[2] / "conftest.py", "small_detector")


@pytest.fixture(scope="session")
def cameras():
    return _load(Path(__file__).parent / "sources" / "cameras.py", "cameras")


@pytest.fixture(scope="session")
def calibration(_built_artifact, parts):
    """Thresholds just above every good part's score."""
    from edge_ad.runtime.predictor import load

    rng = np.random.default_rng(5)
    frames = [*parts[0][:20], *(small.good_frame(rng, 160) for _ in range(15))]
    with load(_built_artifact, threads=1) as predictor:
        found = [predictor.predict(frame) for frame in frames]
    scores = [prediction.image_score for prediction in found]
    return {
        "image_threshold": max(scores) * 1.5,
        "pixel_threshold": max(float(prediction.pixel_scores.max()) for prediction in found) * 1.5,
        "score_quantiles": np.quantile(scores, np.linspace(0, 1, 101)).tolist(),
        "precision": "fp32",
    }


@pytest.fixture
def line_artifact(small_artifact, calibration):
    """The small artifact, calibrated."""
    small_artifact.update(calibration=calibration)
    return small_artifact


@pytest.fixture(scope="session")
def product():
    """(number -> frame [160, 160, 3], number -> is it bad): every fifth part has a spot."""

    def frame(number):
        rng = np.random.default_rng(1000 + number)
        return strong_spot(rng) if bad(number) else small.good_frame(rng, 160)

    def bad(number):
        return number % 5 == 4

    def strong_spot(rng):
        picture = small.good_frame(rng, 160)
        cv2.circle(picture, tuple(int(v) for v in rng.integers(40, 120, 2)), 22, (250, 30, 30), -1)
        return picture

    return frame, bad


@pytest.fixture
def part_folder(tmp_path, product):
    """Twenty parts as PNG files."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(20):
        cv2.imwrite(str(folder / f"{number:03}.png"), product[0](number)[..., ::-1])
    return folder


@pytest.fixture
def run_settings(line_artifact, tmp_path):
    """Settings as from a file: run_settings({"source": {...}}, {...}) for one station each."""
    from edge_ad.runtime.settings import settings_from

    def make(*stations, **more):
        return settings_from(
            {
                "artifact": str(line_artifact.path),
                "out": str(tmp_path / "out"),
                "station": list(stations),
                "engine": {"threads": 1},
                "store": {"durable": False},
                **more,
            }
        )

    return make


@pytest.fixture
def stored(tmp_path):
    """The verdicts in the run's store, oldest first."""
    from edge_ad.runtime.sinks.store import Store

    def read():
        with Store(tmp_path / "out" / "verdicts.sqlite") as store:
            assert store.check() == []
            return [row.verdict for row in store.recent(10**6)][::-1]

    return read


@pytest.fixture
def wait_for():
    """wait_for(condition): until it holds. The limit is for what never comes; a busy PC may take long."""

    def wait(condition, timeout_s=60):
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, "timed out"
            time.sleep(0.01)

    return wait


@pytest.fixture
def lines():
    """The JSON lines of a text."""
    return lambda text: [json.loads(line) for line in text.splitlines()]


MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


class Broker:
    """Mosquitto on loopback."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.config = folder / "mosquitto.conf"
        # Persistence on, so that a restarted broker still knows its subscribers, as a plant's would.
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {folder}/\nautosave_interval 1\nautosave_on_changes true\nuser root\n"
        )
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self.config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                assert time.monotonic() < until, "mosquitto did not start"
                time.sleep(0.02)

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def broker(tmp_path):
    """A real MQTT broker: `port`, `kill`, `start`."""
    if MOSQUITTO is None:
        pytest.skip("the program mosquitto is not installed")
    broker = Broker(tmp_path)
    yield broker
    broker.kill()
