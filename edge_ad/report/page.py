"""An evaluation as one HTML file that opens offline: what it means, a threshold to try, the worst photos, figures."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Mapping
from importlib.resources import files as resources
from typing import Any

import numpy as np

from edge_ad import metrics
from edge_ad.data.images import encode_image
from edge_ad.evaluation import CategoryResult, Evaluation
from edge_ad.report import charts, tables
from edge_ad.report.gallery import ROWS, Calibrations, Gallery, GalleryPhoto
from edge_ad.report.tables import text
from edge_ad.runtime.overlay import ScoreScale, blend_heat, outline, score_scale

_TITLES = {
    "missed": "Defects with the lowest scores (missed first)",
    "alarming": "Good photos with the highest scores (false alarms first)",
    "found": "Defects with the highest scores",
    "quiet": "Good photos with the lowest scores",
}
_WORST = ROWS[:2]  # shown at once; the others are folded


def write_report(evaluation: Evaluation, gallery: Gallery, calibrations: Calibrations | None = None) -> str:
    """The HTML page: it names no other file and needs no network."""
    about = evaluation.about
    title = f"{about.get('artifact', 'detector')} on {about.get('data', 'data')}"
    parts = [f"<h1>{text(title)}</h1>", tables.opening_sentence(evaluation), tables.warnings(evaluation), _SHIFT]
    parts += [tables.summary_table(evaluation)] if len(evaluation.categories) > 1 else []
    for name, result in evaluation.categories.items():
        calibration = (calibrations or {}).get(name)
        parts.append(_category(name, result, evaluation.thresholds.get(name), gallery, calibration))
    parts += ["<h2>About these figures</h2>", tables.about_table(about), tables.files(evaluation)]
    page = _PAGE.replace("{style}", _static("report.css")).replace("{script}", _static("report.js"))
    return page.replace("{title}", text(title)).replace("{body}", "\n".join(parts))


def _category(
    name: str,
    result: CategoryResult,
    threshold: float | None,
    gallery: Gallery,
    calibration: Mapping[str, Any] | None,
) -> str:
    rows = {row: gallery.row(name, row) for row in ROWS}
    scale = score_scale(calibration, [one.pixel_scores for one in itertools.chain.from_iterable(rows.values())])
    pictures = {
        row: f"<h3>{_TITLES[row]}</h3>"
        f"<div class='row'>{''.join(_figure(one, scale, threshold) for one in shown)}</div>"
        for row, shown in rows.items()
        if shown
    }
    worst = "".join(shown for row, shown in pictures.items() if row in _WORST)
    rest = "".join(shown for row, shown in pictures.items() if row not in _WORST)
    best = f"<details><summary>The clearest photos</summary>{rest}</details>" if rest else ""
    kinds = {"all": result.metrics(), **{kind: result.metrics(kind) for kind in result.kinds}}
    return (
        f"<section><h2>{text(name)}</h2>{_threshold_panel(result, threshold)}{worst}{best}"
        "<h3>Figures, in per cent</h3>"
        f"{tables.metrics_table('kind of defect', kinds)}{tables.native_sentence(result)}"
        f"<div class='row'>{_curves(result)}</div></section>"
    )


def _curves(result: CategoryResult) -> str:
    pixels = result.pool(result.pixels)
    image = charts.image_curves(result)
    rates = ("false-positive rate", "true-positive rate")
    drawn = [
        ("image ROC", image.roc, rates, 0.0),
        ("image precision and recall", image.precision, ("recall", "precision"), 0.0),
        ("pixel ROC", pixels.roc(), rates, 0.0),
        ("per-region overlap (AUPRO)", pixels.pro(), ("false-positive rate", "overlap"), 0.3),
    ]
    return "".join(charts.curve_chart(*one) for one in drawn if len(one[1][0]) > 2)


def _threshold_panel(result: CategoryResult, threshold: float | None) -> str:
    """Scores with a threshold that a person may move; what it does is counted by report.js."""
    start = _best_threshold(result) if threshold is None else threshold
    ends = charts.score_range(result, start)
    scores: dict[str, list[float]] = {}
    for one in result.scored:
        scores.setdefault(one.sample.kind if one.sample.label else "", []).append(one.image_score)
    good = scores.pop("", [])
    kinds = dict(sorted(scores.items(), key=lambda item: np.mean(np.array(item[1]) > start)))  # the worst first
    data = {"calibrated": threshold, "start": start, "ends": ends, "good": good, "kinds": kinds}
    embedded = json.dumps(data).replace("<", "\\u003c")  # no name ends the script
    bars = "".join(
        f"<div class='kind'><span>{text(kind)}</span><span class='bar'><i></i></span><output></output></div>"
        for kind in kinds
    )
    counts = tables.category_sentence(result, threshold)
    pair = charts.histogram(result, ends, start) + charts.scores_in_order(result, ends, start)
    return (
        f"<div class='panel'><script type='application/json'>{embedded}</script><div class='pair'>{pair}</div>"
        "<div class='controls' hidden><label>Try another threshold: <input type='range' min='0' max='1000' step='1'>"
        "</label><button type='button' data-to='calibrated'>calibrated</button>"
        "<button type='button' data-to='no-miss'>miss none of these</button>"
        "<button type='button' data-to='no-alarm'>reject none of these</button></div>"
        f"<p class='counts' aria-live='polite'>{counts}</p><div class='kinds' hidden>{bars}</div></div>"
    )


def _best_threshold(result: CategoryResult) -> float:
    """The one with the best F1 on these photos, where none is calibrated; the highest score without defects."""
    scores = np.array([one.image_score for one in result.scored])
    labels = np.array([one.sample.label for one in result.scored])
    at = metrics.best_f1(metrics.cumulate(scores, labels == 0, labels == 1))[1]
    return float(scores.max()) if np.isnan(at) else float(np.nextafter(at, -np.inf))


def _figure(one: GalleryPhoto, scale: ScoreScale, threshold: float | None) -> str:
    photo = one.frame if one.mask is None else outline(one.frame, one.mask)
    name = text(f"{one.kind}/{one.name}")
    pair = "".join(
        f"<img src='data:image/jpeg;base64,{base64.b64encode(encode_image(picture, '.jpg')).decode()}' "
        f"alt='{what} of {name}'>"
        for picture, what in ((photo, "photo"), (blend_heat(one.frame, one.pixel_scores, scale), "heat map"))
    )
    verdict = wrong = ""
    if threshold is not None:
        rejected = one.image_score > threshold
        verdict = " NG" if rejected else " OK"
        wrong = "" if rejected == (one.kind != "good") else " <b class='bad'>wrong</b>"
    return (
        f"<figure class='photo'>{pair}<figcaption>{text(one.kind)} {one.image_score:.4g}{verdict}{wrong}<br>"
        f"<small>{text(one.name)}</small></figcaption></figure>"
    )


def _static(name: str) -> str:
    return resources("edge_ad.report").joinpath("static").joinpath(name).read_text(encoding="utf-8")


_SHIFT = (
    "<p class='shift' hidden>A shift has <input type='number' id='good-parts' value='3000' min='0' "
    "aria-label='good parts a shift'> good parts and <input type='number' id='bad-parts' value='30' min='0' "
    "aria-label='defective parts a shift'> defective ones.</p>"
)
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title><style>
{style}</style></head><body>
{body}
<script>
{script}</script>
</body></html>
"""
