"""Ranges of activations, measured on good parts: what INT8 scales are made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from edge_ad.errors import DataError

Method = Literal["minmax", "percentile", "entropy"]
Array = npt.NDArray[np.float32]
BINS = 2048


class ActivationRanges:
    """Ranges of activations over images: histograms of |x|, and largest |x| and mean x of each channel.

    channel_amax: the largest |x| over all but the last axis, for tensors of tokens [B, N, C].
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.images = 0
        self.channel_amax: dict[str, npt.NDArray[np.float64]] = {}
        self._histograms = {name: _Histogram() for name in names}
        self._sums: dict[str, npt.NDArray[np.float64]] = {}

    def update(self, arrays: dict[str, Array]) -> None:
        """Add one batch of activations."""
        for name, array in arrays.items():
            size = np.abs(array)
            self._histograms[name].add(size)
            if array.ndim > 1:
                channels = size.reshape(-1, array.shape[-1]).max(0).astype(np.float64)
                self.channel_amax[name] = np.maximum(channels, self.channel_amax.get(name, 0.0))
                mean = array.reshape(-1, array.shape[-1]).mean(0, dtype=np.float64)
                self._sums[name] = self._sums.get(name, 0.0) + mean * len(array)
        self.images += len(next(iter(arrays.values())))

    def channel_mean(self) -> dict[str, npt.NDArray[np.float64]]:
        """Mean x of each channel (last axis), for tensors of tokens [B, N, C]."""
        return {name: total / self.images for name, total in self._sums.items()}

    def amax(self, method: Method = "percentile", percentile: float = 99.99) -> dict[str, float]:
        """The value that INT8's 127 stands for, per tensor.

        minmax: the largest |x|. percentile: that percentile of |x|. entropy: the range that loses least
        information (Kullback-Leibler divergence of the histogram from its 128-level version; Migacz 2017).
        """
        if not self.images:
            raise DataError("no image was seen: there are no ranges", "give --normals with photos of good parts")
        return {name: histogram.amax(method, percentile) for name, histogram in self._histograms.items()}

    def abs_max(self) -> dict[str, float]:
        """The largest |x| of each tensor."""
        return {name: histogram.top for name, histogram in self._histograms.items()}


def measure_ranges(
    model: bytes, names: Sequence[str], batches: Iterable[Array], threads: int = 0
) -> ActivationRanges:
    """Ranges of the tensors `names` while the graph runs on preprocessed batches [B, 3, H, W] of good parts."""
    watched = onnx.load_model_from_string(model)
    there = {output.name for output in watched.graph.output}
    for name in names:
        if name not in there:
            watched.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    ranges = ActivationRanges(names)
    for images in batches:
        ranges.update(dict(zip(names, session.run(list(names), {"images": images}), strict=True)))
    return ranges


class _Histogram:
    """Counts of |x| in BINS equal bins over [0, width); the width doubles when a larger value comes."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.width = 0.0
        self.top = 0.0

    def add(self, size: Array) -> None:
        top = float(size.max())
        self.top = max(self.top, top)
        if self.width == 0.0:
            self.width = top or 1e-12
        while top > self.width:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
            self.width *= 2
        bins = np.minimum((size.ravel() * np.float32(BINS / self.width)).astype(np.int64), BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)

    def amax(self, method: Method, percentile: float) -> float:
        if method == "minmax" or self.top == 0:
            return self.top
        if method == "percentile":
            seen = np.cumsum(self.counts)
            edge = int(np.searchsorted(seen, seen[-1] * percentile / 100)) + 1
        else:
            edge = _lowest_divergence(self.counts)
        return min(self.top, edge * self.width / BINS)


def _lowest_divergence(counts: npt.NDArray[np.int64], levels: int = 128) -> int:
    """How many bins to keep so that their `levels`-level version differs least from the clipped histogram."""
    total = counts.astype(np.float64)
    last = int(np.flatnonzero(total)[-1]) + 1
    best, kept = np.inf, last
    for edge in range(levels, last + 1, max(1, (last - levels) // 128)):
        reference = total[:edge].copy()
        reference[-1] += total[edge:].sum()  # clipped values land in the last bin
        groups = (np.arange(edge) * levels) // edge
        there = total[:edge] > 0
        filled = np.bincount(groups, there, minlength=levels)
        level = np.bincount(groups, total[:edge], minlength=levels) / np.maximum(filled, 1)
        coarse = np.where(there, level[groups], 0)
        both = (reference > 0) & (coarse > 0)
        p, q = reference / reference.sum(), coarse / max(coarse.sum(), 1e-12)
        lost = float((p[both] * np.log(p[both] / q[both])).sum()) + float(p[(reference > 0) & ~both].sum()) * 10
        if lost < best:
            best, kept = lost, edge
    return kept
