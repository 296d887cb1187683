"""Whether marks predict real defects: on marks with a known curve, and at its level by simulation."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from edge_ad.qualify.comparison import DRAWS, _curves, _two_sided, compared_text, marks_against_defects

CONTRASTS = (12, 25, 50, 100)
TRUE = {"hair scratch": (-15.0, 2.0, 2.5), "spot": (-11.0, 2.0, 2.5)}  # of 1, ln size, ln contrast


def share(kind, size, contrast):
    b0, b1, b2 = TRUE[kind]
    return 1 / (1 + np.exp(-(b0 + b1 * np.log(size) + b2 * np.log(contrast))))


def marks(rng, trials=60):
    rows = []
    for kind in TRUE:
        for contrast in CONTRASTS:
            sizes = np.exp(rng.uniform(np.log(2), np.log(130), trials))
            rows.append({
                "kind": kind, "contrast": contrast, "sizes": sizes.tolist(),
                "found": (rng.random(trials) < share(kind, sizes, contrast)).tolist(),
            })  # fmt: skip
    return {"rows": rows}


def real(found, size=20.0, width=20.0, contrast=40.0):
    """Defects of one size: as many as `found` has entries. Round ones, unless they are narrow."""
    count = len(found)
    return {"kinds": {"cut": {
        "sizes": [size] * count, "widths": [width] * count, "contrasts": [contrast] * count, "found": found,
    }}}  # fmt: skip


@pytest.mark.parametrize(("width", "kind"), [(20.0, "spot"), (2.0, "hair scratch")])
def test_each_defect_is_looked_up_by_its_shape_size_and_contrast(width, kind):
    many = marks(np.random.default_rng(0), 5000)
    for size, contrast in ((20.0, 40.0), (60.0, 15.0), (8.0, 80.0)):
        defects = real([True] * 10, size, width * size / 20, contrast)
        (row,) = marks_against_defects(defects, many)
        assert row["thin"] == (10 if kind == "hair scratch" else 0)
        assert row["expected"] == pytest.approx(10 * share(kind, size, contrast), abs=0.15)


def test_defects_that_are_harder_than_marks_are_told():
    some = marks(np.random.default_rng(1))
    (row,) = marks_against_defects(real([False] * 20, 60.0, 60.0), some)
    assert row["expected"] > 19
    assert row["chance"] < 1e-6
    assert not row["agree"]
    (row,) = marks_against_defects(real([True] * 20, 60.0, 60.0), some)
    assert row["agree"]


def test_kinds_without_masks_and_all_kinds_together_are_left_out():
    kinds = {"all kinds": real([True])["kinds"]["cut"], "no masks": {"parts": 3}, **real([True])["kinds"]}
    rows = marks_against_defects({"kinds": kinds}, marks(np.random.default_rng(1)))
    assert [row["kind"] for row in rows] == ["cut"]


def test_marks_that_were_all_found_expect_all():
    some = marks(np.random.default_rng(2))
    for row in some["rows"]:
        row["found"] = [True] * 60
    (row,) = marks_against_defects(real([True] * 5), some)
    assert row["expected"] > 4.9
    assert np.isfinite(_curves(some["rows"], "spot", 0)).all()


def test_words_say_who_agrees():
    rows = [
        {"kind": kind, "found": 4, "parts": 9, "expected": expected, "agree": agree}
        for kind, expected, agree in (("cut", 4.2, True), ("dent", 8.0, False))
    ]
    assert compared_text(rows) == (
        "they predict how many are found of cut (4 of 9 found, 4.2 predicted); they do NOT predict it of dent "
        "(4 of 9 found, 8.0 predicted, harder than marks): believe the real defects"
    )
    assert compared_text(rows[:1]).endswith("cut (4 of 9 found, 4.2 predicted)")
    assert "1.0 predicted, easier than marks" in compared_text([{**rows[1], "expected": 1.0}])


def test_two_sided_chances_are_those_of_the_binomial():
    halves = np.full((10, 3), 0.5)
    assert _two_sided(halves, 5) == pytest.approx(1)
    assert _two_sided(halves, 0) == pytest.approx(2 / 1024)
    assert _two_sided(halves, 9) == pytest.approx(22 / 1024)
    either = np.concatenate([np.zeros((2, 1)), np.ones((2, 1))], 1)  # two worlds: none is found, or both are
    assert _two_sided(either, 0) == pytest.approx(1)
    assert _two_sided(either, 1) == 0


def test_marks_that_are_right_are_doubted_at_most_as_often_as_said():
    """The whole way: new marks and new defects every time, so that the curve's own uncertainty counts."""
    rng = np.random.default_rng(0)
    doubted = []
    for _ in range(150):
        some = marks(rng)
        for _ in range(14):
            length = np.exp(rng.uniform(np.log(5), np.log(80), 20))
            width, contrast = length * rng.uniform(0.05, 0.9, 20), np.exp(rng.uniform(np.log(10), np.log(80), 20))
            thin = length > 4 * width
            size = np.where(thin, length, np.sqrt(length * width))
            chance = np.where(thin, share("hair scratch", size, contrast), share("spot", size, contrast))
            defects = {"sizes": length, "widths": width, "contrasts": contrast, "found": rng.random(20) < chance}
            (row,) = marks_against_defects({"kinds": {"cut": defects}}, some)
            doubted.append(not row["agree"])
    assert 0.01 < np.mean(doubted) <= 0.05
    assert DRAWS >= 100
