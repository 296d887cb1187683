"""`edgead bench run`: time the running loop, stage by stage, and what it adds to the engine's own time."""

from __future__ import annotations

import json
from pathlib import Path

import typer


def command(
    artifact: str = typer.Argument("", help="Folder that `edgead train` wrote.  [default: the current one]"),
    source: str = typer.Option("", "--source", help="Camera, video, folder or URL; default: made-up pictures."),
    size: str = typer.Option("480x640", "--size", help="Height x width of the made-up pictures."),
    frames: int = typer.Option(300, "--frames", min=10, help="Frames to inspect."),
    fps: float = typer.Option(0.0, "--fps", min=0, help="Pictures a second; 0: the next one when one is done."),
    backend: str = typer.Option("auto", "--backend", help="auto, onnxruntime, openvino or tensorrt."),
    precision: str = typer.Option("auto", "--precision", help="auto, fp32, fp16 or int8."),
    threads: int | None = typer.Option(None, "--threads", min=1, help="CPU threads for the graph."),
    json_output: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    csv_file: str = typer.Option("", "--csv", help="Append one row a stage to this CSV file."),
) -> None:
    """Time the running loop: milliseconds by stage, dropped frames, CPU and memory.

    `loop` is what capture to verdict takes besides the engine and the preprocessing of the picture: hand-overs
    between threads, thresholding and boxes, and the hand-over to store and sinks.
    """
    from rich.console import Console
    from rich.table import Table

    from edge_ad.artifact import check_folder
    from edge_ad.bench.rows import append_rows
    from edge_ad.bench.run import STAGES, measure, stage_rows
    from edge_ad.cli.chosen import chosen_artifact
    from edge_ad.runtime.settings import EngineSettings

    console = Console(stderr=True, highlight=False)
    if csv_file:
        check_folder(Path(csv_file).parent)
    engine = EngineSettings(backend, precision, threads, reload=False)
    result = measure(str(chosen_artifact(artifact)), engine, source=source, size=_size(size), frames=frames, fps=fps)
    if csv_file:
        append_rows(Path(csv_file), stage_rows(result), STAGES)
    if json_output:
        typer.echo(json.dumps(result))
        return
    table = Table(
        "stage", "p50", "p95", "p99", "max", title=f"{result['engine']}, milliseconds", title_justify="left"
    )
    for stage, row in result["stages_ms"].items():
        table.add_row(stage, *(f"{row[name]:.3f}" for name in ("p50", "p95", "p99", "max")))
    console.print(table)
    console.print(
        f"{result['frames']} frames in {result['seconds']:.1f} s, {result['dropped']} dropped, "
        f"CPU {result['cpu_percent']:.0f} % of one core, memory {result['memory_mb']:.0f} MiB "
        f"(grew {result['memory_growth_mb']:.1f}), first verdict {result['cold_start_s']:.2f} s after the imports"
    )


def _size(text: str) -> tuple[int, int]:
    from edge_ad.errors import ConfigError

    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ConfigError(f"--size {text}", "give height x width, like 480x640")
    return int(height), int(width)
