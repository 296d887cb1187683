"""`edgead use NAME`."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    name: Annotated[str, typer.Argument(help="A detector by its path, or by its name in detectors/.")] = "",
) -> None:
    """Choose the detector that the other verbs take when none is named; without a name, say which it is.

    The choice is kept in edgead.toml of this folder.
    """
    from edge_ad.workspace import Workspace, describe

    workspace = Workspace()
    if name:
        workspace.use(workspace.find(name))
    path = workspace.find(on_line=True)
    typer.echo(f"using {describe(path)}", err=True)
    typer.echo(str(path))
