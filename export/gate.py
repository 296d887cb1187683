"""The gate: no export goes into the artifact without its loss being measured, and none that loses too much."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_ad.artifact import Preprocessing
from edge_ad.data.samples import Dataset
from edge_ad.errors import BackendError
from edge_ad.evaluation import evaluate
from edge_ad.export.compare import Comparison, compare
from edge_ad.runtime.engines.runner import Array, Runner

log = logging.getLogger(__name__)
ALLOWED_POINTS = {"fp32": 0.1, "fp16": 0.2, "int8": 0.5}  # of 100, per metric
# Least pixel-score correlation on normals, for when there is no labelled data
ALLOWED_CORRELATION = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.99}
METRICS = ("i_auroc", "p_auroc", "aupro")
ALL_METRICS = (*METRICS, "f1_max")  # with few photos one of them moves f1_max by a point: shown, not judged

Metrics = Mapping[str, float | None]  # metric -> fraction, None where it can't be computed


@dataclass(frozen=True)
class GateReport:
    """An export against the FP32 graph. before, after: ALL_METRICS of the FP32 graph and of the exported one."""

    precision: str
    passed: bool
    reasons: tuple[str, ...]
    normals: Comparison
    before: Metrics = field(default_factory=dict)
    after: Metrics = field(default_factory=dict)
    allowed_points: float = 0.0

    def delta_points(self) -> dict[str, float | None]:
        """Change of each metric in points of 100; negative is a loss."""
        return {name: _points(self.before.get(name), self.after.get(name)) for name in ALL_METRICS}

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "precision": self.precision,
            "passed": self.passed,
            "reasons": list(self.reasons),
            "allowed_points": self.allowed_points,
            "normals": self.normals.to_dict(),
            "before": dict(self.before),
            "after": dict(self.after),
            "delta_points": self.delta_points(),
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }


def judge(
    precision: str,
    reference: Runner,
    candidate: Runner,
    normals: Sequence[Array],
    metrics_of: Callable[[Runner], Metrics] | None = None,
    max_loss: float | None = None,
) -> GateReport:
    """The gate's report on what `candidate` loses against `reference`.

    normals: preprocessed images [3, H, W] of good parts. metrics_of: what `measure` says of a runner on labelled
    photos; without it the correlation of pixel scores on normals decides. max_loss: points of 100 that each metric
    may lose (default by precision: ALLOWED_POINTS).
    """
    comparison = compare(reference, candidate, (image[None] for image in normals))
    allowed = ALLOWED_POINTS[precision] if max_loss is None else max_loss
    if metrics_of is None:
        least = ALLOWED_CORRELATION[precision]
        reasons = []
        if comparison.pixel_correlation < least:
            reasons.append(f"pixel scores on normals correlate {comparison.pixel_correlation:.5f}, below {least}")
        return GateReport(precision, not reasons, tuple(reasons), comparison, allowed_points=allowed)
    before, after = metrics_of(reference), metrics_of(candidate)
    reasons = []
    for name in METRICS:
        change = _points(before[name], after[name])
        if change is not None and change < -allowed - 1e-9:
            reasons.append(f"{name} fell by {-change:.2f} points, {allowed:g} are allowed")
    return GateReport(precision, not reasons, tuple(reasons), comparison, before, after, allowed)


def measure(runner: Runner, dataset: Dataset, preprocessing: Preprocessing, said: set[str] | None = None) -> Metrics:
    """ALL_METRICS on the test photos, as `edgead eval` computes them; of several categories their mean.

    said: findings about the photos that were logged already; new ones are logged and added.
    """
    result = evaluate(runner, dataset, preprocessing, native=False)
    said = set() if said is None else said
    for line in result.findings():
        if line not in said:
            log.warning("%s", line)
            said.add(line)
    figures = result.mean()
    return {name: getattr(figures, name) for name in ALL_METRICS}


def refuse(report: GateReport, hurting: Sequence[tuple[str, float]] = ()) -> None:
    """Raise BackendError when the report says so, naming the layers that hurt most and the way round."""
    if report.passed:
        return
    layers = ", ".join(f"{name} ({error:.3g})" for name, error in hurting[:5])
    raise BackendError(
        f"the {report.precision} export loses too much: {'; '.join(report.reasons)}"
        + (f". Layers that hurt most (pixel-score error of that layer alone): {layers}" if layers else ""),
        "leave layers in float with --skip NAME, allow more with --max-loss POINTS, or take it as it is with "
        "--accept-loss",
    )


def _points(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else round(100 * (after - before), 4)
