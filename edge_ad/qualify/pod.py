"""Probability of detection over defect size, from hits and misses: a90 and a90/95.

The model is MIL-HDBK-1823A's (2009, appendix G): logit POD(a) = b0 + b1 ln a. a90 is the size found nine times in
ten; a90/95 is its upper bound with 95 % confidence. It comes from the profile likelihood, over slopes b1 >= 0: with
l(a) the greatest log-likelihood of a curve that has POD 0.9 at a, r = sqrt(2 (l(a90) - l(a))) grows with a, and the
bound is where r reaches the normal quantile z. In studies of the usual 60 trials that bound holds in 92 % of cases
instead of 95 %, so r is corrected: r* = r + ln(q / r) / r (Barndorff-Nielsen 1986; Fraser, Reid and Wu 1999), with
q = (b0 + b1 ln a - logit 0.9) sqrt(|J| / j), J the information of (b0, b1) at the best curve and j that of the slope
at the curve through a. Where hits and misses don't overlap there is no best curve: no a90, and no bound either, since
none that was tried held at its level; what is said then is between which two sizes the limit lies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import nct, norm

from edge_ad.errors import DataError

Array = npt.NDArray[np.float64]
STEEPEST = 1e4  # of b1: a step, for any sizes one could tell apart


@dataclass(frozen=True)
class Limit:
    """How small a defect is found. Sizes are in the unit they were given in; None where the data don't tell.

    trials, hits: what it rests on. smallest, largest: sizes tried. b0, b1: of the fitted curve. note: why a figure
    is missing or to be read with care; "" where there is nothing to say. between: the sizes that the limit lies
    between, where hits and misses don't overlap.
    """

    trials: int
    hits: int
    smallest: float
    largest: float
    b0: float | None = None
    b1: float | None = None
    a50: float | None = None
    a90: float | None = None
    a90_95: float | None = None
    note: str = ""
    between: tuple[float, float] | None = None


def fit_hit_miss(
    sizes: Sequence[float] | Array, hits: Sequence[bool] | npt.NDArray[np.bool_], confidence: float = 0.95
) -> Limit:
    """The detection limit from defects of known size that were found or not.

    sizes: [n], above 0. hits: [n]. confidence: of a90_95, 0.5..1. Raises DataError for other sizes or none at all.
    """
    x, y = _checked(sizes), np.asarray(hits, bool)
    known: dict[str, Any] = {
        "trials": len(y),
        "hits": int(y.sum()),
        "smallest": math.exp(x.min()),
        "largest": math.exp(x.max()),
    }
    if y.all() or not y.any():
        what = "all" if y.any() else "none"
        return Limit(
            **known, note=f"{what} of {len(y)} were found: no curve, try {'smaller' if y.any() else 'larger'}"
        )
    if x[y].max() <= x[~y].min():
        return Limit(**known, note="larger defects were not found more often than smaller ones: no curve")
    if x[~y].max() <= x[y].min():
        between = math.exp(x[~y].max()), math.exp(x[y].min())
        return Limit(**known, note="hits and misses don't overlap, so that no curve can be fitted", between=between)
    b0, b1 = _maximum_likelihood(x, y)
    if b1 <= 0:
        return Limit(**known, b0=b0, b1=b1, note="larger defects were not found more often than smaller ones")
    a50, a90 = math.exp(-b0 / b1), _exp((_logit(0.9) - b0) / b1)
    bound, note = bound_of(0.9, x, y, (b0, b1), confidence)
    beyond = "a90 lies beyond the largest size tried: extrapolated" if a90 > known["largest"] else ""
    return Limit(**known, b0=b0, b1=b1, a50=a50, a90=a90, a90_95=bound, note="; ".join(filter(None, (beyond, note))))


def bound_of(
    pod: float,
    x: Array,
    y: npt.NDArray[np.bool_],
    best: tuple[float, float],
    confidence: float = 0.95,
) -> tuple[float | None, str]:
    """Upper bound of the size found with probability `pod`, and a note where there is none.

    x: [n] log sizes. best: b0, b1 of the best curve, b1 > 0.
    """
    z = float(norm.ppf(confidence))
    p = _expit(best[0] + best[1] * x)
    weight = p * (1 - p)
    information = float(weight.sum() * (weight @ x**2) - (weight @ x) ** 2)
    start, most = (_logit(pod) - best[0]) / best[1], _log_likelihood(best[0] + best[1] * x, y)

    def root(at: float) -> float:
        reached, slope_information = _profile(at, pod, x, y)
        r = math.sqrt(max(2 * (most - reached), 0.0))
        if r < 0.1:
            return r
        q = (best[0] + best[1] * at - _logit(pod)) * math.sqrt(information / slope_information)
        return r + math.log(q / r) / r

    step = 0.25
    while root(start + step) < z and step < 64:
        step *= 2
    if step >= 64:
        name = f"a{pod * 100:.0f}/{confidence * 100:.0f}"
        return None, f"{name} has no finite value: too few trials, or size hardly matters"
    return _exp(float(brentq(lambda at: root(at) - z, start, start + step, xtol=1e-6))), ""


def fit_response(
    sizes: Sequence[float] | Array, scores: Sequence[float] | Array, threshold: float, confidence: float = 0.95
) -> Limit:
    """The detection limit from the scores themselves ("a-hat vs a"): score = b0 + b1 ln a + noise of one spread.

    A defect counts as found when its score is above the threshold. a90_95 is where the lower 90 % tolerance limit of
    the scores, with that confidence, crosses the threshold: exact for normal noise, by the non-central t
    distribution (Owen 1968), where the handbook uses an approximation for many trials.
    """
    x, score = _checked(sizes), np.asarray(scores, np.float64)
    count, hits = len(x), int((score > threshold).sum())
    known: dict[str, Any] = {
        "trials": count,
        "hits": hits,
        "smallest": math.exp(x.min()),
        "largest": math.exp(x.max()),
    }
    middle, spread = float(x.mean()), float(((x - x.mean()) ** 2).sum())
    if count < 4 or spread <= 0:
        return Limit(**known, note="fewer than four trials, or all of one size: no line")
    b1 = float(((x - middle) * score).sum() / spread)
    b0 = float(score.mean() - b1 * middle)
    noise = math.sqrt(float(((score - b0 - b1 * x) ** 2).sum()) / (count - 2))
    if b1 <= 0 or noise <= 0:
        return Limit(**known, b0=b0, b1=b1, note="scores don't grow with size, or don't vary at all: no limit")
    a50, a90 = _exp((threshold - b0) / b1), _exp((threshold + float(norm.ppf(0.9)) * noise - b0) / b1)

    def margin(at: float) -> float:
        weight = 1 / (1 / count + (at - middle) ** 2 / spread)
        return b0 + b1 * at - tolerance_factor(weight, count - 2, 0.9, confidence) * noise - threshold

    start, far = math.log(a90), 1.0
    while margin(start + far) < 0 and far < 64:
        far *= 2
    beyond = "a90 lies beyond the largest size tried: extrapolated" if a90 > known["largest"] else ""
    if far >= 64:
        return Limit(**known, b0=b0, b1=b1, a50=a50, a90=a90, note=beyond or "a90/95 has no finite value")
    return Limit(
        **known, b0=b0, b1=b1, a50=a50, a90=a90, a90_95=_exp(brentq(margin, start, start + far)), note=beyond
    )


def tolerance_factor(count: float, freedom: int, share: float, confidence: float) -> float:
    """k such that mean - k s is below a share of a normal population with the confidence (one-sided).

    count: how many values the mean is worth; freedom: degrees of freedom of s.
    """
    return float(nct.ppf(confidence, freedom, float(norm.ppf(share)) * math.sqrt(count))) / math.sqrt(count)


def _checked(sizes: Sequence[float] | Array) -> Array:
    values = np.asarray(sizes, np.float64)
    if not len(values) or not np.isfinite(values).all() or (values <= 0).any():
        raise DataError("a detection limit needs sizes above 0", "measure the defects, or give --bad with masks")
    return np.log(values)


def _maximum_likelihood(x: Array, y: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """b0, b1 by Newton's method; hits and misses overlap, so that the maximum exists."""
    middle, spread = float(x.mean()), float(x.std())
    design = np.stack([np.ones_like(x), (x - middle) / spread], axis=1)
    beta = np.zeros(2)
    reached = _log_likelihood(design @ beta, y)
    for _ in range(100):
        p = _expit(design @ beta)
        slope = design.T @ (y - p)
        step = np.linalg.solve((design * (p * (1 - p))[:, None]).T @ design, slope)
        while (now := _log_likelihood(design @ (beta + step), y)) < reached - 1e-12:
            step /= 2
        beta, reached = beta + step, now
        if float(np.abs(step).max()) < 1e-10:
            break
    b1 = float(beta[1] / spread)
    return float(beta[0] - b1 * middle), b1


def _profile(at: float, pod: float, x: Array, y: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The greatest log-likelihood of a curve that has POD = pod at the log size `at`, over slopes from 0 up, and the
    information of that curve's slope."""
    apart, offset = x - at, _logit(pod)

    def climb(slope: float) -> float:
        return float(apart @ (y - _expit(offset + slope * apart)))

    slope, high = 0.0, 1.0
    if climb(0.0) > 0:
        while climb(high) > 0 and high < STEEPEST:
            high *= 4
        slope = high if high >= STEEPEST else float(brentq(climb, 0.0, high, xtol=1e-9))
    p = _expit(offset + slope * apart)
    return _log_likelihood(offset + slope * apart, y), float((p * (1 - p)) @ apart**2)


def _log_likelihood(eta: Array, y: npt.NDArray[np.bool_]) -> float:
    return -float(np.logaddexp(0.0, np.where(y, -eta, eta)).sum())


def _expit(eta: Array) -> Array:
    return 0.5 * (1 + np.tanh(eta / 2))


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _exp(value: float) -> float:
    """e to the value, infinity where that is no float."""
    return math.exp(value) if value < 700 else math.inf
