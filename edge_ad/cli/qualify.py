"""`edgead qualify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console


def command(
    artifact: Annotated[
        Path | None, typer.Argument(help="Folder that `edgead train` wrote.  [default: the current one]")
    ] = None,
    good: Annotated[
        Path | None, typer.Option(help="Photos of good parts; those that training saw are left out.")
    ] = None,
    bad: Annotated[
        Path | None, typer.Option(help="Photos of defective parts, with masks where there are some.")
    ] = None,
    repeats: Annotated[
        Path | None, typer.Option(help="Parts shown several times: DIR/good/PART/shot.png, DIR/bad/PART/shot.png.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.pdf and report.json.")] = Path(
        "qualification"
    ),
    mm_per_pixel: Annotated[float | None, typer.Option(min=1e-9, help="Size of a pixel on the part.")] = None,
    cycle_ms: Annotated[float | None, typer.Option(min=0, help="Time the line has for a part.")] = None,
    stations: Annotated[int, typer.Option(min=1, help="Stations that ask at once while speed is measured.")] = 1,
    effort: Annotated[
        str, typer.Option(help="quick, normal or thorough: how many photos, marks, strengths.")
    ] = "normal",
    photos: Annotated[
        int | None, typer.Option(min=4, help="Photos a study takes at most.  [default: the effort's]")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=10, help="Test marks for each kind and contrast.  [default: the effort's]")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="Settings of `edgead run`: judge as that line does, straightened, cut, tiled.")
    ] = None,
    station: Annotated[str, typer.Option(help="Which of the settings' stations, where they have several.")] = "",
    product: Annotated[str, typer.Option(help="Whose threshold holds, where the artifact knows several.")] = "",
    store: Annotated[
        Path | None, typer.Option(help="The line's verdicts.sqlite: who released, labelled and changed what, when.")
    ] = None,
    skip: Annotated[str, typer.Option(help="Studies to leave out: probes,map,robustness,speed.")] = "",
    sign: Annotated[Path | None, typer.Option(help="Sign report.json with this Ed25519 key (PEM).")] = None,
    verify: Annotated[Path | None, typer.Option(help="Only check that this report.json was not changed.")] = None,
    key: Annotated[str | None, typer.Option(help="With --verify: the public key that must have signed, hex.")] = None,
    backend: Annotated[str, typer.Option(help="Engine that will inspect.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Measure what a quality engineer and an auditor ask, and write one report: HTML, PDF and JSON.

    How small a defect is found and how sure that is, false alarms, steadiness, robustness, speed, identity.
    """
    from edge_ad.artifact import check_folder
    from edge_ad.cli.chosen import chosen_artifact
    from edge_ad.cli.progress import TerminalProgress
    from edge_ad.errors import ConfigError
    from edge_ad.qualify.qualification import QualifyOptions, qualify, read_report, write_report

    console = Console(stderr=True, highlight=False)
    if verify is not None:
        from edge_ad.qualify.identity import verify as check

        typer.echo(check(read_report(verify), key))
        return
    if good is None:
        raise ConfigError("edgead qualify needs photos of good parts", "add --good DIR, or --verify report.json")
    artifact = chosen_artifact(artifact)
    options = QualifyOptions(
        good, bad, repeats, mm_per_pixel, cycle_ms, stations, photos, trials, settings, station, product,
        tuple(filter(None, skip.split(","))), sign, backend, precision, threads, effort, store,
    )  # fmt: skip
    check_folder(out)
    with TerminalProgress() as progress:
        report = qualify(artifact, options, progress=progress)
    for line in write_report(report, out):
        console.print(line, markup=False)
    console.print(f"written: {out / 'report.html'}, {out / 'report.pdf'}, {out / 'report.json'}", markup=False)
    typer.echo(json.dumps(_brief(report)))


def _brief(report: Any) -> dict[str, Any]:
    """The report without the lists of single trials, for scripts."""
    long = {"sizes", "found", "contrasts", "shown", "places", "files"}

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: short(v) for k, v in value.items() if not (k in long and isinstance(v, (list, dict)))}
        return [short(v) for v in value] if isinstance(value, list) else value

    brief: dict[str, Any] = short(report)
    return brief
