"""Whether test marks predict real defects: how many of these they expect to be found, and how many were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

THIN = 4.0  # a defect longer than so many times its width is compared with scratches, any other with spots
DOUBT = 0.05  # less likely than this by chance: they don't agree
RIDGE = 0.01  # on the slopes: keeps them finite where hits and misses don't overlap
DRAWS = 200  # of curves that the marks leave possible
Array = npt.NDArray[np.float64]


def marks_against_defects(real: Mapping[str, Any], probes: Mapping[str, Any], seed: int = 0) -> list[dict[str, Any]]:
    """A row for each kind of real defects with masks: parts, found, expected by the marks, agree, chance.

    real, probes: as the studies give them. The marks of a shape, of all sizes and contrasts, give a logistic curve of
    ln(size) and ln(contrast); each defect is looked up there by its own. chance: how likely a number at least as
    unlikely as the one found is where the marks are right, what they leave open about the curve included.
    """
    curves = {kind: _curves(probes["rows"], kind, seed) for kind in {row["kind"] for row in probes["rows"]}}
    rows = []
    for kind, table in real["kinds"].items():
        if "widths" not in table or kind == "all kinds":
            continue
        length, width, contrast = (np.array(table[key], float) for key in ("sizes", "widths", "contrasts"))
        thin = length > THIN * width
        scratches = np.stack([np.ones(len(length)), np.log(length), np.log(np.maximum(contrast, 1))], 1)
        spots = scratches.copy()
        spots[:, 1] = np.log(length * width) / 2
        expected = np.where(
            thin[:, None], _share(scratches @ curves["hair scratch"]), _share(spots @ curves["spot"])
        )  # [parts, curves]
        found = sum(map(bool, table["found"]))
        chance = _two_sided(expected, found)
        rows.append(
            {
                "kind": kind,
                "parts": len(length),
                "thin": int(thin.sum()),
                "found": found,
                "expected": float(expected.mean(1).sum()),
                "chance": chance,
                "agree": chance >= DOUBT,
            }
        )
    return rows


def compared_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The comparison in words: of which kinds the marks predict how many are found, and of which not."""
    agree = [_counts(row) for row in rows if row["agree"]]
    said = [f"they predict how many are found of {', '.join(agree)}"] if agree else []
    apart = [_counts(row) for row in rows if not row["agree"]]
    said += [f"they do NOT predict it of {', '.join(apart)}: believe the real defects"] if apart else []
    return "; ".join(said)


def _counts(row: Mapping[str, Any]) -> str:
    harder = (
        "" if row["agree"] else ", harder than marks" if row["found"] < row["expected"] else ", easier than marks"
    )
    return f"{row['kind']} ({row['found']} of {row['parts']} found, {row['expected']:.1f} predicted{harder})"


def _curves(rows: Sequence[Mapping[str, Any]], kind: str, seed: int) -> Array:
    """[3, DRAWS]: coefficients of 1, ln size and ln contrast that fit the marks of a kind, drawn about the best."""
    chosen = [row for row in rows if row["kind"] == kind]
    size = np.log(np.concatenate([np.array(row["sizes"], float) for row in chosen]))
    contrast = np.log(np.concatenate([np.full(len(row["sizes"]), float(row["contrast"])) for row in chosen]))
    found = np.concatenate([np.array(row["found"], float) for row in chosen])
    middle = np.array([size.mean(), contrast.mean()])
    design = np.stack([np.ones_like(size), size - middle[0], contrast - middle[1]], 1)
    penalty = np.diag([RIDGE, RIDGE, RIDGE])
    best = np.zeros(3)
    for _ in range(100):
        p = _share(design @ best)
        information = (design * (p * (1 - p))[:, None]).T @ design + penalty
        step = np.linalg.solve(information, design.T @ (found - p) - penalty @ best)
        best += step / max(1.0, float(np.abs(step).max()))  # at most one a step: the likelihood is flat far out
        if float(np.abs(step).max()) < 1e-9:
            break
    spread = np.linalg.cholesky(np.linalg.inv(information))
    drawn = best[:, None] + spread @ np.random.default_rng(seed).standard_normal((3, DRAWS))
    drawn[0] -= middle @ drawn[1:]
    return np.asarray(drawn)


def _share(logits: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))))


def _two_sided(shares: Array, found: int) -> float:
    """Chance of a count at least as unlikely as `found`. shares: [events, possible worlds], each as likely."""
    counts = np.ones((1, shares.shape[1]))
    for share in shares:
        longer = np.zeros((len(counts) + 1, shares.shape[1]))
        longer[:-1] += counts * (1 - share)
        longer[1:] += counts * share
        counts = longer
    chances = counts.mean(1)
    return float(chances[chances <= chances[found] * (1 + 1e-9)].sum())
