"""The gate: no export goes into the artifact without its loss being measured, and none that loses too much."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad import metrics
from edge_ad.errors import BackendError
from edge_ad.export.compare import Comparison, compare
from edge_ad.runtime.backends import Array, Runner

ALLOWED_POINTS = {"fp32": 0.1, "fp16": 0.2, "int8": 0.5}  # of 100, per metric
# Least pixel-score correlation on normals, for when there is no labelled data
ALLOWED_CORRELATION = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.99}
METRICS = ("i_auroc", "p_auroc", "aupro")


@dataclass(frozen=True)
class Labelled:
    """Photos with labels, read one by one. masks: None for a good photo, or where there is no mask."""

    prepare: Callable[[int], Array]  # index -> [3, H, W]
    labels: npt.NDArray[np.bool_]
    masks: Sequence[Callable[[], npt.NDArray[np.bool_]] | None]


@dataclass(frozen=True)
class GateReport:
    """What an export lost. before, after: metrics as fractions (None where they can't be computed)."""

    precision: str
    passed: bool
    reasons: tuple[str, ...]
    normals: Comparison
    before: Mapping[str, float | None] = field(default_factory=dict)
    after: Mapping[str, float | None] = field(default_factory=dict)
    allowed_points: float = 0.0

    def delta_points(self) -> dict[str, float | None]:
        """Change of each metric in points of 100; negative is a loss."""
        return {name: _points(self.before.get(name), self.after.get(name)) for name in METRICS}

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
    labelled: Labelled | None = None,
    max_loss: float | None = None,
) -> GateReport:
    """Measure what `candidate` loses against `reference`.

    normals: preprocessed images [3, H, W] of good parts. max_loss: points of 100 that each metric may lose (default
    by precision: ALLOWED_POINTS). Without labelled photos the correlation of pixel scores on normals decides.
    """
    comparison = compare(reference, candidate, (image[None] for image in normals))
    allowed = ALLOWED_POINTS[precision] if max_loss is None else max_loss
    if labelled is None:
        least = ALLOWED_CORRELATION[precision]
        reasons = []
        if comparison.pixel_correlation < least:
            reasons.append(f"pixel scores on normals correlate {comparison.pixel_correlation:.5f}, below {least}")
        return GateReport(precision, not reasons, tuple(reasons), comparison, allowed_points=allowed)
    before, after = (measure(runner, labelled) for runner in (reference, candidate))
    reasons = []
    for name in METRICS:
        change = _points(before[name], after[name])
        if change is not None and change < -allowed - 1e-9:
            reasons.append(f"{name} fell by {-change:.2f} points, {allowed:g} are allowed")
    return GateReport(precision, not reasons, tuple(reasons), comparison, before, after, allowed)


def measure(runner: Runner, labelled: Labelled) -> dict[str, float | None]:
    """i_auroc, p_auroc and aupro as fractions; None where one class or all masks are missing."""
    scores: list[float] = []
    maps: list[Array] = []
    masks: list[npt.NDArray[np.bool_]] = []
    for i, read_mask in enumerate(labelled.masks):
        outputs = runner(labelled.prepare(i)[None])
        scores.append(float(outputs.image_score[0]))
        pixels = outputs.pixel_scores[0]
        if labelled.labels[i] and read_mask is None:
            continue
        mask = np.zeros(pixels.shape, np.bool_) if read_mask is None else _fitted(read_mask(), pixels.shape)
        maps.append(pixels)
        masks.append(mask)
    both = 0 < int(labelled.labels.sum()) < len(labelled.labels)
    marked = any(mask.any() for mask in masks)
    return {
        "i_auroc": metrics.image_auroc(np.array(scores), labelled.labels) if both else None,
        "p_auroc": metrics.pixel_auroc(maps, masks) if marked else None,
        "aupro": metrics.aupro(maps, masks) if marked else None,
    }


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


def _fitted(mask: npt.NDArray[np.bool_], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    if mask.shape == shape:
        return mask
    small = cv2.resize(mask.astype(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
    return np.asarray(small, np.bool_)
