"""The speed gate: of the engines that lose little enough, the one that is fastest on this GPU.

INT8 does not always pay on a GPU: attention has fused kernels in FP16 only, and conversions cost time. So FP16, INT8
with attention in FP16, and INT8 throughout are built and timed in turns, and what loses more has to be faster for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.artifact import Artifact
from edge_ad.errors import BackendError
from edge_ad.export import gate
from edge_ad.export.compare import CachingRunner
from edge_ad.export.engine import Built, build_here, engine_source, store
from edge_ad.export.job import ExportOptions, export_precision
from edge_ad.runtime.engines.onnxruntime import OnnxRuntimeRunner
from edge_ad.runtime.engines.runner import GRAPHS, Array, Precision, Runner
from edge_ad.runtime.engines.tensorrt_build import EngineOptions, load_tensorrt

CANDIDATES: tuple[tuple[str, Precision, bool], ...] = (  # those that lose least first
    ("FP16", "fp16", False),
    ("INT8, attention in FP16", "int8", False),
    ("INT8 throughout", "int8", True),
)
LEAST_GAIN = 1.02  # a candidate that loses more must be that much faster than one that loses less
TURNS, CALLS, WARM = 5, 40, 10

Say = Callable[[str], None]


@dataclass
class Candidate:
    """A candidate: its engine and latency of one call (milliseconds), or why it is out."""

    name: str
    precision: Precision
    built: Built | None = None
    runner: Runner | None = None
    out: str = ""
    taken_ms: list[float] = field(default_factory=list)

    def percentile(self, percent: float) -> float:
        """Of the times taken, in milliseconds."""
        return float(np.percentile(self.taken_ms, percent))

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        known = {f"p{p}_ms": round(self.percentile(p), 4) for p in (20, 50, 80)} if self.taken_ms else {}
        return {"name": self.name, "precision": self.precision, "out": self.out, **known}


def build_fastest(
    artifact: Artifact,
    normals: Sequence[Array],
    metrics_of: Callable[[Runner], gate.Metrics] | None,
    export: ExportOptions,
    engine: EngineOptions,
    say: Say = lambda text: None,
) -> tuple[Precision, Path, dict[str, Any]]:
    """The precision, path and report of the fastest engine that passes the loss gate on this GPU; it is stored.

    normals: preprocessed images [3, H, W] of good parts; missing graphs are made and every engine is judged on them.
    metrics_of: what the gate measures of a runner on labelled photos. Raises BackendError when no candidate passes.
    """
    trt = load_tensorrt(engine.target)
    held = normals[len(normals) // 2 :]
    fp32 = OnnxRuntimeRunner(artifact.file(GRAPHS["fp32"]).read_bytes(), threads=export.threads)
    reference = CachingRunner(fp32, held)
    metrics = None if metrics_of is None else _once(metrics_of, reference)
    unmade = _make_graphs(artifact, normals, metrics_of, export, say)
    candidates = [Candidate(name, precision, out=unmade.get(precision, "")) for name, precision, _ in CANDIDATES]
    try:
        for own, (_, precision, int8_attention) in zip(candidates, CANDIDATES, strict=True):
            if own.out:
                continue
            try:
                source = engine_source(artifact, precision, int8_attention)
                own.built, own.runner = build_here(trt, artifact, source, engine, partial(_about, own.name, say))
                report = gate.judge(precision, reference, own.runner, held, metrics, export.max_loss)
                if not report.passed and not export.accept_loss:
                    own.out = "; ".join(report.reasons)
            except BackendError as error:
                own.out = str(error)
        passing = [own for own in candidates if not own.out]
        if not passing:
            raise BackendError(
                f"no engine passes: {'; '.join(f'{own.name}: {own.out}' for own in candidates)}",
                "build --fp32, allow more with --max-loss POINTS, or take one precision as it is with --accept-loss",
            )
        say("timing")
        time_in_turns([own for own in candidates if own.runner is not None], engine.max_batch)
        chosen = fastest(passing)
    finally:
        for own in candidates:
            if own.runner is not None:
                own.runner.close()
        reference.close()
    assert chosen.built is not None
    path = store(artifact, chosen.built)
    record = {
        "chosen": chosen.name,
        "gpu": chosen.built.record.gpu,
        "tensorrt": chosen.built.record.tensorrt,
        "batch": engine.max_batch,
        "candidates": [own.to_dict() for own in candidates],
    }
    artifact.update(reports={"export.speed": record})
    return chosen.precision, path, record


def fastest(passing: Sequence[Candidate]) -> Candidate:
    """The fastest by its median; of two, the later (which loses more) only where it is LEAST_GAIN faster."""
    best = passing[0]
    for own in passing[1:]:
        if best.percentile(50) >= LEAST_GAIN * own.percentile(50):
            best = own
    return best


def time_in_turns(candidates: Sequence[Candidate], batch: int, turns: int = TURNS, calls: int = CALLS) -> None:
    """Time calls of `batch` images, in turns so that a clock that changes meets all alike."""
    for _ in range(turns):
        for own in candidates:
            assert own.runner is not None
            images = np.zeros((batch, 3, *own.runner.image_size), np.float32)
            for _ in range(WARM):
                own.runner(images)
            for _ in range(calls):
                start = time.perf_counter()
                own.runner(images)
                own.taken_ms.append(1000 * (time.perf_counter() - start))


def summary_lines(record: dict[str, Any]) -> list[str]:
    """Lines for people: every candidate's latency, and by how much the chosen one is faster."""
    rows = record["candidates"]
    chosen = next(row for row in rows if row["name"] == record["chosen"])
    lines = []
    for row in rows:
        if "p50_ms" not in row:
            lines.append(f"{row['name']}: out, {row['out']}")
            continue
        text = f"{row['name']}: {row['p50_ms']:.3f} ms (p20 {row['p20_ms']:.3f}, p80 {row['p80_ms']:.3f})"
        if row is chosen:
            text += ", kept"
        else:
            text += f", {row['p50_ms'] / chosen['p50_ms']:.2f} times the kept one's"
        lines.append(text + (f", out: {row['out']}" if row["out"] else ""))
    return [f"on {record['gpu']}, batch {record['batch']}, TensorRT {record['tensorrt']}:", *lines]


def _make_graphs(
    artifact: Artifact,
    normals: Sequence[Array],
    metrics_of: Callable[[Runner], gate.Metrics] | None,
    export: ExportOptions,
    say: Say,
) -> dict[Precision, str]:
    """Make the graphs that the artifact lacks; precision -> why its graph could not be made."""
    unmade: dict[Precision, str] = {}
    for precision in dict.fromkeys(precision for _, precision, _ in CANDIDATES):
        if artifact.has(GRAPHS[precision]):
            say(f"taking {GRAPHS[precision]} as it is: name --{precision} to make it anew")
            continue
        try:
            export_precision(artifact, precision, normals, metrics_of, export, partial(_about, precision, say))
        except BackendError as error:
            unmade[precision] = str(error)
    return unmade


def _about(name: str, say: Say, text: str) -> None:
    say(f"{name}: {text}")


def _once(metrics_of: Callable[[Runner], gate.Metrics], reference: Runner) -> Callable[[Runner], gate.Metrics]:
    known: list[gate.Metrics] = []

    def metrics(runner: Runner) -> gate.Metrics:
        if runner is not reference:
            return metrics_of(runner)
        if not known:
            known.append(metrics_of(reference))
        return known[0]

    return metrics
