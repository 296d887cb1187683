"""The short way of a photo, for a first look: a memory of normal features alone, in a minute on two CPU cores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from edge_ad.artifact import Artifact
from edge_ad.calibrate.first_threshold import set_first_threshold
from edge_ad.config import Config, check_device
from edge_ad.data.held_out import relative_folders
from edge_ad.errors import ConfigError
from edge_ad.export.artifact import write_artifact
from edge_ad.pipeline.training_picture import write_training_picture
from edge_ad.progress import NoProgress, Progress
from edge_ad.training.detail import remember_detail
from edge_ad.training.features import extract_memory
from edge_ad.training.measure import measure_normals
from edge_ad.training.new_detector import new_detector
from edge_ad.training.photos import Photos, find_photos, split_held_out
from edge_ad.training.run import TrainingRun, run_key, work_folder
from edge_ad.training.triplets import LONGEST_SIDE, choose_triplets
from edge_ad.workspace import check_output

REMEMBERED = 48  # photos in the memory: more add little where only `prototypes` of their tokens are kept
HELD_OUT = 24  # photos that the first threshold rests on, at most


def train_quick(
    photos: str | Path | Sequence[str | Path] | Photos,
    out: str | Path,
    config: Config | None = None,
    *,
    device: str = "auto",
    weights: str | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """The artifact of a detector that was not optimised: it compares each patch with remembered ones of good parts.

    That is the memory decoder before its first step, as PatchCore or AnomalyDINO have it: soft nearest neighbours, no
    head, no synthetic defects. `train` with `resume=True` and the same settings goes on from the features that are
    kept beside the artifact. At most REMEMBERED photos are remembered and HELD_OUT scored, which is said.
    photos, out, config, device, weights: as `train` takes them.
    Raises what `train` raises, and ConfigError for a preset without a memory.
    """
    began = time.monotonic()
    progress = progress or NoProgress()
    config = config or Config.named("edge")
    if config.model.decoder != "memory":
        raise ConfigError(
            f"preset {config.preset} has no memory: nothing detects before it is trained",
            "use preset edge or nano, or leave out --quick",
        )
    check_output(out := Path(out))
    check_device(device)
    if not isinstance(photos, Photos):
        photos = find_photos([photos] if isinstance(photos, str | Path) else photos)
    untrained = config.override("model", head=False).override("training", steps=0)
    detector, teacher = new_detector(untrained, photos.median_size(), weights)
    normals, held_out = split_held_out(photos.samples, config.training.held_out, config.training.seed)
    source = choose_triplets(config.override("synthesis", sources=_without_diffusion(config)), photos)
    key = run_key(config, photos.samples, source, teacher.sha256)
    run = TrainingRun(config, work_folder(out), key, progress, device=device)
    seen = extract_memory(run, detector, normals, source, photos.reader, REMEMBERED)
    remember_detail(run, detector, seen, photos.reader)
    measure_normals(run, detector, held_out[:HELD_OUT], photos.reader)
    others = [*held_out, *normals[len(seen) :]]  # good parts that the memory does not know
    scored = others[:HELD_OUT]
    progress.phase("writing the artifact", 1)
    record = {
        "steps": 0, "seconds": time.monotonic() - began, "losses": {}, "normals": len(seen), "held_out": len(scored),
        "triplets": 0, "seed": config.training.seed, "skipped": len(photos.skipped),
        "photos": relative_folders(photos.folders, out),
    }  # fmt: skip
    artifact = write_artifact(out, detector, untrained, teacher, seen, photos.categories, record)
    scores = set_first_threshold(artifact, scored, photos.reader, progress)
    write_training_picture(artifact, scores, source, photos.frames_of(scored, LONGEST_SIDE), progress)
    progress.say(
        f"remembered {len(seen)} photos, set the threshold from {len(scored)} of the {len(others)} others; nothing "
        "was optimised: the same command with --resume instead of --quick trains on from here"
    )
    return Artifact.open(out)


def _without_diffusion(config: Config) -> tuple[str, ...]:
    """Sources of defects that need no diffusion model; of them no defect is drawn here, a run's key names them."""
    kept = tuple(source for source in config.synthesis.sources if not source.startswith("ddpm"))
    return kept or ("procedural",)
