"""The running loop, stage by stage, and what it adds to the engine's own time."""

from __future__ import annotations

import datetime
import os
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_ad import __version__
from edge_ad.runtime.line.inspector import Inspector
from edge_ad.runtime.settings import RunSettings, SourceSettings, StationSettings
from edge_ad.runtime.sources.base import Picture, Source
from edge_ad.runtime.stats import Histogram, memory_mb


def measure(
    artifact: str, engine: Any, *, source: str = "", size: tuple[int, int] = (480, 640), frames: int = 300, fps: float
) -> dict[str, Any]:
    """Run the loop on `frames` pictures with a store and no other sink; stages in milliseconds."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="edgead-bench-") as out:
        address = source or str(_pictures(Path(out), size))
        keep: Any = "newest" if fps and not source else "auto"  # pictures at a steady rate are a camera's
        camera = SourceSettings(address=address, repeat=True, frozen_s=0, policy=keep)
        station = StationSettings(name="bench", source=camera)
        inspector = Inspector(
            RunSettings(artifact=artifact, out=out, station=(station,), engine=engine), frames=frames
        )
        running = inspector.stations[0]
        if not source:
            running.capture.source = _PacedSource(size, fps, lambda: sum(running.counts.values()))
        loaded = running.engine.loaded
        loaded_s = time.perf_counter() - started
        alone = _engine_alone(loaded)
        rows = _LatencyRecorder(running)
        usage, memory = resource.getrusage(resource.RUSAGE_SELF), 0.0
        begun = time.perf_counter()

        def on_tick(_: Any) -> None:
            nonlocal memory
            if not memory and running.inspected > frames // 5:
                memory = memory_mb()

        summary = inspector.run(on_tick)
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
        return {
            "engine": loaded.runner.name,
            "stages_ms": {**summary.latency_ms["bench"], "loop": rows.loop.summary(), "engine alone": alone},
            "frames": summary.inspected,
            "dropped": summary.dropped,
            "seconds": summary.seconds,
            "cpu_percent": 100 * cpu_s / max(summary.seconds, 1e-9),
            "memory_mb": summary.memory_mb,
            "memory_growth_mb": summary.memory_mb - memory if memory else 0.0,
            "cold_start_s": loaded_s + rows.first - begun if rows.first else 0.0,
            "set_up_s": loaded_s,
            "shape": list(size),
        }


class _PacedSource(Source):
    """Made-up pictures at a steady rate, or each when the one before got its verdict."""

    live, name = True, "bench"

    def __init__(self, size: tuple[int, int], fps: float, done: Any) -> None:
        rng = np.random.default_rng(0)
        self._frames = [rng.integers(0, 255, (*size, 3), np.uint8) for _ in range(8)]
        self._fps, self._done, self._number = fps, done, 0
        self._due = time.monotonic()

    def read(self) -> Any:
        """The next picture, stamped when it is due."""
        if self._fps:
            self._due += 1 / self._fps
            time.sleep(max(self._due - time.monotonic(), 0))
        else:
            end = time.monotonic() + 5
            while self._done() < self._number and time.monotonic() < end:
                time.sleep(0.0002)
        self._number += 1
        frame = self._frames[self._number % len(self._frames)]
        return Picture(frame, self._number - 1, time.time_ns(), time.monotonic_ns())


class _LatencyRecorder:
    """Latencies of a station: what the loop adds, and when the first verdict came."""

    def __init__(self, station: Any) -> None:

        self.loop, self.first = Histogram(), 0.0
        add = station.times.add

        def listen(latency_ms: dict[str, float]) -> None:
            self.first = self.first or time.perf_counter()
            own = latency_ms.get("infer", 0.0) + latency_ms.get("prepare", 0.0)
            self.loop.add(latency_ms["total"] - own)
            add(latency_ms)

        station.times.add = listen


def _engine_alone(loaded: Any, calls: int = 30) -> dict[str, float]:
    """The graph called in a plain loop."""

    images = np.zeros((1, 3, *loaded.runner.image_size), np.float32)
    histogram = Histogram()
    for _ in range(calls):
        begun = time.perf_counter()
        loaded.infer(images)
        histogram.add((time.perf_counter() - begun) * 1000)
    return histogram.summary()


def _pictures(folder: Path, size: tuple[int, int]) -> Path:
    """A picture file, so that the station has a source to open; its frames come from _PacedSource."""
    path = folder / "picture.png"
    cv2.imwrite(str(path), np.zeros((*size, 3), np.uint8))
    return path


STAGES = ("date", "version", "device", "engine", "shape", "stage", "p50", "p95", "p99", "max")


def stage_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a stage, with the columns STAGES."""
    run = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "version": __version__,
        "device": f"{platform.machine()} {os.cpu_count()} cores",
        "engine": result["engine"],
        "shape": "x".join(map(str, result["shape"])),
    }
    return [{**run, "stage": stage, **{k: row[k] for k in STAGES[6:]}} for stage, row in result["stages_ms"].items()]
