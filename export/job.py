"""One export, whole: convert, measure the loss, and only then put the graph into the artifact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edge_ad.artifact import Artifact
from edge_ad.calibrate import confirmed
from edge_ad.calibrate.golden import add_golden
from edge_ad.calibrate.int8 import Method, measure_ranges
from edge_ad.errors import ConfigError, DataError
from edge_ad.export import gate
from edge_ad.export.balance import activations_to_measure, balance
from edge_ad.export.compare import CachingRunner, open_any_runner
from edge_ad.export.graph_tools import Graph, with_metadata
from edge_ad.export.quantize import fp16_tensors, layers_of, nodes_near_overflow, to_fp16
from edge_ad.export.sensitivity import Quantized, Trial, layer_errors, search
from edge_ad.runtime.engines.onnxruntime import OnnxRuntimeRunner
from edge_ad.runtime.engines.runner import GRAPHS, Array, Precision, Runner

FEWEST = 8  # photos to measure on


@dataclass(frozen=True)
class ExportOptions:
    """How to convert, and how much may be lost.

    ranges: how INT8 ranges are taken from normals. smooth: move channel spread into the weights first, 0..1 (0:
    don't). error_budget: pixel-score error (in standard deviations) beyond which layers are left in float. skip:
    layers to leave in float anyway. max_loss: points of 100 that each metric may lose (None: 0.2 for FP16, 0.5 for
    INT8). accept_loss: store the graph although the gate refuses.
    """

    ranges: Method = "percentile"
    percentile: float = 99.99
    smooth: float = 0.75
    error_budget: float = 0.08
    skip: tuple[str, ...] = ()
    max_loss: float | None = None
    accept_loss: bool = False
    threads: int | None = None


def export_precision(
    artifact: Artifact,
    precision: Precision,
    normals: Sequence[Array],
    metrics_of: Callable[[Runner], gate.Metrics] | None = None,
    options: ExportOptions | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write the graph of that precision and its gate report; return the report.

    FP32 is written anew from the weights and held against PyTorch, the others are made from the FP32 graph and held
    against it.

    normals: preprocessed images [3, H, W] of good parts: ranges come from the first half, the search and the gate
    use the second. metrics_of: figures of a runner on labelled photos, for the gate. say: takes lines of progress.
    Raises BackendError when the gate refuses, DataError with fewer than 8 normals or where the graph lets a
    confirmed miss pass.
    """
    options = options or ExportOptions()
    if len(normals) < FEWEST:
        raise DataError(f"{len(normals)} photos of good parts are too few to measure on", f"give at least {FEWEST}")
    source = _fp32(artifact) if precision == "fp32" else artifact.file(GRAPHS["fp32"]).read_bytes()
    half = len(normals) // 2
    seen, held = normals[:half], normals[half:]
    found: Quantized | None = None
    details: dict[str, Any] = {}
    reference: Runner
    if precision == "fp32":
        reference = open_any_runner(artifact, "torch", threads=options.threads)
    else:
        reference = CachingRunner(OnnxRuntimeRunner(source, threads=options.threads), held)
    if precision == "fp32":
        graph = source
    elif precision == "fp16":
        say("measuring ranges")
        largest = measure_ranges(source, fp16_tensors(source), _batches(seen[:8]), options.threads or 0).abs_max()
        keep = nodes_near_overflow(source, largest) | set(options.skip)
        graph, details = to_fp16(source, keep), {"kept_fp32": sorted(keep)}
    else:
        found, details = _int8(source, reference, seen, held, options, say)
        graph = found.graph
    candidate = OnnxRuntimeRunner(graph, precision=precision, threads=options.threads)
    say("measuring what was lost")
    report = gate.judge(precision, reference, candidate, held, metrics_of, options.max_loss)
    if not report.passed and not options.accept_loss:
        hurting: Sequence[tuple[str, float]] = ()
        if found is not None:
            hurting = found.layer_errors or layer_errors(found.trial, advance=lambda text: say(f"measuring {text}"))
        gate.refuse(report, hurting)
    confirmed.refuse_passed(confirmed.examine_misses(artifact, candidate), f"the {precision} graph")
    record = {**report.to_dict(), **details, "accepted_loss": options.accept_loss and not report.passed}
    artifact.add(GRAPHS[precision], with_metadata(graph, precision=precision))
    record["bytes"] = {name: artifact.manifest.files[name].bytes for name in (GRAPHS["fp32"], GRAPHS[precision])}
    add_golden(artifact, held, [precision])
    artifact.update(reports={f"export.{precision}": record})
    return record


def _fp32(artifact: Artifact) -> bytes:
    from edge_ad.export.onnx_graph import export_onnx  # noqa: PLC0415  (PyTorch)
    from edge_ad.model.detector import Detector  # noqa: PLC0415

    manifest = artifact.manifest
    detector = Detector.from_artifact(artifact)
    return export_onnx(detector, classes=manifest.classes, preset=str(manifest.config.get("preset", "")))


def _int8(
    source: bytes,
    reference: Runner,
    seen: Sequence[Array],
    held: Sequence[Array],
    options: ExportOptions,
    say: Callable[[str], None],
) -> tuple[Quantized, dict[str, Any]]:
    known = [layer.name for layer in layers_of(Graph(source))]
    unknown = sorted(set(options.skip) - set(known))
    if unknown:
        raise ConfigError(f"no layer to quantise is called {', '.join(unknown)}", f"they are: {', '.join(known)}")
    say("measuring ranges")
    if options.smooth:
        # channels' largest values settle early: the histograms below take all photos
        channels = measure_ranges(source, activations_to_measure(source), _batches(seen[:8]), options.threads or 0)
        source = balance(source, channels.channel_amax, channels.channel_mean(), options.smooth)
    graph = Graph(source)
    layers = layers_of(graph)
    names = sorted({name for layer in layers for name in layer.activations})
    ranges = measure_ranges(source, names, _batches(seen), options.threads or 0)
    say("quantising")
    trial = Trial(
        graph, ranges.amax(options.ranges, options.percentile), ranges.channel_amax, held[:8],
        [reference(image[None]).pixel_scores[0] for image in held[:8]], options.threads,
    )  # fmt: skip
    found = search(trial, options.error_budget, options.skip, lambda text: say(f"measuring {text}"))
    details = {
        "ranges": options.ranges,
        "smooth": options.smooth,
        "layers": len(layers),
        "left_in_float": list(found.skipped),
        "layer_errors": {name: round(error, 5) for name, error in found.layer_errors},
        "search_error": round(found.error, 5),
    }
    return found, details


def _batches(images: Sequence[Array]) -> list[Array]:
    return [image[None] for image in images]
