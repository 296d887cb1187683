import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.errors import ConfigError
from edge_ad.runtime.line.policy import Judgement, Policy, Thresholds, Votes, top_mean
from edge_ad.runtime.settings import PolicySettings, RegionSettings

CALIBRATION = {"image_threshold": 2.0, "pixel_threshold": 1.5, "score_quantiles": [0.0, 1.0, 1.9]}
SIZE = (512, 1024)  # the map's 256 x 256 pixels are 2 x 4 frame pixels


def scores(*spots):
    """A map of 0.5 with spots (y, x, height, width, value)."""
    pixels = np.full((256, 256), 0.5, np.float32)
    for y, x, height, width, value in spots:
        pixels[y : y + height, x : x + width] = value
    return pixels


def judge(pixels, score=None, calibration=CALIBRATION, **wishes):
    policy = Policy(PolicySettings(**wishes), calibration)
    return policy.judge(top_mean(pixels) if score is None else score, pixels, SIZE)


def test_ok_and_ng_with_boxes_in_picture_pixels():
    good = judge(scores())
    assert (good.decision, good.boxes, good.area) == ("OK", (), 0)
    bad = judge(scores((10, 20, 12, 15, 3.0), (100, 100, 3, 3, 4.0)))
    assert bad.decision == "NG"
    first, second = bad.boxes
    assert (first.x, first.y, first.width, first.height, first.area, first.peak) == (400, 200, 12, 6, 72, 4.0)
    assert (second.x, second.y, second.width, second.height) == (80, 20, 60, 24)
    assert bad.area == 72 + 12 * 15 * 8
    assert "above threshold 2" in bad.reason
    assert "(400, 200)" in bad.reason


@settings(max_examples=40, deadline=None)
@given(st.floats(-10, 10), st.floats(0, 2))
def test_unsure_band_is_a_share_of_the_distance_to_the_normals(score, unsure):
    """threshold 2, median of normals 1: the scale is 1."""
    decision = judge(scores(), score=score, unsure=unsure).decision
    expected = "UNSURE" if unsure and abs(score - 2) <= unsure else "NG" if score > 2 else "OK"
    assert decision == expected


def test_hysteresis_lowers_the_threshold_after_a_reject_only():
    policy = Policy(PolicySettings(hysteresis=0.5), CALIBRATION)
    decisions = [policy.judge(s, scores(), SIZE).decision for s in (1.8, 2.1, 1.8, 1.6, 1.4, 1.8)]
    assert decisions == ["OK", "NG", "NG", "NG", "OK", "OK"]


def test_small_defects_can_be_allowed():
    spot = scores((10, 10, 5, 5, 9.0))
    assert judge(spot).decision == "NG"
    allowed = judge(spot, min_area=201)
    assert allowed.decision == "OK"
    assert "no defect reaches 201 pixels" in allowed.reason
    assert judge(spot, min_area=200).decision == "NG"


def test_regions_have_thresholds_of_their_own():
    spot = scores((0, 0, 20, 20, 3.0))
    corner = RegionSettings("label", (0, 0, 80, 40), ignore=True)
    assert judge(spot, regions=(corner,)).decision == "OK"
    lenient = dataclasses.replace(corner, ignore=False, threshold=5.0)
    assert judge(spot, regions=(lenient,)).decision == "OK"
    strict = dataclasses.replace(corner, ignore=False, threshold=0.4)
    bad = judge(scores(), regions=(strict,))
    assert bad.decision == "NG"
    assert "in label" in bad.reason
    elsewhere = judge(scores((200, 200, 20, 20, 3.0)), regions=(corner,))
    assert elsewhere.decision == "NG"
    assert len(elsewhere.boxes) == 1
    with pytest.raises(ConfigError, match="region 'label'"):
        judge(spot, regions=(dataclasses.replace(corner, box=(0, 0, 2000, 10)),))


def test_without_calibration_nothing_is_accepted():
    judged = judge(scores(), calibration={})
    assert (judged.decision, judged.threshold) == ("UNSURE", None)
    assert "edgead calibrate" in judged.reason
    assert judge(scores(), calibration={}, threshold=1.0).decision == "OK"
    assert Thresholds.choose(PolicySettings(), {"image_threshold": 0.0}).scale > 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["OK", "NG", "UNSURE"]), min_size=1, max_size=6), st.integers(1, 6))
def test_votes(decisions, needed):
    frames = len(decisions)
    needed = min(needed, frames)
    votes = Votes(PolicySettings(frames=frames, votes=needed))
    decided = [votes.add(Judgement(d, 1.0, 2.0, (), 0, d)) for d in decisions]
    assert decided == [False] * (frames - 1) + [True]
    judgement, shown = votes.result()
    rejects = decisions.count("NG")
    if rejects >= needed:
        assert judgement.decision == "NG"
    elif rejects or "UNSURE" in decisions:
        assert judgement.decision == "UNSURE"
    else:
        assert judgement.decision == "OK"
    if rejects:
        assert decisions[shown] == "NG"


def test_top_mean_is_the_definition():
    values = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    assert top_mean(values) == pytest.approx(np.sort(values.ravel().astype(np.float64))[-100:].mean())
    values[:] = -np.inf
    values[0, :7] = 3.0
    assert top_mean(values) == 3.0
    values[:] = -np.inf
    assert top_mean(values) == float("-inf")
