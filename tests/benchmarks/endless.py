"""100,000 frames through the whole line: does memory grow, is a verdict lost?

python tests/benchmarks/endless.py [--frames 100000] [--csv FILE]

A folder of parts, again and again, through a small graph, with store, pictures, JSON lines, metrics, drift watch,
re-calibration set and operator page. Memory is read five times a second.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.util
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_ad.artifact import Artifact, Manifest, Preprocessing
from edge_ad.config import Config
from edge_ad.runtime.line.line import Line
from edge_ad.runtime.predictor import load
from edge_ad.runtime.settings import settings_from
from edge_ad.runtime.sinks.files import ImageSink, JsonLinesSink
from edge_ad.runtime.sinks.store import Store
from edge_ad.runtime.stats import memory_mb

CONFTEST = Path(__file__).parents[1] / "conftest.py"


def small_artifact(path: Path, parts: Path) -> None:
    """The tests' small detector, calibrated, and twenty pictures of its product, every fifth with a spot."""
    spec = importlib.util.spec_from_file_location("small_detector", CONFTEST)
    assert spec is not None
    assert spec.loader is not None
    small = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(small)
    how = Preprocessing((small.SIZE, small.SIZE), small.MEAN, small.STD)
    manifest = Manifest("small", Config.named("nano").to_dict(), how, ("stripes",))
    artifact = Artifact.create(path, manifest, {"model.onnx": small._graph_bytes()})
    rng = np.random.default_rng(1)
    with load(path, threads=1) as predictor:
        found = [predictor.predict(small.good_frame(rng, 160)) for _ in range(35)]
    scores = [one.image_score for one in found]
    limits = {
        "image_threshold": max(scores) * 1.5,
        "pixel_threshold": max(one.pixel_scores.max() for one in found) * 1.5,
    }
    quantiles = np.quantile(scores, np.linspace(0, 1, 101)).tolist()
    artifact.update(calibration={**{k: float(v) for k, v in limits.items()}, "score_quantiles": quantiles})
    parts.mkdir()
    for number in range(20):
        picture = small.good_frame(rng, 160)
        if number % 5 == 4:
            cv2.circle(picture, tuple(int(v) for v in rng.integers(40, 120, 2)), 22, (250, 30, 30), -1)
        cv2.imwrite(str(parts / f"{number:03}.png"), picture[..., ::-1])


def run(folder: Path, frames: int) -> dict[str, Any]:
    """The findings."""
    small_artifact(folder / "artifact", folder / "parts")
    settings = settings_from(
        {
            "artifact": str(folder / "artifact"),
            "out": str(folder / "out"),
            "engine": {"threads": 1},
            "station": [{"name": "line", "source": {"address": str(folder / "parts"), "repeat": True}}],
            "images": {"accepts_every": 50, "max_mb": 20.0},
            "page": {"port": 0},
            "drift": {},
            "recalibration": {"size": 100},
            "sink": {"prometheus": {"port": -1}},
        }
    )
    lines = folder / "verdicts.jsonl"
    printed = JsonLinesSink(lines.open("w", encoding="utf-8"))
    line = Line(settings, [printed, ImageSink(folder / "out" / "images", settings.images)], frames=frames)
    memory: list[tuple[int, float]] = []

    def look(inspector: Any) -> None:
        memory.append((inspector.stations[0].inspected, memory_mb()))
        if len(memory) % 25 == 0:  # somebody has the page open
            for path in ("/api/state", "/live.jpg?after=-1", "/api/verdicts?limit=100", "/api/threshold", "/metrics"):
                urllib.request.urlopen(line.page.address + path, timeout=30).read()

    summary = line.run(look)
    with Store(folder / "out" / "verdicts.sqlite") as store:
        stored, problems = store.count(), store.check()
    at, used = np.array(memory, float).T
    late = at > frames * 0.2
    return {
        "frames": summary.inspected, "stored": stored, "printed": sum(1 for _ in lines.open()),
        "integrity": problems or "ok", "seconds": round(summary.seconds, 1),
        "memory_mb_at_20_percent": round(float(used[late][0]), 1), "memory_mb_highest": round(float(used.max()), 1),
        "memory_mb_end": round(float(used[-1]), 1),
        "growth_mb_per_100000_frames": round(float(np.polyfit(at[late] / 1e5, used[late], 1)[0]), 2),
        "total_ms_p50": summary.latency_ms["line"]["total"]["p50"],
        "total_ms_p99": summary.latency_ms["line"]["total"]["p99"],
        "memory_curve_mb": " ".join(f"{used[np.searchsorted(at, frames * k / 10)]:.0f}" for k in range(1, 10)),
    }  # fmt: skip


def main() -> None:
    """Prints the findings; exit code 1 when a verdict was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--csv", type=Path, help="append a row")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="endless-") as folder:
        found = run(Path(folder), wanted.frames)
    for name, value in found.items():
        print(f"{name}: {value}")
    if wanted.csv:
        row = {"date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(), **found}
        new = not wanted.csv.exists()
        with wanted.csv.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
    raise SystemExit(not found["frames"] == found["stored"] == found["printed"] or found["integrity"] != "ok")


if __name__ == "__main__":
    main()
