"""A line for the page's tests: a store with a shift's verdicts, a camera, outputs, drift."""

import time
from types import SimpleNamespace

import cv2
import numpy as np

from edge_ad.data.images import encode_image
from edge_ad.errors import DataError
from edge_ad.runtime.line.golden import GoldenGate
from edge_ad.runtime.line.policy import Judgement
from edge_ad.runtime.page.data import LineView, Newest
from edge_ad.runtime.page.live import paint
from edge_ad.runtime.settings import GoldenSettings, StationSettings, TriggerSettings
from edge_ad.runtime.sinks.delivery import SinkState
from edge_ad.runtime.sinks.store import Store
from edge_ad.runtime.verdict import DefectBox, Verdict, new_id
from edge_ad.runtime.watch.drift import DriftMonitor, ImageStatistics
from edge_ad.runtime.watch.health import Health
from edge_ad.runtime.watch.recalibration import RecalibrationSet

SCRATCH = DefectBox(300, 170, 90, 60, 2100, 1.9)
TOKEN = "a token for the tests"


def part(rng, scratched):
    """A turned part on a dark table, and the scores a detector would give."""
    frame = np.full((480, 640, 3), 34, np.uint8)
    cv2.circle(frame, (320, 240), 180, (148, 152, 156), -1)
    for radius in range(20, 180, 12):
        cv2.circle(frame, (320, 240), radius, (132, 136, 141), 2)
    cv2.circle(frame, (320, 240), 44, (26, 28, 30), -1)
    scores = rng.random((64, 64)).astype(np.float32) * 0.15
    if scratched:
        cv2.line(frame, (305, 222), (384, 178), (214, 210, 196), 5)
        mask = np.zeros((480, 640), np.float32)
        cv2.line(mask, (305, 222), (384, 178), 1.9, 26)
        scores += cv2.resize(cv2.GaussianBlur(mask, (0, 0), 9), (64, 64), interpolation=cv2.INTER_AREA)
    return np.clip(frame + rng.normal(0, 4, frame.shape), 0, 255).astype(np.uint8), scores


def verdict(decision, score, *, age_s=0.0, number=0, latency_ms=11.0, source="camera 1"):
    reasons = {
        "OK": "no defect found",
        "NG": f"1 defect of {SCRATCH.area} pixels, score {score:.2f} over 0.50",
        "UNSURE": "score close to the limit",
        "ERROR": "no picture in time",
    }
    time_ns = time.time_ns() - int(age_s * 1e9)
    boxes = (SCRATCH,) if decision == "NG" else ()
    return Verdict(
        new_id(time_ns), time_ns, time.monotonic_ns(), source, number, str(number), decision, score, 0.5, boxes,
        sum(box.area for box in boxes), reasons[decision], {"total": latency_ms}, "0123456789abcdef",
    )  # fmt: skip


def golden_gate(store, source="camera 1"):
    """The gate of a station whose golden parts are shown to the camera, two good and two bad ones."""
    loaded = SimpleNamespace(artifact=SimpleNamespace(manifest=SimpleNamespace(files={})), release=lambda: None)
    settings = StationSettings(
        name=source, trigger=TriggerSettings("http"),
        golden=GoldenSettings("parts", ("master/good-1", "master/good-2"), ("master/scratch", "master/dent")),
    )  # fmt: skip
    station = SimpleNamespace(
        name=source, settings=settings, calibration=lambda loaded=None: {},
        engine=SimpleNamespace(loaded=loaded, current=lambda: loaded),
    )  # fmt: skip
    gate = GoldenGate(station, store)
    gate.tick()
    return gate


def show_golden(gate, part, decision):
    """The golden part before the camera, judged so."""
    score = 0.9 if decision == "NG" else 0.1
    gate.apply(part, Judgement(decision, score, 0.5, (), 0, ""), gate.station.engine.loaded)


class Line:
    """The view, and handles to change what it shows."""

    def __init__(self, folder, parts=600, newest="NG"):
        self.rng = np.random.default_rng(7)
        self.folder = folder
        self.files = {}
        self.explained = []
        self.store = Store(folder / "store.sqlite", durable=False)
        self.health = Health()
        self.health.works("inspector")
        self.cameras = [{"name": "camera 1", "state": "running", "fps": 14.8, "message": "", "dropped": 0}]
        self.sinks = [SinkState("mqtt", "up", 600, 0, 0, ""), SinkState("modbus", "up", 600, 0, 0, "")]
        self.encoded = 0
        normals = self.rng.gamma(6, 0.025, 400)
        calibration = {
            "image_threshold": 0.5, "pixel_threshold": 0.6, "false_alarm_rate": 0.001, "normals": 400,
            "score_quantiles": np.quantile(normals, np.linspace(0, 1, 101)).tolist(),
        }  # fmt: skip
        drift = DriftMonitor(calibration=calibration, seed=0)
        for i in range(parts):
            age = (parts - i) * 7200 / parts
            kind = "NG" if i % 37 == 5 else "UNSURE" if i % 113 == 7 else "OK"
            if i == parts - 1:
                kind = newest
            score = {"NG": 0.9, "UNSURE": 0.49, "OK": float(self.rng.gamma(6, 0.025)), "ERROR": None}[kind]
            score = score if score is None else score + float(self.rng.normal(0, 0.01))
            self.add(verdict(kind, score, age_s=age, number=i, latency_ms=float(self.rng.gamma(40, 0.28))))
            if kind == "OK":
                drift.update(score, ImageStatistics(120 + self.rng.normal(), 0.4 + self.rng.normal() / 100, 0.5, 0.5))
        frame, scores = part(self.rng, newest == "NG")
        boxes = (SCRATCH,) if newest == "NG" else ()
        self.newest = Newest(1, "camera 1", frame, scores, 0.6, boxes, newest)
        self.view = LineView(
            "Press 4", "turned-ring · 0123456789ab", self.store, self.health, newest=self._newest,
            cameras=lambda: self.cameras, sinks=lambda: self.sinks, pictures=lambda id: self.files.get(id, {}),
            drift=drift, calibration=lambda camera: calibration,
            recalibration=RecalibrationSet(folder / "recalibration"), explain=self._explain,
        )  # fmt: skip

    def _explain(self, verdict, picture):
        if picture is None:
            raise DataError("no picture was kept of this part")
        self.explained.append(verdict["id"])
        return encode_image(np.full((400, 600, 3), 255, np.uint8), ".jpg")

    def _newest(self, camera):
        self.encoded += 1
        return self.newest if camera in (None, "camera 1") else None

    def add(self, one):
        self.store.add(one)
        if one.decision in ("NG", "UNSURE"):
            frame, scores = part(self.rng, one.decision == "NG")
            picture, overlay = self.folder / f"{one.id}.png", self.folder / f"{one.id}-overlay.jpg"
            cv2.imwrite(str(picture), frame[:, :, ::-1])
            painted = paint(Newest(0, "", frame, scores, 0.6, one.boxes, one.decision))
            overlay.write_bytes(encode_image(painted, ".jpg", 80))
            self.files[one.id] = {"picture": picture, "overlay": overlay}

    def close(self):
        self.store.close()
