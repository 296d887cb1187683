"""`edgead ablate`: the paper's table 6 and the choices it leaves open, over seeds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def command(
    data: Annotated[Path, typer.Argument(help="A category with test images.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs and the table; finished runs are kept.")],
    preset: Annotated[str, typer.Option(help="paper, edge, fast or nano.")] = "paper",
    config: Annotated[Path | None, typer.Option(help="Settings as TOML, instead of a preset.")] = None,
    variants: Annotated[str, typer.Option(help="Comma-separated, or 'all'.")] = (
        "full,no-decoder,no-cosine,no-head,no-focal,no-l1"
    ),
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "0",
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each run.")] = None,
    source: Annotated[str | None, typer.Option(help="Sources of defects, instead of the preset's.")] = None,
    weights: Annotated[str | None, typer.Option(help="As for `edgead train`.")] = None,
    ddpm: Annotated[Path | None, typer.Option(help="As for `edgead train`; else one for all runs.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train every variant with every seed, measure each, and write a table of mean and deviation."""
    from edge_ad.cli.progress import TerminalProgress
    from edge_ad.config import Config
    from edge_ad.pipeline.ablate import VARIANTS, ablate
    from edge_ad.training.anomaly_images import with_diffusion_model

    names = list(VARIANTS) if variants == "all" else [name.strip() for name in variants.split(",")]
    base = Config.from_toml(config) if config else Config.named(preset)
    base = base.override("training", steps=steps)
    if source is not None:
        base = base.override("synthesis", sources=tuple(source.split(",")))
    base = with_diffusion_model(base, ddpm)
    with TerminalProgress() as progress:
        table = ablate(
            data,
            out,
            base,
            variants=names,
            seeds=parse_seeds(seeds),
            weights=weights,
            ddpm=ddpm,
            device=device,
            progress=progress,
        )
    Console(highlight=False, width=None if sys.stdout.isatty() else 110).print(_table(table))


def parse_seeds(text: str) -> list[int]:
    """Whole numbers from "0,1,2", each once; ConfigError for anything else."""
    from edge_ad.errors import ConfigError

    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise ConfigError(f"--seeds {text} are no whole numbers", "write them as 0,1,2") from error


def _table(table: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> Table:
    from edge_ad.pipeline.ablate import METRICS, percent

    shown = Table("variant", *METRICS)
    for name, figures in table.items():
        cells = []
        for key in METRICS:
            deviation = figures[key]["deviation"]
            spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
            cells.append(percent(figures[key]["mean"]) + spread)
        shown.add_row(name, *cells)
    return shown
