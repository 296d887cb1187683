"""The gate measures, refuses, names layers and the way round; comparisons are right by hand."""

import dataclasses
import importlib
from functools import partial

import cv2
import numpy as np
import pytest
from scipy import stats

from edge_ad.data.images import write_image
from edge_ad.data.samples import scan
from edge_ad.errors import ArtifactError, BackendError, ConfigError, DataError
from edge_ad.evaluation import evaluate
from edge_ad.export.compare import compare, pearson, ranks
from edge_ad.export.gate import ALL_METRICS, judge, measure
from edge_ad.export.job import ExportOptions, export_precision
from edge_ad.export.targets import metrics_on
from edge_ad.runtime.engines.opening import open_runner
from edge_ad.runtime.engines.runner import Outputs

job = importlib.import_module("edge_ad.export.job")


@pytest.fixture
def normals(parts):
    return list(((np.stack(parts[0]) / 255 - 0.5) / 0.25).astype(np.float32).transpose(0, 3, 1, 2))


@pytest.fixture
def dataset(parts, tmp_path):
    """20 good and 20 bad photos, the latter with masks at the photos' own size."""
    good, bad, masks = parts
    for i in range(20):
        write_image(tmp_path / f"data/test/good/{i:02}.png", good[i])
        write_image(tmp_path / f"data/test/spot/{i:02}.png", bad[i])
        write_image(tmp_path / f"data/ground_truth/spot/{i:02}_mask.png", masks[i].astype(np.uint8) * 255)
    return scan(tmp_path / "data")


@pytest.fixture
def labelled(dataset, small_artifact):
    return partial(measure, dataset=dataset, preprocessing=small_artifact.manifest.preprocessing)


class Noisy:
    """A runner whose scores are another's plus noise."""

    def __init__(self, runner, size):
        self.runner, self.size, self.name, self.image_size = runner, size, "noisy", runner.image_size
        self.rng = np.random.default_rng(0)

    def __call__(self, images):
        outputs = self.runner(images)
        pixels = outputs.pixel_scores + self.rng.normal(0, self.size, outputs.pixel_scores.shape).astype(np.float32)
        return Outputs(pixels.max((1, 2)), pixels, outputs.anomaly_map, outputs.head_logits)

    def close(self):
        self.runner.close()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_export_stores_graph_and_report(precision, small_artifact, normals, labelled):
    said = []
    record = export_precision(small_artifact, precision, normals, labelled, ExportOptions(threads=1), said.append)
    assert record["passed"]
    assert small_artifact.has(f"model.{precision}.onnx")
    assert small_artifact.manifest.reports[f"export.{precision}"] == record
    assert record["before"]["i_auroc"] > 0.95
    assert all(change >= -record["allowed_points"] for change in record["delta_points"].values())
    assert record["bytes"][f"model.{precision}.onnx"] < record["bytes"]["model.onnx"]
    assert said[-1] == "measuring what was lost"
    runner = open_runner(small_artifact, precision=precision)
    assert runner.name == f"onnxruntime-cpu {precision}"
    assert np.isfinite(runner(normals[0][None]).pixel_scores).all()


def test_gate_refuses_names_layers_and_can_be_overridden(small_artifact, normals, labelled, monkeypatch):
    measure = job.measure_ranges

    def clipped(*arguments):
        ranges = measure(*arguments)
        bad = ranges.names[2]
        plain = ranges.amax
        monkeypatch.setattr(ranges, "amax", lambda *a: {**plain(*a), bad: 1e-4})
        return ranges

    monkeypatch.setattr(job, "measure_ranges", clipped)
    options = ExportOptions(threads=1, error_budget=1e9)
    with pytest.raises(BackendError, match=r"loses too much: .* Layers that hurt most .*/matmul") as caught:
        export_precision(small_artifact, "int8", normals, labelled, options)
    assert "--accept-loss" in caught.value.hint
    assert not small_artifact.has("model.int8.onnx")
    record = export_precision(
        small_artifact, "int8", normals, labelled, ExportOptions(threads=1, error_budget=1e9, accept_loss=True)
    )
    assert record["accepted_loss"]
    assert not record["passed"]
    assert small_artifact.has("model.int8.onnx")
    found = export_precision(small_artifact, "int8", normals, labelled, ExportOptions(threads=1))
    assert found["left_in_float"]  # the search finds the layer and the gate is content
    assert found["passed"]


def test_without_labels_the_normals_decide(small_artifact, normals):
    exact = open_runner(small_artifact)
    good = judge("int8", exact, open_runner(small_artifact), normals[:6])
    assert good.passed
    assert good.normals.pixel_correlation == pytest.approx(1)
    assert good.delta_points() == dict.fromkeys(ALL_METRICS)
    bad = judge("int8", exact, Noisy(open_runner(small_artifact), 0.2), normals[:6])
    assert not bad.passed
    assert "correlate" in bad.reasons[0]


@pytest.mark.parametrize("size", [64, 150])
def test_gate_and_evaluation_agree(size, parts, small_artifact, tmp_path):
    good, bad, masks = parts
    for i in range(8):
        for folder, picture in (("good", good[i]), ("spot", bad[i])):
            write_image(tmp_path / f"test/{folder}/{i}.png", cv2.resize(picture, (size, size)))
        mask = cv2.resize(masks[i].astype(np.uint8) * 255, (size, size), interpolation=cv2.INTER_NEAREST)
        write_image(tmp_path / f"ground_truth/spot/{i}_mask.png", mask)
    runner, preprocessing = open_runner(small_artifact, threads=1), small_artifact.manifest.preprocessing
    expected = evaluate(runner, scan(tmp_path), preprocessing).to_dict()
    report = judge("fp32", runner, runner, [np.zeros((3, 64, 64), np.float32)], metrics_on(small_artifact, tmp_path))
    assert report.before == {name: expected[name] for name in ALL_METRICS}


def test_labels_without_masks_still_count(small_artifact, normals, dataset):
    runner = open_runner(small_artifact)
    samples = tuple(dataclasses.replace(sample, mask_path=None) for sample in dataset.samples)
    unmasked = partial(
        measure,
        dataset=dataclasses.replace(dataset, samples=samples),
        preprocessing=small_artifact.manifest.preprocessing,
    )
    report = judge("int8", runner, Noisy(open_runner(small_artifact), 3.0), normals[:4], unmasked)
    assert report.before["p_auroc"] is None
    assert not report.passed
    assert judge("int8", runner, runner, normals[:4], unmasked).passed
    assert judge("int8", runner, Noisy(runner, 3.0), normals[:4], unmasked, max_loss=100).passed


def test_wrong_requests(small_artifact, normals):
    with pytest.raises(ArtifactError, match=r"weights\.safetensors"):  # the small detector is a graph only
        export_precision(small_artifact, "fp32", normals)
    with pytest.raises(DataError, match="too few"):
        export_precision(small_artifact, "int8", normals[:7])
    with pytest.raises(ConfigError, match="nosuch"):
        export_precision(small_artifact, "int8", normals, options=ExportOptions(skip=("nosuch",)))


def test_comparison_by_hand(small_artifact, normals):
    runner = open_runner(small_artifact)
    result = compare(runner, Noisy(open_runner(small_artifact), 0.1), [np.stack(normals[:8])])
    assert result.images == 8
    assert result.errors["anomaly_map"][-1] == 0
    assert result.errors["pixel_scores"][0] == pytest.approx(0.0674, rel=0.02)  # median of |N(0, 0.1)|
    assert set(result.to_dict()["errors"]) == {"image_score", "pixel_scores", "anomaly_map", "head_logits"}
    with pytest.raises(ValueError, match="no images"):
        compare(runner, runner, [])


def test_ranks_and_correlation_agree_with_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 50).astype(float), rng.normal(size=50)
    np.testing.assert_array_equal(ranks(a), stats.rankdata(a))
    assert pearson(ranks(a), ranks(b)) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert pearson(np.ones(4), np.ones(4)) == 1
    assert pearson(np.ones(4), np.arange(4.0)) == 0
