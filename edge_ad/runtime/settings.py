"""Settings of a run: one TOML file, read strictly; `runtime.example` writes one with every field explained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from edge_ad.config import read_section, read_toml
from edge_ad.errors import ConfigError

MIN_TILE = 16  # pixels; the graph sees each tile at its own size of hundreds of pixels


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

    address: Annotated[
        str,
        "0 or /dev/video0; csi://0; rtsp://... or http://...; a GStreamer pipeline with ' ! '; genicam://SERIAL; "
        "a video or image file; a folder; watch://FOLDER; - for JPEG or PNG images on standard input",
    ] = ""
    width: Annotated[int, "camera picture width in pixels; 0 leaves the camera's"] = 0
    height: Annotated[int, "camera picture height in pixels; 0 leaves the camera's"] = 0
    fps: Annotated[float, "camera frames per second; 0 leaves the camera's"] = 0.0
    exposure: Annotated[
        float | None, "manual exposure in the driver's unit (V4L2: 100 us; GenICam: us); absent: automatic"
    ] = None
    format: Annotated[str, "pixel format as four letters (MJPG, YUYV) or GenICam's name (BayerRG8)"] = ""
    username: Annotated[str, "user for a stream that asks for one"] = ""
    password_file: Annotated[str, "file with that user's password; it is never logged"] = ""
    ca_file: Annotated[str, "https: certificate (PEM) of the camera, or of its authority; absent: the system's"] = ""
    policy: Annotated[
        Literal["auto", "newest", "every"],
        "newest drops frames that nobody had time for; every waits; auto: newest for cameras, every for files",
    ] = "auto"
    queue: Annotated[int, "frames that may wait between capture and inspection"] = 4
    timeout_s: Annotated[float, "no whole frame for this long means the camera is lost"] = 5.0
    reconnect_s: Annotated[tuple[float, float], "first and longest pause before reconnecting"] = (0.5, 15.0)
    frozen_s: Annotated[float, "the very same picture for this long is a fault; 0 switches the check off"] = 5.0
    black_level: Annotated[float, "a mean brightness (0..255) below this is a fault; 0 switches the check off"] = 2.0
    realtime: Annotated[bool, "play a video file at its own speed, as a camera would"] = False
    repeat: Annotated[bool, "begin a video file or folder again at its end"] = False
    after: Annotated[
        Literal["keep", "delete", "move"],
        "watched folder: what happens to a file once it was read; move puts it into done/",
    ] = "keep"
    settle_s: Annotated[float, "watched folder: a file whose size stood still this long is complete"] = 0.5

    def __post_init__(self) -> None:
        _need_at_least(1, "source", self, "queue")
        _need_at_least(0, "source", self, "width", "height", "fps", "frozen_s", "black_level", "settle_s")
        _need(self.timeout_s > 0, f"source.timeout_s = {self.timeout_s}", "use more than 0")
        first, longest = self.reconnect_s
        _need(0 < first <= longest, f"source.reconnect_s = {self.reconnect_s}", "use first <= longest, above 0")


@dataclass(frozen=True)
class FrameSettings:
    """What happens to a frame before inspection, in this order: perspective, rotation, region, tiles."""

    corners: Annotated[
        tuple[tuple[float, float], ...],
        "four (x, y) of the part's plane, clockwise from top left: straightened to a rectangle",
    ] = ()
    size: Annotated[
        tuple[int, int] | None, "height and width of that rectangle; absent: the longest sides of the quadrilateral"
    ] = None
    rotate: Annotated[float, "degrees counter-clockwise; multiples of 90 lose nothing"] = 0.0
    roi: Annotated[tuple[int, int, int, int] | None, "x, y, width, height of the region that is inspected"] = None
    tile: Annotated[
        tuple[int, int] | None, "height and width of tiles; each is inspected at full detail, the maps are stitched"
    ] = None
    overlap: Annotated[float, "share of a tile that overlaps its neighbour"] = 0.15

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

    kind: Annotated[
        Literal["free", "interval", "motion", "gpio", "http", "mqtt", "modbus", "plc"],
        "free inspects every frame; motion once for each part that comes to rest; the others are signals "
        "(plc: the handshake of [sink.modbus] or [sink.opcua])",
    ] = "free"
    interval_ms: Annotated[float, "interval: milliseconds between inspections"] = 1000.0
    delay_ms: Annotated[float, "signals: use the first frame taken this long after the signal"] = 0.0
    timeout_ms: Annotated[float, "signals: without a frame by then, the verdict is ERROR"] = 2000.0
    settle: Annotated[int, "motion: quiet frames before a part counts as at rest"] = 2
    host: Annotated[str, "http: address to listen on; mqtt and modbus: the peer's address"] = "127.0.0.1"
    port: Annotated[int, "port; 0: 8770 for http, 1883 for mqtt, 502 for modbus"] = 0
    token: Annotated[str, "http: must come as 'Authorization: Bearer TOKEN'; needed off loopback"] = ""
    topic: Annotated[str, "mqtt: the message's text becomes the part's identity"] = "edge-ad/trigger"
    unit: Annotated[int, "modbus: unit (device) number"] = 1
    coil: Annotated[int, "modbus: coil whose rising edge is the trigger"] = 0
    acknowledge: Annotated[int, "modbus: coil that is set while a trigger is being answered; -1: none"] = -1
    poll_ms: Annotated[float, "modbus: milliseconds between readings"] = 5.0
    chip: Annotated[str, "gpio: chip device"] = "/dev/gpiochip0"
    line: Annotated[int, "gpio: line offset on the chip"] = 0
    edge: Annotated[Literal["rising", "falling"], "gpio: which edge is the trigger"] = "rising"
    debounce_ms: Annotated[float, "gpio: edges within this time are one"] = 2.0

    def __post_init__(self) -> None:
        need_port("trigger", self.port, lowest=-1)
        _need_at_least(1, "trigger", self, "settle", "timeout_ms", "poll_ms")
        _need_at_least(0, "trigger", self, "interval_ms", "delay_ms", "debounce_ms")


@dataclass(frozen=True)
class PresenceSettings:
    """Whether there is a part in front of the camera; frames without one are not inspected."""

    kind: Annotated[
        Literal["off", "reference", "learned"],
        "reference compares with a picture of the empty station, learned with what is usually seen",
    ] = "off"
    reference: Annotated[str, "picture of the empty station, as the camera sees it"] = ""
    level: Annotated[float, "difference in brightness (0..255) that counts as changed"] = 25.0
    share: Annotated[float, "share of the picture that must have changed"] = 0.05

    def __post_init__(self) -> None:
        _need_at_least(0, "presence", self, "level")
        _need(0 < self.share <= 1, f"presence.share = {self.share}", "use more than 0, at most 1")


@dataclass(frozen=True)
class RegionSettings:
    """A part of the picture with a rule of its own."""

    name: Annotated[str, "shown in the reason"] = ""
    box: Annotated[tuple[int, int, int, int], "x, y, width, height in pixels of the inspected picture"] = (0, 0, 0, 0)
    threshold: Annotated[float | None, "image threshold inside the box; absent: the artifact's"] = None
    ignore: Annotated[bool, "nothing inside the box counts"] = False


@dataclass(frozen=True)
class PolicySettings:
    """From scores to OK, NG or UNSURE."""

    threshold: Annotated[float | None, "image threshold; absent: the artifact's calibrated one"] = None
    pixel_threshold: Annotated[float | None, "pixel threshold for boxes; absent: the artifact's"] = None
    unsure: Annotated[
        float, "half width of the UNSURE band around the threshold, as a share of (threshold - median of normals)"
    ] = 0.0
    hysteresis: Annotated[
        float, "after NG, the threshold is lower by this share until a score falls below it (endless material)"
    ] = 0.0
    min_area: Annotated[int, "NG needs a defect of at least this many pixels of the inspected picture"] = 0
    frames: Annotated[int, "frames of one part that are judged together"] = 1
    votes: Annotated[int, "NG frames among them that make the part NG; fewer but some: UNSURE"] = 1
    deadline_ms: Annotated[float, "the verdict is due this long after the frame was taken; 0: no deadline"] = 0.0
    on_deadline: Annotated[Literal["NG", "UNSURE", "ERROR"], "the verdict given when it isn't there by then"] = (
        "UNSURE"
    )
    regions: Annotated[tuple[RegionSettings, ...], "boxes with a threshold of their own, or ignored"] = ()

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
class GoldenSettings:
    """Parts of known quality that the station must judge right before it may give an OK."""

    kind: Annotated[
        Literal["photos", "parts"],
        "photos are inspected by themselves; parts are put before the camera, which also proves light and lens",
    ] = "photos"
    good: Annotated[
        tuple[str, ...], "photos, or names of parts, that must be OK; two or more; absent with bad: no golden parts"
    ] = ()
    bad: Annotated[tuple[str, ...], "photos, or names of parts, that must be NG; two or more"] = ()
    named: Annotated[
        bool, "parts: the trigger gives their names (a PLC's part number); false: shown in the order listed"
    ] = True
    every_h: Annotated[float, "hours until they are demanded again; 0: only at the start and after a change"] = 8.0
    instead: Annotated[Literal["UNSURE", "NG", "ERROR"], "what a part gets that would be OK while OK is blocked"] = (
        "UNSURE"
    )

    def __post_init__(self) -> None:
        _need_at_least(0, "golden", self, "every_h")
        both = bool(self.good) == bool(self.bad)
        _need(both, "golden parts of one kind only", "name good and bad ones, two of each: golden.good, golden.bad")
        names = [*self.good, *self.bad]
        _need(len(set(names)) == len(names), f"a golden part is named twice: {', '.join(names)}", "name each once")


@dataclass(frozen=True)
class StationSettings:
    """One camera and what is done with its frames."""

    name: Annotated[str, "names the station in verdicts; absent: made from the address"] = ""
    artifact: Annotated[str, "artifact for this station; absent: the run's"] = ""
    product: Annotated[
        str,
        "which of the artifact's products this station sees; needed where each has a threshold; all: the common one",
    ] = ""
    source: Annotated[SourceSettings, "where frames come from"] = SourceSettings()
    frame: Annotated[FrameSettings, "straighten, rotate, cut out, tile"] = FrameSettings()
    trigger: Annotated[TriggerSettings, "what starts an inspection"] = TriggerSettings()
    presence: Annotated[PresenceSettings, "inspect only while there is a part"] = PresenceSettings()
    policy: Annotated[PolicySettings, "from scores to a decision"] = PolicySettings()
    golden: Annotated[
        GoldenSettings, "parts of known quality, demanded at the start, after a change and every few hours"
    ] = GoldenSettings()

    def __post_init__(self) -> None:
        golden, trigger = self.golden, self.trigger.kind
        if golden.good and golden.kind == "parts":
            signals = trigger in ("gpio", "http", "mqtt", "modbus", "plc")
            _need(
                (signals and trigger != "gpio") if golden.named else signals or trigger == "motion",
                f"golden.kind = 'parts' with trigger.kind = '{trigger}', which tells "
                + ("no part's name" if golden.named else "no part from the next"),
                "take golden.named = false, or another trigger"
                if golden.named
                else "take photos, or another trigger",
            )


@dataclass(frozen=True)
class EngineSettings:
    """What runs the graph."""

    backend: Annotated[str, "auto, onnxruntime, openvino or tensorrt"] = "auto"
    precision: Annotated[str, "auto, fp32, fp16 or int8; auto is the calibrated one"] = "auto"
    threads: Annotated[int | None, "CPU threads; absent: all"] = None
    reload: Annotated[bool, "load the artifact again when its files change, without missing a part"] = True

    def __post_init__(self) -> None:
        _need_at_least(1, "engine", self, "threads")


@dataclass(frozen=True)
class StoreSettings:
    """The verdict store."""

    path: Annotated[str, "SQLite file; absent: verdicts.sqlite in the output folder"] = ""
    days: Annotated[float, "verdicts older than this are removed; 0 keeps all"] = 90.0
    max_mb: Annotated[float, "the oldest verdicts are removed beyond this size; 0 for no limit"] = 2000.0
    durable: Annotated[bool, "wait for the disk at every verdict, so that a power cut loses none"] = True

    def __post_init__(self) -> None:
        _need_at_least(0, "store", self, "days", "max_mb")


@dataclass(frozen=True)
class ImagesSettings:
    """Pictures of rejects, and of a sample of accepts."""

    enabled: Annotated[bool, "write them into images/ in the output folder"] = True
    accepts_every: Annotated[int, "also keep every n-th accepted part; 0 for none"] = 100
    overlay: Annotated[bool, "also write the picture with its heat map and boxes"] = True
    scores: Annotated[bool, "also write the pixel scores as a NumPy file"] = False
    days: Annotated[float, "pictures older than this are removed; 0 keeps all"] = 30.0
    max_mb: Annotated[float, "the oldest pictures are removed beyond this size; 0 for no limit"] = 5000.0

    def __post_init__(self) -> None:
        _need_at_least(0, "images", self, "accepts_every", "days", "max_mb")


@dataclass(frozen=True)
class VideoSettings:
    """One annotated video of everything that was inspected."""

    path: Annotated[str, "file to write (.mp4 or .avi); absent: annotated.mp4 for one video file, else none"] = ""
    fps: Annotated[float, "its frames per second"] = 25.0
    height: Annotated[int, "its height in pixels"] = 480

    def __post_init__(self) -> None:
        _need(self.fps > 0, f"video.fps = {self.fps}", "use more than 0")
        _need_at_least(16, "video", self, "height")


@dataclass(frozen=True)
class RunSettings:
    """Everything `edgead run` needs besides what is given on its command line."""

    artifact: Annotated[str, "folder that `edgead train` wrote"] = ""
    out: Annotated[str, "output folder"] = "edgead-run"
    station: Annotated[tuple[StationSettings, ...], "the cameras, as [[station]] tables"] = (StationSettings(),)
    engine: Annotated[EngineSettings, "what runs the graph; shared by stations with one artifact"] = EngineSettings()
    store: Annotated[StoreSettings, "the verdict store"] = StoreSettings()
    images: Annotated[ImagesSettings, "pictures of rejects and sampled accepts"] = ImagesSettings()
    video: Annotated[VideoSettings, "one annotated video"] = VideoSettings()
    sink: Annotated[
        dict[str, Any], "plant sinks, each a table: mqtt, modbus, modbus_client, opcua, gpio, webhook, prometheus"
    ] = field(default_factory=dict)
    page: Annotated[dict[str, Any] | None, "the operator page: host, port, token; absent: none"] = None
    health: Annotated[dict[str, Any] | None, "/healthz and /readyz: host, port; absent: none"] = None
    drift: Annotated[dict[str, Any] | None, "warn when accepted parts or pictures drift; absent: no watch"] = None
    recalibration: Annotated[dict[str, Any] | None, "keep a sample of accepted parts: size; absent: none"] = None


TABLES = ("sink", "page", "health", "drift", "recalibration")  # read by the module they belong to


def read_settings(path: str | Path) -> RunSettings:
    """The settings in a TOML file; ConfigError names an unknown key or a wrong value."""
    return settings_from(read_toml(path))


def read_station(
    path: Path | None, name: str, backend: str = "auto", precision: str = "auto"
) -> tuple[StationSettings | None, str, str]:
    """The station of a settings file, and backend and precision: those given, or the settings' for `auto`.

    path: None for no settings, then there is no station. name: may be empty where there is one station only.
    """
    if path is None:
        _need(not name, f"--station {name} without --settings", "name the settings file that has it")
        return None, backend, precision
    settings = read_settings(path)
    found = [station for station in settings.station if name in ("", station.name)]
    known = ", ".join(station.name for station in settings.station)
    _need(len(found) == 1, f"{path} has the stations {known}", "choose one of them with --station")
    own = settings.engine
    return (
        found[0],
        own.backend if backend == "auto" else backend,
        own.precision if precision == "auto" else precision,
    )


def settings_from(data: Mapping[str, Any]) -> RunSettings:
    """The same from plain tables."""
    settings = read_section(RunSettings, data, "")
    _need(bool(settings.station), "there is no [[station]]", "add one with a [station.source] address")
    names = [station.name for station in settings.station if station.name]
    _need(len(set(names)) == len(names), f"two stations share a name: {names}", "give each its own")
    return settings
