"""Settings of a run: one TOML file, read strictly; `runtime.example` writes one with every field explained."""

# ruff: noqa: RUF009  (_setting and _section only make dataclass fields)
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge_ad.config import read_section, read_toml
from edge_ad.errors import ConfigError

MIN_TILE = 16  # pixels; the graph sees each tile at its own size of hundreds of pixels


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def _section(cls: type, text: str) -> Any:
    return field(default_factory=cls, metadata={"help": text})


def _need(good: bool, message: str, hint: str) -> None:
    if not good:
        raise ConfigError(message, hint)


def _need_at_least(low: float, section: str, settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        _need(value is None or value >= low, f"{section}.{name} = {value}", f"use {low:g} or more")


def _is_convex(corners: tuple[tuple[float, float], ...]) -> bool:
    """Whether every corner turns the same way; true without corners."""
    turns = [
        (corners[i - 1][0] - corners[i - 2][0]) * (y - corners[i - 1][1])
        - (corners[i - 1][1] - corners[i - 2][1]) * (x - corners[i - 1][0])
        for i, (x, y) in enumerate(corners)
    ]
    return all(turn > 0 for turn in turns) or all(turn < 0 for turn in turns)


def need_port(section: str, port: int, *, lowest: int = 1) -> None:
    """ConfigError unless it is a port's number; lowest: -1 or 0 where these have a meaning of their own."""
    _need(lowest <= port <= 65535, f"{section}.port = {port}", f"use {lowest} to 65535")


@dataclass(frozen=True)
class SourceSettings:
    """Where frames come from."""

    address: str = _setting(
        "",
        "0 or /dev/video0; csi://0; rtsp://... or http://...; a GStreamer pipeline with ' ! '; genicam://SERIAL; "
        "a video or image file; a folder; watch://FOLDER; - for JPEG or PNG images on standard input",
    )
    width: int = _setting(0, "camera picture width in pixels; 0 leaves the camera's")
    height: int = _setting(0, "camera picture height in pixels; 0 leaves the camera's")
    fps: float = _setting(0.0, "camera frames per second; 0 leaves the camera's")
    exposure: float | None = _setting(
        None, "manual exposure in the driver's unit (V4L2: 100 us; GenICam: us); absent: automatic"
    )
    format: str = _setting("", "pixel format as four letters (MJPG, YUYV) or GenICam's name (BayerRG8)")
    username: str = _setting("", "user for a stream that asks for one")
    password_file: str = _setting("", "file with that user's password; it is never logged")
    policy: Literal["auto", "newest", "every"] = _setting(
        "auto", "newest drops frames that nobody had time for; every waits; auto: newest for cameras, every for files"
    )
    queue: int = _setting(4, "frames that may wait between capture and inspection")
    timeout_s: float = _setting(5.0, "no frame for this long means the camera is lost")
    reconnect_s: tuple[float, float] = _setting((0.5, 15.0), "first and longest pause before reconnecting")
    frozen_s: float = _setting(5.0, "the very same picture for this long is a fault; 0 switches the check off")
    black_level: float = _setting(2.0, "a mean brightness (0..255) below this is a fault; 0 switches the check off")
    realtime: bool = _setting(False, "play a video file at its own speed, as a camera would")
    repeat: bool = _setting(False, "begin a video file or folder again at its end")
    after: Literal["keep", "delete", "move"] = _setting(
        "keep", "watched folder: what happens to a file once it was read; move puts it into done/"
    )
    settle_s: float = _setting(0.5, "watched folder: a file whose size stood still this long is complete")

    def __post_init__(self) -> None:
        _need_at_least(1, "source", self, "queue")
        _need_at_least(0, "source", self, "width", "height", "fps", "frozen_s", "black_level", "settle_s")
        _need(self.timeout_s > 0, f"source.timeout_s = {self.timeout_s}", "use more than 0")
        first, longest = self.reconnect_s
        _need(0 < first <= longest, f"source.reconnect_s = {self.reconnect_s}", "use first <= longest, above 0")


@dataclass(frozen=True)
class FrameSettings:
    """What happens to a frame before inspection, in this order: perspective, rotation, region, tiles."""

    corners: tuple[tuple[float, float], ...] = _setting(
        (), "four (x, y) of the part's plane, clockwise from top left: straightened to a rectangle"
    )
    size: tuple[int, int] | None = _setting(
        None, "height and width of that rectangle; absent: the longest sides of the quadrilateral"
    )
    rotate: float = _setting(0.0, "degrees counter-clockwise; multiples of 90 lose nothing")
    roi: tuple[int, int, int, int] | None = _setting(None, "x, y, width, height of the region that is inspected")
    tile: tuple[int, int] | None = _setting(
        None, "height and width of tiles; each is inspected at full detail, the maps are stitched"
    )
    overlap: float = _setting(0.15, "share of a tile that overlaps its neighbour")

    def __post_init__(self) -> None:
        _need(len(self.corners) in (0, 4), f"frame.corners has {len(self.corners)} points", "give four, or none")
        _need(_is_convex(self.corners), f"frame.corners = {self.corners}", "go round the part's plane once")
        _need(self.size is None or min(self.size) >= 1, f"frame.size = {self.size}", "use 1 or more")
        _need(self.size is None or bool(self.corners), "frame.size without frame.corners", "give both, or none")
        _need(self.tile is None or min(self.tile) >= MIN_TILE, f"frame.tile = {self.tile}", f"use {MIN_TILE} or more")
        _need(0 <= self.overlap < 0.9, f"frame.overlap = {self.overlap}", "use 0 to 0.9")

    def tiling(self) -> list[float]:
        """Height, width and overlap of the tiles, as a calibration records them; empty for whole pictures."""
        return [] if self.tile is None else [*self.tile, self.overlap]


@dataclass(frozen=True)
class TriggerSettings:
    """What starts an inspection."""

    kind: Literal["free", "interval", "motion", "gpio", "http", "mqtt", "modbus", "plc"] = _setting(
        "free",
        "free inspects every frame; motion once for each part that comes to rest; the others are signals "
        "(plc: the handshake of [sink.modbus] or [sink.opcua])",
    )
    interval_ms: float = _setting(1000.0, "interval: milliseconds between inspections")
    delay_ms: float = _setting(0.0, "signals: use the first frame taken this long after the signal")
    timeout_ms: float = _setting(2000.0, "signals: without a frame by then, the verdict is ERROR")
    settle: int = _setting(2, "motion: quiet frames before a part counts as at rest")
    host: str = _setting("127.0.0.1", "http: address to listen on; mqtt and modbus: the peer's address")
    port: int = _setting(0, "port; 0: 8770 for http, 1883 for mqtt, 502 for modbus")
    token: str = _setting("", "http: must come as 'Authorization: Bearer TOKEN'; needed off loopback")
    topic: str = _setting("edge-ad/trigger", "mqtt: the message's text becomes the part's identity")
    unit: int = _setting(1, "modbus: unit (device) number")
    coil: int = _setting(0, "modbus: coil whose rising edge is the trigger")
    acknowledge: int = _setting(-1, "modbus: coil that is set while a trigger is being answered; -1: none")
    poll_ms: float = _setting(5.0, "modbus: milliseconds between readings")
    chip: str = _setting("/dev/gpiochip0", "gpio: chip device")
    line: int = _setting(0, "gpio: line offset on the chip")
    edge: Literal["rising", "falling"] = _setting("rising", "gpio: which edge is the trigger")
    debounce_ms: float = _setting(2.0, "gpio: edges within this time are one")

    def __post_init__(self) -> None:
        need_port("trigger", self.port, lowest=-1)
        _need_at_least(1, "trigger", self, "settle", "timeout_ms", "poll_ms")
        _need_at_least(0, "trigger", self, "interval_ms", "delay_ms", "debounce_ms")


@dataclass(frozen=True)
class PresenceSettings:
    """Whether there is a part in front of the camera; frames without one are not inspected."""

    kind: Literal["off", "reference", "learned"] = _setting(
        "off", "reference compares with a picture of the empty station, learned with what is usually seen"
    )
    reference: str = _setting("", "picture of the empty station, as the camera sees it")
    level: float = _setting(25.0, "difference in brightness (0..255) that counts as changed")
    share: float = _setting(0.05, "share of the picture that must have changed")

    def __post_init__(self) -> None:
        _need_at_least(0, "presence", self, "level")
        _need(0 < self.share <= 1, f"presence.share = {self.share}", "use more than 0, at most 1")


@dataclass(frozen=True)
class RegionSettings:
    """A part of the picture with a rule of its own."""

    name: str = _setting("", "shown in the reason")
    box: tuple[int, int, int, int] = _setting((0, 0, 0, 0), "x, y, width, height in pixels of the inspected picture")
    threshold: float | None = _setting(None, "image threshold inside the box; absent: the artifact's")
    ignore: bool = _setting(False, "nothing inside the box counts")


@dataclass(frozen=True)
class PolicySettings:
    """From scores to OK, NG or UNSURE."""

    threshold: float | None = _setting(None, "image threshold; absent: the artifact's calibrated one")
    pixel_threshold: float | None = _setting(None, "pixel threshold for boxes; absent: the artifact's")
    unsure: float = _setting(
        0.0, "half width of the UNSURE band around the threshold, as a share of (threshold - median of normals)"
    )
    hysteresis: float = _setting(
        0.0, "after NG, the threshold is lower by this share until a score falls below it (endless material)"
    )
    min_area: int = _setting(0, "NG needs a defect of at least this many pixels of the inspected picture")
    frames: int = _setting(1, "frames of one part that are judged together")
    votes: int = _setting(1, "NG frames among them that make the part NG; fewer but some: UNSURE")
    deadline_ms: float = _setting(0.0, "the verdict is due this long after the frame was taken; 0: no deadline")
    on_deadline: Literal["NG", "UNSURE", "ERROR"] = _setting(
        "UNSURE", "the verdict given when it isn't there by then"
    )
    regions: tuple[RegionSettings, ...] = _setting((), "boxes with a threshold of their own, or ignored")

    def __post_init__(self) -> None:
        for name in ("threshold", "pixel_threshold"):  # above NaN is nothing: every part would be good
            value = getattr(self, name)
            _need(value is None or math.isfinite(value), f"policy.{name} = {value}", "use a number")
        _need_at_least(1, "policy", self, "frames")
        _need(
            1 <= self.votes <= self.frames, f"policy.votes = {self.votes} of {self.frames} frames", "use 1 to frames"
        )
        _need_at_least(0, "policy", self, "unsure", "hysteresis", "min_area", "deadline_ms")


@dataclass(frozen=True)
class StationSettings:
    """One camera and what is done with its frames."""

    name: str = _setting("", "names the station in verdicts; absent: made from the address")
    artifact: str = _setting("", "artifact for this station; absent: the run's")
    product: str = _setting(
        "",
        "which of the artifact's products this station sees; needed where each has a threshold; all: the common one",
    )
    source: SourceSettings = _section(SourceSettings, "where frames come from")
    frame: FrameSettings = _section(FrameSettings, "straighten, rotate, cut out, tile")
    trigger: TriggerSettings = _section(TriggerSettings, "what starts an inspection")
    presence: PresenceSettings = _section(PresenceSettings, "inspect only while there is a part")
    policy: PolicySettings = _section(PolicySettings, "from scores to a decision")


@dataclass(frozen=True)
class EngineSettings:
    """What runs the graph."""

    backend: str = _setting("auto", "auto, onnxruntime, openvino or tensorrt")
    precision: str = _setting("auto", "auto, fp32, fp16 or int8; auto is the calibrated one")
    threads: int | None = _setting(None, "CPU threads; absent: all")
    reload: bool = _setting(True, "load the artifact again when its files change, without missing a part")

    def __post_init__(self) -> None:
        _need_at_least(1, "engine", self, "threads")


@dataclass(frozen=True)
class StoreSettings:
    """The verdict store."""

    path: str = _setting("", "SQLite file; absent: verdicts.sqlite in the output folder")
    days: float = _setting(90.0, "verdicts older than this are removed; 0 keeps all")
    max_mb: float = _setting(2000.0, "the oldest verdicts are removed beyond this size; 0 for no limit")
    durable: bool = _setting(True, "wait for the disk at every verdict, so that a power cut loses none")

    def __post_init__(self) -> None:
        _need_at_least(0, "store", self, "days", "max_mb")


@dataclass(frozen=True)
class ImagesSettings:
    """Pictures of rejects, and of a sample of accepts."""

    enabled: bool = _setting(True, "write them into images/ in the output folder")
    accepts_every: int = _setting(100, "also keep every n-th accepted part; 0 for none")
    overlay: bool = _setting(True, "also write the picture with its heat map and boxes")
    scores: bool = _setting(False, "also write the pixel scores as a NumPy file")
    days: float = _setting(30.0, "pictures older than this are removed; 0 keeps all")
    max_mb: float = _setting(5000.0, "the oldest pictures are removed beyond this size; 0 for no limit")

    def __post_init__(self) -> None:
        _need_at_least(0, "images", self, "accepts_every", "days", "max_mb")


@dataclass(frozen=True)
class VideoSettings:
    """One annotated video of everything that was inspected."""

    path: str = _setting("", "file to write (.mp4 or .avi); absent: annotated.mp4 for one video file, else none")
    fps: float = _setting(25.0, "its frames per second")
    height: int = _setting(480, "its height in pixels")

    def __post_init__(self) -> None:
        _need(self.fps > 0, f"video.fps = {self.fps}", "use more than 0")
        _need_at_least(16, "video", self, "height")


@dataclass(frozen=True)
class RunSettings:
    """Everything `edgead run` needs besides what is given on its command line."""

    artifact: str = _setting("", "folder that `edgead train` wrote")
    out: str = _setting("edgead-run", "output folder")
    station: tuple[StationSettings, ...] = _setting((StationSettings(),), "the cameras, as [[station]] tables")
    engine: EngineSettings = _section(EngineSettings, "what runs the graph; shared by stations with one artifact")
    store: StoreSettings = _section(StoreSettings, "the verdict store")
    images: ImagesSettings = _section(ImagesSettings, "pictures of rejects and sampled accepts")
    video: VideoSettings = _section(VideoSettings, "one annotated video")
    sink: dict[str, Any] = _section(
        dict, "plant sinks, each a table: mqtt, modbus, modbus_client, opcua, gpio, webhook, prometheus"
    )
    page: dict[str, Any] | None = _setting(None, "the operator page: host, port, token; absent: none")
    health: dict[str, Any] | None = _setting(None, "/healthz and /readyz: host, port; absent: none")
    drift: dict[str, Any] | None = _setting(None, "warn when accepted parts or pictures drift; absent: no watch")
    recalibration: dict[str, Any] | None = _setting(None, "keep a sample of accepted parts: size; absent: none")


TABLES = ("sink", "page", "health", "drift", "recalibration")  # read by the module they belong to


def read_settings(path: str | Path) -> RunSettings:
    """The settings in a TOML file; ConfigError names an unknown key or a wrong value."""
    return settings_from(read_toml(path))


def settings_from(data: Mapping[str, Any]) -> RunSettings:
    """The same from plain tables."""
    settings = read_section(RunSettings, data, "")
    _need(bool(settings.station), "there is no [[station]]", "add one with a [station.source] address")
    names = [station.name for station in settings.station if station.name]
    _need(len(set(names)) == len(names), f"two stations share a name: {names}", "give each its own")
    return settings
