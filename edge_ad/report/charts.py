"""The report's charts as SVG. Colours are classes of report.css, so that they follow a light or dark screen."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_ad import metrics
from edge_ad.evaluation import CategoryResult, ImageScore
from edge_ad.report.tables import text

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
BINS = 40
# Of the charts with a threshold, in units of their viewBox; report.js finds LEFT, WIDTH, TOP and HEIGHT on the <svg>.
LEFT, WIDTH, TOP, HEIGHT = 34, 316, 8, 150


class ImageCurves(NamedTuple):
    """Curves over the image scores; empty with one class only."""

    roc: Curve
    precision: Curve


def curve_chart(title: str, curve: Curve, axes: tuple[str, str], tint: float = 0.0) -> str:
    """A curve with both axes 0..1. axes: names of x and y. tint: share of the x axis that is shaded; 0 for none."""
    points = " ".join(f"{40 + 200 * x:.1f},{210 - 200 * y:.1f}" for x, y in zip(*curve, strict=True))
    shade = f"<rect x='40' y='10' width='{200 * tint:g}' height='200' class='shade'/>" if tint else ""
    ticks = "".join(
        f"<text x='{40 + 200 * t:.0f}' y='226' text-anchor='middle'>{t:g}</text>"
        f"<text x='34' y='{214 - 200 * t:.0f}' text-anchor='end'>{t:g}</text>"
        for t in (0, 0.5, 1)
    )
    return (
        f"<figure class='curve'><svg viewBox='0 0 250 250' role='img' aria-label='{text(title)}'>"
        f"<rect x='40' y='10' width='200' height='200' class='frame'/>{shade}"
        f"<polyline points='{points}' class='line'/>{ticks}"
        f"<text x='140' y='244' text-anchor='middle'>{axes[0]}</text>"
        f"<text x='12' y='110' text-anchor='middle' transform='rotate(-90 12 110)'>{axes[1]}</text></svg>"
        f"<figcaption>{text(title)}</figcaption></figure>"
    )


def image_curves(result: CategoryResult) -> ImageCurves:
    """ROC, and precision over recall, of the image scores."""
    labels = np.array([one.sample.label for one in result.scored])
    curve = metrics.cumulate(np.array([one.image_score for one in result.scored]), labels == 0, labels == 1)
    if not curve.negatives[-1] or not curve.positives[-1]:
        empty = np.zeros(0), np.zeros(0)
        return ImageCurves(empty, empty)
    recall = curve.positives / curve.positives[-1]
    precision = curve.positives[1:] / (curve.positives[1:] + curve.negatives[1:])
    return ImageCurves((curve.negatives / curve.negatives[-1], recall), (recall, np.append(precision[:1], precision)))


def score_range(result: CategoryResult, threshold: float | None) -> tuple[float, float]:
    """From the lowest to the highest image score, the threshold included, with a little room at both ends."""
    scores = [one.image_score for one in result.scored]
    ends = scores if threshold is None else [*scores, threshold]
    low, high = min(ends), max(ends)
    room = 0.02 * (high - low) or 0.5
    return low - room, high + room


def histogram(result: CategoryResult, ends: tuple[float, float], threshold: float) -> str:
    """Image scores of good photos upwards and of defects downwards, each to its own scale; a line to drag."""
    middle = TOP + HEIGHT / 2
    bars = ""
    for label, colour, name in ((0, "good", "good photos"), (1, "bad", "defects")):
        scores = [one.image_score for one in result.scored if one.sample.label == label]
        counts = np.histogram(scores, np.linspace(*ends, BINS + 1))[0]
        most, sign = max(int(counts.max()), 1), -1 if label else 1
        for i, count in enumerate(counts):
            if count:
                tall = (HEIGHT / 2 - 14) * count / most
                top = middle if label else middle - tall
                bars += (
                    f"<rect x='{LEFT + WIDTH * i / BINS:.1f}' y='{top:.1f}' width='{WIDTH / BINS - 0.8:.1f}' "
                    f"height='{tall:.1f}' class='{colour}'><title>{count} {name}</title></rect>"
                )
        edge = middle - sign * (HEIGHT / 2 - 14)
        bars += (
            f"<text x='{LEFT - 4}' y='{edge + 3:.1f}' text-anchor='end'>{most if len(scores) else 0}</text>"
            f"<text x='{LEFT + 4}' y='{TOP + 10 if not label else TOP + HEIGHT - 4}' class='{colour}'>{name}</text>"
        )
    bars += f"<line x1='{LEFT}' x2='{LEFT + WIDTH}' y1='{middle}' y2='{middle}' class='axis'/>"
    at = LEFT + WIDTH * (threshold - ends[0]) / (ends[1] - ends[0])
    line = f"x1='{at:.2f}' x2='{at:.2f}' y1='{TOP}' y2='{TOP + HEIGHT}'"
    caption = "image scores: how many photos have which; drag the line, right of it is rejected"
    return _chart("histogram", bars + _ticks(ends, along_x=True), line, caption)


def scores_in_order(result: CategoryResult, ends: tuple[float, float], threshold: float) -> str:
    """Each photo's image score in the order of the file names, which often is that of time; good photos first."""
    ordered = sorted(result.scored, key=_order)
    step = WIDTH / max(len(ordered), 1)
    body, last = "", ""
    for i, one in enumerate(ordered):
        x = LEFT + step * (i + 0.5)
        if last not in ("", one.sample.kind):
            left = f"{x - step / 2:.1f}"
            body += f"<line x1='{left}' x2='{left}' y1='{TOP}' y2='{TOP + HEIGHT}' class='grid'/>"
        last = one.sample.kind
        y = TOP + HEIGHT * (1 - (one.image_score - ends[0]) / (ends[1] - ends[0]))
        body += (
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{2.4 if step > 3 else 1.6}' "
            f"class='{'bad' if one.sample.label else 'good'}'>"
            f"<title>{text(one.sample.kind)}/{text(one.sample.path.name)}: {one.image_score:.4g}</title></circle>"
        )
    body += _kind_names(ordered, step) + _ticks(ends, along_x=False)
    at = TOP + HEIGHT * (1 - (threshold - ends[0]) / (ends[1] - ends[0]))
    line = f"x1='{LEFT}' x2='{LEFT + WIDTH}' y1='{at:.2f}' y2='{at:.2f}'"
    return _chart("order", body, line, "score of each photo, in the order of file names; above the line is rejected")


def _order(one: ImageScore) -> tuple[int, str, list[tuple[int, str]]]:
    """Good photos first, then by kind and by name, numbers in it by their value."""
    pieces = [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", one.sample.path.name)]
    return one.sample.label, one.sample.kind, pieces


def _kind_names(ordered: Sequence[ImageScore], step: float) -> str:
    """The kinds' names below their photos, where there is room for them."""
    kinds = [one.sample.kind for one in ordered]
    names = ""
    for kind in dict.fromkeys(kinds):
        room = step * kinds.count(kind)
        at = LEFT + step * kinds.index(kind) + room / 2
        letters = math.floor(room / 5)
        if letters >= 3:
            shown = kind if len(kind) <= letters else f"{kind[: letters - 1]}…"
            names += f"<text x='{at:.1f}' y='{TOP + HEIGHT + 14}' text-anchor='middle'>{text(shown)}</text>"
    return names


def _ticks(ends: tuple[float, float], along_x: bool) -> str:
    """Three to eight round numbers along an axis."""
    length = ends[1] - ends[0]
    decade = 10.0 ** math.floor(math.log10(length))
    step = next(step for step in (5 * decade, 2 * decade, decade, decade / 2, decade / 5) if length / step >= 3)
    parts = []
    for value in np.arange(math.ceil(ends[0] / step), math.floor(ends[1] / step) + 1) * step:
        share = (value - ends[0]) / length
        if along_x:
            at = f"x='{LEFT + WIDTH * share:.1f}' y='{TOP + HEIGHT + 14}' text-anchor='middle'"
        else:
            at = f"x='{LEFT - 4}' y='{TOP + HEIGHT * (1 - share) + 3:.1f}' text-anchor='end'"
        parts.append(f"<text {at}>{value:.4g}</text>")
    return "".join(parts)


def _chart(name: str, body: str, line: str, caption: str) -> str:
    """A chart that shows the threshold as a line. name: what report.js knows it by."""
    return (
        f"<figure><svg class='{name}' viewBox='0 0 {LEFT + WIDTH + 8} {TOP + HEIGHT + 20}' role='img' "
        f"aria-label='{text(caption)}' data-area='{LEFT} {WIDTH} {TOP} {HEIGHT}'>"
        f"<rect x='{LEFT}' y='{TOP}' width='{WIDTH}' height='{HEIGHT}' class='frame'/>{body}"
        f"<line {line} class='threshold'/></svg><figcaption>{caption}</figcaption></figure>"
    )
