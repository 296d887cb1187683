"""Whether test marks predict real defects: how many of these their curves expect to be found, and how many were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

THIN = 4.0  # a defect longer than so many times its width is compared with scratches, any other with spots
DOUBT = 0.05  # less likely than this by chance: they don't agree


def marks_against_defects(real: Mapping[str, Any], probes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each kind of real defects with masks: parts, found, expected by the marks' curves, agree, chance.

    real, probes: as the studies give them. Each defect is compared with the marks of its shape at the contrast
    nearest to its own (as a ratio). chance: how likely a number at least as far from the expected one is where the
    marks are right.
    """
    rows = []
    for kind, table in real["kinds"].items():
        if "widths" not in table or kind == "all kinds":
            continue
        sized = list(zip(table["sizes"], table["widths"], table["contrasts"], strict=True))
        thin = sum(length > THIN * width for length, width, _ in sized)
        expected = [_expected(probes["rows"], *one) for one in sized]
        found = sum(map(bool, table["found"]))
        chance = _two_sided(expected, found)
        rows.append(
            {
                "kind": kind,
                "parts": len(sized),
                "thin": thin,
                "found": found,
                "expected": float(sum(expected)),
                "chance": chance,
                "agree": chance >= DOUBT,
            }
        )
    return rows


def compared_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The comparison in words: of which kinds the marks predict how many are found, and of which not."""
    agree = [f"{row['kind']} ({_counts(row)})" for row in rows if row["agree"]]
    apart = [f"{row['kind']} ({_counts(row)})" for row in rows if not row["agree"]]
    said = (
        [f"marks of the same shape and contrast predict how many are found of: {', '.join(agree)}"] if agree else []
    )
    if apart:
        said.append(f"they do NOT for: {', '.join(apart)}; believe the real defects")
    return "; ".join(said)


def _counts(row: Mapping[str, Any]) -> str:
    return f"{row['found']} of {row['parts']} found, {row['expected']:.1f} predicted"


def _expected(rows: Sequence[Mapping[str, Any]], length: float, width: float, contrast: float) -> float:
    """The share of marks like this defect that are found, 0..1."""
    thin = length > THIN * width
    kind, size = ("hair scratch", length) if thin else ("spot", math.sqrt(length * width))
    nearest = math.log(max(contrast, 1.0))
    row = min((one for one in rows if one["kind"] == kind), key=lambda one: abs(math.log(one["contrast"]) - nearest))
    limit = row["limit"]
    if limit["b1"] is not None and limit["b1"] > 0:
        return float(1 / (1 + np.exp(-np.clip(limit["b0"] + limit["b1"] * math.log(size), -60, 60))))
    # no curve: as many as of all the marks tried, or as of those on this side of the gap between misses and hits
    sizes, hits = np.array(row["sizes"]), np.array(row["found"], bool)
    if hits.any() and not hits.all() and sizes[~hits].max() < sizes[hits].min():
        return float(size >= sizes[hits].min())
    return float(hits.mean())


def _two_sided(shares: Sequence[float], found: int) -> float:
    """Chance of a count at least as unlikely as `found`, of independent events with these probabilities."""
    counts = np.ones(1)
    for share in shares:
        counts = np.convolve(counts, [1 - share, share])
    return float(counts[counts <= counts[found] * (1 + 1e-9)].sum())
