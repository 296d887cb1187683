"""`edgead doctor`: what this machine can run, what is missing, and what to do about it."""

from __future__ import annotations

import glob
import importlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_ad.errors import ConfigError, EdgeAdError

if TYPE_CHECKING:
    from edge_ad.bench.engines import EngineRow

console = Console(highlight=False)
Level = Literal["good", "missing", "broken"]
MARKS = {"good": "[green]good[/]", "missing": "[yellow]missing[/]", "broken": "[bold red]broken[/]"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. missing: optional and absent; broken: needed, and it doesn't work."""

    what: str
    level: Level
    found: str
    advice: str = ""


def command(
    artifact: str = typer.Argument("", help="Also check this artifact, and time its graphs in every engine."),
    cycle_ms: float | None = typer.Option(
        None, "--cycle-ms", min=0.001, help="Say whether the line's cycle time is kept, and what would keep it."
    ),
    json_output: bool = typer.Option(False, "--json", help="Print the findings as JSON."),
) -> None:
    """Say what this machine can run and what is missing.

    Exit code 1 when something that every run needs is broken.
    """
    if cycle_ms is not None and not artifact:
        raise ConfigError("--cycle-ms says how fast an artifact must be, and none was named", "name its folder")
    findings = list(examine(artifact))
    rows, advice = _measure(artifact, cycle_ms) if artifact else ([], "")
    if json_output:
        printed: list[dict[str, object]] = [asdict(finding) for finding in findings]
        printed += [{"what": "graph", **row.to_dict()} for row in rows]
        printed += [{"what": "cycle time", "found": advice}] if advice else []
        typer.echo(json.dumps(printed))
    else:
        table = Table("", "", "found", "what to do", box=None, padding=(0, 2, 0, 0))
        for finding in findings:
            table.add_row(finding.what, MARKS[finding.level], escape(finding.found), escape(finding.advice))
        console.print(table)
        _print_engines(rows)
        if advice:
            console.print(advice, soft_wrap=True)
    if any(finding.level == "broken" for finding in findings):
        raise typer.Exit(1)


def _measure(path: str, cycle_ms: float | None) -> tuple[list[EngineRow], str]:
    """Every graph in every engine here, and what a cycle time says to that; nothing for a broken artifact."""
    from edge_ad.artifact import Artifact
    from edge_ad.bench.engines import advise, measure_engines
    from edge_ad.runtime.engines.opening import open_runner

    try:
        opened = Artifact.open(path)
        runner = open_runner(opened)
        name = runner.name
        runner.close()
        with Console(stderr=True).status("timing") as status:
            rows = measure_engines(opened, current=name, advance=lambda text: status.update(f"timing {text}"))
    except EdgeAdError:  # the findings say it
        return [], ""
    return rows, advise(rows, cycle_ms, tokens=opened.config.model.tokens) if cycle_ms else ""


def _print_engines(rows: list[EngineRow]) -> None:
    if not rows:
        return
    table = Table("engine", "graph", "self-test", "deviation", "allowed", "p50, ms", "p99, ms", "")
    table.title = "graphs in the engines of this machine"
    reasons = {row.backend: row.reason for row in rows if row.state == "absent"}
    for row in rows:
        if row.state != "absent":
            figures = zip(
                (row.deviation, row.tolerance, row.p50_ms, row.p99_ms), (".2g", "g", ".0f", ".0f"), strict=True
            )
            words = ("" if value is None else f"{value:{form}}" for value, form in figures)
            table.add_row(row.backend, row.precision, row.state, *words, "in use" if row.current else "")
            if row.reason:
                reasons[f"{row.backend} {row.precision}"] = row.reason
    console.print(table)
    for name, reason in reasons.items():
        console.print(f"{name}: {escape(reason)}", soft_wrap=True)


def examine(artifact: str = "") -> Iterator[Finding]:
    """Every finding, in reading order; a check that fails itself is a finding, too."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _system, _kernels, _engines, _gpu, _cameras, _gpio, _weights, _extras, _disk,
    ]  # fmt: skip
    if artifact:
        checks.append(lambda: _artifact(artifact))
    for check in checks:
        try:
            yield from check()
        except Exception as error:
            yield Finding(
                getattr(check, "__name__", "check").strip("_"), "broken", f"{type(error).__name__}: {error}"
            )


def _either(good: object, what: str, found: str, absent: str, advice: str) -> Finding:
    """`found` where it is good, else what is there instead and what to do about it."""
    return Finding(what, "good", found) if good else Finding(what, "missing", absent, advice)


def _system() -> Iterator[Finding]:
    board = _text("/proc/device-tree/model") or platform.machine()
    yield Finding(
        "machine", "good", f"{board}, {len(os.sched_getaffinity(0))} CPUs, Python {platform.python_version()}"
    )
    if governor := _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"):
        advice = "set it to performance: sudo cpupower frequency-set -g performance"
        yield _either(governor != "powersave", "CPU governor", governor, governor, advice)
    if shutil.which("nvpmodel"):
        mode = " ".join(_output(["nvpmodel", "-q"]).split())
        advice = "sudo nvpmodel -m 0 && sudo jetson_clocks, if cooling allows"
        yield _either("MAXN" in mode, "Jetson power mode", mode, mode or "unknown", advice)
    for zone in glob.glob("/sys/class/thermal/thermal_zone*/temp"):
        degrees = int(_text(zone) or 0) / 1000
        if degrees > 90:
            yield Finding("temperature", "broken", f"{degrees:.0f} degrees at {Path(zone).parent.name}", "cool it")


def _kernels() -> Iterator[Finding]:
    from edge_ad.kernels import available_backends

    names = [str(name) for name in available_backends()]
    advice = "install g++ and reinstall edge-ad; until then the slower NumPy definitions run"
    yield _either("cpp" in names, "C++ kernels", ", ".join(names), ", ".join(names), advice)


def _engines() -> Iterator[Finding]:
    from edge_ad.runtime.engines.tensorrt_faults import known_faults

    try:
        import onnxruntime

        found = f"{onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}"
        yield Finding("ONNX Runtime", "good", found)
    except ImportError as error:
        yield Finding("ONNX Runtime", "broken", str(error), "pip install onnxruntime")
    for package in ("tensorrt", "openvino"):
        if not _installed(package):
            advice = f"pip install 'edge-ad[{package}]'"
            if package == "tensorrt" and Path("/etc/nv_tegra_release").exists():
                advice = "make the environment with --system-site-packages: JetPack brings it"
            yield Finding(package, "missing", "not installed", advice)
            continue
        try:
            version = str(getattr(importlib.import_module(package), "__version__", "?"))
            faults = known_faults(package, version, "fp16")
            found = "; known to compute wrong: ".join([version, *map(str, faults)])
            advice = "FP16 and INT8 engines are refused: install another version, or build --fp32"
            yield Finding(package, "good", found, advice if any(fault.refuse for fault in faults) else "")
        except Exception as error:
            yield Finding(package, "broken", str(error), f"reinstall {package}; its libraries don't load")


def _gpu() -> Iterator[Finding]:
    jetson = _text("/etc/nv_tegra_release")
    if jetson:
        yield Finding("JetPack", "good", jetson.splitlines()[0][:80])
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        found = _output(query)
        yield _either(found, "NVIDIA GPU", found, "no GPU answers", "nvidia-smi fails: is the driver loaded?")
    elif not jetson:
        yield Finding("NVIDIA GPU", "missing", "no driver", "none is needed: the CPU runs everything, slower")
    package = next(filter(_installed, ("pycuda", "cuda.bindings")), None)
    if package:
        yield Finding("CUDA for Python", "good", package)
    elif jetson or shutil.which("nvidia-smi"):
        yield Finding("CUDA for Python", "missing", "neither pycuda nor cuda-python", "pip install cuda-python")


def _cameras() -> Iterator[Finding]:
    import cv2

    from edge_ad.runtime.sinks.files import can_show_windows
    from edge_ad.runtime.sources.genicam import find_producers
    from edge_ad.runtime.sources.video import has_gstreamer

    devices, denied = _devices("/dev/video*")
    if denied:
        advice = f"sudo usermod -aG video {os.environ.get('USER', '$USER')}, then log in again"
        yield Finding("cameras (V4L2)", "broken", f"no right to use {denied}", advice)
    else:
        advice = "plug one in; streams and files work without"
        yield _either(devices, "cameras (V4L2)", devices, "no /dev/video*", advice)
    yield Finding("OpenCV", "good", f"{cv2.__version__}, {'windows' if can_show_windows() else 'no windows'}")
    advice = "for csi:// and pipelines: the system's OpenCV (JetPack), or build it WITH_GSTREAMER"
    yield _either(has_gstreamer(), "GStreamer in OpenCV", "yes", "built without it", advice)
    if _installed("harvesters"):
        producers = ", ".join(path.name for path in find_producers())
        advice = "install the maker's driver, set GENICAM_GENTL64_PATH"
        yield _either(producers, "GenICam", producers, "no producer (.cti)", advice)
    else:
        yield Finding("GenICam", "missing", "harvesters is not installed", "for genicam://: pip install harvesters")


def _gpio() -> Iterator[Finding]:
    chips, denied = _devices("/dev/gpiochip*")
    if denied:
        yield Finding("GPIO", "broken", f"no right to use {denied}", "add the user to the group gpio")
    elif chips:
        absent = "the package gpiod is not installed"
        yield _either(_installed("gpiod"), "GPIO", chips, absent, "pip install 'gpiod>=2'")


def _weights() -> Iterator[Finding]:
    from edge_ad.config import cache_folder

    if not _installed("torch"):
        yield Finding("training", "missing", "torch is not installed", "pip install 'edge-ad[train]'; runs need none")
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    caches = [Path(os.environ.get("HF_HOME") or home / "huggingface"), cache_folder() / "weights"]
    found = ", ".join(str(cache) for cache in caches if cache.is_dir() and any(cache.iterdir()))
    advice = "fetched at the first training, or give `edgead train --weights FILE`; runs need none"
    yield _either(found, "teacher weights", f"a cache in {found}", "no local cache", advice)


def _extras() -> Iterator[Finding]:
    packages = {
        "paho.mqtt": "MQTT",
        "pymodbus": "Modbus",
        "asyncua": "OPC UA",
        "fastapi": "operator page",
        "prometheus_client": "Prometheus",
    }
    absent = ", ".join(use for package, use in packages.items() if not _installed(package))
    every = ", ".join(packages.values())
    yield _either(not absent, "plant protocols", every, f"no {absent}", "pip install 'edge-ad[plant]'")
    systemd = Path("/run/systemd/system").is_dir()
    yield _either(systemd, "systemd", "runs", "doesn't run here", "for `run --service` only")


def _disk() -> Iterator[Finding]:
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    advice = "free some space: verdicts and pictures go there" if free_gb < 2 else ""
    yield Finding("disk", "broken" if free_gb < 0.2 else "good", f"{free_gb:.1f} GB free in {Path.cwd()}", advice)
    total = next((int(line.split()[1]) for line in _text("/proc/meminfo").splitlines() if "MemAvailable" in line), 0)
    found = f"{total / 1e6:.1f} GB available"
    yield _either(total > 1_000_000, "memory", found, found, "close programs")


def _artifact(path: str) -> Iterator[Finding]:
    from edge_ad.artifact import Artifact
    from edge_ad.runtime.engines.loaded import Engine
    from edge_ad.runtime.settings import EngineSettings

    try:
        artifact = Artifact.open(path)
        for name in artifact.manifest.files:
            artifact.file(name)
        engine = Engine(path, EngineSettings())
        files, runner = len(artifact.manifest.files), engine.loaded.runner.name
        found = f"{artifact.manifest.name}, {files} files intact, runs on {runner}"
        engine.close()
    except EdgeAdError as error:
        yield Finding("artifact", "broken", error.message, error.hint)
        return
    yield Finding("artifact", "good", found)
    if not artifact.manifest.calibration:
        yield Finding("threshold", "missing", "not calibrated", f"edgead calibrate {path} --normals DIR")


def _devices(pattern: str) -> tuple[str, str]:
    """The device files, and those of them that this user may not use; both as words."""
    found = sorted(glob.glob(pattern))
    return ", ".join(found), ", ".join(path for path in found if not os.access(path, os.R_OK | os.W_OK))


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
