"""From folders of photos and settings to a trained detector: everything around the loop."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as to_safetensors

from edge_ad.artifact import Manifest, Preprocessing, photo_key
from edge_ad.config import Config
from edge_ad.data.loader import PhotoReader, Usable
from edge_ad.data.samples import Problem, Sample, scan
from edge_ad.errors import DataError
from edge_ad.model.detector import Detector
from edge_ad.model.teacher import fit_image_size
from edge_ad.model.weights import find_weights
from edge_ad.synthesis.dataset import NormalFrames
from edge_ad.synthesis.defects import AnomalyImages, Triplet, make_triplet
from edge_ad.synthesis.foreground import find_foreground
from edge_ad.synthesis.shards import WrittenTriplets
from edge_ad.synthesis.sources import build_sources
from edge_ad.training.bank import LONGEST_SIDE, Array, TripletMaker
from edge_ad.training.detector import DetectorTrainer, Progress

log = logging.getLogger("edge_ad.training")


@dataclass(frozen=True)
class TrainedDetector:
    """A trained detector and what its artifact's manifest says; held_out: the normals training didn't see.
    photos: keys of those it saw, for the artifact's PHOTOS. clean_up removes caches and checkpoints once the
    artifact is on disk."""

    detector: Detector
    manifest: Manifest
    held_out: list[Sample]
    photos: bytes
    clean_up: Callable[[], None]

    def weights(self) -> bytes:
        """All weights, the teacher's included, as safetensors."""
        state = {name: value.detach().cpu().contiguous() for name, value in self.detector.state_dict().items()}
        return to_safetensors(state, metadata={"format": "pt"})


def work_folder(out: Path, part: str = "training") -> Path:
    """Where a run keeps caches, checkpoints and logs: beside the artifact, never inside it."""
    return out.with_name(f"{out.name}.{part}")


def train_detector(
    config: Config,
    folders: Sequence[Path],
    out: Path,
    progress: Progress,
    *,
    generated: AnomalyImages | None = None,
    written: WrittenTriplets | None = None,
    device: str = "auto",
    max_minutes: float | None = None,
    weights: str | None = None,
    resume: bool = False,
    reader: PhotoReader | None = None,
) -> TrainedDetector:
    """Read the folders, train, and describe the result.

    generated: the diffusion model's images, where the settings name `ddpm` as a source of defects.
    written: triplets made beforehand, instead of any drawn here. reader: may hold photos that were read before.
    Raises DataError when a folder holds no usable normals, ConfigError for settings that can't be, and what
    find_weights raises.
    """
    began = time.monotonic()
    torch.manual_seed(config.training.seed)
    reader = reader or PhotoReader()
    usable, skipped = usable_normals(folders, reader)
    samples = [one.sample for one in usable]
    normals = [sample.path for sample in samples]
    image_size = fit_image_size(config.model, median_size([one.size for one in usable]))
    state, record = find_weights(config.model.teacher, weights, config.training.seed)
    if record.source == "random":
        log.warning("the teacher has RANDOM weights: good for tests, useless for inspection")
    detector = Detector(config.model, image_size, state)
    spent = (time.monotonic() - began) / 60
    trainer = DetectorTrainer(
        config,
        detector,
        normals,
        work_folder(out),
        written or triplet_maker(config, NormalFrames(normals, LONGEST_SIDE, reader), generated),
        progress,
        device=device,
        max_minutes=None if max_minutes is None else max_minutes - spent,
        resume=resume,
        categories=[sample.category for sample in samples],
        reader=reader,
    )
    result = trainer.run()
    manifest = Manifest(
        name=out.name,
        config=config.to_dict(),
        preprocessing=Preprocessing(image_size, config.model.mean, config.model.std),
        classes=tuple(sorted({sample.category for sample in samples})),
        teacher=dataclasses.asdict(record),
        training={**dataclasses.asdict(result), "seed": config.training.seed, "skipped": len(skipped)},
    )
    photos = {photo_key(path) for path in trainer.fit}
    held = set(trainer.held)
    held_out = _unseen([sample for sample in samples if sample.path in held], photos)
    return TrainedDetector(
        detector.eval().cpu(), manifest, held_out, "\n".join(sorted(photos)).encode(), trainer.finish
    )


def usable_normals(folders: Sequence[Path], reader: PhotoReader) -> tuple[list[Usable], list[Problem]]:
    """The folders' photos to train on, each once, and what is wrong with others; DataError when a folder has none."""
    found: dict[Path, Usable] = {}
    skipped: list[Problem] = []
    for folder in folders:
        usable, problems = reader.usable(scan(folder).train)
        if not usable:
            raise DataError(f"no usable photos of good parts in {folder}", "`edgead check FOLDER` says what is there")
        for one in usable:
            found.setdefault(one.sample.path.resolve(), one)
        skipped += problems
    return list(found.values()), skipped


def triplet_maker(config: Config, frames: NormalFrames, generated: AnomalyImages | None = None) -> TripletMaker:
    """Draws a triplet on a frame, from the sources that the settings name; frames: normals to take pieces from."""
    sources = build_sources(config.synthesis, frames, generated=generated)

    def make(frame: Array, rng: np.random.Generator) -> Triplet:
        inside = find_foreground(frame) if config.synthesis.foreground else None
        return make_triplet(frame, rng, sources, inside=inside, visible=config.synthesis.visible)

    return make


def _unseen(held: list[Sample], photos: set[str]) -> list[Sample]:
    """The held-out photos that are no copies of photos trained on; all of them where there are no others."""
    unseen = [sample for sample in held if photo_key(sample.path) not in photos]
    if len(unseen) < len(held):
        log.warning(
            "%d of %d held-out photos are copies of photos trained on: %s",
            len(held) - len(unseen),
            len(held),
            "left out of the first threshold" if unseen else "the first threshold is worth nothing",
        )
    return unseen or held


def median_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Median (H, W) of photos' sizes."""
    height, width = np.median(np.array(sizes), axis=0)
    return round(float(height)), round(float(width))
