"""`--target tensorrt` and `--target tensorrt-rtx`: engines in the artifact, with what they fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from edge_ad.artifact import Artifact
from edge_ad.errors import ArtifactError
from edge_ad.export.graph_tools import raise_opset
from edge_ad.export.quantize import float_products, to_fp16
from edge_ad.runtime.engines.cuda_device import open_device
from edge_ad.runtime.engines.runner import GRAPHS, Precision
from edge_ad.runtime.engines.tensorrt import store_engine
from edge_ad.runtime.engines.tensorrt_build import (
    EngineOptions,
    EngineRecord,
    build_engine_bytes,
    graph_hash,
    load_tensorrt,
)

CACHE = "engines/timing.cache"


def build_engine(
    artifact: Artifact, precision: Precision, options: EngineOptions, say: Callable[[str], None] = lambda text: None
) -> list[Path]:
    """Build the engine(s) and put them into the artifact; returns their paths.

    With compute_capabilities (TensorRT-RTX) one engine each, and no GPU is needed; else one for this GPU.
    """
    trt = load_tensorrt(options.target)
    name, graph = _source(artifact, precision)
    jobs: list[tuple[str, tuple[int, ...], tuple[str, ...]]]
    if options.compute_capabilities:
        jobs = [
            (f"SM {text}", tuple(int(part) for part in text.split(".")), (text,))
            for text in options.compute_capabilities
        ]
    else:
        device = open_device()
        jobs = [(device.name, device.capability, ())]
        device.close()
    written = []
    for gpu, capability, chosen in jobs:
        own = dataclasses.replace(options, compute_capabilities=chosen)
        say(f"building for {gpu}")
        engine, cache = build_engine_bytes(trt, graph, own, _cache(artifact), say)
        record = EngineRecord(
            options.target, trt.__version__, gpu, capability, graph_hash(graph), precision, options.max_batch,
            options.version_compatible, options.hardware_compatible, name, options.workspace_mib, options.dla,
        )  # fmt: skip
        file = f"engines/{precision}.sm{''.join(map(str, capability))}.{options.target}.engine"
        store_engine(artifact, file, engine, record)
        if cache and not chosen:
            artifact.add(CACHE, cache)
        written.append(artifact.path / file)
    return written


def engine_graph(graph: bytes) -> bytes:
    """An INT8 graph as GPUs like it: FP16 instead of FP32 between the quantised layers."""
    return to_fp16(raise_opset(float_products(graph), 19))


def _source(artifact: Artifact, precision: Precision) -> tuple[str, bytes]:
    """Name and bytes of the graph to build from; for INT8 a version with FP16 between is kept in the artifact."""
    name = GRAPHS[precision]
    if precision != "int8":
        return name, artifact.file(name).read_bytes()
    graph = engine_graph(artifact.file(name).read_bytes())
    artifact.add("engines/int8.onnx", graph)  # so that a device without the onnx package can build again
    return "engines/int8.onnx", graph


def _cache(artifact: Artifact) -> bytes:
    try:
        return artifact.file(CACHE).read_bytes() if artifact.has(CACHE) else b""
    except ArtifactError:  # only speeds up building
        return b""
