"""Which engine and graph `auto` takes, what it says of it, and that none judges parts that fails its self-test."""

import importlib.util
import sys

import numpy as np
import pytest

from edge_ad.calibrate.golden import add_golden
from edge_ad.errors import ArtifactError, BackendError
from edge_ad.runtime.engines import choice, opening
from edge_ad.runtime.engines import runner as runners
from edge_ad.runtime.engines.opening import choose_precision, open_checked, open_fastest, open_runner
from edge_ad.runtime.engines.runner import GraphRunner
from edge_ad.runtime.engines.self_test import SelfTestFailed

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
ENGINES = [
    "onnxruntime-cpu",
    pytest.param("openvino", marks=pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")),
]


@pytest.fixture(autouse=True)
def _nothing_was_said_or_remembered(monkeypatch, tmp_path):
    monkeypatch.setattr(runners, "_said", set())
    monkeypatch.setattr(choice, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def tested_artifact(small_artifact, parts):
    """With reference pictures, and an INT8 graph that is the FP32 one: only its name matters here."""
    how = small_artifact.manifest.preprocessing
    scaled = (np.stack(parts[0][:2]) / np.float32(255) - np.float32(how.mean)) / np.float32(how.std)
    small_artifact.add("model.int8.onnx", small_artifact.file("model.onnx"))
    add_golden(small_artifact, list(scaled.transpose(0, 3, 1, 2).astype(np.float32)))
    return small_artifact


def distort(monkeypatch, *wrong):
    """Make runners of these names compute something else than they should."""
    honest = GraphRunner.__call__

    def call(self, images):
        outputs = honest(self, images)
        return outputs._replace(pixel_scores=outputs.pixel_scores[:, ::-1]) if self.name in wrong else outputs

    monkeypatch.setattr(GraphRunner, "__call__", call)


def test_named_backends_raise_and_auto_goes_on(small_artifact, caplog, monkeypatch):
    with pytest.raises(BackendError, match="CUDAExecutionProvider"):
        open_runner(small_artifact, "onnxruntime-cuda")
    with caplog.at_level("INFO"):
        assert open_runner(small_artifact, "auto").name == "onnxruntime-cpu fp32"
        assert open_runner(small_artifact, "auto").name == "onnxruntime-cpu fp32"
    assert sum("CUDAExecutionProvider" in record.message for record in caplog.records) == 1


def test_missing_packages_name_the_extra(small_artifact, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError) as caught:
        open_runner(small_artifact, "openvino")
    assert "edge-ad[openvino]" in caught.value.hint


@pytest.mark.parametrize(("backend", "precision"), [("tflite", "fp32"), ("auto", "int4")])
def test_unknown_names(backend, precision, small_artifact):
    with pytest.raises(BackendError, match="unknown"):
        open_runner(small_artifact, backend, precision)


@pytest.mark.parametrize("backend", ["auto", *ENGINES])
def test_no_threads_are_refused(backend, small_artifact):
    with pytest.raises(BackendError, match=r"^threads is 0") as caught:
        open_runner(small_artifact, backend, threads=0)
    assert caught.value.hint == "use 1 or more"


def test_auto_precision_follows_the_threshold(small_artifact):
    assert choose_precision(small_artifact, "auto") == "fp32"
    small_artifact.update(calibration={"image_threshold": 1.0, "precision": "int8"})
    assert choose_precision(small_artifact, "auto") == "fp32"  # no such graph yet
    small_artifact.add("model.int8.onnx", small_artifact.file("model.onnx"))
    assert choose_precision(small_artifact, "auto") == "int8"
    with pytest.raises(ArtifactError, match="fp16"):
        open_runner(small_artifact, precision="fp16")


@pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")
def test_auto_takes_the_engine_that_the_threshold_was_computed_with(small_artifact, monkeypatch, caplog):
    name = open_runner(small_artifact, "openvino", threads=1).name
    small_artifact.update(calibration={"image_threshold": 1.0, "precision": "fp32", "backend": name})
    assert open_runner(small_artifact, threads=1).name == "openvino-cpu fp32"
    assert open_runner(small_artifact, "onnxruntime", threads=1).name == "onnxruntime-cpu fp32"
    small_artifact.update(calibration={"image_threshold": 1.0, "precision": "int8", "backend": "openvino-cpu int8"})
    assert open_runner(small_artifact, threads=1).name == "onnxruntime-cpu fp32"  # the threshold is of no use there
    small_artifact.update(calibration={"image_threshold": 1.0, "precision": "fp32", "backend": name})
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda package: None if package == "openvino" else 1)
    assert open_runner(small_artifact, threads=1).name == "onnxruntime-cpu fp32"
    assert "instead of openvino-cpu fp32, which computed the threshold" in caplog.text


def test_a_graph_asked_for_by_name_is_refused_where_it_fails_its_self_test(tested_artifact, monkeypatch):
    distort(monkeypatch, "onnxruntime-cpu int8")
    with pytest.raises(SelfTestFailed, match=r"cpu int8 fails the self-test.*standard deviations") as caught:
        open_runner(tested_artifact, "onnxruntime-cpu", "int8", threads=1)
    assert "saturate" in caught.value.hint
    assert "--precision" in caught.value.hint
    assert open_runner(tested_artifact, "onnxruntime-cpu", "fp32", threads=1).name == "onnxruntime-cpu fp32"


def test_a_precision_asked_for_by_name_is_never_another(tested_artifact, monkeypatch):
    distort(monkeypatch, "onnxruntime-cpu int8", "openvino-cpu int8")
    with pytest.raises(BackendError, match="int8 fails"):
        open_runner(tested_artifact, "auto", "int8", threads=1)


def test_auto_goes_on_to_the_next_precision_and_says_so_once(tested_artifact, monkeypatch, caplog):
    tested_artifact.update(
        calibration={"image_threshold": 1.0, "precision": "int8", "backend": "onnxruntime-cpu int8"}
    )
    assert open_runner(tested_artifact, threads=1).name == "onnxruntime-cpu int8"
    distort(monkeypatch, "onnxruntime-cpu int8")
    for _ in range(2):
        opened = open_checked(tested_artifact, threads=1)
        assert (opened.runner.name, opened.precision) == ("onnxruntime-cpu fp32", "fp32")
        assert opened.test is not None
        assert opened.test.passed
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert "fails the self-test" in warnings[0]
    assert "holds only after `edgead calibrate`" in warnings[1]


@pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")
def test_auto_goes_on_to_the_next_engine(tested_artifact, monkeypatch, caplog):
    tested_artifact.update(calibration={"image_threshold": 1.0, "precision": "int8", "backend": "openvino-cpu int8"})
    assert open_runner(tested_artifact, threads=1).name == "openvino-cpu int8"
    distort(monkeypatch, "openvino-cpu int8")
    assert open_runner(tested_artifact, threads=1).name == "onnxruntime-cpu int8"
    assert "instead of openvino-cpu int8" in caplog.text


def test_an_artifact_without_reference_pictures_says_that_nothing_was_tested(small_artifact, caplog):
    with caplog.at_level("INFO"):
        assert open_checked(small_artifact, threads=1).test is None
    assert "judges without a self-test" in caplog.text


def slow_down(monkeypatch, milliseconds):
    """Let self-tests say how long a picture took, by runner; others took 50 ms."""
    honest = opening.check_runner

    def check(runner, artifact, precision):
        outcome = honest(runner, artifact, precision)
        return outcome and type(outcome)(outcome.deviation, outcome.tolerance, milliseconds.get(runner.name, 50.0))

    monkeypatch.setattr(opening, "check_runner", check)


@pytest.mark.parametrize("fastest", ["onnxruntime-cpu fp32", "onnxruntime-cpu int8"])
def test_the_fastest_that_passes_is_taken_and_remembered(tested_artifact, monkeypatch, fastest):
    slow_down(monkeypatch, {fastest: 1.0})
    assert open_fastest(tested_artifact, threads=1).runner.name == fastest
    assert choice.load_choice(tested_artifact, 1) == tuple(fastest.split(" "))
    slow_down(monkeypatch, {})
    assert open_fastest(tested_artifact, threads=1).runner.name == fastest  # not measured again
    assert choice.load_choice(tested_artifact, 2) is None  # another number of threads is another question
    tested_artifact.add("note.txt", b"changed")
    assert choice.load_choice(tested_artifact, 1) is None


def test_the_fastest_is_not_taken_where_it_fails(tested_artifact, monkeypatch):
    slow_down(monkeypatch, {"onnxruntime-cpu int8": 1.0, "onnxruntime-cpu fp32": 2.0})
    distort(monkeypatch, "onnxruntime-cpu int8")
    assert open_fastest(tested_artifact, threads=1).runner.name == "onnxruntime-cpu fp32"


def test_a_remembered_engine_that_fails_since_is_measured_anew(tested_artifact, monkeypatch, caplog):
    choice.save_choice(tested_artifact, 1, "onnxruntime-cpu", "int8")
    assert open_fastest(tested_artifact, threads=1).runner.name == "onnxruntime-cpu int8"
    distort(monkeypatch, "onnxruntime-cpu int8")
    assert open_fastest(tested_artifact, threads=1).runner.name != "onnxruntime-cpu int8"
    assert "measuring the engines again" in caplog.text


def test_a_damaged_memory_of_the_choice_counts_as_none(tested_artifact):
    choice.save_choice(tested_artifact, 1, "onnxruntime-cpu", "int8")
    for text in ("", "[]", '{"backend": 1}', '{"backend": "x", "precision": "int4"}'):
        choice._file(tested_artifact, 1).write_text(text)
        assert choice.load_choice(tested_artifact, 1) is None
