"""`edgead calibrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from edge_ad.pipeline.calibrate import Calibrated


def command(
    artifact: Annotated[
        Path | None, typer.Argument(help="Folder that `edgead train` wrote.  [default: the current one]")
    ] = None,
    normals: Annotated[
        Path | None,
        typer.Option(help="Photos of good parts that training never saw.  [default: those that it held out]"),
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(help="Share of good parts that may be rejected, such as 0.001.  [default: 0.01 or the least]"),
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Promise the rate for this very threshold with that confidence (0.95).")
    ] = None,
    tail_fit: Annotated[
        bool, typer.Option("--tail-fit", help="Extrapolate beyond the data (generalised Pareto). No guarantee.")
    ] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Also show missed synthetic defects against false alarms.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write a calibrated copy here, for a second camera or line.")
    ] = None,
    include_trained: Annotated[
        bool, typer.Option("--include-trained", help="Also score photos that training saw. Voids the promise.")
    ] = False,
    settings: Annotated[
        Path | None,
        typer.Option(help="Settings of `edgead run`: score whole parts as that line does, cut, tiled, by product."),
    ] = None,
    station: Annotated[str, typer.Option(help="Which of the settings' stations, where they have several.")] = "",
    backend: Annotated[str, typer.Option(help="Engine to score with: the one that will inspect.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    parts_per_day: Annotated[
        int, typer.Option(min=1, help="Good parts a day, to say what the threshold means.")
    ] = 10_000,
) -> None:
    """Set the threshold from photos of good parts, with a stated false-alarm rate.

    The threshold belongs to pictures that are inspected as these were scored. A line that straightens, cuts or tiles
    its pictures, or whose artifact knows several products, is calibrated with its own --settings.
    """
    from edge_ad.cli.chosen import chosen_artifact
    from edge_ad.cli.progress import TerminalProgress
    from edge_ad.pipeline.calibrate import calibrate

    with TerminalProgress() as progress:
        done = calibrate(
            chosen_artifact(artifact), normals, false_alarms, confidence=confidence, tail_fit=tail_fit,
            sensitivity=sensitivity, out=out, include_trained=include_trained, settings=settings, station=station,
            backend=backend, precision=precision, threads=threads, progress=progress,
        )  # fmt: skip
    _say(Console(stderr=True, highlight=False), done, parts_per_day)
    rows = [row._asdict() for row in done.operating_points]
    typer.echo(json.dumps({**done.record, "sensitivity": rows} if rows else done.record))


def _say(console: Console, done: Calibrated, parts_per_day: int) -> None:
    from edge_ad.calibrate.threshold import in_a_day

    record: dict[str, Any] = done.record
    scores = done.scores.image_scores
    console.print(
        f"image threshold {record['image_threshold']:.4g}, pixel threshold {record['pixel_threshold']:.4g} "
        f"from {record['normals']} good parts"
    )
    console.print(f"promise: {record['promise']}", soft_wrap=True)
    if not (record["trained_on"] and record["promise"].startswith("none")):
        console.print(in_a_day(record, parts_per_day), style="bold", soft_wrap=True)
    console.print("it holds for independent good parts like these; look at the ones that set it:")
    for index in np.argsort(-scores)[:3]:
        console.print(f"  {scores[index]:.4g}  {done.samples[index].path}", soft_wrap=True)
    if done.operating_points:
        _show_operating_points(console, done.operating_points, len(scores))
    if done.moved is not None:
        console.print(f"the median score moved by {done.moved:+.2f} interquartile ranges since the last calibration")


def _show_operating_points(console: Console, rows: list[Any], normals: int) -> None:
    from edge_ad.calibrate.calibration import RATES
    from edge_ad.calibrate.threshold import normals_needed

    table = Table(
        "good parts rejected", "threshold", "defects missed", "at worst",
        title=f"{rows[0].defects} synthetic defects, one on each photo on which one could be drawn",
    )  # fmt: skip
    for row in rows:
        missed = f"{round(row.missed * row.defects)} of {row.defects}"
        rejected = f"1 in {1 / row.false_alarm_rate:.3g}" + (" (set)" if row.chosen else "")
        table.add_row(rejected, f"{row.threshold:.4g}", missed, f"{row.missed_upper:.0%}")
    console.print(table)
    console.print(
        "(set): the threshold written now. At worst: the share missed of defects drawn like these, with 95 % "
        "confidence. Real ones may be harder or easier to see: choose between rows by it, promise no detection rate"
    )
    stricter = [rate for rate in RATES if normals_needed(rate) > normals]
    if stricter:
        console.print(
            f"a row for 1 in {1 / stricter[0]:.3g} needs {normals_needed(stricter[0])} good parts, here are {normals}"
        )
