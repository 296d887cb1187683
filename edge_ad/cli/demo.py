"""`edgead demo`: the main job on real pictures, with the very commands a user types."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from edge_ad.data.samples import Dataset

console = Console(stderr=True, highlight=False)


def command(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo"),
    data: Annotated[Path | None, typer.Option(help="Your own category (MVTec AD's layout) instead.")] = None,
    minutes: Annotated[float, typer.Option(help="Time for training.")] = 6.0,
    preset: Annotated[str, typer.Option(help="paper, edge, fast or nano.")] = "edge",
    weights: Annotated[str | None, typer.Option(help="As for `edgead train`.")] = None,
) -> None:
    """Check, train, measure, calibrate, export and run, on a photograph of a brick wall or on --data.

    Prints each command before it runs. The demo's defects are drawn by a program: its numbers say that the path
    works, not how well the detector does on your parts.
    """
    from edge_ad.artifact import check_folder
    from edge_ad.data.samples import scan

    began = time.monotonic()
    check_folder(out, 256 << 20)
    out.mkdir(parents=True, exist_ok=True)
    calibration: Path | None = None
    if data is None:
        from edge_ad.data.demo import write_demo_data

        console.print("demo data: crops of one photograph (scikit-image's 'brick'), defects drawn by a program")
        data, calibration = write_demo_data(out / "data")
    detector, line = out / "detector", out / "line"
    run("check", data)
    chosen = ["--weights", weights] if weights else []
    train_steps = ["--steps", 240] if calibration else []
    run(
        "train",
        data,
        "--out",
        detector,
        "--replace",
        "--preset",
        preset,
        "--max-minutes",
        minutes,
        *train_steps,
        *chosen,
    )
    run("export", detector, "--int8", "--normals", calibration or data, quiet=True)
    if calibration:  # after the export: a threshold belongs to the graph that it was measured with
        promise = ("--false-alarms", 0.01, "--precision", "int8")
        run("calibrate", detector, "--normals", calibration, *promise, quiet=True)
    run("eval", detector, data, "--json", out / "metrics.json", "--sheet", out / "sheet.png")
    video = demo_video(scan(data), out / "parts.mp4")
    run("run", detector, "--source", video, "--out", line, "--video", out / "annotated.mp4", "--headless")
    console.print(
        f"\n[bold]Done in {(time.monotonic() - began) / 60:.1f} minutes.[/] Look at {out / 'sheet.png'} (image, "
        f"truth, map, verdict) and at {out / 'annotated.mp4'}; verdicts are in {line}.\nNext, with your own parts:\n"
        f"  edgead check PHOTOS && edgead train PHOTOS\n"
        f"  edgead calibrate --normals MORE_PHOTOS --false-alarms 0.001\n"
        f"  edgead run --camera 0",
        soft_wrap=True,
    )


def run(*words: object, quiet: bool = False) -> None:
    """Show a command and run it, without its output if quiet; stop the demo where it fails."""
    arguments = [str(word) for word in words]
    console.print(f"\n[bold cyan]$ edgead {shlex.join(arguments)}[/]", soft_wrap=True)
    done = subprocess.run(
        [sys.executable, "-m", "edge_ad", *arguments], check=False, stdout=subprocess.DEVNULL if quiet else None
    )
    if done.returncode:
        raise typer.Exit(done.returncode)


def demo_video(dataset: Dataset, path: Path) -> Path:
    """Good and defective test images in turn, as a video of parts passing by."""
    from edge_ad.data.demo import write_video

    good = [sample.path for sample in dataset.test if sample.label == 0]
    bad = [sample.path for sample in dataset.test if sample.label == 1]
    step = max(1, len(bad) // 8)
    turns = [path for pair in zip(good[:8], bad[::step][:8], strict=False) for path in pair]
    write_video(turns, path)
    return path
