"""The report's charts as PNG bytes, drawn from its figures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edge_ad.data.images import read_image
from edge_ad.qualify.document import CHART_DPI

BLUE, RED = "#2b6cb0", "#c5303a"


def short(value: float) -> str:
    """Two significant digits, without an exponent."""
    return f"{float(f'{value:.2g}'):g}"


def pod_chart(rows: Sequence[Mapping[str, Any]], titles: Sequence[str], unit: float, unit_name: str) -> bytes:
    """Probability of detection over size, a panel a row: trials as ticks, the curve, a90 and a90/95.

    rows: with `limit`, `sizes` and `found`. unit: units in a pixel.
    """
    across = min(3, len(rows))
    down = -(-len(rows) // across)
    figure = Figure(figsize=(3.3 * across, 2.7 * down), layout="constrained")
    axes = np.atleast_1d(figure.subplots(down, across)).ravel()
    for axis, row, title in zip(axes, rows, titles, strict=False):
        limit, sizes = row["limit"], np.array(row["sizes"]) * unit
        hits = np.array(row["found"], bool)
        axis.plot(sizes[hits], np.full(hits.sum(), 1.03), "|", color=BLUE, label=f"found ({hits.sum()})")
        axis.plot(sizes[~hits], np.full((~hits).sum(), -0.03), "|", color=RED, label=f"missed ({(~hits).sum()})")
        if limit["b1"] is not None and limit["b1"] > 0:
            grid = np.geomspace(max(sizes.min() / 1.3, 1e-9), sizes.max() * 1.3, 200)
            axis.plot(grid, 1 / (1 + np.exp(-limit["b0"] - limit["b1"] * np.log(grid / unit))), color="#222")
        for name, style in (("a90", "-"), ("a90_95", "--")):
            value = limit[name]
            if value is not None and value * unit < 3 * sizes.max():
                axis.axvline(
                    value * unit,
                    color="#444",
                    linestyle=style,
                    linewidth=1,
                    label=f"{name.replace('_', '/')} {value * unit:.3g}",
                )
        axis.set(xscale="log", ylim=(-0.1, 1.1), title=title, xlabel=f"size, {unit_name}", ylabel="share found")
        ticks = np.geomspace(sizes.min(), max(sizes.max(), 1.01 * sizes.min()), 4)
        axis.set_xticks(ticks, [short(tick) for tick in ticks])
        axis.set_xticks([], minor=True)
        axis.legend(fontsize=6, loc="center left")
    for axis in axes[len(rows) :]:
        axis.axis("off")
    return _png(figure)


def map_chart(found: Mapping[str, Any], unit: float, unit_name: str) -> bytes:
    """The part with the smallest spot found at each place written on it."""
    height, width = found["picture"]
    figure = Figure(figsize=(6, 6 * height / width + 0.4), layout="constrained")
    axis = figure.subplots()
    try:
        axis.imshow(read_image(Path(found["photo"])), alpha=0.55)
    except Exception:
        axis.set(xlim=(0, width), ylim=(height, 0))
    known = [place["smallest"] for place in found["places"] if place["smallest"] is not None]
    low, high = (min(known), max(known)) if known else (1.0, 2.0)
    for place in found["places"]:
        value = place["smallest"]
        shade = 1.0 if value is None else (np.log(value / low) / max(np.log(high / low), 1e-9))
        axis.text(
            place["x"], place["y"], "none" if value is None else short(value * unit), ha="center", va="center",
            fontsize=8, color="white",
            bbox={"boxstyle": "round", "color": (0.2 + 0.6 * shade, 0.45 - 0.3 * shade, 0.7 - 0.5 * shade)},
        )  # fmt: skip
    axis.set_title(f"smallest spot found, {unit_name}", fontsize=9)
    axis.axis("off")
    return _png(figure)


def robustness_chart(found: Mapping[str, Any]) -> bytes:
    """False alarms and detection over the strength of each disturbance; a triangle where the drift watch warns."""
    rows = found["rows"]
    curves = (
        ("alarms", found["alarms_before"], found["good"], RED, "good parts rejected"),
        ("found", found["found_before"], found["defects"], BLUE, "defects found"),
    )
    figure = Figure(figsize=(10, 2.5 * -(-len(rows) // 4)), layout="constrained")
    axes = figure.subplots(-(-len(rows) // 4), 4).ravel()
    for axis, row in zip(axes, rows, strict=False):
        steps = row["steps"]
        at = range(-1, len(steps))
        for key, before, parts, colour, label in curves:
            known = [(-1, before), *((i, step[key]) for i, step in enumerate(steps) if key in step)]
            shares = [100 * count / parts for _, count in known]
            axis.plot([i for i, _ in known], shares, color=colour, marker=".", label=label)
        warned = [i for i, step in enumerate(steps) if step.get("warning")]
        axis.plot(warned, [-6] * len(warned), "^", color="#b7791f", label="drift watch warns")
        axis.set_xticks(list(at), ["as is", *(f"{step['strength']:g}" for step in steps)], fontsize=7)
        axis.set(ylim=(-12, 106), title=row["name"], xlabel=row["unit"], ylabel="%")
    for axis in axes[len(rows) :]:
        axis.axis("off")
    axes[0].legend(fontsize=6, loc="center left")
    return _png(figure)


def repeat_chart(shown: Sequence[Mapping[str, Any]], threshold: float) -> bytes:
    """Each part's scores, shot by shot, against the threshold."""
    figure = Figure(figsize=(max(5.0, min(10.0, 0.25 * len(shown) + 2)), 3), layout="constrained")
    axis = figure.subplots()
    for i, part in enumerate(shown):
        colour = RED if part["bad"] else BLUE if part["bad"] is not None else "#777"
        axis.plot([i + 1] * len(part["scores"]), part["scores"], ".", color=colour, markersize=4)
    axis.axhline(threshold, color="#222", linestyle="--", linewidth=1)
    axis.set(xlabel="part, in the order of report.json: blue good, red bad, gray unknown", ylabel="score")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=CHART_DPI)
    return out.getvalue()
