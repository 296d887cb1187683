"""OpenVINO on Intel CPUs (or a device that EDGE_AD_OPENVINO_DEVICE names, such as GPU)."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import openvino

from edge_ad.artifact import Artifact
from edge_ad.errors import BackendError
from edge_ad.runtime.engines.runner import GRAPHS, OUTPUTS, Array, GraphRunner, Precision, default_threads


def open_artifact(artifact: Artifact, precision: Precision, threads: int | None, backend: str) -> OpenVinoRunner:
    """The artifact's graph, compiled for the device; `openvino-bf16` computes what is float in bfloat16."""
    return OpenVinoRunner(artifact.file(GRAPHS[precision]), precision, threads, bf16=backend == "openvino-bf16")


class OpenVinoRunner(GraphRunner):
    """A graph compiled by OpenVINO, for one image at a time where the graph takes any number.

    With the batch left open it would make less of the graph, and a CPU gains nothing from batches.

    The precision hint is float32 unless bf16 is asked for: left alone, OpenVINO computes in bfloat16 where the CPU
    can, and scores depend on the machine. Quantised layers stay INT8 under either hint. Next to INT8's own error
    bfloat16's is small (pixel scores of a trained detector: 0.049 standard deviations instead of 0.045).
    """

    def __init__(
        self, graph: Path | bytes, precision: Precision = "fp32", threads: int | None = None, bf16: bool = False
    ) -> None:
        device = os.environ.get("EDGE_AD_OPENVINO_DEVICE", "CPU")
        hint = "bf16" if bf16 else "f32"
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = default_threads(threads)
            settings["NUM_STREAMS"] = 1
            # pinned to a core that a camera's decoder uses, a thread keeps all the others waiting
            settings["ENABLE_CPU_PINNING"] = False
        try:
            core = openvino.Core()
            if bf16 and "BF16" not in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
                raise BackendError(f"{device} has no bfloat16 instructions", "use backend openvino")
            model = core.read_model(graph)
            shape = model.input("images").get_partial_shape()
            if shape[0].is_dynamic:
                shape[0] = 1
                model.reshape({"images": shape})
            request: Any = core.compile_model(model, device, settings).create_infer_request()
        except BackendError:
            raise
        except Exception as error:  # RuntimeError mostly, but its bindings promise nothing
            raise BackendError(
                f"OpenVINO {openvino.__version__} can't load the graph on {device}: {error}",
                "use backend onnxruntime, or unset EDGE_AD_OPENVINO_DEVICE",
            ) from error

        one_at_a_time = threading.Lock()  # a request is busy while it works; several threads may share a runner

        def infer(images: Array) -> list[Any]:
            with one_at_a_time:
                results = request.infer({"images": images}, share_inputs=True)
                return [results[name] for name in OUTPUTS]

        batch, _, height, width = (size.get_length() for size in shape)
        name = f"openvino-{device.lower()}{'-bf16' if bf16 else ''}"
        super().__init__(f"{name} {precision}", (height, width), batch, infer)
