"""A fitted detector as an artifact: its weights, its ONNX graph, and what is known of its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_safetensors

from edge_ad.artifact import PHOTOS, Artifact, Manifest, Preprocessing, photo_key
from edge_ad.config import Config
from edge_ad.data.samples import Sample
from edge_ad.export.onnx_graph import export_onnx
from edge_ad.model.detector import Detector
from edge_ad.model.weights import WeightsRecord


def write_artifact(
    out: Path,
    detector: Detector,
    config: Config,
    teacher: WeightsRecord,
    trained_on: Sequence[Sample],
    classes: Sequence[str],
    training: dict[str, Any],
) -> Artifact:
    """The artifact in folder `out`, an older one replaced.

    trained_on: the photos that the detector saw. classes: names of the products. training: what the manifest says
    about the run.
    """
    detector = detector.eval().cpu()
    manifest = Manifest(
        name=out.name,
        config=config.to_dict(),
        preprocessing=Preprocessing(detector.image_size, config.model.mean, config.model.std),
        classes=tuple(classes),
        teacher=dataclasses.asdict(teacher),
        training=training,
    )
    graph = export_onnx(detector, classes=manifest.classes, preset=config.preset)
    weights = {name: value.detach().contiguous() for name, value in detector.state_dict().items()}
    photos = "\n".join(sorted({photo_key(sample.path) for sample in trained_on}))
    files = {
        "weights.safetensors": to_safetensors(weights, metadata={"format": "pt"}),
        "model.onnx": graph,
        PHOTOS: photos.encode(),
    }
    return Artifact.create(out, manifest, files)
