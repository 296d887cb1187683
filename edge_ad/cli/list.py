"""`edgead list`."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated

import typer


def command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Show the detectors of this folder: photos, metrics, threshold, graphs, what exports lost, age.

    `*` marks the current one, `+` one that is trained but not promoted.
    """
    from rich.console import Console
    from rich.table import Column, Table

    from edge_ad.errors import DataError
    from edge_ad.pipeline.promote import summaries
    from edge_ad.workspace import Workspace, ago

    workspace = Workspace()
    rows = summaries(workspace)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
        return
    if not rows:
        raise DataError("no detector here: detectors/ is empty", "train one: `edgead train PHOTOS`")
    right = [Column(head, justify="right") for head in ("photos", "I-AUROC", "AUPRO", "threshold")]
    names = [Column("", no_wrap=True), Column("detector", no_wrap=True, overflow="fold")]
    table = Table(*names, *right, "false alarms", "graphs", "export kept", "trained", box=None, header_style="bold")
    for row in rows:
        cells = [row.photos, *("-" if value is None else f"{100 * value:.1f}" for value in (row.i_auroc, row.aupro))]
        table.add_row(
            row.mark, row.name, *map(str, cells), "-" if row.threshold is None else f"{row.threshold:.4g}",
            "-" if row.false_alarm_rate is None else f"1 in {1 / row.false_alarm_rate:.3g}", " ".join(row.graphs),
            " ".join(f"{name} {value:.4f}" for name, value in row.parity.items()) or "-", ago(row.trained),
        )  # fmt: skip
        if row.problem:
            table.add_row("", f"  {row.problem}", style="red")
    width = None if sys.stdout.isatty() else 160  # a file or a pipe has no width of its own
    Console(highlight=False, width=width).print(table)
    typer.echo("export kept: rank correlation of scores with the FP32 graph on normals", err=True)
