"""`edgead bench kernels|model|run`: each is in a file of its own, imported only when it is the one asked for."""

from __future__ import annotations

import importlib

import typer

app = typer.Typer(no_args_is_help=True)
# The options belong to the file behind the name, which also answers --help.
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("kernels", context_settings=_PASS_ON, add_help_option=False)
def kernels(context: typer.Context) -> None:
    """Time the kernels against copying memory, plain torch, torch.compile and NumPy."""
    _hand_over("kernels", context.args)


@app.command("model", context_settings=_PASS_ON, add_help_option=False)
def model(context: typer.Context) -> None:
    """Time a detector's forward, by backend and precision."""
    _hand_over("model", context.args)


@app.command("run", context_settings=_PASS_ON, add_help_option=False)
def run(context: typer.Context) -> None:
    """Time the running loop, from frame to verdict."""
    _hand_over("run", context.args)


def _hand_over(name: str, arguments: list[str]) -> None:
    command = importlib.import_module(f"edge_ad.cli.bench_{name}").command
    verb = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    verb.command()(command)
    code = verb(args=arguments, prog_name=f"edgead bench {name}", standalone_mode=False)
    if code:
        raise typer.Exit(code)
