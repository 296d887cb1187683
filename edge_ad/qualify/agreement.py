"""An attribute agreement study for one automated appraiser, in the terms of AIAG's MSA manual (4th ed., III-C).

Every part is shown k times. Shots of one part are no independent trials: bounds are over parts. A part counts as
missed (or falsely rejected) when any of its shots is, which can only make the bound on the rate of wrong decisions
safer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from edge_ad.calibrate.threshold import clopper_pearson
from edge_ad.errors import DataError

GUIDE = (  # AIAG's guideline: effectiveness, miss rate, false-alarm rate; then what it is called
    (0.90, 0.02, 0.05, "acceptable"),
    (0.80, 0.05, 0.10, "marginal"),
)


class AppraisedPart(NamedTuple):
    """One part. bad: what it really is, None where nobody says. rejected, scores: [k] one a shot."""

    name: str
    bad: bool | None
    rejected: tuple[bool, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Agreement:
    """Rates are fractions, None where no part can tell them; *_bounds hold with 95 % over parts.

    effective: parts judged right in every shot. missed, alarmed: parts wrong in at least one shot; miss_rate and
    false_alarm_rate: over decisions. kappa: Cohen's, decisions against the reference. kappa_within: Fleiss', shots
    of a part against one another. flips: parts that got both verdicts. spread: standard deviation of the score
    within a part, with its upper 95 % bound. tolerance_used: 3 x spread over the distance from the good parts' mean
    score to the threshold.
    """

    parts: int
    shots: int
    good: int
    bad: int
    effective: int
    effectiveness: float | None
    effectiveness_bounds: tuple[float, float] | None
    missed: int
    miss_rate: float | None
    miss_bound: float | None
    alarmed: int
    false_alarm_rate: float | None
    false_alarm_bound: float | None
    kappa: float | None
    kappa_within: float | None
    flips: int
    spread: float | None
    spread_bound: float | None
    tolerance_used: float | None
    judgement: str


def agreement(parts: Sequence[AppraisedPart], threshold: float | None = None) -> Agreement:
    """The study's figures. threshold: of the scores, for the share of the tolerance. DataError without any shot."""
    parts = [part for part in parts if part.rejected]
    if not parts:
        raise DataError("no part was shown", "put photos into DIR/good/PART/ and DIR/bad/PART/")
    known = [part for part in parts if part.bad is not None]
    good, bad = [p for p in known if not p.bad], [p for p in known if p.bad]
    effective = sum(all(verdict == part.bad for verdict in part.rejected) for part in known)
    missed, alarmed = sum(not all(p.rejected) for p in bad), sum(any(p.rejected) for p in good)
    misses = _mean([not verdict for p in bad for verdict in p.rejected])
    alarms = _mean([verdict for p in good for verdict in p.rejected])
    table = np.zeros((2, 2))
    for part in known:
        for verdict in part.rejected:
            table[int(verdict), int(bool(part.bad))] += 1
    spread, freedom = within_spread([part.scores for part in parts])
    effectiveness = effective / len(known) if known else None
    return Agreement(
        parts=len(parts),
        shots=sum(len(part.rejected) for part in parts),
        good=len(good),
        bad=len(bad),
        effective=effective,
        effectiveness=effectiveness,
        effectiveness_bounds=clopper_pearson(effective, len(known), 0.975) if known else None,
        missed=missed,
        miss_rate=misses,
        miss_bound=clopper_pearson(missed, len(bad))[1] if bad else None,
        alarmed=alarmed,
        false_alarm_rate=alarms,
        false_alarm_bound=clopper_pearson(alarmed, len(good))[1] if good else None,
        kappa=cohen_kappa(table) if known else None,
        kappa_within=_within([part.rejected for part in parts]),
        flips=sum(len(set(part.rejected)) > 1 for part in parts),
        spread=spread,
        spread_bound=None if spread is None else spread * math.sqrt(freedom / float(chi2.ppf(0.05, freedom))),
        tolerance_used=_tolerance_used(spread, good, threshold),
        judgement=judge(effectiveness, misses, alarms),
    )


def judge(effectiveness: float | None, miss_rate: float | None, false_alarm_rate: float | None) -> str:
    """AIAG's word for the three rates; which of them is missing, where one is."""
    if effectiveness is None or miss_rate is None or false_alarm_rate is None:
        return "not judged: good and bad parts with a known verdict are needed"
    for least, most_missed, most_alarms, word in GUIDE:
        if effectiveness >= least and miss_rate <= most_missed and false_alarm_rate <= most_alarms:
            return word
    return "unacceptable"


def cohen_kappa(table: npt.NDArray[np.float64]) -> float | None:
    """(p_o - p_e) / (1 - p_e) of a square table of counts [c, c]; None where chance alone would agree always."""
    shares = table / table.sum()
    chance = float(shares.sum(1) @ shares.sum(0))
    return None if chance >= 1 else (float(np.trace(shares)) - chance) / (1 - chance)


def fleiss_kappa(counts: npt.NDArray[np.float64]) -> float | None:
    """Fleiss (1971). counts: [parts, categories], each row adding up to the same number of judgements, 2 or more."""
    raters = float(counts[0].sum())
    agreed = (counts * (counts - 1)).sum(1) / (raters * (raters - 1))
    chance = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return None if chance >= 1 else (float(agreed.mean()) - chance) / (1 - chance)


def within_spread(scores: Sequence[Sequence[float]]) -> tuple[float | None, int]:
    """Standard deviation within parts, pooled (the repeatability of a one-way analysis of variance), and its
    degrees of freedom; (None, 0) where no part was shown twice."""
    several = [np.asarray(part, np.float64) for part in scores if len(part) > 1]
    freedom = sum(len(part) - 1 for part in several)
    if not freedom:
        return None, 0
    return math.sqrt(sum(float(((part - part.mean()) ** 2).sum()) for part in several) / freedom), freedom


def _within(verdicts: Sequence[Sequence[bool]]) -> float | None:
    """Fleiss' kappa over the parts shown as often as most are; None with one shot a part or one verdict for all."""
    lengths = [len(part) for part in verdicts]
    common = max(set(lengths), key=lengths.count)
    if common < 2:
        return None
    counts = [[sum(part), common - sum(part)] for part in verdicts if len(part) == common]
    return fleiss_kappa(np.array(counts, np.float64))


def _tolerance_used(spread: float | None, good: Sequence[AppraisedPart], threshold: float | None) -> float | None:
    if spread is None or threshold is None or not good:
        return None
    room = threshold - float(np.mean([np.mean(part.scores) for part in good]))
    return 3 * spread / room if room > 0 else math.inf


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
