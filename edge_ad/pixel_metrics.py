"""Pixel metrics of a test set of any size: one pass, bounded memory, any range and shape of scores.

A histogram whose bins follow the data: a bin is split as soon as it holds more than a share RESOLUTION of the good
pixels, the defect pixels or the regions' overlap, at the quantiles of the picture that filled it. So long tails, a
far offset and ties are resolved alike, without knowing the range beforehand, and every sum is kept in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ad import metrics

RESOLUTION = 1e-4
_MOST_BINS = 1 << 18
_GOOD, _DEFECT, _OVERLAP = range(3)


class PixelMetrics:
    """Collects score maps and masks picture by picture.

    Areas (AUROC, AUPRO) are within 1e-4 of the exact ones, F1-max and average precision within 5e-4.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self.regions = 0
        self._edges = np.zeros(0, np.float32)  # bin i: edges[i] <= score < edges[i + 1]; the last one ends at _top
        self._mass = np.zeros((3, 0))  # good pixels, defect pixels, overlap (1 / size of the region per pixel)
        self._top = np.float32(-np.inf)

    def update(self, pixel_scores: npt.NDArray[Any], mask: npt.NDArray[Any] | None = None) -> None:
        """Add one picture. pixel_scores: float [H,W], used as float32. mask: bool [H,W]; None: all of it is good."""
        scores = np.asarray(pixel_scores, np.float32)
        if scores.ndim != 2 or (mask is not None and mask.shape != scores.shape):
            raise ValueError(
                f"need [H,W] scores and mask, got {scores.shape} and {None if mask is None else mask.shape}"
            )
        if not np.isfinite(scores).all():
            raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} scores are not finite")
        if not scores.size:
            return
        weights, regions = (None, 0) if mask is None else metrics.region_weights(mask)
        batch = _Batch(scores, weights)
        self.pictures += 1
        self.regions += regions
        self._top = max(self._top, batch.highest)
        if not len(self._edges) or batch.lowest < self._edges[0]:
            self._edges = np.append(batch.lowest, self._edges)
            self._mass = np.concatenate([np.zeros((3, 1)), self._mass], axis=1)
        after = self._mass + batch.masses(self._edges)
        heavy = (after > RESOLUTION * after.sum(axis=1, keepdims=True)).any(axis=0)
        heavy &= np.append(self._edges[1:], np.inf) > np.nextafter(
            self._edges, np.float32(np.inf)
        )  # more than a value
        if heavy.any():
            self._refine(batch, heavy, RESOLUTION / 2 * after.sum(axis=1))
        else:
            self._mass = after
        if len(self._edges) > _MOST_BINS:
            self._coarsen()

    def merge(self, *others: PixelMetrics) -> PixelMetrics:
        """A new collection of all pictures of this one and the others."""
        parts = [part for part in (self, *others) if part.pictures]
        total = PixelMetrics()
        if not parts:
            return total
        total.pictures = sum(part.pictures for part in parts)
        total.regions = sum(part.regions for part in parts)
        total._top = max(part._top for part in parts)
        total._edges = np.unique(np.concatenate([part._edges for part in parts]))
        total._mass = np.sum([part._spread(total._edges) for part in parts], axis=0)
        if len(total._edges) > _MOST_BINS:
            total._coarsen()
        return total

    def auroc(self) -> float:
        """Pixel AUROC; NaN without defect pixels or without good ones."""
        return metrics.area_under_roc(self._curve(_DEFECT))

    def average_precision(self) -> float:
        """Average precision over pixels."""
        return metrics.area_under_precision(self._curve(_DEFECT))

    def f1_max(self) -> tuple[float, float]:
        """The best F1 over pixels and its threshold."""
        return metrics.best_f1(self._curve(_DEFECT))

    def aupro(self, limit: float = 0.3) -> float:
        """As metrics.aupro."""
        return metrics.area_under_pro(self._curve(_OVERLAP), self.regions, limit)

    def roc(self, points: int = 400) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """False- and true-positive rate at some thresholds, for drawing."""
        return self._drawn(_DEFECT, points)

    def pro(self, points: int = 400) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """False-positive rate and mean overlap at some thresholds, for drawing."""
        return self._drawn(_OVERLAP, points)

    def _curve(self, positives: int) -> metrics.Curve:
        filled = self._mass[_GOOD] + self._mass[positives] > 0
        sums = np.cumsum(self._mass[:, filled][:, ::-1], axis=1)
        thresholds = np.append(np.inf, self._edges[filled][::-1].astype(np.float64))
        return metrics.Curve(thresholds, np.append(0.0, sums[_GOOD]), np.append(0.0, sums[positives]))

    def _drawn(self, positives: int, points: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        curve = self._curve(positives)
        x, y = curve.negatives / max(curve.negatives[-1], 1), curve.positives / max(curve.positives[-1], 1e-300)
        length = np.cumsum(np.append(0, np.hypot(np.diff(x), np.diff(y))))  # even steps along the curve
        at = np.unique(np.searchsorted(length, np.linspace(0, length[-1], points)).clip(0, len(x) - 1))
        return x[at], y[at]

    def _refine(self, batch: _Batch, heavy: npt.NDArray[np.bool_], steps: npt.NDArray[np.float64]) -> None:
        """Add the batch, splitting the heavy bins at its quantiles."""
        cuts = batch.quantiles(steps)
        cuts = cuts[heavy[_bin_of(self._edges, cuts)]]
        edges = np.union1d(self._edges, cuts)
        parent = _bin_of(self._edges, edges)
        new, before = batch.masses(edges), self._mass[:, parent]
        # What a split bin held before is taken to lie where the new picture's pixels lie: of the same sort if there
        # are any, else of any sort.
        part = np.flatnonzero(np.bincount(parent)[parent] > 1)
        owner = parent[part]
        for channel in range(3):
            share = np.empty(len(part))
            for weight in (np.ones(len(part)), new[:, part].sum(axis=0), new[channel, part]):
                sums = np.bincount(owner, weight)[owner] if len(part) else weight
                np.divide(weight, sums, out=share, where=sums > 0)
            before[channel, part] *= share
        self._edges, self._mass = edges, before + new

    def _spread(self, edges: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The mass on finer edges, spread evenly within each bin."""
        ends = np.append(self._edges, np.nextafter(self._top, np.float32(np.inf))).astype(np.float64)
        sums = np.concatenate([np.zeros((3, 1)), np.cumsum(self._mass, axis=1)], axis=1)
        at = np.append(edges.astype(np.float64), np.inf)
        return np.diff([np.interp(at, ends, row) for row in sums], axis=1)

    def _coarsen(self) -> None:
        """Join neighbours that together hold little, so that memory stays bounded."""
        share = (self._mass / np.maximum(self._mass.sum(axis=1, keepdims=True), 1e-300)).max(axis=0)
        group = np.floor(np.cumsum(share) / (3 * RESOLUTION)) if share.any() else np.zeros(len(share))
        start = np.flatnonzero(np.append(True, np.diff(group) > 0))
        self._mass = np.add.reduceat(self._mass, start, axis=1)
        self._edges = self._edges[start]


class _Batch:
    """One picture's scores, sorted, with their weights."""

    def __init__(self, scores: npt.NDArray[np.float32], weights: npt.NDArray[np.float64] | None) -> None:
        inside = None if weights is None else weights > 0
        self.good = np.sort(scores.ravel() if inside is None else scores[~inside])
        defect = scores[inside] if inside is not None else np.zeros(0, np.float32)
        order = np.argsort(defect)
        self.defect = defect[order]
        overlap = weights[inside][order] if weights is not None and inside is not None else np.zeros(0)
        self.overlap = np.append(0.0, np.cumsum(overlap))
        self.lowest, self.highest = np.float32(scores.min()), np.float32(scores.max())

    def masses(self, edges: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """What lies in each bin, [3, bins]; nothing lies below the first edge."""
        good = np.append(np.searchsorted(self.good, edges), len(self.good))
        defect = np.append(np.searchsorted(self.defect, edges), len(self.defect))
        return np.diff(np.stack([good, defect, self.overlap[defect]]).astype(np.float64), axis=1)

    def quantiles(self, steps: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Scores between which at most `steps` of good pixels, defect pixels and overlap lie.

        A value that weighs more than a step by itself, be it by ties, gets a bin of its own.
        """
        crossed = np.diff(np.floor(self.overlap / max(steps[_OVERLAP], 1e-300))) > 0
        picks = (
            (self.good[:: max(1, int(steps[_GOOD]))], steps[_GOOD] < 1),
            (self.defect[:: max(1, int(steps[_DEFECT]))], steps[_DEFECT] < 1),
            (self.defect[crossed], False),
        )
        cuts = []
        for picked, each_alone in picks:
            values, count = np.unique(picked, return_counts=True)
            cuts += [values, np.nextafter(values[(count > 1) | each_alone], np.float32(np.inf))]
        return np.concatenate(cuts)


def _bin_of(edges: npt.NDArray[np.float32], values: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    return np.searchsorted(edges, values, side="right") - 1
