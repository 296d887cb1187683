"""The way of a photo, step by step: from folders of good parts to an artifact that `edgead run` takes as it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_ad.artifact import Artifact
from edge_ad.calibrate.confirmed import check_confirmed_misses
from edge_ad.calibrate.first_threshold import set_first_threshold
from edge_ad.config import Config, check_device
from edge_ad.data.feedback import inherit
from edge_ad.data.held_out import relative_folders
from edge_ad.data.samples import Sample
from edge_ad.errors import DataError
from edge_ad.export.artifact import write_artifact
from edge_ad.pipeline.training_picture import write_training_picture
from edge_ad.progress import NoProgress, Progress
from edge_ad.synthesis.shards import WrittenTriplets
from edge_ad.training.acceleration import wait_for_all_processes
from edge_ad.training.anomaly_images import draw_anomaly_images
from edge_ad.training.detail import remember_detail
from edge_ad.training.feature_source import FeatureSource
from edge_ad.training.features import extract_features
from edge_ad.training.fit import FitResult, fit
from edge_ad.training.measure import measure_normals
from edge_ad.training.new_detector import new_detector
from edge_ad.training.photos import Photos, find_photos, rejected_good, split_held_out
from edge_ad.training.processes import is_first_process
from edge_ad.training.run import TrainingRun, run_key, work_folder
from edge_ad.training.triplets import LONGEST_SIDE, TripletSource, choose_triplets
from edge_ad.workspace import Place, Workspace, check_output, default_out, place_for


def train(
    photos: str | Path | Sequence[str | Path] | Photos,
    out: str | Path | None = None,
    config: Config | None = None,
    *,
    device: str = "auto",
    max_minutes: float | None = None,
    weights: str | None = None,
    ddpm: Path | None = None,
    triplets: Path | None = None,
    feedback: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """The artifact of a detector trained on photos of good parts: weights, an ONNX graph, and a first threshold.

    photos: folders, or what find_photos gave. out: None takes detectors/NAME, beside an older one, and has the folder
    remember it. config: default the `edge` preset. max_minutes: for all, at most half for a diffusion model. weights:
    as `find_weights` takes them. ddpm, triplets: folders of what was made before. feedback: the artifact until now
    (default: at `out`): its rejected good parts are trained on, its misses handed on. resume: an interrupted run.
    Raises DataError, ConfigError or ArtifactError for photos, settings or an `out` that can't be.
    """
    began = time.monotonic()
    progress, config = progress or NoProgress(), config or Config.named("edge")
    place = place_for(default_out(_folders(photos)), resume=resume) if out is None else Place(Path(out))
    keep_in_mind, out = out is None, place.path
    feedback = feedback or place.beside
    check_output(out)
    check_device(device)
    written = None if triplets is None else WrittenTriplets(triplets)
    if not isinstance(photos, Photos):
        photos = find_photos(photos, lambda text: progress.say(text, "dim"))
    generated, _ = (None, None) if written else draw_anomaly_images(
        photos, config.synthesis, ddpm or work_folder(out, "ddpm"), progress, seed=config.training.seed,
        max_minutes=None if max_minutes is None else max_minutes / 2, device=device,
    )  # fmt: skip
    source = choose_triplets(config, photos, generated, written)
    detector, teacher = new_detector(config, photos.median_size(), weights)
    normals, held_out = split_held_out(photos.samples, config.training.held_out, config.training.seed)
    rejected = _rejected_parts(feedback or out, photos, progress)
    normals += rejected
    if max_minutes is not None:
        max_minutes -= (time.monotonic() - began) / 60
    key = run_key(config, [*photos.samples, *rejected], source, teacher.sha256)
    run = TrainingRun(config, work_folder(out), key, progress, device=device, max_minutes=max_minutes, resume=resume)
    features = extract_features(run, detector, normals, source, photos.reader)
    fitted = fit(run, detector, features)
    remember_detail(run, detector, normals, photos.reader)
    measure_normals(run, detector, held_out, photos.reader)
    if is_first_process():
        progress.phase("writing the artifact", 1)
        record = _record(run, fitted, normals, held_out, features, photos, out)
        artifact = write_artifact(out, detector, config, teacher, normals, photos.categories, record)
        _set_threshold_and_draw(artifact, held_out, source, photos, fitted, progress)
        _say_misses(artifact, feedback, progress)
        run.clean_up()
    if is_first_process() and keep_in_mind:
        Workspace().remember(place.path, place.beside)
    wait_for_all_processes()
    return Artifact.open(out)


def _rejected_parts(feedback: Path, photos: Photos, progress: Progress) -> list[Sample]:
    rejected = rejected_good(feedback, photos.categories)
    if rejected:
        progress.say(f"{len(rejected)} good parts that were rejected join the training", "cyan")
    return rejected


def _folders(photos: str | Path | Sequence[str | Path] | Photos) -> list[Path]:
    if isinstance(photos, Photos):
        return list(photos.folders)
    return [Path(photos)] if isinstance(photos, str | Path) else [Path(folder) for folder in photos]


def _record(
    run: TrainingRun,
    fitted: FitResult,
    normals: Sequence[Sample],
    held_out: Sequence[Sample],
    features: FeatureSource,
    photos: Photos,
    out: Path,
) -> dict[str, Any]:
    """What the manifest says about the training."""
    return {
        "steps": fitted.steps,
        "seconds": run.elapsed(),
        "images_per_second": fitted.images_per_second,
        "losses": fitted.losses,
        "normals": len(normals),
        "held_out": len(held_out),
        "triplets": features.cached_triplets,
        "seed": run.config.training.seed,
        "skipped": len(photos.skipped),
        "photos": relative_folders(photos.folders, out),
    }


def _set_threshold_and_draw(
    artifact: Artifact,
    held_out: Sequence[Sample],
    source: TripletSource,
    photos: Photos,
    fitted: FitResult,
    progress: Progress,
) -> None:
    """The first threshold, and the picture of the training that shows it."""
    scores = set_first_threshold(artifact, held_out, photos.reader, progress)
    frames = photos.frames_of(held_out, LONGEST_SIDE)
    write_training_picture(artifact, scores, source, frames, progress, fitted.history)


def _say_misses(artifact: Artifact, feedback: Path | None, progress: Progress) -> None:
    """Hand the confirmed misses on, and say whether the new detector catches them: whoever promotes it will ask."""
    if feedback is not None:
        inherit(feedback, artifact.path)
    try:
        results = check_confirmed_misses(artifact, backend="onnxruntime", precision="fp32")
    except DataError as error:
        progress.say(f"{error.message}; it is not fit for the line: {error.hint}", "bold red")
    else:
        if results:
            progress.say(f"the first threshold catches all {len(results)} confirmed misses", "green")
