"""`edgead bench kernels|model|run`: each is in a file of its own, imported only when it is the one asked for."""

from __future__ import annotations

import importlib

import typer

app = typer.Typer(no_args_is_help=True)
_BENCHES = {
    "kernels": "Time the kernels against copying memory, plain torch, torch.compile and NumPy.",
    "model": "Time a detector's forward, by backend and precision.",
    "run": "Time the running loop, from frame to verdict.",
}
# The options belong to the file behind the name, which also answers --help.
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _hand_over(context: typer.Context) -> None:
    name = str(context.info_name)
    command = importlib.import_module(f"edge_ad.cli.bench_{name}").command
    verb = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    verb.command()(command)
    code = verb(args=context.args, prog_name=f"edgead bench {name}", standalone_mode=False)
    if code:
        raise typer.Exit(code)


for _name, _text in _BENCHES.items():
    app.command(_name, help=_text, context_settings=_PASS_ON, add_help_option=False)(_hand_over)
