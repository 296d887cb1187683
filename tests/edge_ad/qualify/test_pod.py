"""a90 and a90/95 against published and hand-made examples, another program, and thousands of simulated studies."""

from dataclasses import asdict

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
pytest.importorskip("fpdf")

from edge_ad.errors import DataError
from edge_ad.qualify.first_page import limit_note
from edge_ad.qualify.pod import _profile, fit_hit_miss, fit_response, tolerance_factor

# Bliss (1935), as fitted in Dobson and Barnett, An Introduction to Generalized Linear Models (3rd ed., table 7.2 and
# 7.3): log10 dose of carbon disulphide, beetles, killed; logit = -60.717 + 34.270 log10 dose, deviance 11.23
DOSE = (1.6907, 1.7242, 1.7552, 1.7842, 1.8113, 1.8369, 1.8610, 1.8839)
SHOWN = (59, 60, 62, 56, 63, 59, 62, 60)
KILLED = (6, 13, 18, 28, 52, 53, 61, 60)


def beetles():
    sizes = np.repeat(10 ** np.array(DOSE), SHOWN)
    hits = np.concatenate([np.arange(n) < k for n, k in zip(SHOWN, KILLED, strict=True)])
    return sizes, hits


def test_the_published_logistic_example():
    limit = fit_hit_miss(*beetles())
    assert (limit.trials, limit.hits) == (481, 291)
    assert limit.b0 == pytest.approx(-60.717, abs=2e-3)
    assert limit.b1 * np.log(10) == pytest.approx(34.270, abs=1e-3)  # ours is over natural logarithms
    assert np.log10(limit.a50) == pytest.approx(60.717 / 34.270, abs=1e-4)
    assert np.log10(limit.a90) == pytest.approx((60.717 + np.log(9)) / 34.270, abs=1e-4)
    assert limit.note == ""


# The 60 simulated inspections that come with the US Air Force Research Laboratory's POD v4.5, the program of
# MIL-HDBK-1823A's users (HitMissData_Good_1), and what it states for the logit model of the size itself
# (HitMissResults_Good_1): intercept, slope, a90, and a90/95 by Wald's bound of the curve
POD_SIZES = (
    0.026429706, 0.033503454, 0.053120163, 0.070630726, 0.079225089, 0.094606814, 0.095282408, 0.102307749,
    0.107649372, 0.120030103, 0.120304186, 0.130035327, 0.14030999, 0.153704356, 0.153917693, 0.166910359,
    0.181461883, 0.187918014, 0.191985489, 0.206296735, 0.22125183, 0.22254802, 0.223172984, 0.226625926,
    0.234836897, 0.240048821, 0.245869667, 0.247247879, 0.24864422, 0.254521076, 0.259783658, 0.260924841,
    0.270902464, 0.283500563, 0.284831232, 0.28762478, 0.291295773, 0.296634941, 0.308812298, 0.319062008,
    0.322503578, 0.345716849, 0.356358449, 0.366939348, 0.392040921, 0.401791147, 0.413413202, 0.417064974,
    0.425014553, 0.427228229, 0.434310898, 0.452074355, 0.474195496, 0.5148145, 0.538676457, 0.541220773,
    0.54866743, 0.553663894, 0.604257669, 0.718182309,
)  # fmt: skip
POD_MISSED = (*range(20), 21, 22, 23, 24, 25, 26, 27, 30, 35, 37)
POD_STATED = {"intercept": -11.83265105, "slope": 45.30678376, "a90": 0.309663906, "a90_95": 0.381546911}


def test_the_reference_study_of_the_handbooks_program():
    sizes = np.array(POD_SIZES)
    hits = np.isin(np.arange(60), POD_MISSED, invert=True)
    limit = fit_hit_miss(np.exp(sizes), hits)  # ours is over logarithms, theirs over sizes
    assert (limit.trials, limit.hits) == (60, 30)
    assert limit.b0 == pytest.approx(POD_STATED["intercept"], rel=1e-7)
    assert limit.b1 == pytest.approx(POD_STATED["slope"], rel=1e-7)
    assert np.log(limit.a90) == pytest.approx(POD_STATED["a90"], rel=1e-7)
    # Wald's bound lies higher than one from the likelihood, which the handbook prefers: 0.0719 above a90, not 0.0568
    above = np.log(limit.a90_95) - np.log(limit.a90)
    assert 0.7 < above / (POD_STATED["a90_95"] - POD_STATED["a90"]) < 1
    from scipy.optimize import brentq

    p = 1 / (1 + np.exp(-(limit.b0 + limit.b1 * sizes)))
    design = np.stack([np.ones(60), sizes])
    (c00, c01), (_, c11) = np.linalg.inv((design * p * (1 - p)) @ design.T)
    wald = brentq(
        lambda a: limit.b0 + limit.b1 * a - 1.6449 * np.sqrt(c00 + 2 * a * c01 + a * a * c11) - np.log(9), 0.31, 1
    )
    assert wald == pytest.approx(POD_STATED["a90_95"], rel=5e-4)  # they read it off a grid


def test_bounds_agree_with_another_program_where_many_trials_make_them_the_same():
    statsmodels = pytest.importorskip("statsmodels.api")
    from scipy.stats import norm

    sizes, hits = beetles()
    fit = statsmodels.Logit(hits.astype(float), statsmodels.add_constant(np.log(sizes))).fit(disp=0)
    b0, b1 = fit.params
    at = (np.log(9) - b0) / b1
    gradient = np.array([-1 / b1, -at / b1])
    wald = np.exp(at + norm.ppf(0.95) * np.sqrt(gradient @ fit.cov_params() @ gradient))
    limit = fit_hit_miss(sizes, hits)
    assert (limit.b0, limit.b1) == pytest.approx((b0, b1), rel=1e-6)
    assert limit.a90 < limit.a90_95
    assert np.log(limit.a90_95) - at == pytest.approx(np.log(wald) - at, rel=0.15)


def test_the_bound_is_near_where_the_likelihood_has_fallen_by_half_the_squared_quantile():
    sizes, hits = beetles()
    limit, x = fit_hit_miss(sizes, hits), np.log(sizes)
    best = _profile(np.log(limit.a90), 0.9, x, hits)[0]
    fallen = [best - _profile(at, 0.9, x, hits)[0] for at in np.log(np.linspace(limit.a90, limit.a90_95 * 1.05, 200))]
    assert np.all(np.diff(fallen) > 0)
    assert best - _profile(np.log(limit.a90_95), 0.9, x, hits)[0] == pytest.approx(1.6449**2 / 2, rel=0.1)


@pytest.mark.parametrize(
    ("seed", "a50", "slope", "count"), [(0, 5.0, 3.0, 60), (1, 12.0, 1.8, 90), (5, 5.0, 5.0, 40)]
)
def test_the_hit_miss_bound_holds_at_its_level(seed, a50, slope, count):
    rng = np.random.default_rng(seed)
    true = a50 * np.exp(np.log(9) / slope)
    above = stated = 0
    for _ in range(2000):
        sizes = np.exp(rng.uniform(np.log(a50 / 5), np.log(a50 * 5), count))
        hits = rng.random(count) < 1 / (1 + np.exp(-slope * np.log(sizes / a50)))
        bound = fit_hit_miss(sizes, hits).a90_95
        if bound is not None:
            stated += 1
            above += bound >= true
    assert stated >= 1800
    assert 0.94 <= above / stated <= 0.98


def test_the_bound_from_scores_holds_at_its_level_with_few_trials():
    rng = np.random.default_rng(2)
    true, above = np.exp((2.0 + 1.2816 * 0.5 - 0.0) / 1.0), 0  # threshold 2, b0 = 0, b1 = 1, noise 0.5
    for _ in range(2000):
        sizes = np.exp(rng.uniform(0.5, 4, 15))
        bound = fit_response(sizes, np.log(sizes) + rng.normal(0, 0.5, 15), 2.0).a90_95
        above += bound is None or bound >= true
    assert 0.94 <= above / 2000 <= 0.96


def test_the_line_through_scores_is_least_squares():
    statsmodels = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(3)
    sizes = np.exp(rng.uniform(0, 4, 80))
    scores = -1 + 0.8 * np.log(sizes) + rng.normal(0, 0.3, 80)
    fit = statsmodels.OLS(scores, statsmodels.add_constant(np.log(sizes))).fit()
    limit = fit_response(sizes, scores, 1.0)
    assert (limit.b0, limit.b1) == pytest.approx(tuple(fit.params))
    assert limit.a90 == pytest.approx(
        np.exp((1 - fit.params[0] + 1.28155 * np.sqrt(fit.scale)) / fit.params[1]), rel=1e-4
    )
    assert limit.a90 < limit.a90_95 < 1.3 * limit.a90


@pytest.mark.parametrize(("count", "factor"), [(10, 2.355), (20, 1.926), (30, 1.778)])
def test_the_tolerance_factors_are_those_of_the_published_table(count, factor):
    """NIST/SEMATECH e-Handbook, table of one-sided factors: 90 % of the population, 95 % confidence."""
    assert tolerance_factor(count, count - 1, 0.9, 0.95) == pytest.approx(factor, abs=1e-3)


def test_no_overlap_is_said_and_nothing_is_promised():
    sizes = np.arange(1.0, 41)
    limit = fit_hit_miss(sizes, sizes > 20)
    assert limit.a90 is limit.a90_95 is None
    assert "don't overlap" in limit.note
    assert limit.between == pytest.approx((20, 21))
    assert "lies between 10 and 10.5 mm" in limit_note(asdict(limit), 0.5, "mm")
    assert (
        limit_note(asdict(fit_hit_miss(sizes, sizes > 0)), 0.5, "mm") == "all of 40 were found: no curve, try smaller"
    )


@pytest.mark.parametrize(
    ("hits", "says"),
    [
        ([True] * 8, "all of 8 were found: no curve, try smaller"),
        ([False] * 8, "none of 8 were found: no curve, try larger"),
        ([True] * 4 + [False] * 4, "larger defects were not found more often"),
        ([False, True, False, True, True, False, True, False], "no finite value"),
    ],
)
def test_what_the_data_do_not_tell_is_none_and_said(hits, says):
    limit = fit_hit_miss(np.arange(1.0, 9), hits)
    assert limit.a90_95 is None
    assert says in limit.note


def test_an_extrapolated_limit_is_called_so():
    rng = np.random.default_rng(4)
    sizes = np.exp(rng.uniform(0, 1.5, 300))
    limit = fit_hit_miss(sizes, rng.random(300) < 1 / (1 + np.exp(-2 * (np.log(sizes) - 1))))
    assert limit.a90 > limit.largest
    assert "extrapolated" in limit.note


def test_sizes_without_a_logarithm_are_refused():
    with pytest.raises(DataError, match="above 0"):
        fit_hit_miss([1.0, 0.0], [True, False])
    with pytest.raises(DataError, match="above 0"):
        fit_response([], [], 1.0)
    assert "all of one size" in fit_response([2.0] * 5, [1, 2, 3, 4, 5], 1.0).note
