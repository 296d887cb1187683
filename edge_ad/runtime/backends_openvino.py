"""OpenVINO on Intel CPUs (or a device that EDGE_AD_OPENVINO_DEVICE names, such as GPU)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import openvino

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


def open_artifact(artifact: Artifact, precision: Precision, threads: int | None, backend: str) -> OpenVinoRunner:
    """The artifact's graph, compiled for the device."""
    del backend
    return OpenVinoRunner(artifact.file(GRAPHS[precision]), precision, threads)


class OpenVinoRunner:
    """A graph compiled by OpenVINO.

    The precision hint is float32 on purpose: left alone, OpenVINO computes in bfloat16 where the CPU can, and
    scores move by several percent. Quantised layers stay INT8 under that hint.
    """

    def __init__(self, graph: Path | bytes, precision: Precision = "fp32", threads: int | None = None) -> None:
        device = os.environ.get("EDGE_AD_OPENVINO_DEVICE", "CPU")
        self.name = f"openvino-{device.lower()} {precision}"
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = default_threads(threads)
            settings["NUM_STREAMS"] = 1
        try:
            core = openvino.Core()
            model = core.read_model(graph)
            shape = model.input("images").get_partial_shape()
            self._batch = None if shape[0].is_dynamic else shape[0].get_length()
            self.image_size = (shape[2].get_length(), shape[3].get_length())
            self._request: Any = core.compile_model(model, device, settings).create_infer_request()
        except Exception as error:  # RuntimeError mostly, but its bindings promise nothing
            raise BackendError(
                f"OpenVINO {openvino.__version__} can't load the graph on {device}: {error}",
                "use backend onnxruntime, or unset EDGE_AD_OPENVINO_DEVICE",
            ) from error

    def __call__(self, images: Array) -> Outputs:
        return checked_outputs(in_batches(checked_images(images, self.image_size), self._batch, self._run), self.name)

    def close(self) -> None:
        self._request = None

    def _run(self, images: Array) -> Outputs:
        if self._request is None:
            raise BackendError(f"{self.name} was closed", "open a new runner")
        try:
            results = self._request.infer({"images": images}, share_inputs=True)
            arrays = [np.array(results[name], np.float32) for name in OUTPUTS]  # copies: its buffers are reused
        except Exception as error:
            raise BackendError(f"{self.name} failed: {error}", "see `edgead doctor`") from error
        return Outputs(*arrays)
