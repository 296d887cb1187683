"""`edgead VERB`: one file a verb, imported only when the verb is used, so that `--help` needs nothing heavy."""

from __future__ import annotations

import importlib
import io
import sys

import typer
from rich.console import Console
from rich.markup import escape

from edge_ad import __version__
from edge_ad.errors import EdgeAdError

# verb -> what `edgead --help` says of it. The module edge_ad.cli.<verb> holds a function `command`,
# or a Typer `app` where the verb has verbs of its own.
VERBS = {
    "demo": "Show the whole path on real pictures.",
    "check": "Report what is in a data folder and whether it can be trained on.",
    "synth": "Write synthetic defects: images, masks and a contact sheet.",
    "train": "Train a detector on photos of good parts.",
    "eval": "Measure a detector on labelled images.",
    "calibrate": "Set the threshold from photos of good parts, with a stated false-alarm rate.",
    "feedback": "File a defect that was missed or a good part that was rejected, and check that misses are caught.",
    "qualify": "Prove what it finds, how surely and how steadily: one report for quality and audit.",
    "export": "Write FP16, INT8 and engine files into the artifact.",
    "list": "Show the detectors of this folder, and which one is current.",
    "use": "Choose the detector that the other verbs take when none is named.",
    "promote": "Check a newly trained detector and put it in the place of the one on the line.",
    "explain": "Say why a photo got its score, beside the nearest patch of a good part.",
    "compare": "Run two engines or precisions on the same photos.",
    "run": "Inspect a camera, video or folder and record every verdict.",
    "bench": "Time kernels, models and the running loop.",
    "doctor": "Say what this machine can run and what is missing.",
    "ablate": "Rerun the paper's ablation table.",
}


def build_app(verb: str | None) -> typer.Typer:
    """The command line with `verb` loaded; the other verbs are only names with a help text."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name, text in VERBS.items():
        if name != verb:
            app.command(name, help=text)(_not_loaded)
            continue
        module = importlib.import_module(f"edge_ad.cli.{name}")
        if hasattr(module, "command"):
            app.command(name, help=module.command.__doc__ or text)(module.command)
        else:
            app.add_typer(module.app, name=name, help=text, no_args_is_help=True)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit with 0 when all went well, 1 on an error, 2 on wrong usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding lacks is spelt out
            stream.reconfigure(errors="backslashreplace")
    verb = next((argument for argument in arguments if not argument.startswith("-")), None)
    console = Console(stderr=True, highlight=False)
    try:
        result = build_app(verb if verb in VERBS else None)(args=arguments, prog_name="edgead", standalone_mode=False)
    except Exception as error:
        if "--debug" in arguments[: arguments.index(verb)] if verb else False:
            raise
        raise SystemExit(_report(error, console)) from error
    except KeyboardInterrupt as stop:
        raise SystemExit(130) from stop
    raise SystemExit(result if isinstance(result, int) else 0)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgead {__version__}")
        raise typer.Exit


def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(
        False, "--version", help="Print the version and stop.", is_eager=True, callback=_print_version
    ),
) -> None:
    """From a folder of good-part photos to an inspector running on the line."""
    del debug, version  # read by main and by the option's callback


def _not_loaded() -> None:
    raise AssertionError("a verb runs only after its module was loaded")


def _report(error: Exception, console: Console) -> int:
    """Print the error in a line (and a hint); return the exit code."""
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # wrong usage, as Typer's parser says it
        error.show()
        return int(error.exit_code)
    if isinstance(error, typer.Abort):
        return 130
    if isinstance(error, EdgeAdError):
        message, hint = error.message, error.hint
    elif isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        message, hint = f"{where}{error.strerror}", "check the path, its rights and the free space"
    else:
        message, hint = f"{type(error).__name__}: {error}", "run `edgead --debug ...` to see where"
    console.print(f"[bold red]error:[/] {escape(in_one_line(message))}", soft_wrap=True)
    if hint:
        console.print(f"[bold cyan]hint:[/] {escape(in_one_line(hint))}", soft_wrap=True)
    return 1


def in_one_line(text: str) -> str:
    """The text without line breaks and terminal codes, which file names may hold: they are spelt out."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
