"""`edgead synth`: write synthetic defects, training the diffusion model first if it is asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edge_ad.config import DiffusionConfig, SynthesisConfig


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
    from edge_ad.cli.progress import TerminalProgress
    from edge_ad.pipeline.synth import synth
    from edge_ad.synthesis.dataset import SHEET

    model = _model_settings(resolution, steps, perturbation, strength, start, images, precision)
    settings = _settings(model, source, edges, foreground)
    with TerminalProgress() as progress:
        manifest = synth(
            data,
            out,
            settings,
            count=count,
            size=size,
            seed=seed,
            ddpm=ddpm,
            max_minutes=max_minutes,
            textures=textures,
            per_shard=per_shard,
            min_feature_distance=min_feature_distance,
            weights=weights,
            device=device,
            progress=progress,
        )
    for name, number in sorted({**manifest["drawn_again"], **manifest["rejected"]}.items()):
        progress.say(f"drawn again, {name}: {number}")
    by_source = ", ".join(f"{number} {name}" for name, number in manifest["by_source"].items())
    progress.say(f"{count} triplets ({by_source}); look at {out / SHEET}")
    typer.echo(str(out / SHEET))


def _settings(model: DiffusionConfig, source: str, edges: str, foreground: bool) -> SynthesisConfig:
    from edge_ad.config import SynthesisConfig, read_section
    from edge_ad.synthesis.sources import parse_sources

    texts = tuple(f"{name}:{share:.6g}" for name, share in parse_sources(source).items())
    values = {"sources": texts, "edges": edges, "foreground": foreground}
    return dataclasses.replace(read_section(SynthesisConfig, values, "synthesis"), diffusion=model)


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
