"""The detector as one ONNX graph."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

from edge_ad.artifact import Preprocessing
from edge_ad.errors import BackendError
from edge_ad.export.simplify import simplify
from edge_ad.model.detector import Detector, Scores

OPSET = 18  # the oldest that torch's exporter writes; LayerNormalization needs 17


def export_onnx(
    detector: Detector, *, classes: tuple[str, ...] = (), preset: str = "", dynamic_batch: bool = True
) -> bytes:
    """The serialized graph: `images` [B, 3, H, W] float32 in, the fields of Scores out, under their names.

    Weights are inside. metadata_props carries preset, classes and the preprocessing as JSON.
    """
    detector = simplify(detector.cpu())
    example = torch.zeros(2 if dynamic_batch else 1, 3, *detector.image_size)
    shapes: Any = {"images": {0: torch.export.Dim("batch", min=1, max=4096)}} if dynamic_batch else None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are no concern of the user
        path = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                detector,
                (example,),
                str(path),
                input_names=["images"],
                output_names=list(Scores._fields),
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                optimize=True,
                verbose=False,
            )
        except Exception as error:  # the exporter raises many kinds
            raise BackendError(f"the detector can't be written as ONNX: {error}", "see --debug") from error
        model = onnx.load(path)
    config = detector.config
    preprocessing = Preprocessing(detector.image_size, config.mean, config.std)
    metadata = {
        "preset": preset,
        "classes": json.dumps(list(classes)),
        "preprocessing": json.dumps(preprocessing.__dict__),
    }
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
