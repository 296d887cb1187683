"""Figures of merit: AUROC, average precision, F1-max and AUPRO, exact by sorting. NumPy and OpenCV only.

For pixels of a whole test set, PixelMetrics keeps histograms instead, so that memory does not grow.
Where a figure is not defined (one class only, no mask) it is NaN. Scores must be finite; ties are one threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """Cumulative weights at every distinct score, highest first, starting with (0, 0) at +inf.

    thresholds: the scores. negatives, positives: how much weight scores at least the threshold.
    """

    thresholds: Floats
    negatives: Floats
    positives: Floats


def image_auroc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Share of (defect, good) pairs that are ranked right, ties counting half: 0..1.

    scores: [N], higher is more anomalous. labels: [N], 0 good, 1 defect.
    """
    return area_under_roc(_curve_of(scores, labels))


def average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Sum of precision times the step in recall, without interpolation (as scikit-learn): 0..1."""
    return area_under_precision(_curve_of(scores, labels))


def f1_max(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The best F1 that any threshold reaches: 0..1."""
    return best_f1(_curve_of(scores, labels))[0]


def pixel_auroc(maps: Sequence[Array], masks: Sequence[Array]) -> float:
    """image_auroc over all pixels. maps: N of float [H,W]; masks: N of bool [H,W], sizes may differ."""
    _check_pairs(maps, masks)
    return area_under_roc(
        _curve_of(np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks]))
    )


def aupro(maps: Sequence[Array], masks: Sequence[Array], limit: float = 0.3) -> float:
    """Area under the per-region overlap curve up to the false-positive rate `limit`, divided by it: 0..1.

    PRO(t) is the mean over all defect regions (8-connected) of the share of their pixels with score >= t; FPR(t)
    the share of all other pixels, those of good images included. The curve starts at (0, 0) and is interpolated
    linearly at `limit`. maps: N of float [H,W]; masks: N of bool [H,W].

    Source: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021; as their published evaluation code.
    """
    _check_pairs(maps, masks)
    weights = [region_weights(mask) for mask in masks]
    scores = np.concatenate([np.asarray(m).ravel() for m in maps])
    overlap = np.concatenate([w.ravel() for w, _ in weights])
    return area_under_pro(cumulate(scores, overlap == 0, overlap), sum(count for _, count in weights), limit)


def region_weights(mask: Array) -> tuple[Floats, int]:
    """For each pixel 1 / (size of its region), 0 outside of regions [H,W]; and the number of regions."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(np.asarray(mask, np.uint8), connectivity=8)
    weight = np.zeros(count)
    weight[1:] = 1.0 / stats[1:, cv2.CC_STAT_AREA]
    return weight[labels], count - 1


def cumulate(scores: Array, negatives: Array, positives: Array) -> Curve:
    """Cumulative weights from the highest score down; equal scores are one step. All arguments [N]."""
    scores = np.asarray(scores)
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} scores are not finite")
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(np.diff(ordered) != 0, True) if scores.size else np.zeros(0, bool)
    sums = [np.cumsum(np.asarray(w)[order], dtype=np.float64)[last] for w in (negatives, positives)]
    return Curve(np.append(np.inf, ordered[last]), np.append(0.0, sums[0]), np.append(0.0, sums[1]))


def area_under_roc(curve: Curve) -> float:
    """Area under positives against negatives, both normalised."""
    total_negative, total_positive = curve.negatives[-1], curve.positives[-1]
    if not total_negative or not total_positive:
        return float("nan")
    area = _trapezoid(curve.positives, curve.negatives) / (total_negative * total_positive)
    return min(area, 1.0)  # rounding must not push it over


def area_under_precision(curve: Curve) -> float:
    """Average precision of the curve."""
    total = curve.positives[-1]
    if not total or not curve.negatives[-1]:
        return float("nan")
    precision = curve.positives[1:] / (curve.positives[1:] + curve.negatives[1:])
    return float(np.sum(precision * np.diff(curve.positives)) / total)


def best_f1(curve: Curve) -> tuple[float, float]:
    """The best F1 and the threshold that reaches it (score >= threshold is a defect)."""
    total = curve.positives[-1]
    if not total or not curve.negatives[-1]:
        return float("nan"), float("nan")
    f1 = 2 * curve.positives[1:] / (curve.positives[1:] + curve.negatives[1:] + total)
    best = int(np.argmax(f1))
    return float(f1[best]), float(curve.thresholds[1 + best])


def area_under_pro(curve: Curve, regions: int, limit: float) -> float:
    """AUPRO of a curve whose positives are summed region weights."""
    if not 0 < limit <= 1:
        raise ValueError(f"limit must be in (0, 1], got {limit}")
    if not regions or not curve.negatives[-1]:
        return float("nan")
    rate, overlap = curve.negatives / curve.negatives[-1], curve.positives / regions
    inside = rate <= limit
    x, y = np.append(rate[inside], limit), np.append(overlap[inside], np.interp(limit, rate, overlap))
    if rate[inside][-1] == limit:  # np.interp may take either end of a vertical step
        y[-1] = overlap[inside][-1]
    return min(_trapezoid(y, x) / limit, 1.0)


def _curve_of(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Curve:
    values, truth = np.asarray(scores), np.asarray(labels)
    if values.shape != truth.shape or values.ndim != 1:
        raise ValueError(f"scores and labels must be [N] and equally long, got {values.shape} and {truth.shape}")
    if truth.size and not np.isin(truth, (0, 1)).all():
        raise ValueError("labels must be 0 (good) or 1 (defect)")
    return cumulate(values, truth == 0, truth == 1)


def _check_pairs(maps: Iterable[Array], masks: Iterable[Array]) -> None:
    shapes = [(np.shape(a), np.shape(b)) for a, b in zip(maps, masks, strict=True)]
    wrong = [pair for pair in shapes if pair[0] != pair[1] or len(pair[0]) != 2]
    if wrong or not shapes:
        raise ValueError(f"maps and masks must be pairs of [H,W], got {wrong[:3] or 'none'}")


def _trapezoid(y: Floats, x: Floats) -> float:
    """Area by the trapezoidal rule (np.trapezoid is NumPy 2 only)."""
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
