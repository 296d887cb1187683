"""Diffusion: a model of the normal photos, trained or reused, and the anomaly images that it draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from edge_ad.config import Config, SynthesisConfig
from edge_ad.errors import DataError
from edge_ad.progress import Progress
from edge_ad.synthesis.defects import Frame
from edge_ad.synthesis.diffusion import (
    SETTINGS,
    batch_sampler,
    is_trained,
    is_trained_on,
    load_model,
    read_model,
    sampler_settings,
)
from edge_ad.synthesis.generated import CacheIndex, GeneratedImages, fill_cache
from edge_ad.synthesis.quality import MemorisationCheck
from edge_ad.synthesis.sources import parse_sources
from edge_ad.training.acceleration import wait_for_all_processes
from edge_ad.training.diffusion import DiffusionTrainer
from edge_ad.training.photos import Photos
from edge_ad.training.processes import is_first_process

Drawer = Callable[[Sequence[int]], list[tuple[Frame, float, int]]]  # seeds -> (image, s, origin) each


def draw_anomaly_images(
    photos: Photos,
    settings: SynthesisConfig,
    folder: Path,
    progress: Progress,
    *,
    seed: int = 0,
    max_minutes: float | None = None,
    device: str = "auto",
) -> tuple[GeneratedImages | None, dict[str, Any]]:
    """Anomaly images of the diffusion model in the folder, and a note: its steps, hash and rejected samples.

    None where the settings don't name `ddpm` as a source of defects. The model is trained, or resumed, where it isn't
    finished (at most max_minutes), and images that are there already are kept. The photos are read at a size that
    depends on the model alone, so that one model serves every caller.
    """
    if "ddpm" not in parse_sources(settings.sources):
        return None, {}
    model = settings.diffusion
    frames = photos.frames(max(384, 2 * model.resolution))
    note: dict[str, Any] = {"step": model.steps}
    if is_trained(folder, model):
        progress.say(f"the diffusion model in {folder} is trained: reused")
        if not is_trained_on(folder, frames):
            progress.say("it was trained on other photos than these, and draws images of those", "yellow")
    else:
        trainer = DiffusionTrainer(frames, model, folder, seed=seed, device=device, say=progress.say)
        note["step"] = _train(trainer, progress, max_minutes)
    if is_first_process():
        drawing_device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        network, _, note["sha256"] = load_model(folder, drawing_device)
        draw = batch_sampler(network, model, frames)
        index = CacheIndex(note["sha256"], sampler_settings(model), seed)
        note["rejected"] = _fill(folder / "generated", index, model.images, draw, MemorisationCheck(frames), progress)
    wait_for_all_processes()
    return GeneratedImages(folder / "generated"), note


def with_diffusion_model(config: Config, folder: Path | None) -> Config:
    """The settings with those of the diffusion model that is to be used, whatever it was made with.

    DataError when it isn't there: a new one would take hours.
    """
    if folder is None:
        return config
    if not (folder / SETTINGS).is_file():
        raise DataError(
            f"--ddpm {folder} holds no diffusion model",
            "name the folder `ddpm` of an `edgead synth`, or leave it out",
        )
    return config.override("synthesis", diffusion=read_model(folder)[0])


def _train(trainer: DiffusionTrainer, progress: Progress, max_minutes: float | None) -> int:
    """Train the diffusion model from where it stopped; the step it came to."""
    steps = trainer.config.steps
    progress.phase("diffusion model", steps, trainer.step)
    trained = trainer.run(
        max_minutes=max_minutes,
        progress=lambda step, of, loss, rate: progress.advance(1, loss=loss, images_per_second=rate),
    )
    rate = f" at {trained.images_per_second:.1f} images/s" if trained.images_per_second else ""
    progress.say(f"diffusion model: step {trained.step} of {steps}, loss {trained.loss:.4f}{rate}")
    if not trained.finished:
        progress.say("training stopped by --max-minutes: run the same command again to go on")
    return trained.step


def _fill(
    folder: Path, index: CacheIndex, count: int, draw: Drawer, copies: MemorisationCheck, progress: Progress
) -> dict[str, int]:
    """Fill the cache of anomaly images; how many samples were rejected for which reason."""
    progress.phase("anomaly images", count)

    def counted(seeds: Sequence[int]) -> list[tuple[Frame, float, int]]:
        images = draw(seeds)
        progress.advance(len(images))
        return images

    rejected = fill_cache(folder, index, count, counted, reject=copies.reason_to_reject, say=progress.say)
    for reason, number in rejected.items():
        progress.say(f"generated images rejected, {reason}: {number}")
    return dict(rejected)
