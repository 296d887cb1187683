"""The engine that was measured to be fastest, remembered for an artifact on this machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from contextlib import suppress
from pathlib import Path

from edge_ad.artifact import Artifact, write_atomically
from edge_ad.config import cache_folder
from edge_ad.errors import ArtifactError
from edge_ad.runtime.engines.runner import GRAPHS, Precision, default_threads

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")


def load_choice(artifact: Artifact, threads: int | None) -> tuple[str, Precision] | None:
    """Backend and precision as remembered; None where nothing, or nothing usable, was."""
    try:
        stored = json.loads(_file(artifact, threads).read_text(encoding="utf-8"))
        backend, precision = str(stored["backend"]), stored["precision"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (backend, precision) if precision in GRAPHS and artifact.has(GRAPHS[precision]) else None


def save_choice(artifact: Artifact, threads: int | None, backend: str, precision: Precision) -> None:
    """Keep it for the next time; a cache that can't be written is no error, the engines are measured again then."""
    target = _file(artifact, threads)
    with suppress(OSError, ArtifactError):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, json.dumps({"backend": backend, "precision": precision}).encode())


def _file(artifact: Artifact, threads: int | None) -> Path:
    """Named after all that the choice depends on."""
    facts = (artifact.digest(), _processor(), default_threads(threads), *map(_version, PACKAGES))
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
    return cache_folder() / "engines" / f"{key}.json"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    """Model and instruction sets: some machines name only the family."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        kept = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
        return "\n".join(sorted(kept))
    return f"{platform.machine()} {platform.processor()} {os.cpu_count()}"
