"""`edgead feedback`: what people found out about parts after their verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from edge_ad.data.feedback import Known


def command(
    artifact: Annotated[
        Path | None, typer.Argument(help="Folder that `edgead train` wrote.  [default: the current one]")
    ] = None,
    missed: Annotated[
        list[Path] | None, typer.Option(help="Photo of a defective part that was let pass; may be repeated.")
    ] = None,
    rejected: Annotated[
        list[Path] | None, typer.Option(help="Photo of a good part that was rejected; may be repeated.")
    ] = None,
    forget: Annotated[str, typer.Option(help="Take a picture out that was filed by mistake: bad/NAME.png.")] = "",
    note: Annotated[str, typer.Option(help="Why, such as the complaint's number.")] = "",
    by: Annotated[str, typer.Option(help="Who says so.  [default: this user]")] = "",
    product: Annotated[str, typer.Option(help="Which product, where the artifact knows several.")] = "",
    settings: Annotated[
        Path | None, typer.Option(help="Settings of `edgead run`: the photos are cut and tiled as that line does it.")
    ] = None,
    station: Annotated[str, typer.Option(help="Which of the settings' stations, where they have several.")] = "",
    backend: Annotated[str, typer.Option(help="Engine to check with.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """File a defect that was missed or a good part that was rejected, and check that misses are caught.

    From then on `calibrate`, `export` and `promote` refuse a threshold, graph or model that lets a confirmed miss
    pass, and `train` learns the good parts. Without a photo: says what is filed, and what the detector says of it
    today; exits with 1 when it lets one pass.
    """
    from edge_ad.artifact import Artifact
    from edge_ad.calibrate.confirmed import examine_misses, refuse_passed
    from edge_ad.cli.chosen import chosen_artifact
    from edge_ad.data import feedback
    from edge_ad.data.changes import add_change
    from edge_ad.errors import ConfigError
    from edge_ad.runtime.engines.opening import choose_precision, open_runner
    from edge_ad.runtime.products import calibration_for

    console = Console(stderr=True, highlight=False)
    artifact = chosen_artifact(artifact, on_line=True)
    opened = Artifact.open(artifact)
    if forget:
        if missed or rejected:
            raise ConfigError("--forget with --missed or --rejected", "do one after the other")
        feedback.forget(artifact, forget)
        add_change(opened, "forget", f"{forget} was taken out" + (f": {note}" if note else ""), by)
        return console.print(f"taken out: {forget}")
    known = _known(settings, station, product, by, note)
    if missed:
        calibration_for(opened.manifest, known.product)  # refuses a product that the artifact doesn't know
    filed = [feedback.add(artifact, "bad", path, known) for path in missed or ()]
    filed += [feedback.add(artifact, "good", path, known) for path in rejected or ()]
    for one in filed:
        console.print(f"filed: {artifact}/{one.name}", soft_wrap=True)
    misses = feedback.entries(artifact, "bad")
    results = []
    if misses:
        runner = open_runner(opened, backend, choose_precision(opened, precision), threads)
        try:
            results = examine_misses(opened, runner, misses)
        finally:
            runner.close()
    for result in results:
        caught = "[green]caught[/]" if result.caught else "[bold red]passes[/]"
        console.print(f"{caught}  {result}{f'  {result.note}' if result.note else ''}", soft_wrap=True)
    good = feedback.entries(artifact, "good")
    console.print(f"{len(misses)} confirmed misses, {len(good)} good parts that were rejected")
    rows: list[dict[str, Any]] = [vars(result) for result in results]
    typer.echo(json.dumps({"misses": rows, "rejected_good": [one.name for one in good]}))
    if not filed:
        refuse_passed(results, artifact)
    return None


def _known(settings: Path | None, station: str, product: str, by: str, note: str) -> Known:
    from edge_ad.config import to_plain
    from edge_ad.data.changes import user
    from edge_ad.data.feedback import Known
    from edge_ad.runtime.settings import read_station

    place, _, _ = read_station(settings, station)
    tables: dict[str, Any] = {}
    if place is not None:
        tables = {"frame": to_plain(place.frame), "policy": {"regions": to_plain(place.policy.regions)}}
        product = product or place.product
    return Known(product=product, station=tables, by=by or user(), note=note)
