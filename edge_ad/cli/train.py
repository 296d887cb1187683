"""`edgead train`: photos of good parts in, an artifact out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edge_ad.cli.progress import TerminalProgress
    from edge_ad.workspace import Place


def command(
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders of photos; several make one model for all.  [default: this folder, or the only one in it]"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the artifact goes.  [default: detectors/NAME of the photos' folder]")
    ] = None,
    preset: Annotated[str, typer.Option(help="paper, edge, fast or nano.")] = "edge",
    config: Annotated[Path | None, typer.Option(help="Settings as TOML, instead of a preset.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    max_minutes: Annotated[float | None, typer.Option(min=0.0, help="Stop in time to be done after so long.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a step; steps and learning rate are fitted to it.")
    ] = None,
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
    feedback: Annotated[
        Path | None,
        typer.Option(help="Artifact that ran until now: learn good parts it rejected.  [default: the one at --out]"),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="No training: remember good parts, for a first look within a minute.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite an artifact that is there, instead of standing beside it.")
    ] = False,
) -> None:
    """Train a detector on photos of good parts.

    Ends with an artifact that eval, calibrate, export and run take as it is: weights, an ONNX graph, and a first
    threshold from normals that training did not see. The working folder remembers it: export, calibrate, eval and run
    take it when none is named. An artifact that is there already stays as it is; the new one goes beside it until
    `edgead promote`. With --quick nothing is optimised; the same command with --resume instead trains on from there.
    """
    import logging

    from edge_ad.cli.progress import TerminalProgress
    from edge_ad.config import Config, check_device
    from edge_ad.training.photos import check_enough, find_photos
    from edge_ad.training.processes import is_first_process
    from edge_ad.workspace import check_output, default_out, find_training_folder, place_for

    if quick:
        _check_quick(max_minutes=max_minutes, ddpm=ddpm, triplets=triplets, feedback=feedback, resume=resume or None)
    if not is_first_process():
        logging.disable(logging.WARNING)  # of several processes, one is enough to say it
    settings = Config.from_toml(config) if config else Config.named(preset)
    settings = settings if batch_size is None else settings.at_batch(batch_size)
    settings = settings.override("training", steps=steps, seed=seed)
    if source is not None:
        settings = settings.override("synthesis", sources=tuple(part.strip() for part in source.split(",")))
    check_device(device)
    folders = data or [find_training_folder()]
    place = place_for(out or default_out(folders), resume=resume, replace_old=replace)
    check_output(place.path)
    with TerminalProgress() as progress:
        if not data:
            progress.say(f"training on the photos in {folders[0]}")
        photos = find_photos(folders, lambda text: progress.say(text, "dim"))
        check_enough(photos.samples)
        if place.beside:
            progress.say(f"{place.beside} stays as it is; the new detector goes to {place.path}")
        # only now, so that a wrong folder is answered at once: these import torch
        from edge_ad.pipeline.quick import train_quick
        from edge_ad.pipeline.train import train
        from edge_ad.training.anomaly_images import with_diffusion_model

        settings = with_diffusion_model(settings, ddpm)
        if quick:
            artifact = train_quick(photos, place.path, settings, device=device, weights=weights, progress=progress)
        else:
            artifact = train(
                photos, place.path, settings, device=device, max_minutes=max_minutes, weights=weights, ddpm=ddpm,
                triplets=triplets, feedback=feedback or place.beside, resume=resume, progress=progress,
            )  # fmt: skip
        if is_first_process():
            _remember(place, progress)
    if is_first_process():
        typer.echo(str(artifact.path))


def _check_quick(**unused: object) -> None:
    """ConfigError for options that a detector without training has no use for."""
    from edge_ad.errors import ConfigError

    named = [f"--{name.replace('_', '-')}" for name, value in unused.items() if value is not None]
    if named:
        raise ConfigError(
            f"--quick trains nothing, so {', '.join(named)} would do nothing", "leave out one or the other"
        )


def _remember(place: Place, progress: TerminalProgress) -> None:
    """Have the working folder remember the artifact, and say what to type next."""
    from edge_ad.errors import EdgeAdError
    from edge_ad.workspace import Workspace

    try:
        workspace = Workspace()
        workspace.remember(place.path, place.beside)
    except EdgeAdError as error:  # the training is worth more than the note
        progress.say(f"this folder can't remember {place.path}: {error.message}", "yellow")
        return
    if place.path in (workspace.current, workspace.candidate):
        put = f" It stands beside {place.beside} until `edgead promote`." if place.beside else ""
        progress.say(f"done.{put} Next: `edgead export --fp16`, then `edgead run --camera 0`")
