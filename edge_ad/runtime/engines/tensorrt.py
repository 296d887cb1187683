"""TensorRT engines: one set of pinned and device buffers, one stream, one CUDA graph a batch size."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from edge_ad.artifact import Artifact
from edge_ad.config import read_section, to_plain
from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.engines.cuda_device import Device, open_device
from edge_ad.runtime.engines.runner import (
    GRAPHS,
    OUTPUTS,
    Array,
    Outputs,
    Precision,
    check_images,
    check_outputs,
    log_once,
    run_in_batches,
)
from edge_ad.runtime.engines.self_test import check_runner
from edge_ad.runtime.engines.tensorrt_build import (
    EngineOptions,
    EngineRecord,
    build_engine_bytes,
    graph_hash,
    load_tensorrt,
    make_logger,
)
from edge_ad.runtime.engines.tensorrt_faults import known_faults, refuse_faulty

log = logging.getLogger(__name__)


def open_artifact(artifact: Artifact, precision: Precision, threads: int | None, backend: str) -> TensorRTRunner:
    """The artifact's engine that fits this GPU; one that doesn't fit any more is rebuilt (minutes) and stored."""
    del threads, backend
    records = engine_records(artifact, precision)
    if not records:
        raise BackendError(
            f"{artifact.path} has no {precision} engine",
            f"build it on this device: edgead export {artifact.path} --{precision} --target tensorrt",
        )
    misfits = []
    for name, record in records.items():
        trt, device = load_tensorrt(record.target), open_device()
        source = artifact.file(record.source or GRAPHS[precision]).read_bytes()
        misfit = record.misfit(trt.__version__, device.name, device.capability, graph_hash(source))
        if not misfit:
            for fault in known_faults(record.target, record.tensorrt, precision, record.capability):
                log.warning("%s was built by a version known to compute wrong: %s", name, fault)
            return TensorRTRunner(trt, device, artifact.file(name).read_bytes(), precision)
        misfits.append(f"{name}: {misfit}")
        device.close()
    log_once(f"no engine fits ({'; '.join(misfits)}): building it again, which takes minutes")
    name, record = next(iter(records.items()))
    trt, device = load_tensorrt(record.target), open_device()
    source = artifact.file(record.source or GRAPHS[precision]).read_bytes()
    options = EngineOptions(
        record.target, record.max_batch, record.workspace_mib, record.version_compatible, record.hardware_compatible,
        record.dla, accept_faulty=record.accept_faulty,
    )  # fmt: skip
    for line in refuse_faulty(record.target, trt.__version__, precision, device.capability, record.accept_faulty):
        log.warning("%s", line)
    engine, _ = build_engine_bytes(trt, source, options)
    fresh = dataclasses.replace(
        record,
        tensorrt=trt.__version__,
        gpu=device.name,
        capability=device.capability,
        graph_sha256=graph_hash(source),
    )
    runner = TensorRTRunner(trt, device, engine, precision)
    try:
        check_runner(runner, artifact, precision)  # before it takes the place of one that was right
    except BaseException:
        runner.close()
        raise
    store_engine(artifact, name, engine, fresh)
    return runner


def engine_records(artifact: Artifact, precision: str) -> dict[str, EngineRecord]:
    """The artifact's engines of that precision: file name -> record."""
    found = {}
    for name, data in artifact.manifest.reports.get("engines", {}).items():
        try:
            record = read_section(EngineRecord, data, name)
        except ConfigError:  # of another version of this package
            continue
        if record.precision == precision and artifact.has(name):
            found[name] = record
    return found


def store_engine(artifact: Artifact, name: str, engine: bytes, record: EngineRecord) -> None:
    """Add the engine and what it fits to the artifact."""
    artifact.add(name, engine)
    known = artifact.manifest.reports.get("engines", {})
    artifact.update(reports={"engines": {**known, name: to_plain(record)}})


class TensorRTRunner:
    """A deserialised engine on one GPU; needs a GPU, so only its API calls are tested without one."""

    def __init__(self, trt: Any, device: Device, engine_bytes: bytes, precision: Precision = "fp32") -> None:
        self.name = f"tensorrt {precision}"
        self._device: Device | None = device
        self._messages: list[str] = []
        logger = make_logger(trt, self._messages)
        with device.active():
            runtime = trt.Runtime(logger)
            engine = runtime.deserialize_cuda_engine(engine_bytes)
            if engine is None:
                raise BackendError(
                    f"TensorRT can't load the engine: {self._words()}", "export it again on this device"
                )
            context = engine.create_execution_context()
            if context is None:
                raise BackendError(f"TensorRT can't start the engine: {self._words()}", "free some GPU memory")
            most = tuple(engine.get_tensor_profile_shape("images", 0)[2])
            context.set_input_shape("images", most)
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            self._host = {name: device.pinned(tuple(context.get_tensor_shape(name))) for name in names}
            self._address = {name: device.allocate(array.nbytes) for name, array in self._host.items()}
            for name, address in self._address.items():
                context.set_tensor_address(name, address)
        self._kept = (runtime, engine)  # must outlive the context
        self._context = context
        self._most = int(most[0])
        self._batch = 0
        self._launch: Callable[[], None] | None = None
        self.image_size = (int(most[2]), int(most[3]))

    def __call__(self, images: Array) -> Outputs:
        images = check_images(images, self.image_size)
        batch = self._most if len(images) > self._most else None
        return check_outputs(run_in_batches(images, batch, self._run), self.name)

    def close(self) -> None:
        if self._device is not None:
            self._launch = self._context = self._kept = None  # type: ignore[assignment]
            self._device.close()
            self._device = None

    def _run(self, images: Array) -> Outputs:
        if self._device is None:
            raise BackendError(f"{self.name} was closed", "open a new runner")
        count = len(images)
        with self._device.active():
            np.copyto(self._host["images"][:count], images)
            if count != self._batch:
                self._prepare(count)
            elif self._launch is None:
                self._queue()
            else:
                self._launch()
            self._device.synchronize()
        return Outputs(*(self._host[name][:count].copy() for name in OUTPUTS))

    def _prepare(self, count: int) -> None:
        """Run once plainly for a new batch size (engines allocate lazily), then record the CUDA graph."""
        assert self._device is not None
        context = self._context
        self._batch, self._launch = count, None
        context.set_input_shape("images", (count, *self._host["images"].shape[1:]))
        self._queue()
        self._device.synchronize()
        try:
            self._launch = self._device.capture(self._queue)
        except BackendError as error:  # an engine with host code in it, say
            log_once(f"no CUDA graph for this engine: {error}")
        self._queue()

    def _queue(self) -> None:
        device, context = self._device, self._context
        assert device is not None
        device.upload(self._address["images"], self._host["images"][: self._batch])
        if not context.execute_async_v3(device.stream):
            raise BackendError(f"{self.name} failed: {self._words()}", "see `nvidia-smi` and `edgead doctor`")
        for name in OUTPUTS:
            device.download(self._host[name][: self._batch], self._address[name])

    def _words(self) -> str:
        return "; ".join(self._messages[-3:]) or "no reason given"
