"""The self-test finds graphs that compute something else than where they were exported, and passes the others."""

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge_ad.calibrate.golden import MARGIN, add_golden, add_golden_photos, golden_frames, with_marked_square
from edge_ad.data.images import read_image, write_image
from edge_ad.errors import ArtifactError, BackendError
from edge_ad.runtime.engines.onnxruntime import OnnxRuntimeRunner
from edge_ad.runtime.engines.opening import open_runner
from edge_ad.runtime.engines.self_test import (
    FLOORS,
    GOLDEN,
    WIDEST,
    Expected,
    SelfTestFailed,
    check_runner,
    deviation,
    read_golden,
    suspect,
)

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None


@pytest.fixture
def normals(small_artifact, parts):
    how = small_artifact.manifest.preprocessing
    scaled = (np.stack(parts[0][:3]) / np.float32(255) - np.float32(how.mean)) / np.float32(how.std)
    return list(scaled.transpose(0, 3, 1, 2).astype(np.float32))


@pytest.fixture
def tested(small_artifact, normals):
    add_golden(small_artifact, normals)
    return small_artifact


def altered(path, change):
    """The graph with `change` applied to its largest weight."""
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda one: numpy_helper.to_array(one).size)
    array = numpy_helper.to_array(weight).copy()
    change(array)
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    return model.SerializeToString()


def test_reference_pictures_are_the_normals_and_one_with_a_mark(small_artifact, normals, parts):
    frames = golden_frames(normals, small_artifact.manifest.preprocessing)
    assert frames.shape == (3, 64, 64, 3)
    np.testing.assert_array_equal(frames[:2], parts[0][:2])
    np.testing.assert_array_equal(frames[2], with_marked_square(frames[0]))
    changed = (frames[2] != frames[0]).any(-1)
    assert changed.sum() <= 8 * 8
    assert changed[28:36, 28:36].mean() > 0.9


def test_a_mark_fits_into_any_picture():
    for shape in ((1, 1, 3), (2, 7, 3), (5, 100, 3)):
        assert with_marked_square(np.full(shape, 9, np.uint8)).max() == 246


@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "openvino"])
def test_engines_that_are_right_pass(backend, tested):
    if backend == "openvino" and not HAS_OPENVINO:
        pytest.skip("openvino is not installed")
    outcome = check_runner(open_runner(tested, backend, threads=1), tested, "fp32")
    assert outcome is not None
    assert outcome.passed
    assert 0 <= outcome.deviation < FLOORS["fp32"] / 10
    assert outcome.tolerance == FLOORS["fp32"]
    assert outcome.milliseconds > 0


def test_a_graph_altered_by_one_weight_is_refused(tested):
    def change(array):
        array.flat[array.size // 2] += 100 * array.std()

    graph = altered(tested.file("model.onnx"), change)
    with pytest.raises(SelfTestFailed, match="onnxruntime-cpu fp32 fails"):
        check_runner(OnnxRuntimeRunner(graph, threads=1), tested, "fp32")
    tested.add("model.onnx", graph)  # whoever alters it may alter the manifest's hash, too
    with pytest.raises(SelfTestFailed):
        open_runner(tested, threads=1)


def test_scores_without_meaning_fail(tested):
    expected = read_golden(tested).expected["fp32"]
    for wrong in (np.nan, np.inf):
        assert not deviation(expected.image_score, expected.cells + wrong, expected) <= WIDEST
    assert deviation(expected.image_score, expected.cells[:, :-1], expected) == np.inf


def test_deviation_is_the_larger_error_of_the_worst_picture():
    cells = np.array([[[0.0, 2.0]], [[0.0, 20.0]]], np.float32)  # standard deviations 1 and 10
    expected = Expected(np.array([2.0, 20.0], np.float32), cells, 0.1)
    shift = np.zeros_like(cells)
    shift[0] = 0.25
    assert deviation(expected.image_score, cells + shift, expected) == pytest.approx(0.25)
    assert deviation(expected.image_score, cells + shift[::-1], expected) == pytest.approx(0.025)
    assert deviation(expected.image_score + np.float32(0.5), cells, expected) == pytest.approx(0.25)
    assert deviation(expected.image_score, cells, expected) == 0
    none = Expected(np.zeros(1, np.float32), np.ones((1, 2, 2), np.float32), 0.1)  # nothing to divide by
    assert deviation(none.image_score, none.cells, none) == 0


@pytest.mark.parametrize(("of_score", "says"), [(False, "pixel .* 0.4 standard"), (True, "image .* 0.4 times the")])
def test_a_failure_says_which_score_is_off(tested, of_score, says, monkeypatch):
    from edge_ad.runtime.engines import self_test

    monkeypatch.setattr(self_test, "deviations", lambda *scores: (0.1, 0.4) if of_score else (0.4, 0.1))
    with pytest.raises(SelfTestFailed, match=f"{says}.*0.005 are allowed"):
        open_runner(tested, threads=1)


def test_photos_are_read_only_where_reference_pictures_are_missing(small_artifact, parts, tmp_path):
    paths = [tmp_path / name for name in ("broken.png", "0.png", "1.png", "2.png")]
    paths[0].write_bytes(b"none")
    for path, frame in zip(paths[1:], parts[0], strict=False):
        write_image(path, frame)
    read = []

    def reading(path):
        read.append(path)
        return read_image(path)

    add_golden_photos(small_artifact, paths[:1], reading)
    assert read_golden(small_artifact) is None  # nothing to show
    add_golden_photos(small_artifact, paths, reading)
    assert read == [paths[0], *paths[:3]]
    np.testing.assert_array_equal(read_golden(small_artifact).frames[:2], parts[0][:2])
    add_golden_photos(small_artifact, paths, reading)
    assert len(read) == 4


def test_each_graph_is_held_against_itself(tested, normals):
    def change(array):
        array *= 1.2

    tested.add("model.int8.onnx", altered(tested.file("model.onnx"), change))
    assert check_runner(open_runner(tested, "onnxruntime-cpu", "int8", threads=1), tested, "int8") is None
    add_golden(tested, [], ["int8"])  # the pictures are there already
    golden = read_golden(tested)
    assert set(golden.expected) == {"fp32", "int8"}
    assert not np.allclose(golden.expected["fp32"].cells, golden.expected["int8"].cells)
    for precision in ("fp32", "int8"):
        outcome = check_runner(open_runner(tested, "onnxruntime-cpu", precision, threads=1), tested, precision)
        assert outcome.deviation < 1e-4


@pytest.mark.parametrize(("off", "tolerance"), [(0.0, FLOORS["fp32"]), (0.05, MARGIN * 0.05), (5.0, WIDEST)])
def test_the_tolerance_is_what_other_engines_need_within_bounds(small_artifact, normals, monkeypatch, off, tolerance):
    from edge_ad.calibrate import golden

    monkeypatch.setattr(golden, "combinations", lambda artifact: [("openvino", "fp32"), ("tensorrt", "fp32")])
    honest = golden._score

    def score(artifact, backend, precision, frames):
        if backend == "tensorrt":
            raise BackendError("not here", "")
        scores, cells = honest(artifact, "onnxruntime-cpu", precision, frames)
        return scores, cells + (np.float32(off) * cells.std((1, 2), keepdims=True) if backend == "openvino" else 0)

    monkeypatch.setattr(golden, "_score", score)
    add_golden(small_artifact, normals)
    assert read_golden(small_artifact).expected["fp32"].tolerance == pytest.approx(tolerance, rel=1e-3)


def test_damaged_reference_pictures_are_named(tested):
    tested.add(GOLDEN, b"PK no archive")
    with pytest.raises(ArtifactError, match=r"golden\.npz is damaged"):
        open_runner(tested)


@pytest.mark.parametrize(
    ("name", "word"),
    [("tensorrt fp16", "TensorRT"), ("onnxruntime-cuda fp32", "driver"), ("openvino-cpu int8", "INT8"),
     ("openvino-cpu-bf16 fp32", "bfloat16"), ("onnxruntime-cpu fp32", "graph")],
)  # fmt: skip
def test_the_hint_names_what_to_suspect(name, word):
    assert word in suspect(name)
