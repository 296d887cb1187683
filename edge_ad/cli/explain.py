"""`edgead explain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edge_ad.cli.progress import TerminalProgress


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[ARTIFACT] PHOTO",
            help="Folder that `edgead train` wrote (the current one), and the photo to explain.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Picture to write, .png or .jpg.  [default: PHOTO's name with -explained.png]")
    ] = None,
    normals: Annotated[
        Path | None,
        typer.Option(help="Photos of good parts to search the nearest patch in.  [default: those of training]"),
    ] = None,
    photos: Annotated[
        int, typer.Option(min=0, help="How many of them at most; 0 searches none, and needs no torch.")
    ] = 48,
    product: Annotated[str, typer.Option(help="Which product, where the artifact knows several.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead of sentences.")] = False,
    backend: Annotated[str, typer.Option(help="Engine to score with.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Say why a photo got its score, in sentences and one picture, beside the nearest patch of a good part."""
    import numpy as np

    from edge_ad.artifact import check_target, write_atomically
    from edge_ad.cli.chosen import artifact_and
    from edge_ad.data.images import encode_image
    from edge_ad.pipeline.explain import explain
    from edge_ad.runtime.explain.picture import draw_explanation
    from edge_ad.runtime.explain.words import sentences

    artifact, photo = artifact_and(paths, "PHOTO")
    target = out or Path(f"{photo.stem}-explained.png")
    check_target(target)
    encode_image(np.zeros((1, 1), np.uint8), target.suffix)  # refuse an unknown ending now
    with TerminalProgress() as progress:
        found = explain(
            artifact, photo, normals=normals, photos=photos, product=product, backend=backend, precision=precision,
            threads=threads, progress=progress,
        )  # fmt: skip
    write_atomically(target, encode_image(draw_explanation(found), target.suffix))
    if as_json:
        typer.echo(json.dumps(found.to_dict() | {"picture": str(target)}, indent=1))
    else:
        typer.echo("\n".join(sentences(found)))
    Console(stderr=True, highlight=False).print(f"picture: {target}", soft_wrap=True, markup=False)
