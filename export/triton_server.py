"""A model repository for NVIDIA Triton Inference Server."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import onnx

from edge_ad.artifact import Artifact, write_atomically
from edge_ad.errors import ConfigError
from edge_ad.runtime.engines.runner import GRAPHS, OUTPUTS, Precision

log = logging.getLogger(__name__)


def write_repository(artifact: Artifact, precision: Precision, out: Path, max_batch: int = 8) -> list[Path]:
    """Write OUT/<name>/config.pbtxt and OUT/<name>/1/model.onnx; the client sends preprocessed images.

    Dynamic batching joins requests that arrive within 2 ms. Preprocessing goes along as a parameter, and so do the
    thresholds if they were calibrated in this precision: a client needs nothing else. Serve it with
    `tritonserver --model-repository OUT`.
    """
    graph = artifact.file(GRAPHS[precision])
    model = onnx.load_model(graph)
    if not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param and max_batch > 1:
        raise ConfigError("the graph has a fixed batch size", "use --max-batch 1")
    wanted = f"{artifact.manifest.name}_{precision}"
    name = re.sub(r"[^0-9A-Za-z_-]+", "_", wanted)
    if name != wanted:
        log.warning("the server knows the model as %s: %r holds characters that its clients can't send", name, wanted)
    folder = out / name
    config = _config(artifact, model, name, precision, max_batch).encode()
    (folder / "1").mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "1" / "model.onnx", graph)
    write_atomically(folder / "config.pbtxt", config)  # the last: without it the server sees no model
    return [folder / "config.pbtxt", folder / "1" / "model.onnx"]


def _config(artifact: Artifact, model: onnx.ModelProto, name: str, precision: Precision, max_batch: int) -> str:
    def dims(value: onnx.ValueInfoProto) -> str:
        sizes = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim][1:]
        # a tensor [B] has no dimension besides the batch: one is declared, and taken away by the reshape
        return f"dims: [ {', '.join(map(str, sizes))} ]" if sizes else "dims: [ 1 ]\n    reshape: { shape: [ ] }"

    def tensor(value: onnx.ValueInfoProto) -> str:
        return f'  {{\n    name: "{value.name}"\n    data_type: TYPE_FP32\n    {dims(value)}\n  }}'

    manifest, calibration = artifact.manifest, artifact.manifest.calibration or {}
    how = manifest.preprocessing
    parameters: dict[str, str] = {
        "preprocessing": json.dumps({"image_size": how.image_size, "mean": how.mean, "std": how.std}),
        "classes": json.dumps(manifest.classes),
        "artifact_sha256": artifact.digest(),
    }
    if calibration.get("precision", "fp32") == precision:  # a threshold holds for the scores that it was set from
        for key in ("image_threshold", "pixel_threshold"):
            if key in calibration:
                parameters[key] = repr(calibration[key])
    outputs = {value.name: value for value in model.graph.output}
    lines = [
        f'name: "{name}"',
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {max_batch}",
        "input [\n" + tensor(model.graph.input[0]) + "\n]",
        "output [\n" + ",\n".join(tensor(outputs[name]) for name in OUTPUTS) + "\n]",
        f"dynamic_batching {{ preferred_batch_size: [ {max_batch} ] max_queue_delay_microseconds: 2000 }}",
    ]
    lines += [
        f'parameters {{ key: "{key}" value: {{ string_value: {json.dumps(value)} }} }}'
        for key, value in parameters.items()
    ]
    return "\n".join(lines) + "\n"
