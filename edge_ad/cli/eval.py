"""`edgead eval`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Column, Table

from edge_ad.cli.progress import TerminalProgress


def command(
    artifact: Annotated[Path, typer.Argument(help="Folder that `edgead train` wrote.")],
    data: Annotated[Path, typer.Argument(help="Labelled photos: a category, a data set, or good/ and bad/.")],
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
    from edge_ad.data.images import encode_image
    from edge_ad.data.samples import scan
    from edge_ad.evaluation import category_calibrations, evaluate, provenance
    from edge_ad.export.compare import open_any_runner
    from edge_ad.report import Gallery, draw_sheet, write_report

    words = Console(stderr=True, highlight=False)
    opened = Artifact.open(artifact)
    dataset = scan(data)
    if category:
        dataset = dataset.only(category)
    if every:
        dataset = dataset.all_for_testing()
    for target in (json_file, report, sheet):
        if target and str(target) != "-":
            check_target(target)
    if sheet:
        encode_image(np.zeros((1, 1), np.uint8), sheet.suffix)  # refuse an unknown ending now, not after minutes
    runner = open_any_runner(opened, backend, precision, threads, device=None)
    calibrations = category_calibrations(opened.manifest.calibration, dataset.categories)
    _say_products(words, opened.manifest.calibration, dataset.categories)
    gallery = Gallery()
    with TerminalProgress() as progress:
        progress.phase(f"measuring with {runner.name}", len(dataset.test))
        try:
            result = evaluate(
                runner,
                dataset,
                opened.manifest.preprocessing,
                batch=batch,
                native=native,
                thresholds={n: c["image_threshold"] for n, c in calibrations.items() if "image_threshold" in c},
                about=provenance(opened, dataset, runner),
                on_photo=gallery if report or sheet else None,
                advance=lambda: progress.advance(1),
            )
        finally:
            runner.close()
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


def _say_products(words: Console, calibration: dict[str, Any] | None, categories: Sequence[str]) -> None:
    """Which categories are none of the artifact's products, where it has thresholds for several."""
    own = (calibration or {}).get("per_class") or {}
    if own and (strangers := sorted(set(categories) - own.keys())):
        words.print(
            f"no threshold of its own for {', '.join(strangers)}: the common one holds; the artifact's products are "
            f"{', '.join(sorted(own))}, known by the names of their folders",
            style="yellow", markup=False, soft_wrap=True,
        )  # fmt: skip


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
