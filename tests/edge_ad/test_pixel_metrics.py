"""The streaming histogram against exact sorting, on ranges and shapes of scores that break fixed bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, roc_auc_score

from edge_ad import metrics
from edge_ad.pixel_metrics import PixelMetrics

TOLERANCE = 1e-4
STEPPED = 5e-4  # F1-max and average precision follow single thresholds, not areas


def pictures(tail=1.0, offset=0.0, scale=1.0, decimals=None, count=12, size=96, seed=0):
    """Smooth scores, defects of many sizes whose height has a heavy tail."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[:size, :size]
    for i in range(count):
        mask = np.zeros((size, size), bool)
        scores = gaussian_filter(rng.normal(size=(size, size)), 6)
        scores = scores / scores.std() * 0.02 + 0.1
        for _ in range(rng.integers(1, 4) if i >= count // 3 else 0):
            radius = int(rng.choice([1, 3, 5, 9, 20]))
            y, x = rng.integers(radius, size - radius, 2)
            disc = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
            mask |= disc
            scores += gaussian_filter(disc.astype(float), 5) * rng.lognormal(-2.5, tail)
        scores = (scores + rng.normal(size=scores.shape) * 1e-4) * scale + offset
        yield (scores if decimals is None else np.round(scores, decimals)).astype(np.float32), mask


def collect(pairs):
    collected = PixelMetrics()
    for scores, mask in pairs:
        collected.update(scores, mask if mask.any() else None)
    return collected


def assert_exact(collected, pairs):
    maps, masks = zip(*pairs, strict=True)
    flat, truth = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    assert collected.auroc() == pytest.approx(roc_auc_score(truth, flat), abs=TOLERANCE)
    assert collected.average_precision() == pytest.approx(average_precision_score(truth, flat), abs=STEPPED)
    assert collected.f1_max()[0] == pytest.approx(metrics.f1_max(flat, truth), abs=STEPPED)
    for limit in (0.3, 0.05):
        assert collected.aupro(limit) == pytest.approx(metrics.aupro(maps, masks, limit), abs=TOLERANCE)


@pytest.mark.parametrize("reverse", [False, True], ids=["good first", "defects first"])
@pytest.mark.parametrize(
    "shape",
    [
        {"tail": 0.5},
        {"tail": 1.6},
        {"tail": 3.0},
        {"tail": 1.6, "offset": 1000.0},
        {"tail": 1.6, "offset": -5.0, "scale": 1e-4},
        {"tail": 1.0, "decimals": 2},
        {"scale": 0.0},
    ],
    ids=str,
)
def test_within_a_ten_thousandth_of_sorting(shape, reverse):
    pairs = list(pictures(**shape))
    if reverse:
        pairs.reverse()
    assert_exact(collect(pairs), pairs)
    even, odd = collect(pairs[::2]), collect(pairs[1::2])
    merged = even.merge(odd)
    assert_exact(merged, pairs)
    assert (merged.pictures, merged.regions) == (len(pairs), collect(pairs).regions)


def test_solved_by_hand():
    # as test_metrics.test_aupro_by_hand: points (0, 0), (0, 1/2), (1/12, 1/2), (1/12, 3/4), (1, 1)
    collected = PixelMetrics()
    collected.update(
        np.array([[9, 0, 8, 0, 0], [0, 0, 0, 0, 0], [7, 0, 0, 0, 0]]),
        np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]], bool),
    )
    at_30 = 0.75 + 0.25 * (0.3 - 1 / 12) / (11 / 12)
    assert collected.aupro(0.3) == pytest.approx((0.5 / 12 + (0.3 - 1 / 12) * (0.75 + at_30) / 2) / 0.3)
    assert collected.aupro(0.05) == pytest.approx(0.5)
    assert collected.auroc() == pytest.approx((12 + 11 + 5.5) / 36)  # 9 beats 12; 7 beats 11; 0 ties with 11 of 12


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_ties_and_any_finite_range(data):
    shape = (3, 4, 5)
    maps = data.draw(hnp.arrays(np.float32, shape, elements=st.floats(-(2.0**99), 2.0**99, width=32)))
    maps = np.where(data.draw(hnp.arrays(bool, shape)), maps, np.float32(data.draw(st.sampled_from([0, -1, 3e8]))))
    masks = data.draw(hnp.arrays(bool, shape))
    collected = collect(zip(maps, masks, strict=True))
    if masks.any() and not masks.all():
        assert_exact(collected, list(zip(maps, masks, strict=True)))


def test_memory_stays_bounded():
    rng = np.random.default_rng(0)
    collected = PixelMetrics()
    sizes = []
    for i in range(40):  # every picture lies elsewhere: the worst that can happen to the bins
        scores = (rng.normal(size=(128, 128)) * 10.0 ** rng.integers(-6, 6) + rng.normal() * 100).astype(np.float32)
        collected.update(scores, rng.random(scores.shape) < 0.01 if i % 2 else None)
        sizes.append(collected._mass.size)
    assert max(sizes) <= 3 * (1 << 18) + 3 * 128 * 128
    assert collected.pictures == 40


def test_undefined_is_nan():
    empty = PixelMetrics()
    assert all(np.isnan(x) for x in (empty.auroc(), empty.aupro(), empty.average_precision(), empty.f1_max()[0]))
    empty.update(np.ones((4, 4)))
    assert np.isnan(empty.auroc())
    assert np.isnan(empty.merge(PixelMetrics()).aupro())


def test_counts_survive_more_pixels_than_float32_counts():
    collected = PixelMetrics()
    scores = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    collected.update(scores, scores > 0.7)
    collected._mass *= 2.0**25  # as if 500 million pixels had come before
    before = collected.auroc()
    collected.update(scores, scores > 0.7)
    assert collected._mass.sum() == pytest.approx(16 * (2.0**25 + 1) + 1 + 2.0**25, rel=0, abs=1e-6)
    assert before == pytest.approx(1, abs=1e-12)
    assert collected.auroc() == pytest.approx(1, abs=1e-12)


def test_drawn_curves_rise_from_zero_to_one():
    collected = collect(list(pictures()))
    for rate, hit in (collected.roc(), collected.pro()):
        assert (np.diff(rate) >= 0).all()
        assert (np.diff(hit) >= 0).all()
        assert (rate[0], hit[0]) == (0, 0)
        assert (rate[-1], hit[-1]) == pytest.approx((1, 1))


@pytest.mark.parametrize(
    ("scores", "mask", "message"),
    [
        (np.ones(4), None, "need"),
        (np.ones((2, 2)), np.ones((2, 3), bool), "need"),
        (np.array([[np.nan, 1.0]]), None, "1 of 2 scores are not finite"),
    ],
)
def test_bad_arguments(scores, mask, message):
    with pytest.raises(ValueError, match=message):
        PixelMetrics().update(scores, mask)
