"""The attribute agreement study against AIAG's own worked example, and its bounds by simulation."""

import math

import numpy as np
import pytest

pytest.importorskip("scipy")

from edge_ad.errors import DataError
from edge_ad.qualify.agreement import AppraisedPart, agreement, cohen_kappa, fleiss_kappa, judge, within_spread

# AIAG, Measurement Systems Analysis (3rd ed., pages 128-132; 4th ed., III-C): 50 parts shown three times each.
# Rows: appraiser says reject, accept; columns: the part is bad, good. Then parts judged right in all three shots,
# and what the manual states: kappa, effectiveness with its bounds, miss rate, false-alarm rate.
AIAG = {
    "A": ([[45, 5], [3, 97]], 42, 0.88, (0.84, 0.71, 0.93), 0.063, 0.049),
    "B": ([[45, 2], [3, 100]], 45, 0.92, (0.90, 0.78, 0.97), 0.063, 0.020),
    "C": ([[42, 9], [6, 93]], 40, 0.77, (0.80, 0.66, 0.90), 0.125, 0.088),
}


def laid_out(table, right):
    """16 bad and 34 good parts with three shots each, with the example's counts of wrong shots and right parts."""
    (_, alarms), (misses, _) = table
    wrong_parts = 50 - right
    bad_parts = min(misses, wrong_parts - math.ceil(alarms / 3))
    wrong = _spread(misses, bad_parts, 16), _spread(alarms, wrong_parts - bad_parts, 34)
    parts = []
    for bad, counts in ((True, wrong[0]), (False, wrong[1])):
        for i, count in enumerate(counts):
            verdicts = tuple((shot < count) != bad for shot in range(3))
            parts.append(AppraisedPart(f"{bad}{i}", bad, verdicts, (0.0, 0.0, 0.0)))
    return parts


def _spread(total, over, of):
    counts = [total // over + (i < total % over) for i in range(over)] if over else []
    return counts + [0] * (of - over)


@pytest.mark.parametrize("appraiser", AIAG)
def test_the_manuals_worked_example(appraiser):
    table, right, kappa, (effective, low, high), misses, alarms = AIAG[appraiser]
    study = agreement(laid_out(table, right))
    assert (study.parts, study.shots, study.good, study.bad) == (50, 150, 34, 16)
    assert study.effective == right
    assert study.effectiveness == pytest.approx(effective)
    assert study.effectiveness_bounds == pytest.approx((low, high), abs=0.005)
    assert study.kappa == pytest.approx(kappa, abs=0.005)
    assert study.miss_rate == pytest.approx(misses, abs=0.0006)
    assert study.false_alarm_rate == pytest.approx(alarms, abs=0.0006)
    assert study.judgement == "unacceptable"  # every appraiser of the example misses too many


def test_fleiss_published_example():
    """Fleiss (1971) as worked in Wikipedia's article: ten subjects, fourteen raters, kappa 0.210."""
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert fleiss_kappa(np.array(counts, float)) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa(np.array([[3.0, 0], [3, 0]])) is None


def test_cohens_kappa_by_another_program():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    other[:120] = one[:120]
    table = np.zeros((2, 2))
    np.add.at(table, (one, other), 1)
    assert cohen_kappa(table) == pytest.approx(sklearn.cohen_kappa_score(one, other))


def test_the_spread_within_parts_is_the_gauge_error_of_the_manuals_variable_example():
    """AIAG's study of ten parts, three appraisers, three trials: 60 degrees of freedom, sum of squares 2.7589."""
    trials = """.29 .41 .64|-.56 -.68 -.58|1.34 1.17 1.27|.47 .50 .64|-.80 -.92 -.84|.02 -.11 -.21|.59 .75 .66
        |-.31 -.20 -.17|2.26 1.99 2.01|-1.36 -1.25 -1.31|.08 .25 .07|-.47 -1.22 -.68|1.19 .94 1.34|.01 1.03 .20
        |-.56 -1.20 -1.28|-.20 .22 .06|.47 .55 .83|-.63 .08 -.34|1.80 2.12 2.19|-1.68 -1.62 -1.50|.04 -.11 -.15
        |-1.38 -1.13 -.96|.88 1.09 .67|.14 .20 .11|-1.46 -1.07 -1.45|-.29 -.67 -.49|.02 .01 .21|-.46 -.56 -.49
        |1.77 1.45 1.87|-1.49 -1.77 -2.16"""
    spread, freedom = within_spread([[float(v) for v in part.split()] for part in trials.split("|")])
    assert freedom == 60
    assert spread**2 * freedom == pytest.approx(2.7589, abs=5e-4)


def test_flips_spread_and_tolerance_of_a_study_made_by_hand():
    parts = [
        AppraisedPart("g1", False, (False, False), (1.0, 3.0)),
        AppraisedPart("g2", False, (False, True), (2.0, 6.0)),
        AppraisedPart("b1", True, (True, True), (9.0, 9.0)),
        AppraisedPart("?", None, (True, False), (6.0, 4.0)),
    ]
    study = agreement(parts, threshold=5.0)
    assert (study.parts, study.good, study.bad, study.shots, study.flips) == (4, 2, 1, 8, 2)
    assert (study.effective, study.missed, study.alarmed) == (2, 0, 1)
    assert study.spread == pytest.approx(math.sqrt((2 + 8 + 0 + 2) / 4))
    assert study.tolerance_used == pytest.approx(3 * study.spread / (5 - 3))
    assert study.miss_bound == pytest.approx(0.95)
    assert study.kappa == pytest.approx((5 / 6 - 0.5) / 0.5)


def test_what_no_part_tells_is_none():
    study = agreement([AppraisedPart("a", None, (False,), (1.0,))])
    assert study.effectiveness is study.kappa is study.kappa_within is study.spread is study.tolerance_used is None
    assert study.judgement.startswith("not judged")
    with pytest.raises(DataError, match="no part"):
        agreement([])


@pytest.mark.parametrize(
    ("rates", "word"),
    [((0.95, 0.01, 0.03), "acceptable"), ((0.85, 0.04, 0.03), "marginal"), ((0.9, 0.03, 0.2), "unacceptable")],
)
def test_the_manuals_words(rates, word):
    assert judge(*rates) == word


def test_bounds_hold_though_shots_of_a_part_are_alike():
    """Each part has its own chance of being missed (beta-distributed); the bound is on the mean over parts."""
    rng = np.random.default_rng(1)
    held = spread_held = 0
    for _ in range(2000):
        chances = rng.beta(0.2, 1.8, 30)  # mean 0.1
        parts = [
            AppraisedPart(str(i), True, tuple(rng.random(3) > chance), tuple(rng.normal(0, 2.0, 3)))
            for i, chance in enumerate(chances)
        ]
        study = agreement(parts)
        held += study.miss_bound >= 0.1
        spread_held += study.spread_bound >= 2.0
    assert held / 2000 >= 0.95
    assert 0.94 <= spread_held / 2000 <= 0.96


def test_bounds_of_false_alarms_and_effectiveness_hold():
    """As above: bounds on the mean rate of false alarms, and on the share of parts judged right in all shots."""
    rng = np.random.default_rng(2)
    wrong = rng.beta(0.2, 1.8, 1_000_000)
    right_always = float(((1 - wrong) ** 3).mean())
    alarms_held = above = below = 0
    for _ in range(2000):
        parts = [
            AppraisedPart(str(i), i % 2 == 0, tuple((rng.random(3) < chance) != (i % 2 == 0)), (0.0, 0.0, 0.0))
            for i, chance in enumerate(rng.beta(0.2, 1.8, 40))
        ]
        study = agreement(parts)
        alarms_held += study.false_alarm_bound >= 0.1
        low, high = study.effectiveness_bounds
        below += low <= right_always
        above += high >= right_always
    assert alarms_held / 2000 >= 0.95
    assert below / 2000 >= 0.975
    assert above / 2000 >= 0.975
    assert (below + above) / 2000 - 1 >= 0.95
