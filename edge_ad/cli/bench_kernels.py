"""`edgead bench kernels`: time and bandwidth of the kernels. What is timed is in edge_ad.bench.kernel_timing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    device: Annotated[str, typer.Option(help="cpu or cuda; auto takes the GPU if there is one.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of every backend.")] = 1,
    dtype: Annotated[str, typer.Option(help="Element type of the features on a GPU: float32, float16, bfloat16.")] = (
        "float32"
    ),
    only: Annotated[list[str] | None, typer.Option(help="Backends to time; all of them by default.")] = None,
    match: Annotated[str, typer.Option(help='Only cases whose "operation shape" contains this.')] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Two small shapes instead of all.")] = False,
    repeats: Annotated[int, typer.Option(min=3, help="Timed calls a backend, operation and shape, at most.")] = 50,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds a backend, operation and shape, at most.")] = 0.5,
    csv: Annotated[Path | None, typer.Option(help="Append the rows to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the times into this PNG (needs matplotlib).")] = None,
) -> None:
    """Time every operation against the memory's speed, plain torch, torch.compile, NumPy and OpenCV.

    Every result is checked against the definition in float64 first; a wrong one ends the run without a figure.
    """
    from rich.console import Console
    from rich.table import Table

    from edge_ad.artifact import check_folder
    from edge_ad.bench import kernel_cases
    from edge_ad.bench import kernel_timing as timing
    from edge_ad.bench.rows import append_rows
    from edge_ad.errors import ConfigError
    from edge_ad.runtime.optional import need

    for target in filter(None, (csv, plot)):
        check_folder(target.parent)
    if plot is not None:
        need("matplotlib", why="--plot", install="matplotlib")
    setup = timing.Setup.of(device, threads, dtype)
    console = Console(stderr=True, highlight=False)
    console.print(f"{setup.device_name}, {setup.threads} threads, {setup.dtype}; copying: {setup.copy_note()}")
    cases = [case for case in kernel_cases.cases(quick=quick) if match in f"{case.operation} {case.shape}"]
    cases = [case for case in cases if kernel_cases.runs_on(case, setup.device)]
    if not cases:
        raise ConfigError(f"no case matches {match!r}", hint='one is "fused_score B1 192x16x16+192x16x16+192x16x16"')
    rows = []
    for case in cases:
        with console.status(f"{case.operation} {case.shape}"):
            measured = timing.measure(case, setup, only=only, repeats=repeats, seconds=seconds)
        if csv is not None:
            append_rows(csv, measured, timing.COLUMNS)  # after each case, so that a run cut short keeps what it has
        rows += measured
    table = Table(expand=False)
    for column in (
        *("operation", "shape", "backend", "p20 ms", "p50 ms", "p80 ms"),
        *("GB/s", "of copy", "of floor", "vs eager"),
    ):
        table.add_column(column, justify="left" if column in ("operation", "shape", "backend") else "right")
    for row in rows:
        times = (f"{row[f'{p}_ms']:.3f}" for p in ("p20", "p50", "p80"))
        of_read = f"{row['p50_ms'] / row['floor_ms']:.2f}x" if row["floor_ms"] else ""
        gain = f"{row['vs_eager']:.1f}x" if row["vs_eager"] else ""
        rates = f"{row['gb_per_s']:.1f}", f"{row['of_copy']:.0%}"
        table.add_row(row["operation"], row["shape"], row["backend"], *times, *rates, of_read, gain)
    console.print(table)
    if csv is None:
        append_rows(None, rows, timing.COLUMNS)
    if plot is not None:
        timing.draw(rows, plot)
        console.print(f"drew {plot}")
