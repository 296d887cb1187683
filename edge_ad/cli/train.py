"""`edgead train`: photos of good parts in, an artifact out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edge_ad.artifact import Artifact
    from edge_ad.cli.progress import TerminalProgress
    from edge_ad.config import Config
    from edge_ad.data.loader import PhotoReader
    from edge_ad.data.samples import Sample
    from edge_ad.synthesis.generated import GeneratedImages


def command(
    data: Annotated[list[Path], typer.Argument(help="Folders of photos; several folders make one model for all.")],
    out: Annotated[Path, typer.Option(help="Where the artifact goes.")],
    preset: Annotated[str, typer.Option(help="paper, edge or nano.")] = "edge",
    config: Annotated[Path | None, typer.Option(help="Settings as TOML, instead of a preset.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    max_minutes: Annotated[float | None, typer.Option(min=0.0, help="Stop in time to be done after so long.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="The teacher's weights: a safetensors file, or 'random' (tests only).")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Synthetic defects, as in procedural:0.5,texture:0.5,ddpm:0.5.")
    ] = None,
    ddpm: Annotated[
        Path | None, typer.Option(help="Diffusion model of `edgead synth` to use, instead of training one.")
    ] = None,
    triplets: Annotated[
        Path | None, typer.Option(help="Triplets of `edgead synth` to train on, instead of drawing new ones.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
) -> None:
    """Train a detector on photos of good parts.

    Ends with an artifact that eval, calibrate, export and run take as it is: weights, an ONNX graph, and a first
    threshold from normals that training did not see.
    """
    import logging

    from edge_ad.cli.progress import is_first_process
    from edge_ad.config import Config

    if not is_first_process():
        logging.disable(logging.WARNING)  # of several processes, one is enough to say it
    settings = Config.from_toml(config) if config else Config.named(preset)
    settings = settings.override("training", steps=steps, seed=seed)
    if source is not None:
        settings = settings.override("synthesis", sources=tuple(part.strip() for part in source.split(",")))
    settings = with_diffusion_model(settings, ddpm)
    artifact = train_artifact(
        settings,
        data,
        out,
        device=device,
        max_minutes=max_minutes,
        weights=weights,
        ddpm=ddpm,
        triplets=triplets,
        resume=resume,
    )
    if is_first_process():
        typer.echo(str(artifact.path))


def train_artifact(
    settings: Config,
    data: list[Path],
    out: Path,
    *,
    device: str = "auto",
    max_minutes: float | None = None,
    weights: str | None = None,
    ddpm: Path | None = None,
    triplets: Path | None = None,
    resume: bool = False,
) -> Artifact:
    """Train, write weights and graph as one artifact, and set a first threshold from the held-out normals."""
    from edge_ad.artifact import PHOTOS, Artifact
    from edge_ad.cli.progress import TerminalProgress, is_first_process
    from edge_ad.config import check_device
    from edge_ad.data.loader import PhotoReader
    from edge_ad.export.onnx_graph import export_onnx
    from edge_ad.synthesis.shards import WrittenTriplets
    from edge_ad.training.acceleration import wait_for_all_processes
    from edge_ad.training.job import train_detector, work_folder

    check_output(out)
    check_device(device)
    began = time.monotonic()
    reader = PhotoReader()
    written = WrittenTriplets(triplets) if triplets is not None else None
    generated = None
    if written is None:
        generated = anomaly_images(settings, data, ddpm or work_folder(out, "ddpm"), max_minutes, device, reader)
    if max_minutes is not None:
        max_minutes -= (time.monotonic() - began) / 60
    with TerminalProgress() as progress:
        trained = train_detector(
            settings,
            data,
            out,
            progress,
            generated=generated,
            written=written,
            device=device,
            max_minutes=max_minutes,
            weights=weights,
            resume=resume,
            reader=reader,
        )
        if is_first_process():
            progress.phase("writing the artifact", 1)
            graph = export_onnx(trained.detector, classes=trained.manifest.classes, preset=settings.preset)
            files = {"weights.safetensors": trained.weights(), "model.onnx": graph, PHOTOS: trained.photos}
            artifact = Artifact.create(out, trained.manifest, files)
            progress.phase("first threshold", len(trained.held_out))
            first_threshold(artifact, trained.held_out, reader, progress)
            trained.clean_up()
    wait_for_all_processes()
    return Artifact.open(out)


def anomaly_images(
    settings: Config, data: list[Path], folder: Path, max_minutes: float | None, device: str, reader: PhotoReader
) -> GeneratedImages | None:
    """The diffusion model's images where the settings name `ddpm`; at most half of the time goes there."""
    from edge_ad.cli.synth import generate_images
    from edge_ad.synthesis.sources import parse_sources
    from edge_ad.training.job import usable_normals

    if "ddpm" not in parse_sources(settings.synthesis.sources):
        return None
    model, seed = settings.synthesis.diffusion, settings.training.seed
    photos = [one.sample.path for one in usable_normals(data, reader)[0]]
    share = None if max_minutes is None else max_minutes / 2
    return generate_images(photos, reader, model, folder, seed, share, device)[0]


def with_diffusion_model(settings: Config, folder: Path | None) -> Config:
    """The settings with those of the diffusion model that is to be used, whatever it was made with.

    DataError when it isn't there: a new one would take hours.
    """
    from edge_ad.errors import DataError
    from edge_ad.synthesis.diffusion import SETTINGS, read_model

    if folder is None:
        return settings
    if not (folder / SETTINGS).is_file():
        raise DataError(
            f"--ddpm {folder} holds no diffusion model",
            "name the folder `ddpm` of an `edgead synth`, or leave it out",
        )
    return settings.override("synthesis", diffusion=read_model(folder)[0])


def check_output(out: Path) -> None:
    """ArtifactError, before any work is done, when `out` is something that must not be replaced."""
    from edge_ad.artifact import MANIFEST
    from edge_ad.errors import ArtifactError

    if out.exists() and not (out / MANIFEST).exists() and (out.is_file() or any(out.iterdir())):
        raise ArtifactError(f"{out} exists and is no artifact", "choose another --out folder")


def first_threshold(
    artifact: Artifact, held_out: list[Sample], reader: PhotoReader, progress: TerminalProgress
) -> None:
    """The strictest promise that the held-out normals allow, at most 1 % false alarms; one of each product's own."""
    import numpy as np

    from edge_ad.calibrate.calibration import Scores, Wish, calibration_record, score_frames, with_product
    from edge_ad.runtime.engines.runner import open_runner
    from edge_ad.runtime.predictor import Predictor

    with Predictor(artifact, open_runner(artifact, "onnxruntime", "fp32")) as predictor:
        frames = (reader.read(sample.path) for sample in held_out)
        scores = score_frames(predictor, frames, advance=lambda: progress.advance(1))

    categories = np.array([sample.category for sample in held_out])
    products = sorted(set(categories))
    calibration: dict[str, Any] | None = None
    for product in ["", *(products if len(products) > 1 else ())]:
        chosen = (categories == product) | (product == "")
        count = int(chosen.sum())
        rate = max(0.01, 1 / (count + 1))
        part = Scores(scores.image_scores[chosen], scores.pixel_maxima[chosen])
        record = calibration_record(part, Wish(rate), precision="fp32", backend="onnxruntime")
        calibration = record if calibration is None else with_product(calibration, record, product)
        if rate > 0.01:
            progress.console.print(
                f"[dim]the first threshold{product and f' of {product}'} rests on {count} held-out photos: about one "
                f"good part in {count + 1} is a false alarm; `edgead calibrate` with more photos does better[/]",
                soft_wrap=True,
            )
    artifact.update(calibration=calibration)
