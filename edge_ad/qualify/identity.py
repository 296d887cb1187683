"""Which detector, software, machine and photos a report is of, and a signature that it was not changed since."""

from __future__ import annotations

import datetime
import getpass
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_ad import __version__
from edge_ad.artifact import MANIFEST, Artifact, hash_file, photo_key
from edge_ad.errors import DataError
from edge_ad.runtime.engines.runner import Runner

PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "openvino", "tensorrt", "scipy")
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
        "measured_by": f"{_user()}@{socket.gethostname()}",
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        return f"uid {os.getuid()}"


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
