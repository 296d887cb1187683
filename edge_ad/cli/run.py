"""`edgead run`: inspect a camera, video or folder and record every verdict."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from edge_ad.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_ad.runtime.line.inspector import Inspector, Summary
    from edge_ad.runtime.line.station import Station
    from edge_ad.runtime.overlay import ScoreScale
    from edge_ad.runtime.settings import RunSettings
    from edge_ad.runtime.sinks.base import Sink
    from edge_ad.runtime.sinks.files import ScaleOf

console = Console(stderr=True, highlight=False)


def command(
    artifact: str = typer.Argument("", help="Folder that `edgead train` wrote.  [default: the current one]"),
    source: str = typer.Option(
        "", "--source", help="Video, image, folder, watch://FOLDER, URL, GStreamer pipeline, -."
    ),
    camera: str = typer.Option("", "--camera", help="Camera number or device, or csi://0."),
    out: str = typer.Option("", "--out", help="Folder for verdicts, pictures and logs.  [default: edgead-run]"),
    settings: str = typer.Option("", "--settings", help="TOML file with everything else."),
    headless: bool = typer.Option(False, "--headless", help="Open no window."),
    frames: int | None = typer.Option(None, "--frames", min=1, help="Stop after so many inspected frames."),
    json_lines: bool = typer.Option(False, "--json", help="Print one JSON line a verdict."),
    video: str = typer.Option("", "--video", help="Write an annotated video (.mp4, .avi)."),
    backend: str = typer.Option("", "--backend", help="auto, onnxruntime, openvino or tensorrt."),
    precision: str = typer.Option("", "--precision", help="auto, fp32, fp16 or int8."),
    threads: int | None = typer.Option(None, "--threads", min=1, help="CPU threads for the graph."),
    product: str = typer.Option("", "--product", help="Whose threshold holds, for an artifact of several products."),
    threshold: float | None = typer.Option(None, "--threshold", help="Image threshold instead of the artifact's."),
    cycle_ms: float | None = typer.Option(
        None, "--cycle-ms", min=0.001, help="Cycle time of the line: say at the end whether p99 kept it."
    ),
    no_images: bool = typer.Option(False, "--no-images", help="Keep no pictures."),
    page: bool = typer.Option(False, "--page", help="Serve the operator page on http://127.0.0.1:8080."),
    keep_trying: bool = typer.Option(False, "--keep-trying", help="Wait for a camera that isn't there yet."),
    example_settings: bool = typer.Option(False, "--example-settings", help="Print a settings file, explained."),
    service: bool = typer.Option(False, "--service", help="Install a systemd service that runs this, and stop."),
    user_service: bool = typer.Option(False, "--user", help="With --service: for this user, without root."),
) -> None:
    """Inspect a camera, video or folder and record every verdict.

    Verdicts go to OUT/verdicts.sqlite, pictures of rejects to OUT/images, and for a video file
    an annotated copy to OUT/annotated.mp4. Ctrl-C ends the run with everything
    written. Exit code 0 means that the run was good, whatever the verdicts say.
    """
    if example_settings:
        from edge_ad.runtime.line.example import example_toml

        return typer.echo(example_toml(), nl=False)
    given = {
        "artifact": artifact, "source": source, "camera": camera, "out": out, "video": video, "backend": backend,
        "precision": precision, "threads": threads, "threshold": threshold, "no_images": no_images,
        "page": page, "product": product,
    }  # fmt: skip
    chosen = choose_settings(Path(settings) if settings else None, given)
    if artifact or any(not (station.artifact or chosen.artifact) for station in chosen.station):
        from edge_ad.cli.chosen import chosen_artifact

        path = str(chosen_artifact(artifact, on_line=True))
        given["artifact"], chosen = path, dataclasses.replace(chosen, artifact=path)
    if service:
        return _install_service(chosen, Path(settings) if settings else None, given, user_service)
    if not keep_trying:
        _check_sources(chosen)
    _run(chosen, frames=frames, json_lines=json_lines, headless=headless, keep_trying=keep_trying, cycle_ms=cycle_ms)
    return None


def choose_settings(path: Path | None, given: dict[str, Any]) -> RunSettings:
    """The settings file, with what was given on the command line put over it."""
    from edge_ad.runtime.settings import RunSettings, read_settings

    chosen = read_settings(path) if path else RunSettings()
    if given["source"] and given["camera"]:
        raise ConfigError("both --camera and --source were given", "give one")
    address = given["source"] or given["camera"]
    stations = list(chosen.station)
    if address or given["product"] or given["threshold"] is not None:
        if len(stations) > 1:
            raise ConfigError(
                f"the settings have {len(stations)} stations", "set their sources, products and thresholds there"
            )
        first = stations[0]
        if address:
            first = dataclasses.replace(first, source=dataclasses.replace(first.source, address=address))
        if given["product"]:
            first = dataclasses.replace(first, product=given["product"])
        if given["threshold"] is not None:
            policy = dataclasses.replace(first.policy, threshold=given["threshold"])
            first = dataclasses.replace(first, policy=policy)
        stations = [first]
    engine = {name: given[name] for name in ("backend", "precision", "threads") if given[name]}
    changes: dict[str, Any] = {name: given[name] for name in ("artifact", "out") if given[name]}
    changes["station"] = tuple(stations)
    changes["engine"] = dataclasses.replace(chosen.engine, **engine)
    if given["video"]:
        changes["video"] = dataclasses.replace(chosen.video, path=given["video"])
    if given["page"] and chosen.page is None:
        changes["page"] = {}
    if given["no_images"]:
        changes["images"] = dataclasses.replace(chosen.images, enabled=False)
    return dataclasses.replace(chosen, **changes)


def _run(
    settings: RunSettings,
    *,
    frames: int | None,
    json_lines: bool,
    headless: bool,
    keep_trying: bool,
    cycle_ms: float | None,
) -> None:
    from edge_ad.runtime.line.line import Line
    from edge_ad.runtime.line.service import Watchdog
    from edge_ad.runtime.overlay import score_scale
    from edge_ad.runtime.sinks.files import PreviewSink, can_show_windows

    words = RichHandler(console=console, show_path=False)
    words.addFilter(_without_traceback)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[words])
    stations: list[Station] = []

    def scale_of(source: str) -> ScoreScale | None:
        """A station's own: products of one run may have thresholds far apart."""
        calibrations = [station.calibration() for station in stations if station.name == source]
        return score_scale(calibrations[0]) if calibrations and calibrations[0] else None

    preview = PreviewSink("edgead run (q ends it)", scale_of) if not headless and can_show_windows() else None
    sinks = _sinks(settings, json_lines, scale_of)
    line = Line(settings, [*sinks, *([preview] if preview else [])], frames=frames, keep_trying=keep_trying)
    inspector = line.inspector
    stations += inspector.stations
    _say_without_threshold(stations)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: inspector.stop())
    signal.signal(signal.SIGHUP, lambda *_: inspector.reload())
    watchdog = Watchdog()
    note = "" if headless or preview else "no window: there is no display, or this OpenCV is built without them"
    progress = _Progress(enabled=console.is_terminal and not json_lines, note=note)

    def on_tick(running: Inspector) -> None:
        watchdog.beat(running)
        progress.show(running)
        if preview and not preview.show():
            running.stop()

    watchdog.ready()
    try:
        summary = line.run(on_tick)
    finally:
        watchdog.stopping()
        progress.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
    _report(summary, settings)
    if cycle_ms is not None:
        _report_cycle(summary, cycle_ms)
    if summary.unstored:
        raise BackendError(
            f"{summary.unstored} verdicts are not in the store: {line.inspector.hub.store_error or 'see the log'}",
            "free some disk space, or choose another --out",
        )


def _check_sources(settings: RunSettings) -> None:
    """ConfigError or DataError for an address that means nothing here, before an engine is loaded."""
    from edge_ad.runtime.sources.opening import open_source

    for station in settings.station:
        open_source(station.source)


def _say_without_threshold(stations: Sequence[Station]) -> None:
    """Parts of a station without a threshold are all UNSURE: say so before the first one."""
    from edge_ad.runtime.line.policy import Thresholds

    for station in stations:
        if Thresholds.choose(station.settings.policy, station.calibration()).image is None:
            console.print(
                f"{station.name} has no threshold, so that every part is UNSURE: `edgead calibrate` sets one, or "
                "--threshold",
                style="yellow",
                soft_wrap=True,
            )


def _without_traceback(record: logging.LogRecord) -> bool:
    """Some packages log one with every refusal, such as a port that is taken; what they said is enough."""
    record.exc_info = None
    return True


def _sinks(settings: RunSettings, json_lines: bool, scale_of: ScaleOf) -> list[Sink]:
    from edge_ad.runtime.sinks.files import ImageSink, JsonLinesSink, VideoSink

    out = Path(settings.out)
    sinks: list[Sink] = [JsonLinesSink(sys.stdout)] if json_lines else []
    if settings.images.enabled:
        for station in settings.station:
            source = station.source.address
            # the next run would take this one's pictures of rejects for parts
            if os.path.isdir(source) and out.resolve().is_relative_to(Path(source).resolve()):
                raise ConfigError(f"the output folder {out} lies in the source {source}", "choose another --out")
        sinks.append(ImageSink(out / "images", settings.images, scale_of))
    if path := settings.video.path or _annotated_video(settings):
        if any(Path(station.source.address).resolve() == Path(path).resolve() for station in settings.station):
            raise ConfigError(f"the annotated video {path} is also a source", "choose another --video or --out")
        sinks.append(VideoSink(dataclasses.replace(settings.video, path=path), scale_of))
    return sinks


def _annotated_video(settings: RunSettings) -> str:
    """Where the annotated copy of a video file goes; cameras run for weeks and get none unasked."""
    from edge_ad.runtime.sources.opening import VIDEO_SUFFIXES

    if len(settings.station) != 1 or settings.station[0].source.repeat:
        return ""
    source = Path(settings.station[0].source.address)
    is_video = source.suffix.lower() in VIDEO_SUFFIXES and source.is_file()
    return str(Path(settings.out) / "annotated.mp4") if is_video else ""


class _Progress:
    """One line that is written over while the run goes on. note: said once, when the run has begun."""

    def __init__(self, enabled: bool, note: str = "") -> None:
        self._note = note
        self._status = console.status("starting") if enabled else None
        self._count = 0
        if self._status:
            self._status.start()

    def show(self, inspector: Inspector) -> None:
        self._count += 1
        if self._note and inspector.stations[0].inspected:
            console.print(self._note)
            self._note = ""
        if self._status and self._count % 3 == 0:
            now = inspector.summary()
            problems = "; ".join(f"{what}: {why}" for what, why in inspector.problems().items())
            rate = now.inspected / max(now.seconds, 1e-3)
            counts = "  ".join(f"{name} {count}" for name, count in now.decisions.items())
            self._status.update(f"{counts}  dropped {now.dropped}  {rate:.1f}/s  {problems}")

    def clear(self) -> None:
        if self._status:
            self._status.stop()


def _report(summary: Summary, settings: RunSettings) -> None:
    """The end of a run, on stderr."""
    counts = ", ".join(f"{count} {name}" for name, count in summary.decisions.items() if count) or "none"
    console.print(
        f"verdicts: {counts}; stored {summary.stored}"
        + (f", [bold red]not stored {summary.unstored}[/]" if summary.unstored else "")
        + f"; {summary.seen} frames seen, {summary.dropped} dropped, {summary.reconnects} reconnects, "
        f"{summary.seconds:.1f} s"
    )
    for station, stages in summary.latency_ms.items():
        table = Table("stage", "p50", "p95", "p99", "max", title=f"{station}: latency in ms", title_justify="left")
        for stage, row in stages.items():
            table.add_row(stage, *(f"{row[name]:.2f}" for name in ("p50", "p95", "p99", "max")))
        if stages:
            console.print(table)
    for sink in summary.sinks:
        if sink.dropped or sink.last_error:
            console.print(f"sink {sink.name}: {sink.delivered} delivered, {sink.dropped} dropped. {sink.last_error}")
    console.print(f"written to {settings.out}")


def _report_cycle(summary: Summary, cycle_ms: float) -> None:
    """Whether each station's p99, from capture to decision, kept the cycle time."""
    for station, stages in summary.latency_ms.items():
        total = stages.get("total")
        if not total:
            console.print(f"{station}: no part was judged, nothing to hold against the cycle of {cycle_ms:g} ms")
            continue
        text = f"{station}: p99 {total['p99']:.1f} ms of {total['count']:.0f} frames, cycle {cycle_ms:g} ms"
        if total["p99"] <= cycle_ms:
            console.print(f"{text}: [green]kept[/]")
        else:
            stage, row = max(
                ((name, row) for name, row in stages.items() if name != "total"), key=lambda item: item[1]["p99"]
            )
            console.print(
                f"{text}: [bold red]not kept[/]; most takes {stage}, p99 {row['p99']:.1f} ms. "
                f"`edgead doctor ARTIFACT --cycle-ms {cycle_ms:g}` measures what would keep it",
                soft_wrap=True,
            )


def _install_service(settings: RunSettings, path: Path | None, given: dict[str, Any], user: bool) -> None:
    from edge_ad.artifact import Artifact
    from edge_ad.runtime.line.service import install
    from edge_ad.runtime.sources.opening import open_source

    for station in settings.station:  # a service that can't start would be restarted for ever
        if not (artifact := station.artifact or settings.artifact):
            raise ConfigError("no artifact was given", "name the folder that `edgead train` wrote")
        Artifact.open(artifact)
        open_source(station.source)
    options = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in given.items()
        if value not in ("", None, False, True) and name != "artifact"
    ]
    options += [f"--{name.replace('_', '-')}" for name in ("no_images", "page") if given[name]]
    options += [f"--settings={path.absolute()}"] if path else []
    arguments = [str(Path(given["artifact"]).absolute())] if given["artifact"] else []
    for line in install(arguments + options, user=user):
        console.print(line, soft_wrap=True)
