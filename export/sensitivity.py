"""Which layers hurt when they are quantised, and which few to leave in float so that the rest may be INT8."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from edge_ad.export.graph_tools import Graph
from edge_ad.export.quantize import layers_of, quantize_int8
from edge_ad.runtime.backends import Array
from edge_ad.runtime.backends_onnxruntime import OnnxRuntimeRunner


class Quantized(NamedTuple):
    """graph: the INT8 graph. skipped: layers left in float. error: pixel-score error on the images searched with.

    layer_errors: error of each layer alone, largest first; empty when the search was not needed.
    """

    graph: bytes
    skipped: tuple[str, ...]
    error: float
    layer_errors: tuple[tuple[str, float], ...]


def pixel_error(
    graph: bytes, images: Sequence[Array], expected: Sequence[Array], threads: int | None = None
) -> float:
    """Root mean square difference of pixel scores, in standard deviations of the expected ones."""
    runner = OnnxRuntimeRunner(graph, threads=threads)
    scores = [runner(image[None]).pixel_scores[0] for image in images]
    squares = [np.square(ours - own).mean() for ours, own in zip(scores, expected, strict=True)]
    spread = float(np.concatenate([own.ravel() for own in expected]).std())
    return float(np.sqrt(np.mean(squares))) / max(spread, 1e-12)


def layer_errors(
    model: bytes,
    ranges: Mapping[str, float],
    images: Sequence[Array],
    threads: int | None = None,
    advance: Callable[[str], None] | None = None,
) -> list[tuple[str, float]]:
    """Pixel-score error with each layer alone in INT8, largest first. images: a few preprocessed [3, H, W]."""
    reference = OnnxRuntimeRunner(model, threads=threads)
    expected = [reference(image[None]).pixel_scores[0] for image in images]
    names = [layer.name for layer in layers_of(Graph(model))]
    found = []
    for name in names:
        alone = quantize_int8(model, ranges, skip=[other for other in names if other != name])
        found.append((name, pixel_error(alone, images, expected, threads)))
        if advance:
            advance(name)
    return sorted(found, key=lambda pair: -pair[1])


def search(
    model: bytes,
    ranges: Mapping[str, float],
    images: Sequence[Array],
    budget: float = 0.08,
    skip: Sequence[str] = (),
    threads: int | None = None,
    advance: Callable[[str], None] | None = None,
) -> Quantized:
    """The INT8 graph with as few layers in float as keep the pixel-score error within the budget.

    All layers are tried first; only when that is over budget is each layer measured alone, and the number of worst
    ones to leave out found by bisection. When even half of the layers left out don't help, that half is returned:
    the gate then has the last word.
    """
    reference = OnnxRuntimeRunner(model, threads=threads)
    expected = [reference(image[None]).pixel_scores[0] for image in images]

    def attempt(left_out: Sequence[str]) -> tuple[bytes, float]:
        graph = quantize_int8(model, ranges, left_out)
        return graph, pixel_error(graph, images, expected, threads)

    graph, error = attempt(skip)
    if error <= budget:
        return Quantized(graph, tuple(skip), error, ())
    errors = [pair for pair in layer_errors(model, ranges, images[:2], threads, advance) if pair[0] not in skip]
    worst = [name for name, _ in errors]
    low, high = 0, max(1, len(worst) // 2)
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
    return Quantized(graph, tuple(left_out), error, tuple(errors))
