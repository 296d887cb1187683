"""`edgead bench model`: rows with percentiles, taken in turns, appended to one CSV file."""

import csv
import json

import pytest

from edge_ad.bench.model import FIELDS, measure
from edge_ad.bench.rows import append_rows
from edge_ad.cli.bench_model import command


def test_rows_and_table(small_artifact, tmp_path, capsys):
    small_artifact.add("model.int8.onnx", small_artifact.file("model.onnx"))
    out = tmp_path / "results" / "model.csv"
    backends = "onnxruntime-cpu,onnxruntime-cuda"
    command(small_artifact.path, [1], backends, rounds=3, torch_reference=False, out=out)
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    assert [(row["backend"], row["precision"]) for row in rows] == [
        ("onnxruntime-cpu", "fp32"),
        ("onnxruntime-cpu", "int8"),
    ]
    assert all(0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"] for row in rows)
    assert all(set(row) == set(FIELDS) for row in rows)
    assert "left out onnxruntime-cuda" in captured.err
    append_rows(out, rows, FIELDS)
    with out.open() as file:
        assert len(list(csv.DictReader(file))) == 4


def test_ratio_is_of_medians(small_artifact, monkeypatch):
    clock = iter([0.0, 0.010, 0.0, 0.004] * 3)
    monkeypatch.setattr("edge_ad.bench.model.time.perf_counter", lambda: next(clock))
    runs = {("torch", "fp32"): lambda: None, ("openvino", "fp32"): lambda: None}
    first, second = measure(small_artifact, runs, 2, 3)
    assert first["ratio_to_torch"] == 1
    assert second["ratio_to_torch"] == pytest.approx(0.4)
    assert second["p50_ms"] == pytest.approx(4)
