"""Every graph of an artifact in every engine of this machine: the self-test's outcome, and a picture's time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edge_ad.artifact import Artifact
from edge_ad.errors import BackendError
from edge_ad.runtime.engines.opening import combinations, open_backend
from edge_ad.runtime.engines.runner import Precision, Runner
from edge_ad.runtime.engines.self_test import Golden, read_golden, run_self_test

SHARE_OF_TOKENS = 0.33  # time at 256 tokens of an image, of that at 784: measured, INT8 on two cores


@dataclass(frozen=True)
class EngineRow:
    """One graph in one engine.

    state: passed, failed, untested (no reference pictures) or absent. deviation, tolerance: of the self-test.
    p50_ms, p99_ms: of a picture, preprocessing left out. current: whether a run takes this one.
    """

    backend: str
    precision: Precision
    state: str
    deviation: float | None = None
    tolerance: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    current: bool = False
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def measure_engines(
    artifact: Artifact,
    threads: int | None = None,
    pictures: int = 20,
    current: str = "",
    advance: Callable[[str], None] = lambda text: None,
) -> list[EngineRow]:
    """A row for every engine and graph, the fastest of those that passed first.

    threads: CPU threads (default: all). pictures: timed calls of each. current: name of the runner that a run takes.
    advance: gets a line before each row.
    """
    golden = read_golden(artifact)
    rows = []
    for backend, precision in combinations(artifact):
        advance(f"{backend} {precision}")
        rows.append(_row(artifact, golden, backend, precision, threads, pictures, current))
    order = {"passed": 0, "untested": 1, "failed": 2, "absent": 3}
    return sorted(rows, key=lambda row: (order[row.state], row.p50_ms or 0.0))


def advise(rows: Sequence[EngineRow], cycle_ms: float, other_ms: float = 0.0, tokens: int | None = None) -> str:
    """Whether the engine in use keeps the line's cycle time at p99, in a sentence, and if not what would.

    other_ms: what a part takes beside the graph (camera, preprocessing, verdict). tokens: of an image, for what a
    smaller image would take; that figure is an estimate, all others are measured.
    """
    usable = [row for row in rows if row.state in ("passed", "untested") and row.p99_ms is not None]
    mine = next((row for row in usable if row.current), None)
    if mine is None or mine.p99_ms is None:
        return "no engine here runs the artifact: nothing to hold against the cycle time"
    beside = f" + {other_ms:.0f} ms beside the graph" if other_ms else ""
    text = f"{mine.backend} {mine.precision}: p99 {mine.p99_ms:.0f} ms{beside} for a cycle of {cycle_ms:g} ms"
    if mine.p99_ms + other_ms <= cycle_ms:
        return f"{text}: kept"
    fitting = [row for row in usable if (row.p99_ms or 0) + other_ms <= cycle_ms and not row.current]
    options = [
        f"{row.backend} {row.precision} takes {row.p99_ms:.0f} ms (`edgead calibrate` with --backend {row.backend} "
        f"--precision {row.precision}, then it is used)"
        for row in fitting[:2]
    ]
    if not fitting and not any(row.precision == "int8" for row in rows):
        options.append("an INT8 graph is usually 2 to 3 times as fast: `edgead export --int8`, then calibrate")
    if tokens is not None and tokens > 256:
        options.append(
            f"256 tokens instead of {tokens} take about a third, near {SHARE_OF_TOKENS * mine.p99_ms:.0f} ms by "
            "estimate: train with `--preset nano` or model.tokens=256"
        )
    options.append("inspecting a smaller part of the frame, or fewer tiles, takes proportionally less")
    return f"{text}: NOT kept. What would help: {'; '.join(options)}"


def _row(
    artifact: Artifact,
    golden: Golden | None,
    backend: str,
    precision: Precision,
    threads: int | None,
    pictures: int,
    current: str,
) -> EngineRow:
    try:
        runner = open_backend(artifact, backend, precision, threads, check=False).runner
    except BackendError as error:
        return EngineRow(backend, precision, "absent", reason=error.message)
    try:
        test = None if golden is None else run_self_test(runner, artifact, golden, precision)
        p50, p99 = _latency(runner, pictures)
        mine = runner.name == current
        if test is None:
            return EngineRow(backend, precision, "untested", p50_ms=p50, p99_ms=p99, current=mine)
        state = "passed" if test.passed else "failed"
        return EngineRow(backend, precision, state, test.deviation, test.tolerance, p50, p99, mine)
    except BackendError as error:
        return EngineRow(backend, precision, "failed", reason=error.message)
    finally:
        runner.close()


def _latency(runner: Runner, pictures: int) -> tuple[float, float]:
    """Milliseconds: (p50, p99) over so many calls, after one that warms up."""
    images = np.random.default_rng(0).normal(size=(1, 3, *runner.image_size)).astype(np.float32)
    runner(images)
    taken = []
    for _ in range(pictures):
        start = time.perf_counter()
        runner(images)
        taken.append(1000 * (time.perf_counter() - start))
    p50, p99 = np.percentile(taken, (50, 99))
    return float(p50), float(p99)
