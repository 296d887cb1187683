"""Line: what stands around the inspector. Plant sinks, operator page, health, drift, re-calibration set."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from edge_ad.config import read_section
from edge_ad.data.images import encode_image
from edge_ad.errors import ConfigError, DataError
from edge_ad.runtime.explain.picture import draw_explanation
from edge_ad.runtime.line.filing import file_label
from edge_ad.runtime.line.inspector import Inspector
from edge_ad.runtime.line.why import explain_verdict
from edge_ad.runtime.page.data import Label, LineView, Newest
from edge_ad.runtime.page.server import OperatorPage, PageConfig
from edge_ad.runtime.settings import RunSettings, need_port
from edge_ad.runtime.sinks.base import Delivery, Frame, PixelScores, Sink
from edge_ad.runtime.sinks.handshake import Handshake
from edge_ad.runtime.verdict import Verdict
from edge_ad.runtime.watch.drift import DriftConfig, image_statistics
from edge_ad.runtime.watch.health import Health, HealthServer
from edge_ad.runtime.watch.recalibration import RecalibrationSet
from edge_ad.runtime.watch.stations import DriftWatch

log = logging.getLogger(__name__)
# [sink.NAME]: its module, settings, class
PLANT: dict[str, tuple[str, str, str]] = {
    "mqtt": ("mqtt", "MqttConfig", "MqttSink"),
    "modbus": ("modbus", "ModbusServerConfig", "ModbusServerSink"),
    "modbus_client": ("modbus", "ModbusClientConfig", "ModbusClientSink"),
    "opcua": ("opcua", "OpcUaConfig", "OpcUaSink"),
    "gpio": ("gpio", "GpioConfig", "GpioSink"),
    "webhook": ("webhook", "WebhookConfig", "WebhookSink"),
    "prometheus": ("prometheus", "PrometheusConfig", "PrometheusSink"),
}
CAMERA_WORDS = {"starting": "connecting", "up": "running", "lost": "reconnecting", "ended": "stopped"}


@dataclass(frozen=True)
class HealthSettings:
    """Where /healthz and /readyz answer."""

    host: Annotated[str, "address to listen on; 0.0.0.0 for the plant's network"] = "127.0.0.1"
    port: Annotated[int, "port to listen on; 0 picks a free one"] = 8081

    def __post_init__(self) -> None:
        need_port("health", self.port, lowest=0)


@dataclass(frozen=True)
class RecalibrationSettings:
    """A sample of accepted parts for `edgead calibrate --normals OUT/recalibration/good`."""

    size: Annotated[int, "accepted parts that are kept"] = 500


class Observer(Sink):
    """A sink that keeps the newest pictures for the page and watches accepted parts for drift."""

    delivery: Delivery = "now"
    name = "live view"

    def __init__(
        self,
        recalibration: RecalibrationSet | None,
        pixel_threshold: Callable[[str], float | None],
    ) -> None:
        """pixel_threshold: in force at a station."""
        self.drift: DriftWatch | None = None
        self.recalibration, self._pixel_threshold = recalibration, pixel_threshold
        self._newest: dict[str | None, Newest] = {}
        self._sequence = 0

    def write(self, verdict: Verdict, frame: Frame | None = None, pixel_scores: PixelScores | None = None) -> None:
        """Look at the verdict."""
        if frame is None:
            return
        self._sequence += 1
        limit = self._pixel_threshold(verdict.source)
        newest = Newest(self._sequence, verdict.source, frame, pixel_scores, limit, verdict.boxes, verdict.decision)
        self._newest[verdict.source] = self._newest[None] = newest
        if verdict.decision != "OK" or verdict.score is None:
            return
        if self.recalibration:
            self.recalibration.offer(verdict.id, frame)
        if self.drift:
            self.drift.update(verdict.source, verdict.score, image_statistics(frame))

    def newest(self, camera: str | None) -> Newest | None:
        """The newest picture of a camera, of any with None."""
        return self._newest.get(camera)


class Line:
    """An inspector with everything that its settings ask for around it.

    sinks: further ones, for example files. Build it, `run` it. ConfigError, BackendError: a setting or package.
    """

    def __init__(
        self,
        settings: RunSettings,
        sinks: list[Sink],
        *,
        frames: int | None = None,
        keep_trying: bool = False,
    ) -> None:
        self.settings, self.health = settings, Health()
        out = Path(settings.out)
        self.recalibration = None
        if settings.recalibration is not None:
            wanted = read_section(RecalibrationSettings, settings.recalibration, "recalibration")
            self.recalibration = RecalibrationSet(out / "recalibration", size=wanted.size)
        observer = Observer(self.recalibration, lambda name: self._thresholds(name).get("pixel_threshold"))
        watched = (settings.page, settings.drift, settings.recalibration)
        self._metrics: Callable[[], bytes] | None = None
        self._handshakes: list[Handshake] = []
        if settings.page is None and any(station.golden.good for station in settings.station):
            raise ConfigError(
                "golden parts without [page]", "add [page]: there the line is released after a wrong one"
            )
        if self._takes_plc_triggers() and not settings.sink.keys() & {"modbus", "opcua"}:
            raise ConfigError("trigger.kind = 'plc', and no PLC can reach it", "add [sink.modbus] or [sink.opcua]")
        made = [self._sink(name, table) for name, table in settings.sink.items()]
        extra: list[Sink] = [observer] if any(table is not None for table in watched) else []
        self.inspector = Inspector(settings, [*sinks, *made, *extra], frames=frames, keep_trying=keep_trying)
        if settings.page is not None or settings.drift is not None:
            config = read_section(DriftConfig, settings.drift or {}, "drift")
            observer.drift = DriftWatch(config, self.inspector.stations, out)
        self._drift = observer.drift
        self.page = self._page(observer) if settings.page is not None else None
        self._server: HealthServer | None = None

    def run(self, on_tick: Callable[[Inspector], None] | None = None) -> Any:
        """As Inspector.run, with page and health endpoints up meanwhile."""

        def tick(inspector: Inspector) -> None:
            self._beat(inspector)
            if on_tick:
                on_tick(inspector)

        try:
            if self.settings.health is not None:
                where = read_section(HealthSettings, self.settings.health, "health")
                self._server = HealthServer(self.health, where.host, where.port)
            if self.page:
                self.page.start()
                token = f", token {self.page.token}" if self.page.token else ""
                log.warning("operator page: %s%s", self.page.address, token)
                if self.inspector.gates and not self.page.token:
                    log.warning("token that releases the line after a wrong golden part: %s", self.page.release_token)
            if self._drift:
                self._drift.restore()
            return self.inspector.run(tick)
        finally:
            self.health.fails("inspector", "stopping")
            if self._drift:
                self._drift.save()
            if self.recalibration:
                self.recalibration.close()
            if self.page:
                self.page.close()
            if self._server:
                self._server.close()

    def _sink(self, name: str, table: Any) -> Sink:
        if name not in PLANT:
            raise ConfigError(f"unknown sink [sink.{name}]", f"use one of: {', '.join(PLANT)}")
        if not isinstance(table, Mapping):
            raise ConfigError(f"sink.{name} = {table!r}", f"write it as a table: [sink.{name}]")
        module_name, config_name, class_name = PLANT[name]
        module = importlib.import_module(f"edge_ad.runtime.sinks.{module_name}")
        config = read_section(getattr(module, config_name), table, f"sink.{name}")
        more: dict[str, Any] = {}
        if name in ("modbus", "opcua"):
            more["handshake"] = Handshake(self._trigger if self._takes_plc_triggers() else None)
            more["handshake"].set_ok_blocked(any(station.golden.good for station in self.settings.station))
            self._handshakes.append(more["handshake"])
        if name == "prometheus":
            more = {"sinks": lambda: self.inspector.hub.states(), "drift": self._drift_report}
        sink: Any = getattr(module, class_name)(config, **more)
        if name == "prometheus":
            self._metrics = sink.render
        made: Sink = sink
        return made

    def _takes_plc_triggers(self) -> bool:
        return any(station.trigger.kind == "plc" for station in self.settings.station)

    def _trigger(self, part: str) -> None:
        """The PLC's trigger goes to every station that waits for it."""
        for station in self.inspector.stations:
            if station.signals and station.settings.trigger.kind == "plc":
                station.signals.fire(part)

    def _page(self, observer: Observer) -> OperatorPage:
        config = read_section(PageConfig, self.settings.page or {}, "page")
        first = self.inspector.stations[0]
        images = Path(self.settings.out) / "images"

        def pictures(id: str) -> Mapping[str, Path]:
            kinds = {"picture": f"{id}.jpg", "overlay": f"{id}.overlay.jpg"}
            return {kind: path for kind, name in kinds.items() for path in images.glob(f"*/{name}")}

        view = LineView(
            name=first.name,
            artifact=first.engine.loaded.artifact.manifest.name,
            store=self.inspector.store,
            health=self.health,
            newest=observer.newest,
            cameras=self._cameras,
            sinks=self.inspector.hub.states,
            pictures=pictures,
            drift=self._drift,
            calibration=self._thresholds,
            recalibration=self.recalibration,
            metrics=self._metrics,
            gates=self.inspector.gates,
            file_label=self._file_label,
            explain=self._explain,
        )
        return OperatorPage(view, config)

    def _thresholds(self, name: str | None) -> dict[str, Any]:
        """What is in force at a station (the first with None): the settings' thresholds, else the artifact's."""
        stations = self.inspector.stations
        station = next((one for one in stations if one.name == name), stations[0])
        policy, found = station.settings.policy, dict(station.calibration())
        if policy.threshold is not None:  # chosen by hand: nothing is promised
            found |= {"image_threshold": policy.threshold, "false_alarm_rate": None}
        if policy.pixel_threshold is not None:
            found["pixel_threshold"] = policy.pixel_threshold
        return found

    def _file_label(self, verdict: Mapping[str, Any], label: Label | None, picture: Path | None) -> str:
        for station in self.inspector.stations:
            if station.name == verdict["source"]:
                return file_label(station, verdict["id"], verdict["decision"], label, picture)
        return ""  # of a station that the settings no longer have

    def _explain(self, verdict: Mapping[str, Any], picture: Path | None) -> bytes:
        for station in self.inspector.stations:
            if station.name == verdict["source"]:
                found = explain_verdict(station, verdict, picture, self._thresholds(station.name))
                return encode_image(draw_explanation(found), ".jpg")
        raise DataError(f"the settings have no station {verdict['source']} any more", "ask `edgead explain`")

    def _cameras(self) -> list[dict[str, Any]]:
        rows = []
        for station in self.inspector.stations:
            capture = station.capture
            state = CAMERA_WORDS.get(capture.state, capture.state)
            message = capture.problem() or ("" if capture.state == "up" else capture.state)
            row = {"name": station.name, "state": state, "fps": round(capture.fps(), 1)}
            rows.append({**row, "message": message, "dropped": capture.dropped})
        return rows

    def _beat(self, inspector: Inspector) -> None:
        self.health.beat("loop")
        self.health.works("inspector")
        problems = inspector.problems()
        names = [f"camera {station.name}" for station in inspector.stations] + ["store"]
        names += [f"golden parts {gate.station.name}" for gate in inspector.gates]
        for handshake in self._handshakes:
            handshake.set_ok_blocked(any(gate.blocks() for gate in inspector.gates))
        names += [f"sink {state.name}" for state in inspector.hub.states()]
        for name in names:
            self.health.fails(name, problems.get(name, ""))

    def _drift_report(self) -> dict[str, Any]:
        return self._drift.report() if self._drift else {"statistics": {}}
