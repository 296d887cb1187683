"""`edgead bench kernels|model|run|train`: each is in a file of its own."""

from __future__ import annotations

import typer

from edge_ad.cli import bench_kernels, bench_model, bench_run, bench_train

app = typer.Typer(no_args_is_help=True)
app.command("kernels")(bench_kernels.command)
app.command("model")(bench_model.command)
app.command("run")(bench_run.command)
app.command("train")(bench_train.command)
