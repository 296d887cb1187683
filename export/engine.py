"""`--target tensorrt` and `--target tensorrt-rtx`: engines in the artifact, with what they fit."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_ad.artifact import Artifact
from edge_ad.errors import ArtifactError
from edge_ad.export.graph_tools import raise_opset
from edge_ad.export.quantize import float_products, to_fp16
from edge_ad.runtime.engines.cuda_device import open_device
from edge_ad.runtime.engines.runner import GRAPHS, Precision
from edge_ad.runtime.engines.self_test import check_runner
from edge_ad.runtime.engines.tensorrt import TensorRTRunner, store_engine
from edge_ad.runtime.engines.tensorrt_build import (
    EngineOptions,
    EngineRecord,
    build_engine_bytes,
    graph_hash,
    load_tensorrt,
)
from edge_ad.runtime.engines.tensorrt_faults import refuse_faulty

CACHE = "engines/timing.cache"

log = logging.getLogger(__name__)

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Source:
    """A graph to build an engine from. file: its name in the artifact, where a device builds from it again."""

    precision: Precision
    file: str
    graph: bytes


@dataclasses.dataclass(frozen=True)
class Built:
    """An engine that is not stored yet, and its timing cache."""

    source: Source
    engine: bytes
    cache: bytes
    record: EngineRecord

    @property
    def file(self) -> str:
        """Its name in the artifact."""
        sm = "".join(map(str, self.record.capability))
        return f"engines/{self.source.precision}.sm{sm}.{self.record.target}.engine"


def build_engine(
    artifact: Artifact, precision: Precision, options: EngineOptions, say: Say = lambda text: None
) -> list[Path]:
    """Build the engine(s), test those that run here, and put them into the artifact; returns their paths.

    With compute_capabilities (TensorRT-RTX) one engine each, and no GPU is needed; else one for this GPU. Raises
    BackendError where this TensorRT is known to compute wrong, and where the engine fails its self-test.
    """
    trt = load_tensorrt(options.target)
    source = engine_source(artifact, precision)
    written = []
    for text in options.compute_capabilities:
        capability = tuple(int(part) for part in text.split("."))
        own = dataclasses.replace(options, compute_capabilities=(text,))
        built = _build(trt, artifact, source, own, f"SM {text}", capability, say)
        written.append(store(artifact, built))
    if not options.compute_capabilities:
        built, runner = build_here(trt, artifact, source, options, say)
        runner.close()
        written.append(store(artifact, built))
    return written


def build_here(
    trt: Any, artifact: Artifact, source: Source, options: EngineOptions, say: Say = lambda text: None
) -> tuple[Built, TensorRTRunner]:
    """An engine for this GPU, opened and through its self-test, not stored yet."""
    device = open_device()
    try:
        built = _build(trt, artifact, source, options, device.name, device.capability, say)
        runner = TensorRTRunner(trt, device, built.engine, source.precision)
        if check_runner(runner, artifact, source.precision) is None:
            log.warning("%s was not tested: the artifact holds no reference pictures of %s", built.file, runner.name)
    except BaseException:
        device.close()
        raise
    return built, runner


def store(artifact: Artifact, built: Built) -> Path:
    """Put the engine into the artifact, with the graph that it was built from; returns its path."""
    if (
        not artifact.has(built.source.file) or artifact.file(built.source.file).read_bytes() != built.source.graph
    ):  # so that a device without the onnx package can build again
        artifact.add(built.source.file, built.source.graph)
    store_engine(artifact, built.file, built.engine, built.record)
    if built.cache:
        artifact.add(CACHE, built.cache)
    return artifact.path / built.file


def engine_source(artifact: Artifact, precision: Precision, int8_attention: bool = False) -> Source:
    """What an engine of that precision is built from: of INT8 a version with FP16 between the quantised layers."""
    name = GRAPHS[precision]
    graph = artifact.file(name).read_bytes()
    if precision != "int8":
        return Source(precision, name, graph)
    return Source(precision, "engines/int8.onnx", engine_graph(graph, int8_attention))


def engine_graph(graph: bytes, int8_attention: bool = False) -> bytes:
    """An INT8 graph as GPUs like it: FP16 instead of FP32 between the quantised layers.

    int8_attention: leave products of two activations in INT8. GPUs have one fused kernel for all of attention in
    FP16, which is mostly faster than INT8 products with conversions between them.
    """
    if not int8_attention:
        graph = float_products(graph)
    return to_fp16(raise_opset(graph, 19))


def _build(
    trt: Any,
    artifact: Artifact,
    source: Source,
    options: EngineOptions,
    gpu: str,
    capability: tuple[int, ...],
    say: Say,
) -> Built:
    for line in refuse_faulty(options.target, trt.__version__, source.precision, capability, options.accept_faulty):
        log.warning("%s", line)  # `say` is a line that the next one replaces
    say(f"building for {gpu}")
    engine, cache = build_engine_bytes(trt, source.graph, options, _cache(artifact), say)
    record = EngineRecord(
        options.target, trt.__version__, gpu, capability, graph_hash(source.graph), source.precision,
        options.max_batch, options.version_compatible, options.hardware_compatible, source.file,
        options.workspace_mib, options.dla, options.accept_faulty,
    )  # fmt: skip
    return Built(source, engine, b"" if options.compute_capabilities else cache, record)


def _cache(artifact: Artifact) -> bytes:
    try:
        return artifact.file(CACHE).read_bytes() if artifact.has(CACHE) else b""
    except ArtifactError:  # only speeds up building
        return b""
