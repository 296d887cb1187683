"""`edgead export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

TARGETS = ("onnx", "openvino", "tensorrt", "tensorrt-rtx", "triton-server", "frames")


def command(
    artifact: Annotated[
        Path | None, typer.Argument(help="Folder that `edgead train` wrote.  [default: the current one]")
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Mixed FP16 and FP32.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="INT8 linear layers with explicit Q/DQ.")] = False,
    fp32: Annotated[
        bool,
        typer.Option(
            "--fp32", help="The graph as trained (default, but for tensorrt); with --normals: written anew."
        ),
    ] = False,
    target: Annotated[
        str,
        typer.Option(
            help=f"What to write: {', '.join(TARGETS)}. tensorrt, no precision: the fastest that passes the gate."
        ),
    ] = "onnx",
    normals: Annotated[
        Path | None,
        typer.Option(help="Photos of good parts to measure ranges and losses on.  [default: those of training]"),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Labelled photos: the gate then watches AUROC and AUPRO.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where openvino, triton-server, frames and a copy of the graph go.")
    ] = None,
    ranges: Annotated[str, typer.Option(help="INT8 ranges: percentile, minmax or entropy.")] = "percentile",
    smooth: Annotated[float, typer.Option(help="Move channel spread into the weights, 0..1 (SmoothQuant).")] = 0.75,
    skip: Annotated[list[str] | None, typer.Option(help="Layer to leave in float; may be repeated.")] = None,
    max_loss: Annotated[float | None, typer.Option(min=0, help="Points of 100 that each metric may lose.")] = None,
    accept_loss: Annotated[bool, typer.Option("--accept-loss", help="Store it although the gate refuses.")] = False,
    images: Annotated[int, typer.Option(help="How many normals to measure on.")] = 64,
    max_batch: Annotated[int, typer.Option(help="Largest batch of an engine or server.")] = 1,
    workspace_mib: Annotated[int, typer.Option(help="TensorRT: scratch memory while building.")] = 2048,
    version_compatible: Annotated[bool, typer.Option(help="TensorRT: engine for later versions too.")] = False,
    hardware_compatible: Annotated[bool, typer.Option(help="TensorRT: engine for newer GPUs too.")] = False,
    dla: Annotated[int | None, typer.Option(help="TensorRT on Jetson: DLA core, with GPU fallback.")] = None,
    accept_faulty_tensorrt: Annotated[
        bool, typer.Option("--accept-faulty-tensorrt", help="Build with a version known to compute wrong.")
    ] = False,
    compute_capability: Annotated[
        list[str] | None, typer.Option(help="TensorRT-RTX: GPU to build for, such as 8.6; may be repeated.")
    ] = None,
    frame_size: Annotated[str, typer.Option(help="frames: the camera's HEIGHTxWIDTH.")] = "",
    batch: Annotated[int | None, typer.Option(min=1, help="onnx, frames: exactly that many at a time (any).")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Write FP16, INT8 and engine files into the artifact, after measuring what they lose."""
    from edge_ad.cli.chosen import chosen_artifact
    from edge_ad.export import targets
    from edge_ad.export.job import ExportOptions
    from edge_ad.pipeline.export import export

    _check(target, fp16 + int8 + fp32)
    choose = target == "tensorrt" and not (fp16 or int8 or fp32)
    precision: Any = None if choose else "fp16" if fp16 else "int8" if int8 else "fp32"
    options = ExportOptions(
        targets.parse_range_method(ranges), smooth=smooth, skip=tuple(skip or ()), max_loss=max_loss,
        accept_loss=accept_loss, threads=threads,
    )  # fmt: skip
    wanted = targets.TargetOptions(
        out=out, max_batch=max_batch, workspace_mib=workspace_mib, version_compatible=version_compatible,
        hardware_compatible=hardware_compatible, dla=dla, compute_capabilities=tuple(compute_capability or ()),
        frame_size=frame_size, batch=batch, accept_faulty=accept_faulty_tensorrt,
    )  # fmt: skip
    console = Console(stderr=True, highlight=False)
    path = chosen_artifact(artifact)
    with console.status("exporting") as status:
        done = export(
            path, precision, normals=normals, data=data, target=target, images=images, options=options,
            target_options=wanted, step=lambda text: status.update(escape(text)),
            say=lambda text: console.print(text, style="yellow", markup=False, soft_wrap=True),
        )  # fmt: skip
    result: dict[str, Any] = done.record or {"precision": done.precision, "target": target}
    result |= {"speed": done.speed} if done.speed else {}
    if done.speed or done.record:
        _show(console, result)
    for written in done.files:
        console.print(f"wrote {written}", soft_wrap=True)
    calibration = done.artifact.manifest.calibration
    calibrated = (calibration or {}).get("precision", "fp32")
    if calibration and calibrated != done.precision and target in ("onnx", "tensorrt", "tensorrt-rtx"):
        console.print(
            f"the threshold was computed from {calibrated} scores, and `edgead run` goes on with that graph: "
            f"`edgead calibrate {path} --precision {done.precision} --normals DIR --false-alarms P` makes the "
            "promise hold for this one, and run take it",
            soft_wrap=True,
        )
    typer.echo(json.dumps({**result, "files": [str(written) for written in done.files]}))


def _check(target: str, precisions: int) -> None:
    """ConfigError for options that don't go together. precisions: how many were asked for."""
    from edge_ad.errors import ConfigError

    if target not in TARGETS:
        raise ConfigError(f"unknown target '{target}'", f"use one of: {', '.join(TARGETS)}")
    if precisions > 1:
        raise ConfigError("more than one precision was asked for", "choose one of --fp32, --fp16, --int8")


def _show(console: Console, record: dict[str, Any]) -> None:
    """What the gate measured, or the speeds that a choice rests on."""
    from edge_ad.export.speed import summary_lines

    if "speed" in record:
        console.print("\n".join(map(escape, summary_lines(record["speed"]))), soft_wrap=True)
        return
    kind = record["precision"].upper()
    table = Table(
        "metric", "PyTorch" if kind == "FP32" else "FP32", kind, "change, points", title="what the export lost"
    )
    for name, change in record["delta_points"].items():
        if change is not None:
            before, after = record["before"][name], record["after"][name]
            table.add_row(name, f"{100 * before:.2f}", f"{100 * after:.2f}", f"{change:+.2f}")
    normals = record["normals"]
    rank = normals["rank_correlation"]
    table.add_row("score rank correlation on normals", "", "" if rank is None else f"{rank:.4f}", "")
    table.add_row("pixel-score correlation on normals", "", f"{normals['pixel_correlation']:.5f}", "")
    table.add_row("largest error of an image score", "", f"{normals['errors']['image_score']['1.0']:.2g}", "")
    sizes = list(record["bytes"].values())
    table.add_row("size, MB", f"{sizes[0] / 1e6:.1f}", f"{sizes[-1] / 1e6:.1f}", "")
    console.print(table)
    if record.get("left_in_float"):
        console.print(f"left in float: {', '.join(record['left_in_float'])}")
    if record["accepted_loss"]:
        console.print(f"[bold red]accepted although:[/] {'; '.join(record['reasons'])}")
