"""Build TensorRT engines, by one code path for TensorRT 10 and 11 and TensorRT-RTX, and say whether one fits.

Networks are strongly typed: FP16 and INT8 come from the graph's own types and Q/DQ nodes. So none of the calls that
TensorRT 11 removed (calibrators, precision flags, the explicit-batch flag) is needed.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge_ad.errors import BackendError

log = logging.getLogger(__name__)

Say = Callable[[str], None]


@dataclass(frozen=True)
class EngineOptions:
    """How to build.

    target: `tensorrt`, or `tensorrt-rtx` for desktop RTX GPUs. max_batch: the engine takes 1..max_batch images,
    and is tuned for max_batch. compute_capabilities: tensorrt-rtx only, such as ("8.6",); empty: this GPU.
    dla: a Jetson's DLA core, with GPU fallback for layers it can't run. accept_faulty: build although this version is
    known to compute wrong.
    """

    target: str = "tensorrt"
    max_batch: int = 1
    workspace_mib: int = 2048
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    accept_faulty: bool = False


@dataclass(frozen=True)
class EngineRecord:
    """What an engine was built from and for; it runs only where all of this fits."""

    target: str
    tensorrt: str
    gpu: str
    capability: tuple[int, ...]
    graph_sha256: str
    precision: str
    max_batch: int
    version_compatible: bool = False
    hardware_compatible: bool = False
    source: str = ""
    workspace_mib: int = 2048
    dla: int | None = None
    accept_faulty: bool = False

    def misfit(self, tensorrt: str, gpu: str, capability: tuple[int, ...], graph_sha256: str) -> str:
        """Why it can't run here, "" when it can."""
        if self.graph_sha256 != graph_sha256:
            return "the graph has changed since it was built"
        mine, theirs = self.tensorrt.split("."), tensorrt.split(".")
        if mine[:3] != theirs[:3] and not (self.version_compatible and mine[0] == theirs[0]):
            return f"it was built by TensorRT {self.tensorrt}, this is {tensorrt}"
        if tuple(self.capability) == tuple(capability) and (self.gpu == gpu or self.target == "tensorrt-rtx"):
            return ""
        if self.hardware_compatible and self.capability and self.capability[0] >= 8 and capability[0] >= 8:
            return ""
        return f"it was built for {self.gpu} (SM {'.'.join(map(str, self.capability))}), this is {gpu}"


def load_tensorrt(target: str = "tensorrt") -> Any:
    """The module `tensorrt` or `tensorrt_rtx`; BackendError when it isn't installed or can't load."""
    name = target.replace("-", "_")
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        hint = (
            "JetPack brings it: make the virtual environment with --system-site-packages; elsewhere "
            "`pip install 'edge-ad[tensorrt]'`"
        )
        raise BackendError(
            f"{name} can't be imported: {error}",
            hint if target == "tensorrt" else "pip install tensorrt-rtx-cu13 (desktop RTX GPUs, x86-64)",
        ) from error


def build_engine_bytes(
    trt: Any, graph: bytes, options: EngineOptions, timing_cache: bytes = b"", say: Say = lambda text: None
) -> tuple[bytes, bytes]:
    """Engine and updated timing cache of an ONNX graph.

    trt: the module. say: takes lines of progress. Raises BackendError with the parser's or builder's own words.
    """
    messages: list[str] = []
    logger = make_logger(trt, messages)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        found = [parser.get_error(i) for i in range(parser.num_errors)]
        words = "; ".join(
            f"{error.node_operator() or 'graph'} '{error.node_name()}': {error.desc()}" for error in found
        )
        raise BackendError(f"TensorRT {trt.__version__} can't read the graph: {words}", "export it again")
    config = builder.create_builder_config()
    _configure(trt, builder, network, config, options)
    caching = options.target == "tensorrt"  # TensorRT-RTX has no timings to keep
    if caching:
        cache = config.create_timing_cache(timing_cache)
        if not config.set_timing_cache(cache, ignore_mismatch=False):  # of another GPU or version
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    config.progress_monitor = _monitor(trt, say)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        words = "; ".join(messages[-3:]) or "no reason given"
        raise BackendError(
            f"TensorRT {trt.__version__} can't build the engine: {words}",
            "free GPU memory, lower --workspace-mib or --max-batch, or build without --dla",
        )
    used = config.get_timing_cache() if caching else None
    return bytes(engine), bytes(used.serialize()) if used is not None else b""


def make_logger(trt: Any, messages: list[str]) -> Any:
    """A TensorRT logger that writes to Python's logging and keeps errors in `messages`."""
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.INFO,
    }

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                messages.append(message.strip())
            log.log(min(level, logging.INFO), "TensorRT: %s", message)  # errors are raised by the caller

    return Logger()


def graph_hash(graph: bytes) -> str:
    """SHA-256 of the graph that an engine was built from."""
    return hashlib.sha256(graph).hexdigest()


def _configure(trt: Any, builder: Any, network: Any, config: Any, options: EngineOptions) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # it rounds to 10 bits: scores would differ from other backends'
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.dla is not None:
        if builder.num_DLA_cores <= options.dla:
            raise BackendError(
                f"DLA core {options.dla} was asked for, this device has {builder.num_DLA_cores}",
                "leave --dla out; only Jetson Xavier and Orin have DLA cores",
            )
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options.dla
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if options.compute_capabilities:
        if not hasattr(trt, "ComputeCapability"):
            raise BackendError("compute capabilities can be chosen with tensorrt-rtx only", "build on the device")
        config.num_compute_capabilities = len(options.compute_capabilities)
        for i, text in enumerate(options.compute_capabilities):
            known = getattr(trt.ComputeCapability, f"SM{text.replace('.', '')}", None)
            if known is None:
                raise BackendError(f"TensorRT-RTX can't build for SM {text}", "see its support matrix")
            config.set_compute_capability(known, i)
    image = network.get_input(0)
    shape = tuple(image.shape)
    if shape[0] == -1:
        profile = builder.create_optimization_profile()
        most = (options.max_batch, *shape[1:])
        profile.set_shape(image.name, (1, *shape[1:]), most, most)
        config.add_optimization_profile(profile)
    elif shape[0] != options.max_batch:
        raise BackendError(f"the graph takes {shape[0]} images at a time", f"use --max-batch {shape[0]}")


def _monitor(trt: Any, say: Say) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            say(f"{phase}: {step + 1} of {self.steps.get(phase, 0)}")
            return True

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()
