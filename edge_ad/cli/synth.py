"""`edgead synth`: write synthetic defects, training the diffusion model first if it is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from edge_ad.cli.progress import TerminalProgress, is_first_process

if TYPE_CHECKING:
    from edge_ad.config import DiffusionConfig
    from edge_ad.data.loader import PhotoReader
    from edge_ad.synthesis.dataset import NormalFrames
    from edge_ad.synthesis.defects import Frame
    from edge_ad.synthesis.generated import GeneratedImages
    from edge_ad.synthesis.perlin import Floats
    from edge_ad.synthesis.quality import Features

console = Console(stderr=True, highlight=False, quiet=not is_first_process())


def command(
    data: Annotated[Path, typer.Argument(help="Folder with photos of good parts.")],
    out: Annotated[Path, typer.Option(help="Folder to write to; the diffusion model is kept in its `ddpm`.")],
    source: Annotated[
        str, typer.Option(help="Sources with their shares; any of the three.")
    ] = "ddpm:0.5,texture:0.3,procedural:0.2",
    count: Annotated[int, typer.Option(min=1, help="Triplets to write.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and settings give the same files.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Longest side of the images written, in pixels.")] = 384,
    resolution: Annotated[int, typer.Option(help="Of the diffusion model: 32, 64, 128 or 256 pixels.")] = 64,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of the diffusion model.")] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(min=0.0, help="Stop training the diffusion model after that; run again to resume."),
    ] = None,
    ddpm: Annotated[Path | None, typer.Option(help="Folder of a diffusion model to reuse or go on training.")] = None,
    perturbation: Annotated[str, typer.Option(help="scale, add or ddim.")] = "scale",
    strength: Annotated[str, typer.Option(help="Range of s, the perturbation's strength, as LOW:HIGH.")] = "0.1:0.2",
    start: Annotated[float, typer.Option(help="Below 1: start from a normal image with noise of start * T.")] = 1.0,
    images: Annotated[int | None, typer.Option(min=1, help="Anomaly images kept of the diffusion model.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16, for the diffusion model.")] = None,
    textures: Annotated[Path | None, typer.Option(help="Folder of pictures to take textures from.")] = None,
    foreground: Annotated[bool, typer.Option(help="Keep defects on the object if the background is plain.")] = True,
    per_shard: Annotated[
        int, typer.Option(min=0, help="Above 0: write tar files of that many triplets instead of single pictures.")
    ] = 0,
    edges: Annotated[str, typer.Option(help="hard (the paper's), feathered, seamless or mixed.")] = "mixed",
    min_feature_distance: Annotated[
        float, typer.Option(min=0.0, help="Draw again what moves the teacher's features by less (1 - cos).")
    ] = 0.0,
    weights: Annotated[
        str | None, typer.Option(help="The teacher's weights for that: a safetensors file, or 'random'.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Write synthetic defects as an MVTec-like folder, with masks, a manifest and a contact sheet.

    `edgead train --triplets` takes the folder. The diffusion model is trained on the photos of good parts, resumes
    where it stopped, and is reused when done.
    """
    from edge_ad.config import SynthesisConfig, check_device, read_section, to_plain
    from edge_ad.data.loader import PhotoReader
    from edge_ad.data.samples import scan
    from edge_ad.errors import DataError
    from edge_ad.synthesis.dataset import SHEET, NormalFrames, open_folder, write_triplets
    from edge_ad.synthesis.quality import feature_fault
    from edge_ad.synthesis.sources import build_sources, parse_sources

    check_device(device)
    shares = parse_sources(source)
    dataset = scan(data)
    if "plain" in dataset.layout and out.resolve().is_relative_to(data.resolve()):
        raise DataError(
            f"{out} lies among the photos, and its defects would be good photos next time", "choose another --out"
        )
    reader = PhotoReader()
    photos = [one.sample.path for one in reader.usable(dataset.train)[0]]
    frames = NormalFrames(photos, size, reader)
    model = _model_settings(resolution, steps, perturbation, strength, start, images, precision)
    texts = tuple(f"{name}:{share:.6g}" for name, share in shares.items())
    settings = read_section(
        SynthesisConfig, {"sources": texts, "edges": edges, "foreground": foreground}, "synthesis"
    )
    settings = dataclasses.replace(settings, diffusion=model)
    open_folder(out)
    generated = None
    notes: dict[str, Any] = {"data": dataset.name, "settings": to_plain(settings)}
    if "ddpm" in shares:
        generated, notes["ddpm"] = generate_images(
            photos, reader, model, ddpm or out / "ddpm", seed, max_minutes, device
        )
    features = _teacher_features(weights, frames[0].shape) if min_feature_distance else None
    sources = build_sources(settings, frames, generated=generated, textures=textures)
    with TerminalProgress() as progress:
        progress.phase("triplets", count)
        manifest = write_triplets(
            out,
            frames,
            sources,
            count,
            seed=seed,
            fault=feature_fault(features, min_feature_distance) if features is not None else lambda triplet: None,
            foreground=foreground,
            visible=settings.visible,
            per_shard=per_shard,
            notes=notes,
            progress=lambda done, of: progress.advance(1),
        )
    for name, number in sorted({**manifest["drawn_again"], **manifest["rejected"]}.items()):
        console.print(f"drawn again, {name}: {number}")
    by_source = ", ".join(f"{number} {name}" for name, number in manifest["by_source"].items())
    console.print(f"{count} triplets ({by_source}); look at {out / SHEET}")
    typer.echo(str(out / SHEET))


def _model_settings(
    resolution: int,
    steps: int | None,
    perturbation: str,
    strength: str,
    start: float,
    images: int | None,
    precision: str | None,
) -> DiffusionConfig:
    from edge_ad.config import DiffusionConfig, read_section
    from edge_ad.errors import ConfigError

    low, _, high = strength.partition(":")
    try:
        bounds = [float(low), float(high or low)]
    except ValueError as error:
        raise ConfigError(f"--strength {strength} is no range", "write it as 0.1:0.2") from error
    if not 0 <= bounds[0] <= bounds[1]:
        raise ConfigError(f"--strength {strength} is no range from 0 upwards", "write it as 0.1:0.2")
    given = {"steps": steps, "images": images, "precision": precision}
    values = {"perturbation": perturbation, "strength": bounds, "start": start, **given}
    values = {name: value for name, value in values.items() if value is not None}
    return read_section(DiffusionConfig, values, "diffusion", DiffusionConfig.at(resolution))


def _teacher_features(weights: str | None, shape: tuple[int, ...]) -> Features:
    """What the quality control measures feature distances with: frame -> the `edge` preset's taps [C,h,w]."""
    import torch

    from edge_ad.config import Config
    from edge_ad.data.images import preprocess
    from edge_ad.model.teacher import Teacher, fit_image_size
    from edge_ad.model.weights import find_weights

    config = Config.named("edge").model
    size = fit_image_size(config, (shape[0], shape[1]))
    teacher = Teacher(config, size, find_weights(config.teacher, weights)[0])

    def features(frame: Frame) -> Floats:
        images = torch.from_numpy(preprocess(frame, size, config.mean, config.std))[None]
        with torch.inference_mode():
            taps: Floats = teacher(images)[0].flatten(0, 1).numpy()
        return taps

    return features


def generate_images(
    photos: Sequence[Path],
    reader: PhotoReader,
    model: DiffusionConfig,
    folder: Path,
    seed: int,
    max_minutes: float | None,
    device: str,
) -> tuple[GeneratedImages, dict[str, Any]]:
    """Train or reuse the diffusion model, and fill its cache of anomaly images.

    The photos are read at a size that depends on the model alone, so that one model serves every caller.
    """
    from edge_ad.synthesis.dataset import NormalFrames
    from edge_ad.synthesis.diffusion import is_trained, knows_photos
    from edge_ad.synthesis.generated import GeneratedImages
    from edge_ad.training.acceleration import wait_for_all_processes

    frames = NormalFrames(photos, max(384, 2 * model.resolution), reader)
    step = model.steps
    if is_trained(folder, model):
        console.print(f"the diffusion model in {folder} is trained: reused")
        if not knows_photos(folder, frames):
            console.print("it was trained on other photos than these, and draws images of those", style="yellow")
    else:
        step = _train(frames, model, folder, seed, max_minutes, device)
    note = {"step": step, **(_draw(frames, model, folder, seed, device) if is_first_process() else {})}
    wait_for_all_processes()
    return GeneratedImages(folder / "generated"), note


def _draw(frames: NormalFrames, model: DiffusionConfig, folder: Path, seed: int, device: str) -> dict[str, Any]:
    """Fill the cache of anomaly images; the model's hash, and how many images were rejected for which reason."""
    import torch

    from edge_ad.synthesis.diffusion import drawer, load_model, sampler_settings
    from edge_ad.synthesis.generated import Index, fill_cache
    from edge_ad.synthesis.quality import Memorised

    use = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    network, _, digest = load_model(folder, use)
    index = Index(digest, sampler_settings(model), seed)
    with TerminalProgress() as progress:
        draw = drawer(network, model, frames)
        progress.phase("anomaly images", model.images)

        def counted(seeds: Any) -> Any:
            images = draw(seeds)
            progress.advance(len(images))
            return images

        check = Memorised(frames)
        rejected = fill_cache(
            folder / "generated", index, model.images, counted, reject=check.fault, say=progress.console.print
        )
    for reason, number in rejected.items():
        console.print(f"generated images rejected, {reason}: {number}")
    return {"sha256": digest, "rejected": dict(rejected)}


def _train(
    frames: NormalFrames, model: DiffusionConfig, folder: Path, seed: int, max_minutes: float | None, device: str
) -> int:
    """Train the diffusion model, from where it stopped; the step it came to."""
    from edge_ad.training.diffusion import DiffusionTrainer

    with TerminalProgress() as progress:
        trainer = DiffusionTrainer(frames, model, folder, seed=seed, device=device, say=progress.console.print)
        progress.phase("diffusion model", model.steps, trainer.step)
        trained = trainer.run(
            max_minutes=max_minutes,
            progress=lambda step, of, loss, rate: progress.advance(1, loss=loss, images_per_second=rate),
        )
    rate = f" at {trained.images_per_second:.1f} images/s" if trained.images_per_second else ""
    console.print(f"diffusion model: step {trained.step} of {model.steps}, loss {trained.loss:.4f}{rate}")
    if not trained.finished:
        console.print("training stopped by --max-minutes: run the same command again to go on")
    return trained.step
