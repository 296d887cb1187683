"""Whether marks predict real defects: by cases solved by hand, and at its level by simulation."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from edge_ad.qualify.comparison import _two_sided, compared_text, marks_against_defects


def probes(b1=2.0, b0=-4.0):
    row = {"limit": {"b0": b0, "b1": b1}, "sizes": [1.0], "found": [True]}
    return {"rows": [{"kind": kind, "contrast": c, **row} for kind in ("hair scratch", "spot") for c in (25, 100)]}


def real(sizes, found, width=1.0):
    count = len(sizes)
    return {"kinds": {"cut": {"sizes": sizes, "widths": [width] * count, "contrasts": [30] * count, "found": found}}}


def test_the_expected_number_is_the_sum_of_the_curves():
    sizes = [np.exp(2.0), np.exp(3.0)]  # POD 1/2 and 0.8808
    (row,) = marks_against_defects(real(sizes, [True, False]), probes())
    assert row["expected"] == pytest.approx(0.5 + 1 / (1 + np.exp(-2)))
    assert (row["parts"], row["thin"], row["found"]) == (2, 2, 1)
    assert row["agree"]


def test_round_defects_are_compared_by_their_diameter():
    (row,) = marks_against_defects(real([np.exp(2.0)], [True], width=np.exp(2.0)), probes())
    assert (row["thin"], row["expected"]) == (0, pytest.approx(0.5))


def test_defects_that_are_harder_than_marks_are_told():
    (row,) = marks_against_defects(real([np.exp(4.0)] * 20, [False] * 20), probes())
    assert row["expected"] == pytest.approx(20 * 0.982, abs=0.01)
    assert row["chance"] < 1e-9
    assert not row["agree"]


def test_the_marks_nearest_in_contrast_are_taken_and_words_say_who_agrees():
    marks = probes()
    for row in marks["rows"]:
        row["limit"] = {"b0": 9.0 if row["contrast"] == 100 else -9.0, "b1": 0.001}
    found = real([3.0] * 9, [False] * 9)
    found["kinds"]["cut"]["contrasts"] = [45] * 9  # 25 times 1.8, 100 over 2.2
    found["kinds"]["dent"] = {**real([3.0] * 9, [True] * 9)["kinds"]["cut"], "contrasts": [30] * 9}
    rows = marks_against_defects(found, marks)
    assert [row["agree"] for row in rows] == [True, False]
    assert compared_text(rows) == (
        "marks of the same shape and contrast predict how many are found of: cut (0 of 9 found, 0.0 predicted); "
        "they do NOT for: dent (9 of 9 found, 0.0 predicted); believe the real defects"
    )


def test_without_a_curve_the_gap_or_the_share_decides():
    marks = probes(b1=None)
    for row in marks["rows"]:
        row |= {"sizes": [1.0, 2.0, 8.0, 9.0], "found": [False, False, True, True]}
    (row,) = marks_against_defects(real([1.5, 20.0], [False, True], width=0.1), marks)
    assert (row["expected"], row["chance"]) == (1, 1)
    for one in marks["rows"]:
        one["found"] = [True] * 4
    assert marks_against_defects(real([1.5], [True], width=0.1), marks)[0]["expected"] == 1


def test_two_sided_chances_are_those_of_the_binomial():
    assert _two_sided([0.5] * 10, 5) == pytest.approx(1)
    assert _two_sided([0.5] * 10, 0) == pytest.approx(2 / 1024)
    assert _two_sided([0.5] * 10, 9) == pytest.approx(22 / 1024)


def test_marks_that_are_right_are_doubted_at_most_as_often_as_said():
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.2, 0.99, 15)
    doubted = [_two_sided(shares, int((rng.random(15) < shares).sum())) < 0.05 for _ in range(4000)]
    assert np.mean(doubted) < 0.055
