"""Which detector, software, machine and photos a report is of, and a signature that it was not changed since."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_ad import __version__
from edge_ad.artifact import MANIFEST, Artifact, hash_file, photo_key
from edge_ad.data.changes import changes, person
from edge_ad.data.feedback import entries
from edge_ad.errors import DataError
from edge_ad.runtime.engines.runner import Runner
from edge_ad.runtime.sinks.store import read_events

PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "openvino", "tensorrt", "scipy")
EVENTS = 10_000  # of a store, the newest
ROUTINE = ("golden-due", "golden-part", "golden-passed")  # kinds of events that are counted only
ON_PAGE = ("labelled", "drift-acknowledged")
PROOF = ("sha256", "signature", "public_key")


def identity(artifact: Artifact, runner: Runner, photos: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Hashes of the artifact, its files, its settings and the photos; engine, software, machine, person, time.

    photos: by what they were used for; each set's hash is over the sorted hashes of its files.
    """
    manifest = artifact.manifest
    return {
        "artifact": manifest.name,
        "artifact_sha256": artifact.digest(),
        "manifest_sha256": hash_file(artifact.path / MANIFEST)[0],
        "files": {name: record.sha256 for name, record in sorted(manifest.files.items())},
        "trained": manifest.created,
        "trained_with": manifest.edge_ad,
        "teacher": manifest.teacher,
        "calibration": {
            k: v for k, v in (manifest.calibration or {}).items() if k not in ("score_quantiles", "per_class")
        },
        "engine": runner.name,
        "software": {"edge_ad": __version__, "python": platform.python_version(), **_versions()},
        "machine": {"system": platform.platform(), "processor": platform.processor(), "cores": os.cpu_count()},
        "photos": {name: _photo_set(paths) for name, paths in photos.items() if paths},
        "measured": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "measured_by": person(),
    }


def accepted(artifact: Artifact, store: Path | None) -> dict[str, Any]:
    """Who accepted what, when: the artifact's changes, its feedback, and what was done on the line, oldest first.

    store: of the line that judges by it; None for none. routine: how often golden parts were shown and judged right,
    by kind of event. DataError: there is no such store.
    """
    rows = [
        {"time": one.time, "by": one.by, "kind": one.kind, "text": one.text} for one in changes(artifact.manifest)
    ]
    for kind, what in (("bad", "confirmed miss filed"), ("good", "rejected good part filed")):
        for entry in entries(artifact.path, kind):  # type: ignore[arg-type]
            known = entry.known
            text = f"{entry.name}{f': {known.note}' if known.note else ''}"
            rows.append({"time": known.time, "by": known.by, "kind": what, "text": text})
    routine: dict[str, int] = {}
    for event in [] if store is None else read_events(store, EVENTS):
        if event.kind in ROUTINE:
            routine[event.kind] = routine.get(event.kind, 0) + 1
            continue
        when = datetime.datetime.fromtimestamp(event.time_ns / 1e9, datetime.timezone.utc)
        by = event.facts.get("by") or ("operator page" if event.kind in ON_PAGE else "the line")
        where = f"{event.source}: " if event.source else ""
        rows.append(
            {"time": when.isoformat(timespec="seconds"), "by": by, "kind": event.kind, "text": where + event.text}
        )
    return {
        "store": None if store is None else str(store),
        "rows": sorted(rows, key=lambda row: str(row["time"])),
        "routine": routine,
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _photo_set(paths: Sequence[Path]) -> dict[str, Any]:
    keys = sorted(photo_key(path) for path in paths)
    return {
        "count": len(keys),
        "different": len(set(keys)),
        "sha256": hashlib.sha256("\n".join(keys).encode()).hexdigest(),
    }


def sign_report(report: Mapping[str, Any], key: Path | None = None) -> dict[str, Any]:
    """The report with its SHA-256, and with a private key (PEM, Ed25519) its signature. DataError: no such key."""
    plain = json.loads(json.dumps({k: v for k, v in report.items() if k not in PROOF}))
    content = _canonical(plain)
    proof = {"sha256": hashlib.sha256(content).hexdigest()}
    if key is not None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415  (extra)
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

        try:
            private = load_pem_private_key(key.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"can't sign with {key}: {error}", "make a key: " + HOW_TO_KEY) from error
        if not isinstance(private, Ed25519PrivateKey):
            raise DataError(f"{key} is no Ed25519 key", "make one: " + HOW_TO_KEY)
        proof["signature"] = private.sign(content).hex()
        proof["public_key"] = private.public_key().public_bytes_raw().hex()
    return plain | proof


HOW_TO_KEY = "openssl genpkey -algorithm ed25519 -out key.pem"


def verify(report: Mapping[str, Any], expected: str | None = None) -> str:
    """What may be said of a report that was not changed, in a sentence.

    expected: the public key that must have signed it, 64 hex digits. DataError: the report was changed since, was
    not signed though a key is expected, or was signed by another.
    """
    content = _canonical({k: v for k, v in report.items() if k not in PROOF})
    hint = "measure again, or ask whoever gave it to you for the original"
    if hashlib.sha256(content).hexdigest() != report.get("sha256"):
        raise DataError("the report was changed after it was written: its SHA-256 is another", hint)
    if "signature" not in report:
        if expected:
            raise DataError("the report is not signed", hint)
        return f"unchanged (SHA-256 {report['sha256']}), not signed: anybody could have written it"
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  (extra)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(report["public_key"]))
        public.verify(bytes.fromhex(report["signature"]), content)
    except (InvalidSignature, ValueError, KeyError) as error:
        raise DataError("the report's signature does not fit its content", hint) from error
    if expected and expected.lower() != report["public_key"].lower():
        raise DataError(f"the report was signed by {report['public_key']}, not by {expected}", hint)
    return f"unchanged since it was signed with the key {report['public_key']}" + (
        "" if expected else ": compare the key with the signer's, or give --key"
    )


def _canonical(report: Mapping[str, Any]) -> bytes:
    return json.dumps(report, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
