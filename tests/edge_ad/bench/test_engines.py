"""Graphs in the engines of this machine: their table, and what a cycle time says to it."""

from dataclasses import replace

import numpy as np

from edge_ad.bench.engines import EngineRow, advise, measure_engines
from edge_ad.calibrate.golden import add_golden
from edge_ad.errors import BackendError
from edge_ad.runtime.engines import onnxruntime as engine
from edge_ad.runtime.engines.runner import GraphRunner


def normals_of(artifact, frames):
    how = artifact.manifest.preprocessing
    scaled = (np.stack(frames) / np.float32(255) - np.float32(how.mean)) / np.float32(how.std)
    return list(scaled.transpose(0, 3, 1, 2).astype(np.float32))


def test_every_graph_has_a_row_with_its_self_test(small_artifact, parts, monkeypatch):
    small_artifact.add("model.int8.onnx", small_artifact.file("model.onnx"))
    untested = measure_engines(small_artifact, threads=1, pictures=2)
    assert {row.state for row in untested if row.backend == "onnxruntime-cpu"} == {"untested"}
    add_golden(small_artifact, normals_of(small_artifact, parts[0][:2]))
    honest = GraphRunner.__call__
    wrong = "onnxruntime-cpu int8"
    monkeypatch.setattr(
        GraphRunner,
        "__call__",
        lambda self, images: (
            honest(self, images)._replace(pixel_scores=np.zeros((len(images), 256, 256), np.float32))
            if self.name == wrong
            else honest(self, images)
        ),
    )
    rows = {
        (row.backend, row.precision): row for row in measure_engines(small_artifact, 1, 2, "onnxruntime-cpu fp32")
    }
    good, bad = rows["onnxruntime-cpu", "fp32"], rows["onnxruntime-cpu", "int8"]
    assert (good.state, bad.state) == ("passed", "failed")
    assert good.current
    assert not bad.current
    assert good.deviation <= good.tolerance < bad.deviation
    assert 0 < good.p50_ms <= good.p99_ms
    assert rows["onnxruntime-cuda", "fp32"].state == "absent"
    assert "CUDA" in rows["onnxruntime-cuda", "fp32"].reason


def test_an_engine_that_breaks_off_is_a_row_too(small_artifact, monkeypatch):
    def fail(self, images):
        raise BackendError("out of memory", "")

    monkeypatch.setattr(engine.OnnxRuntimeRunner, "__call__", fail)
    (row,) = (row for row in measure_engines(small_artifact, 1, 1) if row.backend == "onnxruntime-cpu")
    assert (row.state, row.reason) == ("failed", "out of memory")


ROW = EngineRow("onnxruntime-cpu", "fp32", "passed", 0.0, 0.1, 90.0, 100.0, True)


def test_a_kept_cycle_time_is_said_with_its_figures():
    assert advise([ROW], 200) == "onnxruntime-cpu fp32: p99 100 ms for a cycle of 200 ms: kept"
    assert advise([ROW], 110, other_ms=20).startswith("onnxruntime-cpu fp32: p99 100 ms + 20 ms beside the graph")


def test_what_would_keep_it_is_what_was_measured_to():
    fast = replace(ROW, backend="openvino", precision="int8", p99_ms=40.0, current=False)
    wrong = replace(fast, backend="tensorrt", state="failed", p99_ms=5.0)
    text = advise([ROW, fast, wrong], 50)
    assert "openvino int8 takes 40 ms" in text
    assert "tensorrt" not in text
    text = advise([ROW], 50, tokens=784)
    assert "edgead export --int8" in text
    assert "near 33 ms by estimate" in text
    assert "export --int8" not in advise([ROW, replace(fast, p99_ms=60.0)], 50)
    assert advise([wrong], 50).startswith("no engine here")
