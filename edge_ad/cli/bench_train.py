"""`edgead bench train`: images a second of the training loop, and what it is held up by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[list[Path], typer.Argument(help="Folder(s) of photos of good parts.")],
    preset: Annotated[str, typer.Option(help="Detector to train: paper, edge or nano.")] = "edge",
    diffusion: Annotated[
        int | None, typer.Option(help="Time a diffusion model of that many pixels a side instead: 32, 64, 128, 256.")
    ] = None,
    steps: Annotated[int, typer.Option(min=5, help="Steps to time.")] = 50,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a step (the preset's), the schedule fitted to it.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16 (the preset's).")] = None,
    engine: Annotated[str | None, typer.Option(help="Where triplets are drawn: numpy or torch.")] = None,
    triplets: Annotated[int, typer.Option(min=1, help="Triplets in the feature cache, where there is one.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    weights: Annotated[
        str | None, typer.Option(help="The teacher's: a safetensors file, or random (as fast).")
    ] = "random",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    out: Annotated[Path | None, typer.Option(help="Append the row to this CSV file.")] = None,
) -> None:
    """Time training steps: images a second, time spent waiting for data, share of the device's matrix rate."""
    from dataclasses import replace

    import torch
    from rich.console import Console
    from rich.table import Table

    from edge_ad.artifact import check_folder
    from edge_ad.bench import train
    from edge_ad.bench.rows import append_rows
    from edge_ad.config import Config, DiffusionConfig, read_section
    from edge_ad.training.photos import find_photos

    if out is not None:
        check_folder(out.parent)
    if threads is not None:
        torch.set_num_threads(threads)
    photos = find_photos(data)
    if diffusion is not None:
        given = {"batch_size": batch_size, "precision": precision}
        given = {name: value for name, value in given.items() if value is not None}
        sizes = read_section(DiffusionConfig, given, "synthesis.diffusion", DiffusionConfig.at(diffusion))
        row = train.measure_diffusion(photos, sizes, device=device, steps=steps)
    else:
        config = Config.named(preset)
        config = config if batch_size is None else config.at_batch(batch_size)
        kept = min(triplets, config.training.triplets)
        changed = {"training": {"triplets": kept, **({"precision": precision} if precision else {})}}
        changed |= {"synthesis": {"engine": engine}} if engine else {}
        for section, values in changed.items():
            settings = getattr(config, section)
            config = replace(config, **{section: read_section(type(settings), values, section, settings)})
        row = train.measure_detector(photos, config, device=device, steps=steps, weights=weights)
    shown = Table("what", "images/s, p50", "p20 to p80", "waiting for data", "share of the matrix rate")
    for cells in train.table([row]):
        shown.add_row(*cells)
    Console(stderr=True, highlight=False).print(shown)
    if out is not None:
        append_rows(out, [row], train.FIELDS)
    typer.echo(json.dumps(row))
