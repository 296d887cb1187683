"""ONNX Runtime on the CPU, on CUDA, or through its TensorRT execution provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edge_ad.artifact import Artifact
from edge_ad.errors import BackendError
from edge_ad.runtime.backends import (
    GRAPHS,
    OUTPUTS,
    Array,
    Outputs,
    Precision,
    checked_images,
    checked_outputs,
    default_threads,
    in_batches,
)

DEVICES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


def open_artifact(artifact: Artifact, precision: Precision, threads: int | None, backend: str) -> OnnxRuntimeRunner:
    """The artifact's graph on the device that the backend's name ends with."""
    device = backend.partition("-")[2] or "cpu"
    return OnnxRuntimeRunner(artifact.file(GRAPHS[precision]), device, precision, threads)


class OnnxRuntimeRunner:
    """A graph in an ONNX Runtime session.

    graph: path, or the model's bytes. device: `cpu`, `cuda` or `tensorrt`. Threads do not spin while no frame is
    there: an inspector waits for its camera most of the time, and spinning takes that time from the camera's
    decoder (and from everyone else on a small device).
    """

    def __init__(
        self, graph: Path | bytes, device: str = "cpu", precision: Precision = "fp32", threads: int | None = None
    ) -> None:
        self.name = f"onnxruntime-{device} {precision}"
        wanted = DEVICES[device]
        if wanted not in onnxruntime.get_available_providers():
            raise BackendError(
                f"this ONNX Runtime {onnxruntime.__version__} has no {wanted}",
                "pip install onnxruntime-gpu instead of onnxruntime, or use backend onnxruntime-cpu",
            )
        source = graph if isinstance(graph, bytes) else str(graph)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                source, _options(default_threads(threads)), providers=_providers(device)
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise BackendError(
                f"ONNX Runtime can't load the graph on {device}: {_first_line(error)}",
                "export the artifact again with this version, or choose another --backend",
            ) from error
        if self._session.get_providers()[0] != wanted:  # it falls back by itself, with a line on stderr
            raise BackendError(
                f"ONNX Runtime could not start {wanted} and fell back to the CPU",
                "check the CUDA, cuDNN and TensorRT versions it needs with `edgead doctor`",
            )
        (images,) = self._session.get_inputs()
        batch, _, height, width = images.shape
        self.image_size = (int(height), int(width))
        self._batch = batch if isinstance(batch, int) else None

    def __call__(self, images: Array) -> Outputs:
        return checked_outputs(in_batches(checked_images(images, self.image_size), self._batch, self._run), self.name)

    def close(self) -> None:
        self._session = None

    def _run(self, images: Array) -> Outputs:
        if self._session is None:
            raise BackendError(f"{self.name} was closed", "open a new runner")
        try:
            arrays = self._session.run(OUTPUTS, {"images": images})
        except Exception as error:  # see above
            raise BackendError(f"{self.name} failed: {_first_line(error)}", "see `edgead doctor`") from error
        return Outputs(*(np.asarray(array, np.float32) for array in arrays))


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors are raised; its warnings are about its own optimiser
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(device: str) -> list[Any]:
    # TF32 rounds inputs to 10 bits: scores would differ from every other backend's
    cuda = (DEVICES["cuda"], {"use_tf32": "0"})
    if device == "tensorrt":
        return [(DEVICES["tensorrt"], {"trt_fp16_enable": "0"}), cuda, DEVICES["cpu"]]
    return [cuda, DEVICES["cpu"]] if device == "cuda" else [DEVICES["cpu"]]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
