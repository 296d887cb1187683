"""`edgead eval`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Column, Table

from edge_ad.cli.progress import TerminalProgress


def command(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[ARTIFACT] [DATA]",
            help="Folder that `edgead train` wrote, and labelled photos: a category, a data set, or good/ and bad/.  "
            "[default: the current artifact, and the folder it was trained on]",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures as JSON; '-' is standard output.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report that opens offline.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a contact sheet (PNG or JPEG): image, truth, map, verdict.")
    ] = None,
    category: Annotated[str | None, typer.Option(help="Only this category of the data set.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Measure on every photo, also on those set apart for training.")
    ] = False,
    backend: Annotated[
        str, typer.Option(help="auto, onnxruntime, openvino, tensorrt, or torch (the weights themselves).")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, or auto.")] = "auto",
    native: Annotated[bool, typer.Option(help="Also measure pixels at the photos' own size.")] = True,
    batch: Annotated[int, typer.Option(min=1, help="Photos in one call of the graph.")] = 4,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Measure a detector on labelled images."""
    from edge_ad.artifact import Artifact, check_target, write_atomically
    from edge_ad.cli.chosen import artifact_and
    from edge_ad.data.images import encode_image
    from edge_ad.data.samples import scan
    from edge_ad.evaluation import category_calibrations
    from edge_ad.pipeline.evaluate import evaluate
    from edge_ad.report import Gallery, draw_sheet, write_report

    words = Console(stderr=True, highlight=False)
    artifact, data = artifact_and(paths, "DATA", _trained_on)
    opened, dataset = Artifact.open(artifact), scan(data)
    for target in (json_file, report, sheet):
        if target and str(target) != "-":
            check_target(target)
    if sheet:
        encode_image(np.zeros((1, 1), np.uint8), sheet.suffix)  # refuse an unknown ending now, not after minutes
    gallery = Gallery()
    with TerminalProgress() as progress:
        result = evaluate(
            opened, dataset, category=category, every=every, backend=backend, precision=precision, native=native,
            batch=batch, threads=threads, on_photo=gallery if report or sheet else None, progress=progress,
        )  # fmt: skip
    calibrations = category_calibrations(opened.manifest.calibration, list(result.categories))
    _say(words, result)
    figures = result.to_dict()
    if str(json_file) == "-":
        typer.echo(json.dumps(figures, indent=1))
    else:
        width = None if sys.stdout.isatty() else 120  # a file or a pipe has no width of its own
        Console(highlight=False, width=width).print(_table(figures))
        if json_file:
            write_atomically(json_file, json.dumps(figures, indent=1).encode())
    if sheet:
        write_atomically(sheet, encode_image(draw_sheet(result, gallery, calibrations), sheet.suffix))
        words.print(f"contact sheet: {sheet}", soft_wrap=True)
    if report:
        write_atomically(report, write_report(result, gallery, calibrations).encode("utf-8", "backslashreplace"))
        words.print(f"report: {report}", soft_wrap=True)


def _trained_on(artifact: Path) -> Path:
    """The folder that the artifact was trained on, where it has photos to measure on too."""
    from edge_ad.artifact import Artifact
    from edge_ad.data.held_out import photo_folders_of
    from edge_ad.data.samples import scan
    from edge_ad.errors import DataError

    hint = "name labelled photos: `edgead eval FOLDER`, with good/ and bad/ in it, or test/ of MVTec AD's layout"
    try:
        folders = photo_folders_of(Artifact.open(artifact))
    except DataError as error:
        raise DataError(error.message, hint) from error
    if len(folders) != 1 or not any(sample.label for sample in scan(folders[0]).test):
        raise DataError(f"{', '.join(map(str, folders))} has no photos of defects to measure on", hint)
    return folders[0]


def _say(words: Console, result: Any) -> None:
    """Files that were left out or used in part, a few by name and all by number."""
    for title, problems in (
        ("left out", result.skipped),
        ("used in part", result.notes),
        ("doubtful", result.doubts),
    ):
        for problem in problems[:10]:
            words.print(f"{title}: {problem.path}: {problem.reason}", style="yellow", markup=False, soft_wrap=True)
        if len(problems) > 10:
            words.print(
                f"... {len(problems)} files {title}, all of them named in --json and --report", style="yellow"
            )
    if result.doubts:
        words.print(
            f"{len(result.doubts)} masks can hardly be right: P-AUROC and AUPRO mean little until they are put right",
            style="bold red", soft_wrap=True,
        )  # fmt: skip
    if str(result.about.get("teacher", {}).get("source", "")).startswith("random"):
        words.print("the teacher's weights are random: these figures say nothing", style="bold red")


def _table(figures: dict[str, Any]) -> Table:
    """Percentages: a row per category, its kinds of defect below it, and the mean."""
    heads = ("I-AUROC", "P-AUROC", "AUPRO", "F1-max", "P-AUROC\nnative", "AUPRO\nnative", "good +\ndefects")
    columns = [Column("", no_wrap=True), *(Column(head, justify="right", no_wrap=True) for head in heads)]
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="bold")
    names = figures["about"]["categories"]
    for name in [*names, "mean"] if len(names) > 1 else names:
        row = figures[name]
        native = row.get("native") or {}
        style = "bold" if name == "mean" else ""
        table.add_row(name, *_cells(row, native), style=style)
        kinds = row.get("kinds", {})
        for kind, inner in kinds.items() if len(kinds) > 1 else ():
            table.add_row(f"  {kind}", *_cells(inner, {}), style="dim")
    return table


def _cells(row: dict[str, Any], native: dict[str, Any]) -> list[str]:
    values = [row[key] for key in ("i_auroc", "p_auroc", "aupro", "f1_max")]
    values += [native.get("p_auroc"), native.get("aupro")]
    return [*("-" if v is None else f"{100 * v:.2f}" for v in values), f"{row['good']} + {row['defects']}"]
