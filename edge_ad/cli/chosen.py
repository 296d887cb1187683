"""The artifact that a verb means, and one line that says which, where none was named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from edge_ad.workspace import Workspace, describe


def chosen_artifact(name: str | Path | None = None, *, on_line: bool = False) -> Path:
    """The artifact's folder: the one named, by path or by its name in detectors/, else the one remembered.

    on_line: for `edgead run`, which goes on with the current one while a candidate isn't promoted, and says so.
    """
    workspace = Workspace()
    path = workspace.find(name, on_line=on_line)
    if name is None or not str(name):
        console = Console(stderr=True, highlight=False)
        console.print(f"using {describe(path)}", markup=False, soft_wrap=True)
        newer = workspace.candidate
        if on_line and newer and newer.exists():
            console.print(
                f"{describe(newer)}, is not promoted: `edgead promote` puts it here, `edgead run {newer.name} ...` "
                "tries it",
                markup=False,
                soft_wrap=True,
            )
    return path


def artifact_and(paths: list[Path] | None, what: str, default: Any = None) -> tuple[Path, Path]:
    """(artifact, the other folder) of a verb that takes both and may leave out the artifact.

    what: names the other folder in messages. default: gives it from the artifact's path, where it was left out too.
    Raises ConfigError for more than two folders, or where the other one is missing and there is no default.
    """
    from edge_ad.artifact import MANIFEST
    from edge_ad.errors import ConfigError

    given = list(paths or ())
    if len(given) > 2:
        raise ConfigError(f"{len(given)} folders were given", f"give [ARTIFACT] {what}")
    alone_is_artifact = len(given) == 1 and (given[0] / MANIFEST).exists()
    artifact = chosen_artifact(given.pop(0) if len(given) == 2 or alone_is_artifact else None)
    if given:
        return artifact, given[0]
    if default is None:
        raise ConfigError(f"no folder of photos was named to use with {artifact}", f"give [ARTIFACT] {what}")
    return artifact, default(artifact)
