"""The speed gate: engines that lose too much are out, the fastest of the others is kept, and by how much is said."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from edge_ad.artifact import Artifact
from edge_ad.cli import main
from edge_ad.data.images import write_image
from edge_ad.errors import BackendError
from edge_ad.export import speed
from edge_ad.export.engine import Built
from edge_ad.export.job import ExportOptions
from edge_ad.export.speed import Candidate, build_fastest, fastest, summary_lines
from edge_ad.runtime.engines.onnxruntime import OnnxRuntimeRunner
from edge_ad.runtime.engines.runner import Outputs
from edge_ad.runtime.engines.tensorrt_build import EngineOptions, EngineRecord, graph_hash

ENGINES = ("FP16", "INT8, attention in FP16", "INT8 throughout")


class Clocked:
    """An FP32 graph on the CPU that plays an engine: each call moves a clock on, scores may be noise."""

    name, image_size = "tensorrt", (64, 64)

    def __init__(self, clock, milliseconds, wrong, graph):
        self.clock, self.milliseconds, self.wrong = clock, milliseconds, wrong
        self.runner, self.closed = OnnxRuntimeRunner(graph, threads=1), False

    def __call__(self, images):
        self.clock.now += self.milliseconds / 1000
        if not images.any():  # of the timing
            return None
        outputs = self.runner(images)
        noise = np.random.default_rng(0).normal(size=outputs.pixel_scores.shape).astype(np.float32)
        return Outputs(outputs.image_score, noise, *outputs[2:]) if self.wrong else outputs

    def close(self):
        self.closed = True


@pytest.fixture
def normals(parts):
    return list(((np.stack(parts[0][:16]) / 255 - 0.5) / 0.25).astype(np.float32).transpose(0, 3, 1, 2))


@pytest.fixture
def device(small_artifact, monkeypatch):
    """`device(milliseconds=…, wrong=…, broken=…)`, by candidate: what each engine does on the device."""
    clock, opened = SimpleNamespace(now=0.0), []
    monkeypatch.setattr(speed, "load_tensorrt", lambda target: SimpleNamespace(__version__="10.16.1"))
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    for precision in ("fp16", "int8"):  # stand-ins: making them is tested elsewhere
        small_artifact.add(f"model.{precision}.onnx", small_artifact.file("model.onnx").read_bytes())
    monkeypatch.setattr(
        speed, "engine_source",
        lambda artifact, precision, attention: SimpleNamespace(
            precision=precision, file=f"engines/{precision}.onnx", graph=f"{precision} {attention}".encode()
        ),
    )  # fmt: skip

    def plays(milliseconds, wrong=(), broken=()):
        def build_here(trt, artifact, source, options, say):
            index = {b"fp16 False": 0, b"int8 False": 1, b"int8 True": 2}[source.graph]
            if index in broken:
                raise BackendError("no kernel")
            record = EngineRecord(
                "tensorrt", "10.16.1", "RTX", (8, 6), graph_hash(source.graph), source.precision, options.max_batch
            )
            runner = Clocked(clock, milliseconds[index], index in wrong, artifact.file("model.onnx"))
            opened.append(runner)
            return Built(source, b"engine " + source.graph, b"", record), runner

        monkeypatch.setattr(speed, "build_here", build_here)
        return opened

    return plays


@pytest.mark.parametrize(
    ("milliseconds", "wrong", "broken", "kept"),
    [
        ((3.0, 2.0, 1.5), (), (), 2),
        ((2.0, 3.0, 4.0), (), (), 0),  # INT8 is often no faster
        ((2.0, 1.97, 1.97), (), (), 0),  # 1.5 % is no reason to lose anything
        ((2.0, 1.5, 1.49), (), (), 1),
        ((3.0, 2.0, 1.0), (2,), (), 1),  # the fastest loses too much
        ((3.0, 2.0, 1.0), (), (1, 2), 0),
    ],
)
def test_the_fastest_that_passes_is_kept(milliseconds, wrong, broken, kept, device, small_artifact, normals):
    opened = device(milliseconds, wrong, broken)
    options = EngineOptions(max_batch=2)
    precision, path, record = build_fastest(small_artifact, normals, None, ExportOptions(threads=1), options)
    assert record["chosen"] == ENGINES[kept]
    assert precision == ("fp16" if kept == 0 else "int8")
    assert path.read_bytes() == b"engine " + (b"fp16 False", b"int8 False", b"int8 True")[kept]
    assert all(runner.closed for runner in opened)
    for index, row in enumerate(record["candidates"]):
        assert ("no kernel" in row["out"]) == (index in broken)
        assert ("correlate" in row["out"]) == (index in wrong)
        assert row.get("p50_ms") == (None if index in broken else pytest.approx(milliseconds[index], rel=1e-3))
    stored = Artifact.open(small_artifact.path).manifest.reports
    assert stored["export.speed"] == record
    assert list(stored["engines"]) == [f"engines/{precision}.sm86.tensorrt.engine"]
    assert Artifact.open(small_artifact.path).file(f"engines/{precision}.onnx").exists()


def test_what_is_said_names_every_candidate_and_by_how_much(device, small_artifact, normals):
    device((3.0, 2.0, 1.0), wrong=(2,))
    said = []
    *_, record = build_fastest(
        small_artifact, normals, None, ExportOptions(threads=1), EngineOptions(max_batch=2), said.append
    )
    assert "taking model.int8.onnx as it is: name --int8 to make it anew" in said
    first, *rows = summary_lines(record)
    assert first == "on RTX, batch 2, TensorRT 10.16.1:"
    assert rows[0] == "FP16: 3.000 ms (p20 3.000, p80 3.000), 1.50 times the kept one's"
    assert rows[1] == "INT8, attention in FP16: 2.000 ms (p20 2.000, p80 2.000), kept"
    assert "0.50 times the kept one's, out: pixel scores" in rows[2]


def test_no_engine_passes(device, small_artifact, normals):
    opened = device((3.0, 2.0, 1.0), wrong=(0, 1), broken=(2,))
    with pytest.raises(BackendError, match=r"no engine passes: FP16: pixel .*throughout: no kernel") as caught:
        build_fastest(small_artifact, normals, None, ExportOptions(threads=1), EngineOptions())
    assert "--fp32" in caught.value.hint
    assert all(runner.closed for runner in opened)
    assert "engines" not in Artifact.open(small_artifact.path).manifest.reports
    precision, *_ = build_fastest(
        small_artifact, normals, None, ExportOptions(threads=1, accept_loss=True), EngineOptions()
    )
    assert precision == "int8"  # accepted as it is, so the faster of the two


def test_labelled_photos_decide_where_they_are_given(device, small_artifact, normals):
    device((3.0, 2.0, 1.0))
    seen = []

    def measured(runner):
        seen.append(runner)
        worse = 0.1 * (isinstance(runner, Clocked) and runner.milliseconds < 3)
        return {name: 0.9 - worse for name in ("i_auroc", "p_auroc", "aupro", "f1_max")}

    _, _, record = build_fastest(small_artifact, normals, measured, ExportOptions(threads=1), EngineOptions())
    assert record["chosen"] == "FP16"
    assert "aupro fell by 10.00 points" in record["candidates"][1]["out"]
    assert len(seen) == 4  # the reference once, not once a candidate


def test_the_gain_is_of_medians():
    slow = Candidate("slow", "fp16", taken_ms=[2.0, 2.0, 2.0])
    quick = Candidate("quick", "int8", taken_ms=[1.0, 1.0, 90.0])
    assert fastest([slow, quick]) is quick


def test_the_command_chooses_where_no_precision_is_named(device, small_artifact, parts, tmp_path, capsys):
    device((3.0, 2.0, 1.0))
    for i, frame in enumerate(parts[0][:16]):
        (tmp_path / "good").mkdir(exist_ok=True)
        write_image(tmp_path / "good" / f"{i:03}.png", frame)

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["export", str(small_artifact.path), "--target", "tensorrt", *map(str, arguments)])
        return stop.value.code, capsys.readouterr()

    code, said = run()
    assert code == 1
    assert "keeps no record of the folder of its training photos" in " ".join(said.err.split())
    assert "--normals DIR" in said.err
    code, said = run("--normals", tmp_path / "good", "--threads", 1)
    assert code == 0, said.err
    assert json.loads(said.out)["speed"]["chosen"] == "INT8 throughout"
    assert "3.00 times the kept one's" in said.err
