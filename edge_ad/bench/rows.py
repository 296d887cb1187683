"""Rows of measurements: on what machine and revision, and the CSV file they go to."""

from __future__ import annotations

import csv
import functools
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any


def append_rows(path: Path | None, rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> None:
    """Add rows to a CSV file with these columns, which is made when missing; without a file, print them."""
    if path is None:
        writer = csv.DictWriter(sys.stdout, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def version_of(backend: str) -> str:
    """Package and version behind a backend's name."""
    package = backend.split("-")[0]
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


def device_name() -> str:
    """The CPU's name, and how many of its cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"


@functools.cache
def revision() -> str:
    """The checkout's commit, with + if files differ from it; empty outside of a checkout."""
    run = functools.partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    try:
        commit = run(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
        return commit + ("+" if commit and run(["git", "diff", "--quiet", "HEAD"]).returncode else "")
    except OSError:
        return ""
