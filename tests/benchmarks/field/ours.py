"""EdgeAD's side: python tests/benchmarks/field/ours.py JOB.json, in the project's environment."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from job import Costs, Job, link_photos, median_ms, peak_mb

from edge_ad import __version__
from edge_ad.artifact import Artifact
from edge_ad.bench.rows import version_of
from edge_ad.config import Config
from edge_ad.data.images import read_image
from edge_ad.errors import EdgeAdError
from edge_ad.export.torch_runner import TorchRunner
from edge_ad.pipeline.quick import train_quick
from edge_ad.pipeline.train import train
from edge_ad.runtime.engines.opening import open_runner
from edge_ad.runtime.predictor import Predictor

ENGINES = {"onnxruntime_ms": "onnxruntime-cpu", "openvino_ms": "openvino"}


def main() -> None:
    job = Job.read(sys.argv[1])
    torch.set_num_threads(job.threads)
    artifact, seconds = fit(job)
    scorer = Predictor(artifact, open_runner(artifact, "onnxruntime-cpu", "fp32", job.threads))
    for condition, photos in job.tests.items():
        scores, maps = [], []
        for photo in photos:
            found = scorer.predict(photo)
            scores.append(found.image_score)
            maps.append(found.pixel_scores)
        np.savez(Path(job.out, f"{condition}.npz"), scores=np.array(scores), maps=np.stack(maps))
    size = artifact.manifest.preprocessing.image_size
    costs = Costs(
        fit_s=seconds, peak_mb=peak_mb(), size_mb=artifact.manifest.files["model.onnx"].bytes / 1e6,
        image_size=f"{size[0]}x{size[1]}", weights=artifact.manifest.teacher["description"],
        versions=f"edge_ad {__version__}, {version_of('torch')}, {version_of('onnxruntime')}",
    )  # fmt: skip
    if job.timed and "clean" in job.tests:
        measure(job, artifact, scorer, costs)
    scorer.close()
    costs.write(job)


def fit(job: Job) -> tuple[Artifact, float]:
    """The artifact, and the seconds that it took."""
    photos = Path(job.out, "photos")
    link_photos(job, photos)
    config = Config.named("edge").override("training", seed=job.seed)
    began = perf_counter()
    if job.method == "edgead quick":
        artifact = train_quick(photos, Path(job.out, "part"), config, device="cpu")
    else:
        artifact = train(photos, Path(job.out, "part"), config, device="cpu", max_minutes=job.minutes)
    return artifact, perf_counter() - began


def measure(job: Job, artifact: Artifact, scorer: Predictor, costs: Costs) -> None:
    """Milliseconds of a network call, in each engine that is installed."""
    images = scorer.prepare(read_image(job.tests["clean"][0]))[None]
    runner = TorchRunner(artifact, job.threads)
    costs.torch_ms = median_ms(lambda: runner(images))
    for field, backend in ENGINES.items():
        try:
            engine = open_runner(artifact, backend, "fp32", job.threads)
        except EdgeAdError as error:
            costs.note = f"{costs.note} {backend}: {error.message}.".strip()
            continue
        setattr(costs, field, median_ms(lambda engine=engine: engine(images)))
        engine.close()


if __name__ == "__main__":
    main()
