"""The artifact's graphs in ONNX Runtime's CUDA provider, and `edgead run` with it on a video: rows for a CSV file.

    python tests/benchmarks/onnxruntime_cuda.py ARTIFACT [--video FILE] [--out FILE]

Each graph that the artifact has (FP32, FP16, INT8) is held against the CPU provider's scores on the same pictures,
timed, and asked which of its nodes the provider left to the CPU: each of those costs two copies. --device cpu tries
the script itself where there is no GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edge_ad.artifact import Artifact
from edge_ad.bench.rows import append_rows, device_name, revision
from edge_ad.errors import EdgeAdError
from edge_ad.export.compare import compare
from edge_ad.runtime.engines.onnxruntime import DEVICES, OnnxRuntimeRunner, _providers
from edge_ad.runtime.engines.runner import GRAPHS

FIELDS = (
    "date", "revision", "device", "versions", "what", "precision", "batch", "p20_ms", "p50_ms", "p80_ms",
    "pixel_correlation", "score_error", "nodes_on_device", "nodes_on_cpu", "left_to_cpu",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--batches", default="1,8,32")
    given = parser.parse_args()
    artifact, rows = Artifact.open(given.artifact), []
    for precision, name in GRAPHS.items():
        if not artifact.has(name):
            print(f"no {name}: left out", file=sys.stderr)
            continue
        try:
            rows += graph_rows(artifact.file(name), precision, given)
        except EdgeAdError as error:
            print(f"{precision}: {error}", file=sys.stderr)
    if given.video is not None:
        rows += [video_row(given)]
    append_rows(given.out, rows, FIELDS)


def common(given: argparse.Namespace, what: str, precision: str, batch: int, taken_ms: list[float]) -> dict[str, Any]:
    """What every row has."""
    p20, p50, p80 = (round(float(value), 3) for value in np.percentile(taken_ms, (20, 50, 80)))
    return {
        "date": datetime.date.today().isoformat(),
        "revision": revision(),
        "device": gpu_name() if given.device == "cuda" else device_name(),
        "versions": f"onnxruntime {onnxruntime.__version__}",
        "what": what,
        "precision": precision,
        "batch": batch,
        "p20_ms": p20,
        "p50_ms": p50,
        "p80_ms": p80,
    }


def graph_rows(graph: Path, precision: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a batch size."""
    runner = OnnxRuntimeRunner(graph, given.device, precision)
    plain = OnnxRuntimeRunner(graph, "cpu", precision)
    height, width = runner.image_size
    images = np.random.default_rng(0).normal(size=(8, 3, height, width)).astype(np.float32)
    found = compare(plain, runner, (image[None] for image in images))
    nodes = nodes_by_provider(graph, given.device, images[:1])
    left = [name for kind, names in nodes.items() if kind != DEVICES[given.device] for name in names]
    rows = []
    for batch in map(int, given.batches.split(",")):
        many = np.repeat(images[:1], batch, 0)
        taken = []
        for number in range(10 + max(10, given.rounds // batch)):
            start = time.perf_counter()
            runner(many)
            if number >= 10:
                taken.append(1000 * (time.perf_counter() - start))
        row = common(given, "graph", precision, batch, taken)
        rows.append(row | {
            "pixel_correlation": round(found.pixel_correlation, 6),
            "score_error": f"{found.errors['image_score'][-1]:.3g}",
            "nodes_on_device": sum(map(len, nodes.values())) - len(left),
            "nodes_on_cpu": len(left),
            "left_to_cpu": " ".join(f"{count} {kind}" for kind, count in Counter(left).most_common(6)),
        })  # fmt: skip
    runner.close()
    plain.close()
    return rows


def nodes_by_provider(graph: Path, device: str, images: np.ndarray) -> dict[str, list[str]]:
    """Execution provider -> kinds of the nodes that ran in it, by ONNX Runtime's own profile."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            str(graph), options, providers=_providers(device), disabled_optimizers=["CommonSubexpressionElimination"]
        )
        session.run(None, {"images": images})
        events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[str, list[str]] = {}
    for event in events:
        details = event.get("args", {})
        if event.get("name", "").endswith("_kernel_time") and "provider" in details:
            found.setdefault(details["provider"], []).append(details["op_name"])
    return found


def video_row(given: argparse.Namespace) -> dict[str, Any]:
    """Latency of `edgead run` on the video, by its own verdicts."""
    backend = f"onnxruntime-{given.device}"
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable, "-m", "edge_ad", "run", given.artifact, "--source", given.video, "--backend", backend,
            "--headless", "--json", "--out", out,
        ]  # fmt: skip
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"edgead run failed: {done.stderr}")
    print(done.stderr, file=sys.stderr)
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    taken = [verdict["latency_ms"]["total"] for verdict in verdicts]
    return common(given, f"run, {len(verdicts)} frames", verdicts[0]["engine"].split()[-1], 1, taken)


def gpu_name() -> str:
    """The first GPU's name."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]


if __name__ == "__main__":
    main()
