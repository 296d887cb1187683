"""What an export writes for each target, and the photos it measures on."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.artifact import Artifact, write_atomically
from edge_ad.calibrate.int8 import Method
from edge_ad.data.images import preprocess, read_image
from edge_ad.data.loader import log_left_out, read_each
from edge_ad.data.samples import Problem, Sample, scan
from edge_ad.errors import BackendError, ConfigError, DataError
from edge_ad.export import triton_server
from edge_ad.export.engine import build_engine
from edge_ad.export.frames import frames_graph
from edge_ad.export.gate import Metrics, measure
from edge_ad.export.graph_tools import with_batch, with_metadata
from edge_ad.runtime.engines.runner import GRAPHS, Array, Precision, Runner
from edge_ad.runtime.engines.tensorrt_build import EngineOptions


@dataclass(frozen=True)
class TargetOptions:
    """Options of single targets; see `edgead export --help`."""

    out: Path | None = None
    max_batch: int = 1
    workspace_mib: int = 2048
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    frame_size: str = ""
    batch: int | None = None
    accept_faulty: bool = False

    def engine(self, target: str) -> EngineOptions:
        """What concerns engines."""
        return EngineOptions(
            target, self.max_batch, self.workspace_mib, self.version_compatible, self.hardware_compatible, self.dla,
            self.compute_capabilities, self.accept_faulty,
        )  # fmt: skip


def write_target(
    artifact: Artifact,
    target: str,
    precision: Precision,
    options: TargetOptions,
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Write the target's files from the artifact's graph of that precision; return their paths.

    say: takes lines of progress, which engines have.
    """
    graph = artifact.file(GRAPHS[precision])
    if options.batch is not None and target not in ("onnx", "frames"):
        raise ConfigError(f"target '{target}' takes no --batch", "leave it out, or set --max-batch")
    if target == "onnx" and options.out is None and options.batch is None:
        return [graph]
    if target in ("tensorrt", "tensorrt-rtx"):
        return build_engine(artifact, precision, options.engine(target), say)
    if options.out is None:
        raise ConfigError(f"target '{target}' writes outside the artifact", "add --out FOLDER")
    if target == "openvino":
        return _openvino(graph, options.out)
    if target == "triton-server":
        return triton_server.write_repository(artifact, precision, options.out, max(options.max_batch, 1))
    model = graph.read_bytes()
    if target == "frames":
        model = frames_graph(model, _size(options.frame_size), artifact.manifest.preprocessing)
    if options.batch is not None:
        model = with_batch(model, options.batch)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{artifact.manifest.name}.{'frames.' if target == 'frames' else ''}{precision}.onnx"
    write_atomically(path, with_metadata(model, **_provenance(artifact, precision)))
    return [path]


def _provenance(artifact: Artifact, precision: Precision) -> dict[str, str]:
    """What a graph that leaves the artifact takes along: thresholds, their promise, and where it comes from."""
    calibration = artifact.manifest.calibration or {}
    known = ("image_threshold", "pixel_threshold", "promise", "precision")
    return {
        "artifact_sha256": artifact.digest(),
        "graph_sha256": artifact.manifest.files[GRAPHS[precision]].sha256,
        "calibration": json.dumps({key: calibration[key] for key in known if key in calibration}),
    }


def load_normals(artifact: Artifact, folder: Path, count: int) -> list[Array]:
    """Preprocessed images [3, H, W] of up to `count` photos of good parts, evenly spread over the folder.

    Photos that can't be read are left out and logged by name. Raises DataError when none is left.
    """
    dataset = scan(folder)
    samples = dataset.normals
    if not samples:
        raise DataError(f"{folder} has no photos of good parts", "name a folder of images, or with train/good in it")
    picked = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int))
    return load_samples(artifact, [samples[i] for i in picked], str(folder), dataset.left_out)


def load_samples(
    artifact: Artifact, samples: Sequence[Sample], where: str, left_out: Sequence[Problem] = ()
) -> list[Array]:
    """Preprocessed images [3, H, W] of the photos that can be read; the others are logged, after those of `left_out`.

    where: the photos' folder, for messages. Raises DataError when none can be read.
    """
    problems: list[Problem] = []
    images = [image for _, image in read_each(samples, partial(_prepare, artifact), problems)]
    log_left_out([*left_out, *problems])
    if not images:
        raise DataError(f"no photo of {where} could be read", "`edgead check FOLDER` says what is there")
    return images


def metrics_on(artifact: Artifact, folder: Path) -> Callable[[Runner], Metrics]:
    """A function runner -> metrics on the folder's labelled test photos, for the gate."""
    dataset = scan(folder)
    if not dataset.test:
        raise DataError(f"{folder} has no labelled test photos", "leave --data out to judge on normals alone")
    return partial(measure, dataset=dataset, preprocessing=artifact.manifest.preprocessing, said=set())


def parse_range_method(name: str) -> Method:
    """The method of taking ranges by its name; ConfigError for an unknown one."""
    methods: dict[str, Method] = {"minmax": "minmax", "percentile": "percentile", "entropy": "entropy"}
    if name not in methods:
        raise ConfigError(f"unknown way to take ranges '{name}'", f"use one of: {', '.join(methods)}")
    return methods[name]


def _prepare(artifact: Artifact, sample: Sample) -> Array:
    how = artifact.manifest.preprocessing
    image: Array = preprocess(read_image(sample.path), how.image_size, how.mean, how.std)
    return image


def _openvino(graph: Path, out: Path) -> list[Path]:
    if importlib.util.find_spec("openvino") is None:
        raise BackendError("target 'openvino' needs the package 'openvino'", "pip install 'edge-ad[openvino]'")
    openvino: Any = importlib.import_module("openvino")
    out.mkdir(parents=True, exist_ok=True)
    names = [f"{graph.stem}.bin", f"{graph.stem}.xml"]
    with tempfile.TemporaryDirectory(dir=out, prefix=".openvino-") as made:  # a full disk leaves no half files
        openvino.save_model(openvino.convert_model(str(graph)), Path(made) / names[1], compress_to_fp16=False)
        for name in names:
            (Path(made) / name).replace(out / name)
    return [out / name for name in reversed(names)]


def _size(text: str) -> tuple[int, int]:
    parts: Sequence[str] = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise ConfigError(f"'{text}' is no frame size", "write --frame-size HEIGHTxWIDTH, such as 1080x1920")
    return int(parts[0]), int(parts[1])
