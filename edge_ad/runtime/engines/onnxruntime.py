"""ONNX Runtime on the CPU, on CUDA, or through its TensorRT execution provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from edge_ad.artifact import Artifact
from edge_ad.errors import BackendError
from edge_ad.runtime.engines.runner import GRAPHS, OUTPUTS, GraphRunner, Precision, default_threads, first_line

DEVICES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
# It makes one of the Q/DQ pairs of layers that read the same tensor, and then none of these layers runs in INT8
_MERGES_PAIRS = "CommonSubexpressionElimination"


def open_artifact(artifact: Artifact, precision: Precision, threads: int | None, backend: str) -> OnnxRuntimeRunner:
    """The artifact's graph on the device that the backend's name ends with."""
    device = backend.partition("-")[2] or "cpu"
    return OnnxRuntimeRunner(artifact.file(GRAPHS[precision]), device, precision, threads)


class OnnxRuntimeRunner(GraphRunner):
    """A graph in an ONNX Runtime session.

    graph: path, or the model's bytes. device: `cpu`, `cuda` or `tensorrt`. Threads do not spin, neither while no
    frame is there (an inspector waits for its camera most of the time) nor between the graph's nodes: on two idle
    cores that gains 4 to 9 %, but with one of them kept busy by another program INT8 took half as long again.
    """

    def __init__(
        self, graph: Path | bytes, device: str = "cpu", precision: Precision = "fp32", threads: int | None = None
    ) -> None:
        wanted = DEVICES[device]
        if wanted not in onnxruntime.get_available_providers():
            raise BackendError(
                f"this ONNX Runtime {onnxruntime.__version__} has no {wanted}",
                "pip install onnxruntime-gpu instead of onnxruntime, or use backend onnxruntime-cpu",
            )
        source, options = graph if isinstance(graph, bytes) else str(graph), _options(default_threads(threads))
        try:
            session: Any = onnxruntime.InferenceSession(
                source, options, providers=_providers(device), disabled_optimizers=[_MERGES_PAIRS]
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise BackendError(
                f"ONNX Runtime can't load the graph on {device}: {first_line(error)}",
                "export the artifact again with this version, or choose another --backend",
            ) from error
        if session.get_providers()[0] != wanted:  # it falls back by itself, with a line on stderr
            raise BackendError(
                f"ONNX Runtime could not start {wanted} and fell back to the CPU",
                "check the CUDA, cuDNN and TensorRT versions it needs with `edgead doctor`",
            )
        (images,) = session.get_inputs()
        batch, _, height, width = images.shape
        super().__init__(
            f"onnxruntime-{device} {precision}",
            (int(height), int(width)),
            batch if isinstance(batch, int) else None,
            lambda images: session.run(OUTPUTS, {"images": images}),
        )


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
