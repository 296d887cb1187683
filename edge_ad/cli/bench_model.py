"""`edgead bench model`: latency of an artifact's graphs, as ratios to the FP32 detector in PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def command(
    artifact: Annotated[
        Path | None, typer.Argument(help="Folder that `edgead train` wrote.  [default: the current one]")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="CPU threads; may be repeated (default 1 and 2).")
    ] = None,
    backends: Annotated[str, typer.Option(help="Engines, separated by commas.")] = "onnxruntime-cpu,openvino",
    rounds: Annotated[int, typer.Option(help="Runs of each, taken in turns so that load hits all alike.")] = 20,
    torch_reference: Annotated[bool, typer.Option("--torch/--no-torch", help="Also time FP32 PyTorch.")] = True,
    out: Annotated[Path | None, typer.Option(help="Append rows to this CSV file.")] = None,
) -> None:
    """Time the artifact's graphs at batch 1 and set them against FP32 PyTorch."""
    from rich.console import Console
    from rich.table import Table

    from edge_ad.artifact import Artifact, check_folder
    from edge_ad.bench.model import FIELDS, measure, open_runs
    from edge_ad.bench.rows import append_rows
    from edge_ad.cli.chosen import chosen_artifact

    console = Console(stderr=True, highlight=False)
    opened = Artifact.open(chosen_artifact(artifact))
    if out is not None:
        check_folder(out.parent)
    engines = [name.strip() for name in backends.split(",")]
    rows: list[dict[str, Any]] = []
    for count in threads or [1, 2]:
        runs = open_runs(opened, engines, count, torch_reference, console.print)
        rows += measure(opened, runs, count, rounds)
    table = Table("backend", "precision", "threads", "p50, ms", "p20 to p80", "times FP32 PyTorch's speed")
    for row in rows:
        ratio = "" if row["ratio_to_torch"] is None else f"{1 / row['ratio_to_torch']:.2f}"
        spread = f"{row['p20_ms']:.1f} to {row['p80_ms']:.1f}"
        cells = row["backend"], row["precision"], str(row["threads"]), f"{row['p50_ms']:.1f}", spread, ratio
        table.add_row(*cells)
    console.print(table)
    if out is not None:
        append_rows(out, rows, FIELDS)
    typer.echo(json.dumps(rows))
