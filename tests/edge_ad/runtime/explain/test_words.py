"""An explanation in sentences and as a picture: what is known is said, what isn't is said too."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from edge_ad.runtime.explain.explanation import Explanation, HottestPixels, LayerDistance, NearestNormal, Shares
from edge_ad.runtime.explain.picture import CELL, GAP, LINE, MARK, WIDTH, draw_explanation
from edge_ad.runtime.explain.words import sentences
from edge_ad.runtime.verdict import DefectBox


@pytest.fixture
def frame():
    return np.full((120, 200, 3), 90, np.uint8)


@pytest.fixture
def scores():
    scores = np.zeros((64, 64), np.float32)
    scores[8:12, 50:54] = 6
    return scores


@pytest.fixture
def full(frame, scores):
    layers = tuple(LayerDistance(blocks, scale, 0.4, 0.1 * scale) for scale in (1, 3) for blocks in ((2, 4), (5, 7)))
    return Explanation(
        source="shift/part.png", frame=frame, decision="NG", score=5.2, limit=1.5, pixel_limit=1.7, x=162, y=19,
        peak=6.0, boxes=(DefectBox(156, 15, 12, 8, 96, 6.0),), good_scores=(0.5, 1.0, 1.4), normals=21,
        hottest=HottestPixels(16, 4096, 16, 16, 6.0), shares=Shares(4.1, 4.5, 1.1, 1.5),
        nearest=NearestNormal(
            "045.png", np.full((240, 400, 3), 130, np.uint8), 320, 40, (10, 10), 48, 188, 0.4, 0.1, layers
        ),
        pixel_scores=scores,
    )  # fmt: skip


def test_everything_that_is_known_is_said(full):
    text = "\n".join(sentences(full))
    for part in (
        "part.png is rejected: its score is 5.20, the limit is 1.50.",
        "None of the 21 good parts behind the limit scored as high: the highest had 1.40.",
        "mean of the 16 hottest of 4,096 map pixels: all 16 of them are over the limit of a defect's pixel, 1.70",
        "Over that limit are 16 pixels in all, 0.39 % of the picture, in 1 place.",
        "hottest at x 162, y 19 (6.00), top right.",
        "4.10 of the score comes from the map",
        "1.10 from the head",
        "In 48 of 188 photos of good parts the patch most like it is in 045.png at x 320, y 40.",
        "differs by 0.40; good patches like that differ by 0.10: 4.0 times the usual.",
        "most in blocks 2 to 4 (texture and edges), looking at the patch alone: 4.0 times the usual.",
    ):
        assert part in text
    assert "Not told" not in text


def test_what_is_not_known_is_not_invented(frame):
    bare = Explanation("", frame, "UNSURE", 0.7, None, left_out=("Map: it was not kept.",))
    assert sentences(bare) == [
        "The part is left undecided: its score is 0.70, and there is no limit yet (`edgead calibrate` sets one).",
        "Not told. Map: it was not kept.",
    ]
    assert "it has no score" in sentences(dataclasses.replace(bare, decision="ERROR", score=None))[0]


def test_a_good_part_is_explained_too(full):
    good = dataclasses.replace(
        full, decision="OK", score=1.2, boxes=(), shares=Shares(1.2, 1.3), hottest=HottestPixels(16, 4096, 0, 0, 1.1)
    )
    text = "\n".join(sentences(good))
    assert "passes" in text
    assert "about 67 % scored lower" in text
    assert "no pixel is over the limit" in text
    assert "this detector has no head" in text


def test_json_holds_it_all_without_pictures(full):
    found = json.loads(json.dumps(full.to_dict()))
    assert found["nearest"]["times"] == pytest.approx(4)
    assert found["nearest"]["layers"][3] == {
        "blocks": [5, 7], "scale": 3, "distance": 0.4, "usual": pytest.approx(0.3), "difference": None,
        "times": pytest.approx(4 / 3),
    }  # fmt: skip
    assert found["good_parts"] == {"count": 21, "highest": 1.4}
    assert found["shares"]["head"] == 1.1
    assert "frame" not in found["nearest"]


def test_the_picture_shows_the_patch_and_its_nearest_normal(full):
    picture = draw_explanation(full)
    assert picture.shape[1] == WIDTH
    assert (picture == MARK).all(2).any()  # the square that is enlarged
    top = 54 + LINE + CELL * 120 // 200 + GAP + LINE
    middle = picture[top + CELL // 2, GAP + CELL // 2], picture[top + CELL // 2, 2 * GAP + CELL + CELL // 2]
    assert [tuple(pixel) for pixel in middle] == [(90, 90, 90), (130, 130, 130)]


@pytest.mark.parametrize("size", [(1, 1), (9, 400), (400, 9), (3000, 200)])
def test_a_picture_of_any_size_can_be_drawn(full, size):
    frame = np.full((*size, 3), 80, np.uint8)
    given = frame.copy()
    at = dataclasses.replace(full, frame=frame, x=size[1] - 1, y=0, boxes=())
    assert draw_explanation(at).shape[1] == WIDTH
    np.testing.assert_array_equal(frame, given)


def test_a_picture_without_map_score_or_limit_can_be_drawn(frame):
    for bare in (
        Explanation("a", frame, "ERROR", None, None),
        Explanation("a", frame, "UNSURE", -0.2, None, example=np.zeros((28, 28, 3), np.uint8), x=3, y=4, peak=1.0),
        Explanation("a", frame, "NG", 3.0, 2.0, x=3, y=4, example=np.zeros((28, 28, 3), np.uint8)),
    ):
        assert draw_explanation(bare).dtype == np.uint8


def test_the_window_holds_the_defect_and_stays_inside(full):
    x, y, width, height = full.window()
    assert width == height == 24
    assert 0 <= x <= full.x < x + width <= 200
    assert 0 <= y <= full.y < y + height <= 120
    wide = dataclasses.replace(full, boxes=(DefectBox(100, 0, 100, 60, 96, 6.0),))
    assert wide.window()[2] == 48  # of the shorter side, 2 parts in 5 at most
    assert dataclasses.replace(full, x=None).window() is None
