"""Every engine gives the same scores through the same interface, and says clearly when it can't."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge_ad.errors import BackendError
from edge_ad.runtime.engines.opening import open_runner
from edge_ad.runtime.engines.runner import Outputs, run_in_batches

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
ENGINES = [
    "onnxruntime-cpu",
    pytest.param("openvino", marks=pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")),
]


def images_of(frames, artifact):
    how = artifact.manifest.preprocessing
    scaled = (np.stack(frames) / np.float32(255) - np.float32(how.mean)) / np.float32(how.std)
    return scaled.transpose(0, 3, 1, 2).astype(np.float32)


@pytest.mark.parametrize("backend", ENGINES)
def test_scores_tell_good_from_bad(backend, small_artifact, parts):
    good, bad, _ = parts
    runner = open_runner(small_artifact, backend, threads=1)
    assert runner.image_size == (64, 64)
    assert runner.name.endswith("fp32")
    normal = runner(images_of(good, small_artifact))
    defective = runner(images_of(bad, small_artifact))
    assert isinstance(normal, Outputs)
    assert normal.image_score.shape == (40,)
    assert normal.pixel_scores.shape == (40, 256, 256)
    assert normal.anomaly_map.shape == normal.head_logits.shape == (40, 8, 8)
    assert all(array.dtype == np.float32 for array in normal)
    above = defective.image_score[:, None] > normal.image_score
    assert above.mean() > 0.95
    runner.close()
    runner.close()
    with pytest.raises(BackendError, match="closed"):
        runner(images_of(good[:1], small_artifact))


@pytest.mark.parametrize("backend", ENGINES)
def test_batches_do_not_change_scores(backend, small_artifact, parts):
    images = images_of(parts[0][:5], small_artifact)
    runner = open_runner(small_artifact, backend, threads=1)
    together = runner(images)
    for i in range(5):
        alone = runner(images[i : i + 1])
        for whole, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(whole[i : i + 1], one, atol=1e-5)


@pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")
def test_engines_agree(small_artifact, parts):
    images = images_of(parts[1], small_artifact)
    first, second = (open_runner(small_artifact, name)(images) for name in ("onnxruntime", "openvino"))
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")
def test_bfloat16_is_near_and_where_there_is_none_it_is_refused(small_artifact, parts, monkeypatch):
    import openvino

    images = images_of(parts[1], small_artifact)
    exact = open_runner(small_artifact, "openvino", threads=1)(images)
    core = openvino.Core()
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        runner = open_runner(small_artifact, "openvino-bf16", threads=1)
        assert runner.name == "openvino-cpu-bf16 fp32"
        rounded = runner(images)
        spread = exact.pixel_scores.std()
        error = np.abs(rounded.pixel_scores - exact.pixel_scores)
        assert error.max() > 0  # else it was not asked for
        assert error.mean() < 0.02 * spread
        assert all(array.dtype == np.float32 for array in rounded)
    monkeypatch.setattr(openvino.Core, "get_property", lambda *asked: ["FP32", "INT8"])
    with pytest.raises(BackendError, match="CPU has no bfloat16 instructions") as caught:
        open_runner(small_artifact, "openvino-bf16")
    assert "backend openvino" in caught.value.hint


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_fixed_batch_graphs_run_any_number(count):
    seen = []

    def run(chunk):
        seen.append(chunk.shape)
        return Outputs(chunk[:, 0, 0, 0], chunk[:, 0], chunk[:, 0], chunk[:, 0])

    images = np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 3, 2, 2), np.float32)
    outputs = run_in_batches(images, 4, run)
    assert outputs.image_score.tolist() == list(range(count))
    assert set(seen) == {(4, 3, 2, 2)}
    assert len(seen) == -(-count // 4)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 3, 64, 63), (1, 1, 64, 64), (0, 3, 64, 64)])
def test_wrong_shapes_are_refused(shape, small_artifact):
    with pytest.raises(ValueError, match=r"graph takes \[B, 3, 64, 64\]"):
        open_runner(small_artifact)(np.zeros(shape, np.float32))


def test_strided_and_double_images_are_taken(small_artifact, parts):
    images = images_of(parts[0][:2], small_artifact)
    runner = open_runner(small_artifact)
    expected = runner(images).image_score
    strided = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(runner(strided).image_score, expected)
    np.testing.assert_array_equal(runner(images.astype(np.float64)).image_score, expected)


def test_a_score_that_is_no_number_is_an_error(small_artifact):
    with pytest.raises(BackendError, match="nan"):
        open_runner(small_artifact)(np.full((1, 3, 64, 64), np.nan, np.float32))


def test_damaged_graphs_are_refused(small_artifact):
    small_artifact.add("model.onnx", b"not a graph")
    for backend in ("onnxruntime", "openvino") if HAS_OPENVINO else ("onnxruntime",):
        with pytest.raises(BackendError, match="can't load"):
            open_runner(small_artifact, backend)


@pytest.mark.parametrize("backend", ENGINES)
def test_several_threads_share_a_runner(small_artifact, parts, backend):
    runner = open_runner(small_artifact, backend, threads=1)
    images = images_of(parts[0][:1], small_artifact)
    expected = runner(images).image_score
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: runner(images).image_score, range(24)))
    assert all(np.array_equal(score, expected) for score in found)
    runner.close()
