"""Evaluation through a real graph against the plain definitions on the same scores."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest

from edge_ad import metrics
from edge_ad.data.images import read_image, write_image
from edge_ad.data.masks import read_mask
from edge_ad.data.samples import scan
from edge_ad.errors import DataError
from edge_ad.evaluation import category_calibrations, evaluate, provenance
from edge_ad.runtime.engines.opening import open_runner
from edge_ad.runtime.predictor import Predictor

FIXED_KEYS = {"i_auroc", "p_auroc", "aupro", "f1_max"}


def write_category(folder, parts, good=8, bad=6):
    """MVTec layout with two kinds of defect, photos of 64x64 and, for the second kind, of 96x80."""
    frames, defects, masks = parts
    for i in range(4):
        write_image(folder / f"train/good/{i}.png", frames[i])
    for i in range(good):
        write_image(folder / f"test/good/{i}.png", frames[10 + i])
    for i in range(bad):
        kind, size = ("spot", (64, 64)) if i % 2 else ("dent", (80, 96))
        frame = cv2.resize(defects[i], size, interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(masks[i].astype(np.uint8) * 255, size, interpolation=cv2.INTER_NEAREST)
        write_image(folder / f"test/{kind}/{i}.png", frame)
        write_image(folder / f"ground_truth/{kind}/{i}_mask.png", mask)


@pytest.fixture
def measure(small_artifact):
    def run(folder, **options):
        dataset = scan(folder)
        runner = open_runner(small_artifact, threads=1)
        about = provenance(small_artifact, dataset, runner)
        return evaluate(runner, dataset, small_artifact.manifest.preprocessing, about=about, **options)

    return run


def test_figures_are_those_of_the_definitions(tmp_path, parts, small_artifact, measure):
    write_category(tmp_path / "stripes", parts)
    evaluation = measure(tmp_path / "stripes", batch=3)
    predictor = Predictor(small_artifact, open_runner(small_artifact, threads=1))
    scores, labels, kinds, maps, masks, large, native_masks = [], [], [], [], [], [], []
    for sample in scan(tmp_path / "stripes").test:
        frame = read_image(sample.path)
        prediction = predictor.predict(frame)
        mask = read_mask(sample.mask_path) if sample.mask_path else np.zeros(frame.shape[:2], bool)
        small = cv2.resize(mask.astype(np.uint8), (256, 256), interpolation=cv2.INTER_NEAREST_EXACT) > 0
        scores.append(prediction.image_score), labels.append(sample.label), kinds.append(sample.kind)
        maps.append(prediction.pixel_scores), masks.append(small), native_masks.append(mask)
        large.append(cv2.resize(prediction.pixel_scores, frame.shape[1::-1], interpolation=cv2.INTER_LINEAR))
    table = evaluation.to_dict()["stripes"]
    near = {"abs": 1e-4}
    assert table["i_auroc"] == pytest.approx(metrics.image_auroc(scores, labels))
    assert table["f1_max"] == pytest.approx(metrics.f1_max(scores, labels))
    assert table["p_auroc"] == pytest.approx(metrics.pixel_auroc(maps, masks), **near)
    assert table["aupro"] == pytest.approx(metrics.aupro(maps, masks), **near)
    assert table["aupro_05"] == pytest.approx(metrics.aupro(maps, masks, 0.05), **near)
    assert table["native"]["p_auroc"] == pytest.approx(metrics.pixel_auroc(large, native_masks), **near)
    assert table["native"]["aupro"] == pytest.approx(metrics.aupro(large, native_masks), **near)
    assert (table["good"], table["defects"]) == (8, 6)
    chosen = [i for i, kind in enumerate(kinds) if kind in ("good", "dent")]
    dent = table["kinds"]["dent"]
    assert dent["aupro"] == pytest.approx(
        metrics.aupro([maps[i] for i in chosen], [masks[i] for i in chosen]), **near
    )
    assert dent["defects"] == 3
    assert table["i_auroc"] > 0.9  # the small detector really detects


def test_json_keys_for_one_category_and_for_many(tmp_path, parts, measure):
    write_category(tmp_path / "one/stripes", parts)
    one = json.loads(json.dumps(measure(tmp_path / "one/stripes", native=False).to_dict()))
    assert {key: one[key] for key in FIXED_KEYS} == {key: one["stripes"][key] for key in FIXED_KEYS}
    assert all(0 <= one["mean"][key] <= 1 for key in FIXED_KEYS)
    assert one["stripes"]["native"] is None
    assert one["about"]["runner"] == "onnxruntime-cpu fp32"
    write_category(tmp_path / "many/a", parts)
    write_category(tmp_path / "many/b", parts, bad=2)
    many = measure(tmp_path / "many").to_dict()
    assert many["about"]["categories"] == ["a", "b"]
    assert not FIXED_KEYS & set(many)
    assert many["mean"]["aupro"] == pytest.approx((many["a"]["aupro"] + many["b"]["aupro"]) / 2)
    assert many["mean"]["good"] == 16


def test_without_masks_pixel_figures_are_null(tmp_path, parts, measure):
    for i in range(10):
        write_image(tmp_path / f"parts/good/{i}.png", parts[0][i])
    write_image(tmp_path / "parts/bad/0.png", parts[1][0])
    table = measure(tmp_path / "parts").to_dict()
    assert table["i_auroc"] is not None
    assert [table[key] for key in ("p_auroc", "aupro", "aupro_05", "p_f1_max")] == [None] * 4
    assert json.dumps(table, allow_nan=False)


def test_without_defects_all_figures_are_null(tmp_path, parts, measure):
    write_image(tmp_path / "parts/train/good/0.png", parts[0][0])
    write_image(tmp_path / "parts/test/good/0.png", parts[0][1])
    evaluation = measure(tmp_path / "parts")
    assert all(evaluation.to_dict()[key] is None for key in FIXED_KEYS)


def test_broken_files_are_named_and_skipped(tmp_path, parts, measure):
    folder = tmp_path / "stripes"
    write_category(folder, parts)
    (folder / "test/good/empty.png").write_bytes(b"")
    (folder / "test/good/text.png").write_text("no image")
    whole = (folder / "test/spot/1.png").read_bytes()
    (folder / "test/spot/cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "ground_truth/dent/0_mask.png").write_text("no mask")
    write_image(folder / "ground_truth/dent/2_mask.png", np.zeros((96, 80), np.uint8))
    write_image(folder / "ground_truth/dent/4_mask.png", np.full((48, 40), 255, np.uint8))
    seen = []
    evaluation = measure(folder, advance=lambda: seen.append(1))
    names = {problem.path.name for problem in evaluation.skipped}
    assert {"empty.png", "text.png", "cut.png"} <= names
    assert {problem.path.name for problem in evaluation.notes} == {"0_mask.png", "2_mask.png", "4_mask.png"}
    assert not [problem for problem in evaluation.notes if str(problem.path) in problem.reason]
    assert len(seen) == 16  # the empty one was left out before
    table = evaluation.to_dict()["stripes"]
    assert (table["good"], table["defects"], table["native"]["regions"]) == (8, 6, 4)
    assert {entry["path"] for entry in evaluation.to_dict()["about"]["skipped"]} == {
        str(problem.path) for problem in evaluation.skipped
    }


def test_a_defect_without_its_mask_counts_as_a_photo_only(tmp_path, parts, measure):
    write_category(tmp_path / "stripes", parts)
    (tmp_path / "stripes/ground_truth/dent/2_mask.png").unlink()
    evaluation = measure(tmp_path / "stripes")
    assert [problem.path.name for problem in evaluation.notes] == ["2.png"]
    assert not evaluation.skipped
    table = evaluation.to_dict()["stripes"]
    assert (table["defects"], table["native"]["regions"]) == (6, 5)


def test_nothing_to_measure_is_an_error(tmp_path, parts, measure):
    write_image(tmp_path / "only/good/0.png", parts[0][0])
    with pytest.raises(DataError, match="no test photos"):
        measure(tmp_path / "only/good")
    (tmp_path / "only/bad").mkdir()
    (tmp_path / "only/bad/x.png").write_text("no image")
    with pytest.raises(DataError, match="could be read"):
        measure(tmp_path / "only")


def test_threshold_rates_count_false_alarms_and_misses(tmp_path, parts, measure):
    write_category(tmp_path / "stripes", parts)
    result = measure(tmp_path / "stripes", native=False).categories["stripes"]
    good = sorted(one.image_score for one in result.scored if not one.sample.label)
    rates = result.rates(good[-2])
    assert (rates["false_alarms"], rates["false_alarm_rate"]) == (1, 1 / 8)
    assert result.rates(math.inf)["missed_rate"] == 1


def test_each_category_is_calibrated_by_its_own_or_the_common_thresholds():
    calibration = {"image_threshold": 2.0, "pixel_threshold": 3.0, "per_class": {"a": {"image_threshold": 1.0}}}
    found = category_calibrations(calibration, ["a", "b"])
    assert {name: own["image_threshold"] for name, own in found.items()} == {"a": 1.0, "b": 2.0}
    assert {name: own["pixel_threshold"] for name, own in found.items()} == {"a": 3.0, "b": 3.0}
    assert category_calibrations(None, ["a"]) == {"a": {}}


@pytest.mark.parametrize("saved", ["jpeg", "alpha", "inverted"])
def test_masks_saved_in_other_ways_give_the_same_figures_or_are_doubted(tmp_path, parts, measure, saved):
    write_category(tmp_path / "a", parts)
    right = measure(tmp_path / "a")
    for path in (tmp_path / "a/ground_truth").rglob("*.png"):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        path.unlink()
        if saved == "jpeg":
            assert cv2.imwrite(str(path.with_suffix(".jpg")), mask)
        elif saved == "alpha":
            assert cv2.imwrite(str(path), np.dstack([np.full_like(mask, 255)] * 3 + [mask]))
        else:
            assert cv2.imwrite(str(path), 255 - mask)
    found = measure(tmp_path / "a")
    if saved == "inverted":
        assert len(found.doubts) == len(found.to_dict()["about"]["doubts"]) == 6
        assert any("inverted?" in line and "0_mask.png" in line for line in found.findings())
        return
    assert found.doubts == ()
    assert len(found.notes) == 6  # how each was read
    same = right.to_dict()["a"]
    assert found.to_dict()["a"]["regions"] == same["regions"]
    assert found.to_dict()["a"]["native"]["regions"] == same["native"]["regions"]
    assert found.to_dict()["a"]["aupro"] == pytest.approx(same["aupro"], abs=1e-6)
