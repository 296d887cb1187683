"""The promised false-alarm rate holds, over thousands of draws and whatever the scores look like."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edge_ad.calibrate.threshold import (
    beta_cdf,
    beta_quantile,
    clopper_pearson,
    conformal_rank,
    conformal_threshold,
    fit_pareto,
    in_a_day,
    normals_needed,
    tail_threshold,
)
from edge_ad.errors import DataError

DISTRIBUTIONS = {
    "normal": (lambda rng, size: rng.normal(size=size), stats.norm.sf),
    "heavy": (lambda rng, size: rng.standard_cauchy(size), stats.cauchy.sf),
    "lognormal": (lambda rng, size: rng.lognormal(size=size), lambda x: stats.lognorm.sf(x, 1)),
    "ties": (lambda rng, size: rng.integers(0, 20, size), lambda x: np.maximum(0, (19 - x) / 20)),
}


@pytest.mark.parametrize("count", [1, 5, 99, 1000, 4000])
def test_beta_functions_agree_with_scipy(count):
    for k in sorted({1, count // 3 + 1, count}):
        a, b = count + 1 - k, k
        for x in (1e-6, 0.001, 0.01, 0.3, 0.5, 0.9, 0.999):
            assert beta_cdf(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), abs=1e-10)
        for p in (0.01, 0.05, 0.5, 0.95, 0.999):
            assert beta_quantile(p, a, b) == pytest.approx(stats.beta.ppf(p, a, b), rel=1e-7)


@given(st.integers(1, 3000), st.data())
@settings(max_examples=50, deadline=None)
def test_clopper_pearson_agrees_with_scipy(trials, data):
    events = data.draw(st.integers(0, trials))
    low, high = clopper_pearson(events, trials, 0.95)
    theirs = stats.binomtest(events, trials).proportion_ci(0.90, method="exact")  # two-sided 90 %
    assert low == pytest.approx(theirs.low, abs=1e-9)
    assert high == pytest.approx(theirs.high, abs=1e-9)


@pytest.mark.parametrize("trials", [1, 5, 20, 61, 300])
def test_clopper_pearson_holds_at_every_rate(trials):
    """Exactly, over all counts that may come."""
    bounds = np.array([clopper_pearson(events, trials) for events in range(trials + 1)])
    for rate in np.linspace(0.001, 0.999, 97):
        chance = stats.binom.pmf(np.arange(trials + 1), trials, rate)
        assert chance[bounds[:, 0] <= rate].sum() >= 0.95 - 1e-9
        assert chance[bounds[:, 1] >= rate].sum() >= 0.95 - 1e-9


def test_hand_solved_case():
    # 19 scores, one alarm in twenty: the largest is the threshold
    threshold = conformal_threshold(np.arange(19), 0.05)
    assert (threshold.value, threshold.rank) == (18, 19)
    # 39 scores: floor(40 * 0.05) - 1 = 1 may lie above
    assert conformal_threshold(np.arange(39), 0.05).value == 37
    # no alarm in n: the bound is 1 - 0.05^(1/n)
    assert clopper_pearson(0, 59)[1] == pytest.approx(1 - 0.05 ** (1 / 59))
    assert normals_needed(0.05, 0.95) == 59
    assert normals_needed(0.001) == 999
    assert normals_needed(0.001, 0.95) == 2995


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(("count", "rate"), [(30, 0.05), (200, 0.01), (99, 0.01)])
def test_average_rate_is_kept(name, count, rate):
    draw, tail = DISTRIBUTIONS[name]
    rng = np.random.default_rng(1)
    rank = conformal_rank(count, rate)
    thresholds = np.sort(draw(rng, (8000, count)), axis=1)[:, rank - 1]
    rates = tail(thresholds)
    assert rates.mean() <= rate + 3 * rates.std() / 8000**0.5
    if name != "ties":  # and it is not needlessly strict: one rank lower would break it
        assert rates.mean() > rate - 1 / (count + 1) - 3 * rates.std() / 8000**0.5


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(("count", "rate", "confidence"), [(59, 0.05, 0.95), (300, 0.02, 0.9), (500, 0.01, 0.99)])
def test_confident_rate_is_kept(name, count, rate, confidence):
    draw, tail = DISTRIBUTIONS[name]
    rng = np.random.default_rng(2)
    rank = conformal_rank(count, rate, confidence)
    thresholds = np.sort(draw(rng, (6000, count)), axis=1)[:, rank - 1]
    kept = (tail(thresholds) <= rate).mean()
    assert kept >= confidence - 3 * (confidence * (1 - confidence) / 6000) ** 0.5


@pytest.mark.parametrize("name", ["normal", "heavy"])
def test_upper_bound_holds(name):
    draw, tail = DISTRIBUTIONS[name]
    threshold = conformal_threshold(draw(np.random.default_rng(0), 300), 0.02)
    rng = np.random.default_rng(3)
    values = np.sort(draw(rng, (6000, 300)), axis=1)[:, threshold.rank - 1]
    assert (tail(values) <= threshold.upper_bound).mean() >= 0.95 - 3 * (0.05 * 0.95 / 6000) ** 0.5


@given(st.integers(1, 4000), st.floats(0.0005, 0.5), st.sampled_from([None, 0.8, 0.95, 0.999]))
@settings(max_examples=150, deadline=None)
def test_rank_is_the_smallest_that_keeps_the_promise(count, rate, confidence):
    rank = conformal_rank(count, rate, confidence)
    assert (rank is None) == (count < normals_needed(rate, confidence))

    def keeps(k):
        if confidence is None:
            return (count + 1 - k) / (count + 1) <= rate * (1 + 1e-9)
        return stats.beta.cdf(rate, count + 1 - k, k) >= confidence - 1e-9

    if rank is not None:
        assert keeps(rank)
        assert rank == 1 or not keeps(rank - 1) or keeps(rank - 1) == math.isclose(
            rate * (count + 1), round(rate * (count + 1))
        )  # fmt: skip


def test_too_few_parts_are_refused_with_the_number_needed():
    with pytest.raises(DataError, match=r"100 good parts can't promise .* 999 are needed") as caught:
        conformal_threshold(np.arange(100), 0.001)
    assert "add 899 photos" in caught.value.hint
    with pytest.raises(DataError, match=r"2995 are needed") as caught:
        conformal_threshold(np.arange(100), 0.001, 0.95)
    possible = float(caught.value.hint.split("--false-alarms ")[1].split()[0])
    assert conformal_threshold(np.arange(100), possible, 0.95).value == 99  # the hint's advice works


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_no_parts_at_all_are_refused(confidence):
    with pytest.raises(DataError, match="0 good parts can't promise"):
        conformal_threshold([], 0.1, confidence)


@pytest.mark.parametrize("count", [1, 2, 7, 40, 250])
@pytest.mark.parametrize("confidence", [None, 0.95])
def test_following_the_hint_always_works(count, confidence):
    with pytest.raises(DataError) as caught:
        conformal_threshold(np.arange(count), 1e-6, confidence)
    possible = float(caught.value.hint.split("--false-alarms ")[1].split()[0])
    assert conformal_threshold(np.arange(count), possible, confidence).value == count - 1


@pytest.mark.parametrize("scores", [[1.0, float("nan")] * 50, [1.0, float("inf")] * 50])
def test_scores_that_are_no_numbers_are_refused(scores):
    with pytest.raises(DataError, match="NaN"):
        conformal_threshold(scores, 0.1)


@pytest.mark.parametrize(("rate", "confidence"), [(0.0, None), (1.0, None), (-1, None), (0.1, 1.0), (0.1, 0.0)])
def test_rates_out_of_range_are_refused(rate, confidence):
    with pytest.raises(DataError, match="out of range"):
        conformal_threshold(np.arange(100), rate, confidence)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2])
def test_pareto_fit_recovers_the_distribution(shape):
    drawn = stats.genpareto.rvs(shape, scale=2.0, size=20_000, random_state=np.random.default_rng(0))
    ours = fit_pareto(drawn)
    assert ours == pytest.approx((shape, 2.0), abs=0.05)
    if shape == 0.2:
        theirs = stats.genpareto.fit(drawn, floc=0)
        assert ours == pytest.approx((theirs[0], theirs[2]), abs=0.05)


def test_tail_fit_extrapolates_and_promises_nothing():
    rng = np.random.default_rng(4)  # 500 scores alone reach 0.002
    rates = [stats.expon.sf(tail_threshold(rng.exponential(size=500), 0.0005).value) for _ in range(300)]
    assert 0.0002 < np.median(rates) < 0.0008
    rates = [stats.norm.sf(tail_threshold(rng.normal(size=500), 0.0005).value) for _ in range(300)]
    assert np.median(rates) < 0.0005  # lighter tails: on the safe side
    threshold = tail_threshold(rng.normal(size=500), 0.0005)
    assert threshold.method == "gpd-tail"
    assert math.isnan(threshold.upper_bound)
    assert "no guarantee" in threshold.promise()
    inside = tail_threshold(np.arange(1000), 0.5)
    assert inside.value == pytest.approx(499.5)


def test_tail_fit_refuses_what_it_can_not_fit():
    with pytest.raises(DataError, match="at least 100"):
        tail_threshold(np.arange(99), 0.001)
    with pytest.raises(DataError, match="all equal"):
        tail_threshold(np.ones(500), 0.001)


def calibrated(count, rate, confidence=None):
    """The part of a calibration's record that the sentence is made of."""
    found = conformal_threshold(np.arange(count), rate, confidence)
    names = ("method", "normals", "false_alarm_rate", "confidence", "upper_bound")
    return {name: getattr(found, name) for name in names}


@pytest.mark.parametrize(
    ("record", "parts", "said"),
    [
        (
            calibrated(120, 0.01),
            10_000,
            "at 10,000 good parts a day expect at most 100 false alarms on average, and not more than 247 with 95% "
            "confidence; you gave 120 photos; 999 would allow 1 in 1,000",
        ),
        (
            calibrated(1000, 0.001),
            1000,
            "at 1,000 good parts a day expect at most 1 false alarm on average, and not more than 3 with 95% "
            "confidence; you gave 1,000 photos; 9,999 would allow 1 in 10,000",
        ),
        (
            calibrated(120, 0.03, 0.95),
            10_000,
            "at 10,000 good parts a day expect at most 300 false alarms, with 95% confidence; you gave 120 photos; "
            "998 would allow 1 in 333",
        ),
        (
            {"method": "gpd-tail", "normals": 500, "false_alarm_rate": 1e-3, "confidence": 0.0, "upper_bound": None},
            10_000,
            "at 10,000 good parts a day expect at most 10 false alarms, by extrapolation and without a guarantee; "
            "you gave 500 photos; 9,999 would allow 1 in 10,000",
        ),
    ],
    ids=["average", "one", "confident", "extrapolated"],
)
def test_a_threshold_is_said_in_parts_a_day(record, parts, said):
    assert in_a_day(record, parts) == said


@given(st.integers(20, 3000), st.floats(0.05, 0.4), st.integers(1, 20_000))
@settings(max_examples=50, deadline=None)
def test_what_is_said_of_a_day_is_never_below_what_is_promised(count, rate, parts):
    record = calibrated(count, rate)
    expected, bound = re.search(r"at most ([\d.,]+) false .* than ([\d.,]+) with", in_a_day(record, parts)).groups()
    for said, promised in ((expected, rate * parts), (bound, record["upper_bound"] * parts)):
        number = float(said.replace(",", ""))
        assert promised * (1 - 1e-6) <= number <= max(1.11 * promised, promised + 1)
