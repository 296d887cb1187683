"""`edgead compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[ARTIFACT] PHOTOS",
            help="Folder that `edgead train` wrote (the current one), and the photos to run both on.",
        ),
    ],
    second: Annotated[str, typer.Option(help="What to look at: BACKEND:PRECISION, or torch.")],
    first: Annotated[str, typer.Option(help="What to hold it against.")] = "onnxruntime-cpu:fp32",
    images: Annotated[int, typer.Option(min=1, help="How many of the photos, evenly spread.")] = 32,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Run two engines or precisions on the same photos, and say how far apart their outputs are."""
    from edge_ad.artifact import Artifact
    from edge_ad.cli.chosen import artifact_and
    from edge_ad.export.compare import QUANTILES, compare, open_any_runner
    from edge_ad.export.targets import load_normals

    artifact, photos = artifact_and(paths, "PHOTOS")
    opened = Artifact.open(artifact)
    # without a precision, the one that was calibrated
    ours, theirs = (
        open_any_runner(opened, backend, precision or "auto", threads)
        for backend, _, precision in (name.partition(":") for name in (first, second))
    )
    found = compare(ours, theirs, (image[None] for image in load_normals(opened, photos, images)))
    ours.close()
    theirs.close()
    table = Table(
        "output", *(f"{100 * quantile:g} %" for quantile in QUANTILES),
        title=f"{found.first} and {found.second} on {found.images} photos: quantiles of absolute differences",
    )  # fmt: skip
    for name, errors in found.errors.items():
        table.add_row(name, *(f"{error:.2g}" for error in errors))
    console = Console(stderr=True, highlight=False)
    console.print(table)
    console.print(
        f"image scores' rank correlation {found.rank_correlation:.4f}; pixel scores' correlation "
        f"{found.pixel_correlation:.5f}, root mean square difference {found.pixel_error:.3g} standard deviations"
    )
    typer.echo(json.dumps(found.to_dict()))
