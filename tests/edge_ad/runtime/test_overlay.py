"""Pictures for people: what is drawn where, that nothing given is changed, and that any size works."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.runtime import overlay
from edge_ad.runtime.overlay import ScoreScale, SheetRow
from edge_ad.runtime.verdict import DefectBox, Verdict


@pytest.fixture
def frame():
    return np.random.default_rng(0).integers(60, 200, (120, 160, 3), np.uint8)


def test_scale_puts_the_threshold_in_the_middle():
    scale = overlay.score_scale({"pixel_threshold": 3.0, "score_quantiles": [0.5, 1.0, 2.5]})
    assert scale == ScoreScale(1.0, 5.0)
    np.testing.assert_allclose(scale([0, 1, 3, 5, 9]), [0, 0, 0.5, 1, 1])


def test_scale_without_calibration_spans_the_maps():
    maps = [np.linspace(0, 1, 1001), np.linspace(0, 1, 1001)]
    assert overlay.score_scale(None, maps) == pytest.approx((0.5, 0.999), abs=2e-3)
    assert overlay.score_scale({}, []) == (0, 1)
    assert overlay.score_scale({"pixel_threshold": 1.0, "score_quantiles": [2.0]}, maps)[1] < 1
    assert not ScoreScale(2.0, 2.0)([2.0]).any()


def test_heat_is_red_where_hot_and_blue_where_cold():
    heat = overlay.heat_map(np.array([[0.0, 1.0]]), (20, 40), ScoreScale(0, 1))
    cold, hot = heat[10, 2].astype(int), heat[10, -3].astype(int)
    assert heat.shape == (20, 40, 3)
    assert hot[0] > 100 > hot[2]
    assert cold[2] > cold[0] - 10


def test_cold_places_keep_their_photo(frame):
    scores = np.zeros((64, 64), np.float32)
    scores[:20, :20] = 1
    before = frame.copy()
    drawn = overlay.blend_heat(frame, scores, ScoreScale(0, 1))
    np.testing.assert_array_equal(drawn[60:, 80:], frame[60:, 80:])
    assert np.abs(drawn[:20, :20].astype(int) - frame[:20, :20]).mean() > 20
    np.testing.assert_array_equal(frame, before)


def test_boxes_lie_outside_what_they_mark(frame):
    drawn = overlay.draw_boxes(frame, [(40, 50, 10, 20)])
    np.testing.assert_array_equal(drawn[50:70, 40:50], frame[50:70, 40:50])
    assert (drawn[49, 40:50] == overlay.COLOURS["NG"]).all()
    assert (drawn[50:70, 50] == overlay.COLOURS["NG"]).all()


def test_outline(frame):
    mask = np.zeros(frame.shape[:2], bool)
    mask[30:60, 30:60] = True
    drawn = overlay.outline(frame, mask)
    assert (drawn[30, 30:60] == overlay.TRUTH_COLOUR).all()
    np.testing.assert_array_equal(drawn[40:50, 40:50], frame[40:50, 40:50])


@pytest.mark.parametrize("decision", ["OK", "NG", "UNSURE", "ERROR", "else"])
def test_banner_has_the_decision_colour(frame, decision):
    drawn = overlay.draw_banner(frame, decision, "0.4 > 0.3   Ärger über 5 µm " + "long " * 50)
    top = overlay.banner_height(frame)
    expected = overlay.COLOURS.get(decision, overlay.COLOURS["ERROR"])
    assert (drawn[0] == expected).all()
    assert (drawn[:top].astype(int) > np.array(expected) + 20).all(axis=2).sum() > 20  # the words
    np.testing.assert_array_equal(drawn[top:], frame[top:])


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (3, 400), (400, 3), (1080, 1920)])
def test_any_size(size):
    frame = np.full((*size, 3), 128, np.uint8)
    scores = np.zeros((16, 16), np.float32)
    box = DefectBox(0, 0, size[1], size[0], size[0] * size[1], 0.9)
    verdict = Verdict("0", 0, 0, "cam", 7, "part-7", "NG", 0.5, 0.4, (box,))
    drawn = overlay.annotate(frame, verdict, scores)
    assert drawn.shape == frame.shape
    assert drawn.dtype == np.uint8
    rows = [SheetRow(frame, scores, "OK", "a" * 300, "note", np.ones(size, bool))]
    assert overlay.contact_sheet(rows).shape[1] == 4 * (192 + 6) + 6


def test_verdict_on_its_frame(frame):
    box = DefectBox(40, 50, 10, 20, 150, 0.9)
    verdict = Verdict("0", 0, 0, "cam", 7, "part-7", "NG", 0.512, 0.25, (box,), 150, "", {"total": 12.3})
    drawn = overlay.annotate(frame, verdict)
    assert (drawn[0, 0] == overlay.COLOURS["NG"]).all()
    assert (drawn[49, 40:50] == overlay.COLOURS["NG"]).all()
    assert overlay.score_text(0.512, 0.25) == "0.512 > 0.25"
    assert overlay.score_text(0.512, None) == "0.512"
    assert overlay.score_text(None, 0.25) == ""


def test_sheet_has_four_columns_a_row(frame):
    truth = np.zeros(frame.shape[:2], bool)
    truth[30:60, 30:60] = True
    scores = truth[::2, ::2].astype(np.float32)
    rows = [
        SheetRow(frame, scores, "NG", "dent/001.png", "0.9 > 0.3", truth, [(30, 30, 30, 30)]),
        SheetRow(frame, None, "", "good/001.png"),
        SheetRow(frame, scores, "NG", "good/002.png", "0.4 > 0.3", None, wrong=True),
    ]
    sheet = overlay.contact_sheet(rows, ScoreScale(0, 1), title="bottle", cell=(90, 120))
    assert sheet.shape == (36 + 22 + 3 * (90 + 22 + 6), 4 * (120 + 6) + 6, 3)
    first = sheet[58 : 58 + 90]
    cells = [first[:, 6 + i * 126 : 126 + i * 126] for i in range(4)]
    assert (cells[1] == overlay.TRUTH_COLOUR).all(axis=2).any()
    assert not (cells[0] == overlay.TRUTH_COLOUR).all(axis=2).any()
    assert (cells[3][0] == overlay.COLOURS["NG"]).all()
