"""A threshold from the scores of good parts, with a false-alarm rate one can sign.

Scores of n good parts that training never saw, and the score of the next good part, come in any order with equal
probability (they are exchangeable). So the next one exceeds the k-th smallest of the n with probability at most
(n + 1 - k) / (n + 1), whatever the scores' distribution: split conformal prediction (Vovk et al. 2005; Angelopoulos
and Bates 2021, section 1). That rate is an average over calibration sets. For the one set at hand the rate beyond
the k-th smallest score follows a Beta(n + 1 - k, k) distribution (or lies below it, with ties), which gives the
bound that holds with a stated confidence; it is Clopper and Pearson's (1934) for n - k exceedances in n.

The promise needs good parts that are independent and like those to come: a hundred frames of one part count once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_ad.errors import DataError

Method = Literal["conformal", "conformal-pac", "gpd-tail"]


@dataclass(frozen=True)
class Threshold:
    """value: a score above it is an alarm. rank: k, of `normals` scores (0 for a tail fit).

    false_alarm_rate: the rate that was asked for. upper_bound: with `confidence`, the rate of this very threshold
    is at most that (nan for a tail fit, which promises nothing).
    """

    value: float
    method: Method
    false_alarm_rate: float
    confidence: float
    upper_bound: float
    normals: int
    rank: int

    def promise(self) -> str:
        """What may be signed, in a sentence."""
        rate, normals = f"{self.false_alarm_rate:.3g}", self.normals
        if self.method == "gpd-tail":
            return f"estimated false-alarm rate {rate} by extrapolating the tail of {normals} scores: no guarantee"
        bound = f"for this threshold it is at most {self.upper_bound:.3g} with {self.confidence:.0%} confidence"
        if self.method == "conformal-pac":
            return f"at most {rate} of good parts are rejected, with {self.confidence:.0%} confidence ({bound})"
        return f"at most {rate} of good parts are rejected on average over calibrations ({bound})"


def conformal_threshold(
    scores: Sequence[float] | npt.NDArray[np.floating],
    false_alarm_rate: float,
    confidence: float | None = None,
) -> Threshold:
    """The smallest score of a held-out good part that keeps the promise.

    scores: [n] of good parts. false_alarm_rate: 0..1. confidence: None promises the rate on average over
    calibrations; 0.95 promises that this very threshold keeps it with probability 0.95 (and needs more parts).
    Raises DataError when n is too small for the request (naming the number needed), or a score is not finite.
    """
    ordered = _sorted_scores(scores)
    count = len(ordered)
    rank = conformal_rank(count, false_alarm_rate, confidence)
    if rank is None:
        needed = normals_needed(false_alarm_rate, confidence)
        sure = "" if confidence is None else f" with {confidence:.0%} confidence"
        possible = 1 / (count + 1) if confidence is None else 1 - (1 - confidence) ** (1 / max(count, 1))
        raise DataError(
            f"{count} good parts can't promise a false-alarm rate of {false_alarm_rate:g}{sure}: {needed} are needed",
            f"add {needed - count} photos of good parts, or ask for --false-alarms {_round_up(possible):g} or "
            "more; --tail-fit extrapolates without a guarantee",
        )
    return Threshold(
        value=float(ordered[rank - 1]),
        method="conformal" if confidence is None else "conformal-pac",
        false_alarm_rate=false_alarm_rate,
        confidence=0.95 if confidence is None else confidence,
        upper_bound=clopper_pearson(count - rank, count, 0.95 if confidence is None else confidence)[1],
        normals=count,
        rank=rank,
    )


def conformal_rank(count: int, false_alarm_rate: float, confidence: float | None = None) -> int | None:
    """The smallest k whose score, k-th smallest of `count`, keeps the promise; None when even k = count doesn't."""
    _check_rates(false_alarm_rate, confidence)
    if count < 1:
        return None
    # (n + 1 - k) / (n + 1) <= rate; the slack keeps 0.1 * 10 from counting as less than 1
    exceeding = math.floor((count + 1) * false_alarm_rate * (1 + 1e-12)) - 1
    if exceeding < 0:
        return None
    if confidence is None:
        return count - exceeding
    # P(Beta(n + 1 - k, k) <= rate) grows with k; k = n - j for j exceedances
    low, high = -1, exceeding  # low: the largest number of exceedances known to keep the promise, -1 for none
    while low < high:
        middle = (low + high + 1) // 2
        if beta_cdf(false_alarm_rate, middle + 1, count - middle) >= confidence * (1 - 1e-12):
            low = middle
        else:
            high = middle - 1
    return None if low < 0 else count - low


def normals_needed(false_alarm_rate: float, confidence: float | None = None) -> int:
    """How many held-out good parts the promise needs: 1 / rate - 1, or log(1 - confidence) / log(1 - rate)."""
    _check_rates(false_alarm_rate, confidence)
    # when in doubt, one more: 1 / 0.001 - 1 is 999, rounding aside
    count = math.ceil(1 / false_alarm_rate - 1 - 1e-9)
    if confidence is not None:
        count = max(count, math.ceil(math.log1p(-confidence) / math.log1p(-false_alarm_rate) - 1e-9))
    return max(1, count)


@lru_cache(maxsize=4096)
def clopper_pearson(events: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """One-sided bounds of a rate: it is at least the first, and at most the second, with `confidence` each."""
    if trials < 1 or not 0 <= events <= trials:
        raise ValueError(f"{events} events in {trials} trials")
    lower = 0.0 if events == 0 else beta_quantile(1 - confidence, events, trials - events + 1)
    upper = 1.0 if events == trials else beta_quantile(confidence, events + 1, trials - events)
    return lower, upper


def in_a_day(record: dict[str, Any], parts: int = 10_000) -> str:
    """What a calibration means in a sentence: false alarms among that many good parts, and what more photos allow.

    record: as `edge_ad.calibrate.calibration.calibration_record` gives it.
    """
    rate, normals = record["false_alarm_rate"], record["normals"]
    expected = f"{_at_most(rate * parts)} false alarm{'s' * (_at_most(rate * parts) != '1')}"
    bound = record.get("upper_bound") or 1.0
    if record["method"] == "gpd-tail":
        sure = ", by extrapolation and without a guarantee"
    elif record["method"] == "conformal-pac":
        sure = f", with {record['confidence']:.0%} confidence"
    else:
        sure = f" on average, and not more than {_at_most(bound * parts)} with {record['confidence']:.0%} confidence"
    finer = rate / 10
    needed = normals_needed(finer, record["confidence"] if record["method"] == "conformal-pac" else None)
    more = f"; {needed:,} would allow 1 in {1 / finer:,.0f}" if needed > normals else ""
    return f"at {parts:,} good parts a day expect at most {expected}{sure}; you gave {normals:,} photos{more}"


def _at_most(number: float) -> str:
    """A bound on an expected number, as text, never below it: a whole number, or two digits below 1."""
    return f"{math.ceil(number * (1 - 1e-9)):,}" if number >= 1 else f"{_round_up(number):g}"


def tail_threshold(
    scores: Sequence[float] | npt.NDArray[np.floating], false_alarm_rate: float, tail: float = 0.15
) -> Threshold:
    """The score that a share `false_alarm_rate` of good parts exceeds, extrapolated beyond the data. No guarantee.

    A generalised Pareto distribution is fitted to the excesses over the (1 - tail) quantile (peaks over threshold;
    Coles 2001, chapter 4) by probability-weighted moments (Hosking and Wallis 1987), which behave with few data.
    Raises DataError with fewer than 100 scores, or when the tail is a single value.
    """
    _check_rates(false_alarm_rate, None)
    ordered = _sorted_scores(scores)
    count = len(ordered)
    if count < 100:
        raise DataError(f"a tail fit needs at least 100 good parts, got {count}", "add photos of good parts")
    number = max(15, int(count * tail))
    start = float(ordered[-number - 1])
    excesses = ordered[-number:] - start
    if false_alarm_rate >= number / count:  # inside the data: nothing to extrapolate
        value = float(np.quantile(ordered, 1 - false_alarm_rate))
    else:
        shape, scale = fit_pareto(excesses)
        if shape < 0:  # few data often look bounded; an exponential tail errs towards fewer false alarms
            shape, scale = 0.0, float(excesses.mean())
        ratio = false_alarm_rate * count / number
        value = start + scale * (-math.log(ratio) if abs(shape) < 1e-9 else (ratio**-shape - 1) / shape)
    return Threshold(value, "gpd-tail", false_alarm_rate, 0.0, math.nan, count, 0)


def fit_pareto(excesses: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Shape and scale of the generalised Pareto distribution, by probability-weighted moments.

    With a0 = E[X] and a1 = E[X (1 - F(X))]: shape = 2 - a0 / (a0 - 2 a1), scale = 2 a0 a1 / (a0 - 2 a1).
    The shape is held to [-0.5, 0.5], where the estimator is sound.
    """
    ordered = np.sort(excesses)
    count = len(ordered)
    survival = 1 - (np.arange(1, count + 1) - 0.35) / count
    first, second = float(ordered.mean()), float((ordered * survival).mean())
    if first <= 0 or first - 2 * second <= 1e-12 * first:
        raise DataError("the highest scores of the good parts are all equal", "use the conformal threshold instead")
    shape = min(0.5, max(-0.5, 2 - first / (first - 2 * second)))
    return shape, first * (1 - shape)


def beta_quantile(probability: float, a: float, b: float) -> float:
    """x with I_x(a, b) = probability, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b) for a, b > 0: P(Beta(a, b) <= x).

    Continued fraction, DLMF 8.17.22, by Lentz's method, on the side where it converges fast.
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    tiny, c, d, fraction = 1e-300, 1.0, 0.0, 1.0
    for i in range(10_000):
        m = i // 2
        if i == 0:
            step = 1.0
        elif i % 2 == 0:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + step * d or tiny)
        c = 1 + step / c or tiny
        fraction *= c * d
        if abs(1 - c * d) < 1e-15:
            break
    return min(1.0, math.exp(log_front) * (fraction - 1) / a)


def _sorted_scores(scores: Sequence[float] | npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    ordered = np.sort(np.asarray(scores, np.float64).ravel())
    if not np.isfinite(ordered).all():
        raise DataError("some scores of good parts are NaN or infinite", "export in FP32 and calibrate again")
    return ordered


def _check_rates(false_alarm_rate: float, confidence: float | None) -> None:
    if not 0 < false_alarm_rate < 1:
        raise DataError(f"a false-alarm rate of {false_alarm_rate:g} is out of range", "use one between 0 and 1")
    if confidence is not None and not 0 < confidence < 1:
        raise DataError(f"a confidence of {confidence:g} is out of range", "use one such as 0.95")


def _round_up(value: float) -> float:
    """Two significant digits, rounded up, so that following the hint works."""
    digits = 1 - math.floor(math.log10(value))
    return float(math.ceil(value * 10.0**digits * (1 - 1e-9)) / 10.0**digits)
