"""What FP32, FP16 and INT8 score on a category with ONNX Runtime and OpenVINO: rows for export_accuracy.csv.

    python tests/benchmarks/export_accuracy.py PART DATA --out tests/benchmarks/results/export_accuracy.csv

PART is copied; graphs are written anew and judged as `edgead export` does. Ranges come from DATA's training photos.
--keep FOLDER leaves the copy there, for `edgead bench model`; --as-is judges PART's own graphs and writes none.
--level 127 writes INT8 with 8-bit weights (past quantize.SAFE_LEVEL) with only the layers of --skip in float:
and shows what that costs on this machine. Its rows say "int8 to 127".
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.util
import math
import shutil
import sys
import tempfile
from pathlib import Path

from edge_ad.artifact import Artifact
from edge_ad.bench.rows import append_rows, device_name, revision, version_of
from edge_ad.export import quantize
from edge_ad.export.compare import compare
from edge_ad.export.gate import ALL_METRICS
from edge_ad.export.job import ExportOptions, export_precision
from edge_ad.export.targets import load_normals, metrics_on
from edge_ad.runtime.engines.opening import open_runner
from edge_ad.runtime.engines.runner import GRAPHS

FIELDS = (
    "date", "revision", "device", "category", "backend", "precision", "versions", "shape", "bytes", "left_in_float",
    *ALL_METRICS, *(f"{name}_points" for name in ALL_METRICS), "rank_correlation", "pixel_correlation", "score_error",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=32, help="normals to measure on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precisions", default=",".join(GRAPHS), help="separated by commas; fp32 is always written")
    parser.add_argument("--backends", default="onnxruntime-cpu,openvino", help="separated by commas")
    parser.add_argument("--keep", type=Path, help="where to leave the copy of PART")
    parser.add_argument("--level", type=int, default=quantize.SAFE_LEVEL, help="largest whole number of a weight")
    parser.add_argument("--skip", default="", help="layers to leave in float, separated by blanks; for --level")
    parser.add_argument("--as-is", action="store_true", help="judge PART's own graphs")
    given = parser.parse_args()
    options = ExportOptions(threads=given.threads)
    forbidden = given.level != quantize.SAFE_LEVEL
    if forbidden:
        quantize.SAFE_LEVEL = given.level
        skip = tuple(given.skip.split())
        options = dataclasses.replace(options, skip=skip, error_budget=math.inf, accept_loss=True)
    precisions = [name for name in GRAPHS if name == "fp32" or name in given.precisions.split(",")]
    backends = [
        name for name in given.backends.split(",")
        if not name.startswith("openvino") or importlib.util.find_spec("openvino")
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        copy = given.part if given.as_is else shutil.copytree(given.part, given.keep or Path(folder) / "part")
        artifact = Artifact.open(copy)
        normals = load_normals(artifact, given.data / "train", given.images)
        measured = metrics_on(artifact, given.data)
        for precision in () if given.as_is else precisions:
            export_precision(artifact, precision, normals, options=options)
            print(f"wrote {precision}", file=sys.stderr)
        held = [image[None] for image in normals[len(normals) // 2 :]]
        reference = open_runner(artifact, "onnxruntime-cpu", "fp32", given.threads)
        before = measured(reference)
        for backend in backends:
            for precision, name in GRAPHS.items():
                if precision not in given.precisions.split(","):
                    continue
                runner = open_runner(artifact, backend, precision, given.threads)
                after = before if (backend, precision) == ("onnxruntime-cpu", "fp32") else measured(runner)
                apart = compare(reference, runner, held)
                floats = artifact.manifest.reports.get(f"export.{precision}", {}).get("left_in_float", ())
                row = {
                    "date": datetime.date.today().isoformat(), "revision": revision(), "device": device_name(),
                    "category": " ".join(artifact.manifest.classes), "backend": backend,
                    "precision": precision + (f" to {given.level}" if forbidden and precision == "int8" else ""),
                    "versions": version_of(backend), "shape": "x".join(map(str, runner.image_size)),
                    "bytes": artifact.manifest.files[name].bytes, "left_in_float": " ".join(floats),
                    "rank_correlation": f"{apart.rank_correlation:.4f}",
                    "pixel_correlation": f"{apart.pixel_correlation:.5f}",
                    "score_error": f"{apart.errors['image_score'][-1]:.2g}",
                }  # fmt: skip
                for key in ALL_METRICS:
                    known = after[key] is not None and before[key] is not None  # there may be no masks
                    row[key] = f"{100 * after[key]:.3f}" if known else ""
                    row[f"{key}_points"] = f"{100 * (after[key] - before[key]):.3f}" if known else ""
                append_rows(given.out, [row], FIELDS)
                print(backend, precision, {key: row[key] for key in ALL_METRICS}, file=sys.stderr)
                runner.close()


if __name__ == "__main__":
    main()
