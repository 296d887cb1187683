"""What the score is made of: the K hottest pixels, and the shares of map and head, against the graph itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save

from edge_ad.errors import ArtifactError
from edge_ad.runtime.engines.runner import Outputs
from edge_ad.runtime.explain.scores import explain_frame, hottest_pixel, hottest_pixels, read_tensor, shares_of
from edge_ad.runtime.predictor import load


def test_the_hottest_pixel_is_where_the_frame_shows_it():
    scores = np.zeros((4, 8), np.float32)
    scores[1, 6] = 3
    assert hottest_pixel(scores, np.zeros((40, 160, 3), np.uint8)) == (130, 15, 3.0)
    scores[0, 0] = -np.inf  # an ignored region
    assert hottest_pixel(scores, np.zeros((4, 8, 3), np.uint8)) == (6, 1, 3.0)


def test_the_pixels_behind_a_score_are_counted():
    scores = np.arange(100, dtype=np.float32).reshape(10, 10)
    found, why = hottest_pixels(scores, 97.5, 4, 97.0)
    assert why == ""
    assert dataclasses.astuple(found) == (4, 100, 2, 2, 96.0)
    assert hottest_pixels(scores, 97.5, 4, None)[0].over is None
    few, _ = hottest_pixels(scores[:1, :3], 1.0, 100, 50.0)
    assert (few.top_k, few.over) == (3, 0)


def test_a_score_that_is_no_mean_of_these_pixels_is_not_explained_by_them():
    found, why = hottest_pixels(np.ones((10, 10), np.float32), 5.0, 4, 0.5)
    assert found is None
    assert "not the mean of the 4 hottest" in why
    assert hottest_pixels(np.full((2, 2), -np.inf, np.float32), 1.0, 4, 0.5)[0] is None


def test_a_frame_is_explained_by_its_own_outputs(small_artifact, parts):
    small_artifact.update(calibration={"image_threshold": 1e-3, "pixel_threshold": 2e-3, "score_quantiles": [0, 5e-4],
                                       "normals": 9, "precision": "fp32"})  # fmt: skip
    with load(small_artifact.path, threads=1) as predictor:
        wanted = predictor.predict(parts[1][0])
        found = explain_frame(predictor, parts[1][0], "bad.png")
    assert found.score == pytest.approx(wanted.image_score)
    assert (found.decision, found.limit, found.normals) == ("NG", 1e-3, 9)
    assert found.boxes == wanted.boxes
    assert found.hottest.over == (wanted.pixel_scores > 2e-3).sum()
    assert found.peak == wanted.pixel_scores.max()
    assert found.shares is None  # this artifact carries a graph whose head's weights are not there
    assert any("weights.safetensors" in reason for reason in found.left_out)


@pytest.mark.parametrize("detail", ["", "test_efficientnet"])
def test_map_head_and_detail_add_up_to_the_graphs_score(small_artifact, detail):
    torch = pytest.importorskip("torch")
    from edge_ad.model.detector import Detector

    config = small_artifact.config.override(
        "model", teacher="test_vit", taps=(1, 2), groups=2, decoder="memory", prototypes=8, decoder_channels=16,
        head=True, head_channels=8, head_weight=0.25, top_k=100, detail=detail,
    )  # fmt: skip
    torch.manual_seed(0)
    detector = Detector(config.model, (96, 160), None).eval()
    torch.nn.init.normal_(detector.head.logit.weight, std=0.5)
    detector.student.decoder.prototypes.normal_()
    if detail:
        detector.detail.prototypes.normal_(std=0.1)
    detector.normal_range.copy_(torch.tensor([[0.1, 0.05], [-4.0, 0.5], [0.2, 0.1]])[: 3 if detail else 2])
    with torch.inference_mode():
        scores = detector(torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(1)))
    outputs = Outputs(*(value.numpy() for value in (scores.image_score, scores.pixel_scores, scores.anomaly_map,
                                                    scores.head_logits)))  # fmt: skip
    small_artifact.add("weights.safetensors", save({"normal_range": detector.normal_range.numpy()}))
    small_artifact.update(config=config.to_dict())
    shares, why = shares_of(small_artifact, outputs)
    assert why == ""
    fine, fine_at_peak = shares.detail or 0.0, shares.detail_at_peak or 0.0
    assert bool(fine) == bool(detail)
    assert shares.map + shares.head + fine == pytest.approx(float(outputs.image_score[0]), rel=1e-4)
    at_peak = shares.map_at_peak + shares.head_at_peak + fine_at_peak
    assert at_peak == pytest.approx(float(outputs.pixel_scores.max()), rel=1e-4)
    assert abs(shares.head) > 0.01
    turned = outputs._replace(anomaly_map=outputs.anomaly_map[:, ::-1] * (3 if detail else 1))
    shares, why = shares_of(small_artifact, turned)
    assert shares is None
    assert "another way" in why


def test_without_a_head_all_of_the_score_is_the_maps(small_artifact):
    small_artifact.update(config=small_artifact.config.override("model", head=False, detail="").to_dict())
    pixels = np.linspace(0, 1, 256 * 256, dtype=np.float32).reshape(1, 256, 256)
    outputs = Outputs(pixels[:, 0, 0], pixels, pixels, pixels)
    shares, why = shares_of(small_artifact, outputs)
    assert (shares.head, why) == (None, "")
    assert shares.map == pytest.approx(1.0, abs=2e-3)


def test_a_tensor_is_read_as_safetensors_wrote_it(tmp_path):
    path = tmp_path / "weights.safetensors"
    wanted = np.arange(6, dtype=np.float32).reshape(2, 3)
    path.write_bytes(save({"other": np.zeros(5, np.float16), "wanted": wanted}))
    np.testing.assert_array_equal(read_tensor(path, "wanted"), wanted)
    for name in ("missing", "other"):
        with pytest.raises(ArtifactError, match=name):
            read_tensor(path, name)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ArtifactError, match="wanted"):
        read_tensor(path, "wanted")
