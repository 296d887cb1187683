"""Changes: who set an artifact's threshold, promoted it or took out a confirmed miss, and when.

They are kept in the manifest, travel with copies, and `edgead qualify` prints them. What people did on a running line
is in its store (edge_ad.runtime.sinks.store).
"""

from __future__ import annotations

import datetime
import getpass
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_ad.artifact import Artifact, Manifest
from edge_ad.config import read_section

CHANGES = "changes"  # of the manifest's reports


@dataclass(frozen=True)
class Change:
    """time: ISO 8601, UTC. by: user@machine. kind: calibrate, promote or forget. text: for people. artifact: the
    first 16 digits of the digest it was done to."""

    time: str
    by: str
    kind: str
    text: str
    artifact: str = ""


def changes(manifest: Manifest) -> list[Change]:
    """What was done, oldest first. ConfigError: the manifest holds something else."""
    return [read_section(Change, dict(row), CHANGES) for row in manifest.reports.get(CHANGES, ())]


def change(artifact: Artifact, kind: str, text: str, by: str = "") -> Change:
    """A change that is made now. by: default: whoever runs this process."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return Change(now, by or person(), kind, text, artifact.digest()[:16])


def as_report(known: Iterable[Change]) -> dict[str, Any]:
    """The changes for the manifest's `reports`, by time, each once."""
    rows: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for one in sorted(known, key=lambda one: one.time):
        rows[tuple(asdict(one).values())] = asdict(one)
    return {CHANGES: list(rows.values())}


def add_change(artifact: Artifact, kind: str, text: str, by: str = "") -> None:
    """Write a change that was just made into the artifact."""
    artifact.update(reports=as_report([*changes(artifact.manifest), change(artifact, kind, text, by)]))


def user() -> str:
    """The account's name, or its number where it has none, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def person() -> str:
    """The account and the machine of this process."""
    return f"{user()}@{socket.gethostname()}"
