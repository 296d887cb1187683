"""Latency of an artifact's graphs, as ratios to the FP32 detector in PyTorch."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_ad.artifact import Artifact
from edge_ad.bench.rows import device_name, revision, version_of
from edge_ad.errors import BackendError
from edge_ad.export.compare import open_any_runner
from edge_ad.runtime.engines.opening import open_runner
from edge_ad.runtime.engines.runner import GRAPHS

FIELDS = (
    "date", "revision", "device", "artifact", "backend", "precision", "versions", "threads", "batch", "shape",
    "bytes", "p20_ms", "p50_ms", "p80_ms", "ratio_to_torch",
)  # fmt: skip


def open_runs(
    artifact: Artifact, backends: Sequence[str], threads: int, torch_reference: bool, say: Callable[[str], None]
) -> dict[tuple[str, str], Callable[[], object]]:
    """By (backend, precision), a call for each engine and graph that the artifact has and that opens here.

    images are noise [1,3,H,W]. say: gets a line for each that can't be opened.
    """
    height, width = artifact.manifest.preprocessing.image_size
    images = np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32)
    runs: dict[tuple[str, str], Callable[[], object]] = {}
    if torch_reference:
        torch_runner = open_any_runner(artifact, "torch", threads=threads)
        runs["torch", "fp32"] = lambda: torch_runner(images)
    for backend in backends:
        for precision, name in GRAPHS.items():
            if not artifact.has(name):
                continue
            try:
                runner = open_runner(artifact, backend, precision, threads)
            except BackendError as error:
                say(f"left out {backend} {precision}: {error}")
                continue
            runs[backend, precision] = lambda runner=runner: runner(images)  # type: ignore[misc]
    return runs


def measure(
    artifact: Artifact, runs: dict[tuple[str, str], Callable[[], object]], threads: int, rounds: int
) -> list[dict[str, Any]]:
    """One row a run: percentiles of its latency, and the ratio of medians to ("torch", "fp32") where that ran."""
    for run in runs.values():
        run()
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            taken[key].append(1000 * (time.perf_counter() - start))
    reference = np.median(taken["torch", "fp32"]) if ("torch", "fp32") in taken else None
    height, width = artifact.manifest.preprocessing.image_size
    rows = []
    for (backend, precision), times in taken.items():
        p20, p50, p80 = (round(float(value), 3) for value in np.percentile(times, (20, 50, 80)))
        name = GRAPHS[precision]  # type: ignore[index]
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "revision": revision(),
                "device": device_name(),
                "artifact": artifact.manifest.name,
                "backend": backend,
                "precision": precision,
                "versions": version_of(backend),
                "threads": threads,
                "batch": 1,
                "shape": f"{height}x{width}",
                "bytes": artifact.manifest.files[name].bytes,
                "p20_ms": p20,
                "p50_ms": p50,
                "p80_ms": p80,
                "ratio_to_torch": None if reference is None else round(p50 / float(reference), 4),
            }
        )
    return rows
