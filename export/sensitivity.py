"""Which layers hurt when they are quantised, and which few to leave in float so that the rest may be INT8."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_ad.export.graph_tools import Graph
from edge_ad.export.quantize import layers_of, quantize_int8
from edge_ad.runtime.engines.onnxruntime import OnnxRuntimeRunner
from edge_ad.runtime.engines.runner import Array

GROUP = 8  # layers measured together before any is measured alone


class Trial(NamedTuple):
    """What an INT8 graph is tried with.

    amax: of activations. channel_amax: largest values per channel of them, or None. images: preprocessed [3, H, W]
    of good parts. expected: the float graph's pixel_scores [H, W] of each.
    """

    graph: Graph
    amax: Mapping[str, float]
    channel_amax: Mapping[str, npt.NDArray[np.float64]] | None
    images: Sequence[Array]
    expected: Sequence[Array]
    threads: int | None = None

    @property
    def layers(self) -> list[str]:
        """Names of the layers that may be quantised."""
        return [layer.name for layer in layers_of(self.graph)]

    def quantized(self, skip: Collection[str], check: bool = True) -> bytes:
        """The INT8 graph with these layers in float."""
        return quantize_int8(self.graph, self.amax, skip, self.channel_amax, check)

    def error(self, graph: bytes, images: int | None = None) -> float:
        """Root mean square difference of pixel scores, in standard deviations of the expected ones."""
        runner = OnnxRuntimeRunner(graph, threads=self.threads)
        expected = self.expected[:images]
        scores = [runner(image[None]).pixel_scores[0] for image in self.images[:images]]
        squares = [np.square(ours - own).mean() for ours, own in zip(scores, expected, strict=True)]
        spread = float(np.concatenate([own.ravel() for own in expected]).std())
        return float(np.sqrt(np.mean(squares))) / max(spread, 1e-12)


class Quantized(NamedTuple):
    """graph: the INT8 graph. skipped: layers left in float. error: pixel-score error on the trial's images.

    layer_errors: error of single layers, largest first; empty when the search was not needed. trial: what it was
    tried with.
    """

    graph: bytes
    skipped: tuple[str, ...]
    error: float
    layer_errors: tuple[tuple[str, float], ...]
    trial: Trial


def layer_errors(
    trial: Trial,
    among: Collection[str] | None = None,
    images: int = 2,
    advance: Callable[[str], None] = lambda text: None,
) -> list[tuple[str, float]]:
    """Pixel-score error with a layer alone in INT8, largest first, of the layers that matter.

    Errors of layers add up like those of independent noise, in squares. So neighbours are measured together first,
    and alone only where their group makes more than a hundredth of the whole. among: layers to look at (all).
    """
    names = [name for name in trial.layers if among is None or name in among]
    groups = [names[i : i + GROUP] for i in range(0, len(names), GROUP)]

    def alone(group: Sequence[str]) -> float:
        advance(f"{len(group)} layers from {group[0]}" if len(group) > 1 else group[0])
        others = [name for name in trial.layers if name not in group]
        return trial.error(trial.quantized(others, check=False), images)

    together = [alone(group) for group in groups]
    limit = 0.01 * sum(error**2 for error in together)
    heavy = [group for group, error in zip(groups, together, strict=True) if error**2 >= limit]
    return sorted(((name, alone([name])) for group in heavy for name in group), key=lambda pair: -pair[1])


def search(
    trial: Trial,
    budget: float = 0.08,
    skip: Sequence[str] = (),
    advance: Callable[[str], None] = lambda text: None,
) -> Quantized:
    """The INT8 graph with as few layers in float as keep the pixel-score error within the budget.

    All layers are tried first; only when that is over budget are layers measured alone, and the number of worst
    ones to leave out found by bisection. When even half of the layers left out don't help, that half is returned:
    the gate then has the last word.
    """

    def attempt(left_out: Sequence[str]) -> tuple[bytes, float]:
        graph = trial.quantized(left_out)
        return graph, trial.error(graph)

    graph, error = attempt(skip)
    if error <= budget:
        return Quantized(graph, tuple(skip), error, (), trial)
    others = [name for name in trial.layers if name not in skip]
    errors = layer_errors(trial, others, advance=advance)
    worst = [name for name, _ in errors]
    low, high = 0, max(1, min(len(worst), len(others) // 2))
    left_out = [*skip, *worst[:high]]
    graph, error = attempt(left_out)
    while error <= budget and high - low > 1:
        middle = (low + high) // 2
        tried = [*skip, *worst[:middle]]
        other, other_error = attempt(tried)
        if other_error <= budget:
            graph, error, left_out, high = other, other_error, tried, middle
        else:
            low = middle
    return Quantized(graph, tuple(left_out), error, tuple(errors), trial)
