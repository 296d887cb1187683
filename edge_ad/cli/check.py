"""`edgead check DATA`: what is in a data folder, and can it be trained on?"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from edge_ad.data.checkup import Checkup
    from edge_ad.pipeline.outliers import Outlier


def command(
    data: Annotated[Path, typer.Argument(help="Folder of photos: MVTec AD, VisA or MPDD layout, or plain.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    unlike: Annotated[
        bool, typer.Option("--unlike", help="Also find good photos that look like no other (needs PyTorch, minutes).")
    ] = False,
    weights: Annotated[
        str | None, typer.Option(help="With --unlike: the teacher's weights, as `edgead train` takes them.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Files to name for each kind of finding; 0 for all.")] = 8,
) -> None:
    """Report what is in a data folder: counts, sizes, broken, double and odd photos, missing masks.

    Exits with 1 when it can't be trained on.
    """
    from edge_ad.data.checkup import check_up
    from edge_ad.data.samples import scan
    from edge_ad.errors import DataError

    checkup = check_up(scan(data))
    outliers = _find_outliers(data, weights) if unlike and checkup.trainable else []
    if as_json:
        more = {"unlike": [one._asdict() | {"path": str(one.path)} for one in outliers]} if unlike else {}
        typer.echo(json.dumps(checkup.to_dict() | more, indent=1))
    else:
        _print(checkup, data, show or 10**9)
        if unlike:
            _print_outliers(outliers, data, show or 10**9)
    if not checkup.trainable:
        raise DataError(
            f"{data} can't be trained on: {'; '.join(checkup.obstacles)}",
            "add photos of good parts, or repair the files named above",
        )


def _find_outliers(data: Path, weights: str | None) -> list[Outlier]:
    from rich.console import Console
    from rich.progress import Progress

    from edge_ad.model.frame_features import frame_features
    from edge_ad.pipeline.outliers import find_outliers
    from edge_ad.training.photos import find_photos

    photos = find_photos([data])
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("comparing each photo with all others", total=len(photos.samples))
        features = frame_features(weights, photos.median_size())
        return find_outliers(photos, features, lambda: progress.advance(task))


def _print_outliers(outliers: list[Outlier], data: Path, show: int) -> None:
    from rich.console import Console
    from rich.markup import escape

    from edge_ad.cli import in_one_line

    console = Console(highlight=False, soft_wrap=True)
    if not outliers:
        console.print("every good photo looks like others")
        return
    console.print(f"[bold yellow]good photos that look like no other, look at them: {len(outliers)}[/]")
    for one in outliers[:show]:
        times = f"{one.distance / one.usual:.1f} times as far from its nearest as usual among {one.photos}"
        where = one.path.relative_to(data) if one.path.is_relative_to(data) else one.path
        console.print(f"  {escape(in_one_line(str(where)))}: {times}")


def _print(checkup: Checkup, data: Path, show: int) -> None:
    from rich.console import Console
    from rich.markup import escape

    from edge_ad.cli import in_one_line

    console = Console(highlight=False, soft_wrap=True)
    console.print(_table(checkup))
    console.print("[bold]folders[/]")
    for use in checkup.folders:
        console.print(f"  {escape(in_one_line(use.line(data)))}")
    for one in checkup.categories:
        if len(one.defects) > 1:
            kinds = ", ".join(f"{kind} {count}" for kind, count in one.defects.items())
            console.print(f"[dim]{escape(one.name)}:[/] {escape(kinds)}")

    def findings(title: str, lines: Iterable[str], colour: str) -> None:
        listed = list(lines)
        if listed:
            console.print(f"[bold {colour}]{title}: {len(listed)}[/]")
            for line in listed[:show]:
                console.print(f"  {escape(in_one_line(line))}")
            if len(listed) > show:
                console.print(f"  [dim]... and {len(listed) - show} more (--show 0 names all)[/]")

    def named(path: Path) -> str:
        return str(path.relative_to(data)) if path.is_relative_to(data) else str(path)

    findings("broken, left out", (f"{named(p.path)}: {p.reason}" for p in checkup.broken), "red")
    findings("not used", (f"{named(p.path)}: {p.reason}" for p in checkup.unused if p.path.is_file()), "yellow")
    findings("masks", (f"{named(p.path)}: {p.reason}" for p in checkup.masks), "yellow")
    findings("photos set apart that are also in train", map(named, checkup.leaks), "red")
    findings("identical photos", (" = ".join(map(named, group)) for group in checkup.copies), "yellow")
    findings("nearly identical photos", (" ~ ".join(map(named, group)) for group in checkup.near_copies), "yellow")
    findings("odd photos", (f"{named(p.path)}: {p.reason}" for p in checkup.odd), "yellow")
    findings("notes", checkup.notes, "cyan")
    if checkup.trainable:
        console.print("[bold green]can be trained on[/]")


def _table(checkup: Checkup) -> Table:
    """A row for each category: how many photos of what, their size and brightness."""
    from rich.markup import escape
    from rich.table import Table

    title = f"{escape(checkup.name)}, {checkup.layout} layout; train, test: good photos"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("category", no_wrap=True)
    apart = any(one.set_apart for one in checkup.categories)
    for column in ("train", *(["set apart"] if apart else []), "test", "defects", "masks"):
        table.add_column(column, justify="right")
    table.add_column("H x W", no_wrap=True)
    table.add_column("gray", justify="right", no_wrap=True)
    for one in checkup.categories:
        sizes = list(one.sizes)
        more = f" +{len(sizes) - 1}" if len(sizes) > 1 else ""
        cells = (
            one.train,
            *([one.set_apart] if apart else []),
            one.test_good,
            sum(one.defects.values()),
            one.with_mask,
        )
        table.add_row(
            escape(one.name),
            *map(str, cells),
            f"{sizes[0] if sizes else '-'}{more}",
            "{} ± {}".format(*one.brightness),
        )
    return table
