"""`edgead bench model`: latency of an artifact's graphs, as ratios to the FP32 detector in PyTorch."""

from __future__ import annotations

import csv
import datetime
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

FIELDS = (
    "date", "revision", "device", "artifact", "backend", "precision", "versions", "threads", "batch", "shape",
    "bytes", "p20_ms", "p50_ms", "p80_ms", "ratio_to_torch",
)  # fmt: skip


def command(
    artifact: Annotated[Path, typer.Argument(help="Folder that `edgead train` wrote.")],
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="CPU threads; may be repeated (default 1 and 2).")
    ] = None,
    backends: Annotated[str, typer.Option(help="Engines, separated by commas.")] = "onnxruntime-cpu,openvino",
    rounds: Annotated[int, typer.Option(help="Runs of each, taken in turns so that load hits all alike.")] = 20,
    torch_reference: Annotated[bool, typer.Option("--torch/--no-torch", help="Also time FP32 PyTorch.")] = True,
    out: Annotated[Path | None, typer.Option(help="Append rows to this CSV file.")] = None,
) -> None:
    """Time the artifact's graphs at batch 1 and set them against FP32 PyTorch."""
    from edge_ad.artifact import Artifact

    console = Console(stderr=True, highlight=False)
    opened = Artifact.open(artifact)
    rows: list[dict[str, Any]] = []
    for count in threads or [1, 2]:
        runs = _runs(opened, [name.strip() for name in backends.split(",")], count, torch_reference, console)
        rows += measure(opened, runs, count, rounds)
    table = Table("backend", "precision", "threads", "p50, ms", "p20 to p80", "times FP32 PyTorch's speed")
    for row in rows:
        ratio = "" if row["ratio_to_torch"] is None else f"{1 / row['ratio_to_torch']:.2f}"
        spread = f"{row['p20_ms']:.1f} to {row['p80_ms']:.1f}"
        cells = row["backend"], row["precision"], str(row["threads"]), f"{row['p50_ms']:.1f}", spread, ratio
        table.add_row(*cells)
    console.print(table)
    if out is not None:
        append_rows(out, rows)
    typer.echo(json.dumps(rows))


def measure(
    artifact: Any, runs: dict[tuple[str, str], Callable[[], object]], threads: int, rounds: int
) -> list[dict[str, Any]]:
    """One row a run: percentiles of its latency, and the ratio of medians to ("torch", "fp32") where that ran."""
    from edge_ad.runtime.backends import GRAPHS

    for run in runs.values():
        run()
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            taken[key].append(1000 * (time.perf_counter() - start))
    reference = np.median(taken["torch", "fp32"]) if ("torch", "fp32") in taken else None
    height, width = artifact.manifest.preprocessing.image_size
    rows = []
    for (backend, precision), times in taken.items():
        p20, p50, p80 = (round(float(value), 3) for value in np.percentile(times, (20, 50, 80)))
        name = GRAPHS[precision]  # type: ignore[index]
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "revision": _revision(),
                "device": _device(),
                "artifact": artifact.manifest.name,
                "backend": backend,
                "precision": precision,
                "versions": _version(backend),
                "threads": threads,
                "batch": 1,
                "shape": f"{height}x{width}",
                "bytes": artifact.manifest.files[name].bytes,
                "p20_ms": p20,
                "p50_ms": p50,
                "p80_ms": p80,
                "ratio_to_torch": None if reference is None else round(p50 / float(reference), 4),
            }
        )
    return rows


def append_rows(path: Path, rows: list[dict[str, Any]], fields: Sequence[str] = FIELDS) -> None:
    """Add rows to a CSV file with these columns, which is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def _runs(
    artifact: Any, backends: list[str], threads: int, torch_reference: bool, console: Console
) -> dict[tuple[str, str], Callable[[], object]]:
    from edge_ad.errors import BackendError
    from edge_ad.runtime.backends import GRAPHS, open_runner

    height, width = artifact.manifest.preprocessing.image_size
    images = np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32)
    runs: dict[tuple[str, str], Callable[[], object]] = {}
    if torch_reference:
        from edge_ad.export.torch_runner import TorchRunner

        torch_runner = TorchRunner(artifact, threads)
        runs["torch", "fp32"] = lambda: torch_runner(images)
    for backend in backends:
        for precision, name in GRAPHS.items():
            if not artifact.has(name):
                continue
            try:
                runner = open_runner(artifact, backend, precision, threads)
            except BackendError as error:
                console.print(f"left out {backend} {precision}: {error}")
                continue
            runs[backend, precision] = lambda runner=runner: runner(images)  # type: ignore[misc]
    return runs


def _version(backend: str) -> str:
    from importlib import metadata

    package = backend.split("-")[0]
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


def _device() -> str:
    """The CPU's name, and how many of its cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"


def _revision() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
