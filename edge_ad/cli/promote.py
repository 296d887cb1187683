"""`edgead promote`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edge_ad.pipeline.promote import Check


def command(
    name: Annotated[
        str, typer.Argument(help="The new detector, by path or name.  [default: the one trained last]")
    ] = "",
    to: Annotated[str, typer.Option(help="Whose place it takes.  [default: the current one's]")] = "",
    normals: Annotated[
        Path | None,
        typer.Option(help="Good parts to check the threshold on.  [default: those that training held out]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Promote it although a check fails.")] = False,
) -> None:
    """Check a newly trained detector and put it in the place of the one on the line.

    It must load with every file intact, pass its self-test, keep its threshold's promise on good parts, and catch
    every confirmed miss. Running lines pick it up without missing a part. The detector that it replaces is kept as
    NAME-earlier, and `edgead promote NAME-earlier` goes back to it.
    """
    from rich.console import Console

    from edge_ad.errors import ArtifactError
    from edge_ad.pipeline.promote import promote
    from edge_ad.workspace import Workspace, describe

    console = Console(stderr=True, highlight=False)
    workspace = Workspace()
    if not name and workspace.candidate is None:
        raise ArtifactError(
            "there is nothing to promote: no detector was trained since the current one",
            "`edgead train` makes one; `edgead promote NAME` takes any other; `edgead list` shows them",
        )
    candidate = workspace.find(name)
    place = workspace.find(to or None, on_line=True)
    console.print(f"checking {describe(candidate)}", markup=False, soft_wrap=True)

    def show(check: Check) -> None:
        word = {True: "[green]yes[/]", False: "[bold red]no [/]", None: "[yellow]?  [/]"}[check.passed]
        console.print(f"  {word}  {check.name}: ", end="", soft_wrap=True)
        console.print(check.says, markup=False, soft_wrap=True)

    done = promote(candidate, place, normals=normals, force=force, on_check=show)
    if not to:
        workspace.promoted(done.place)
    kept = f"; the earlier one is kept as {done.earlier}" if done.earlier else ""
    console.print(f"promoted: {candidate} is now {done.place}{kept}", markup=False, soft_wrap=True)
    typer.echo(str(done.place))
