"""An evaluation as one HTML file that opens offline: figures, curves, histograms, the best and worst photos."""

from __future__ import annotations

import base64
import heapq
import html
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad import metrics
from edge_ad.data.images import Frame, Mask, encode_image, shrink
from edge_ad.evaluation import CategoryResult, Evaluation, Metrics, ScoredPhoto
from edge_ad.runtime.boxes import defect_boxes
from edge_ad.runtime.overlay import (
    ScoreScale,
    SheetRow,
    blend_heat,
    contact_sheet,
    outline,
    score_scale,
    score_text,
)

_SIDE = 224  # longest side of a picture in the report, pixels
_SHOWN = 6  # photos per row of the gallery
_ROWS = ("missed", "found", "alarming", "quiet")
_TITLES = {
    "missed": "Defects with the lowest scores (missed first)",
    "found": "Defects with the highest scores",
    "alarming": "Good photos with the highest scores (false alarms first)",
    "quiet": "Good photos with the lowest scores",
}
_BLUE, _RED = "#2b6cb0", "#c5303a"


class GalleryPhoto(NamedTuple):
    """A photo kept for the report, already small."""

    name: str
    kind: str
    image_score: float
    frame: Frame
    pixel_scores: npt.NDArray[np.float32]
    mask: Mask | None


@dataclass
class Gallery:
    """Keeps the few best and worst photos of each category while an evaluation runs: `evaluate(on_photo=gallery)`."""

    kept: dict[tuple[str, str], list[tuple[float, int, GalleryPhoto]]] = field(default_factory=dict)
    _count: Any = field(default_factory=itertools.count)

    def __call__(self, photo: ScoredPhoto) -> None:
        """Look at one photo; keep it if it is among the extremes of its category."""
        low, high = ("missed", "found") if photo.sample.label else ("quiet", "alarming")
        for row, rank in ((low, -photo.image_score), (high, photo.image_score)):
            heap = self.kept.setdefault((photo.sample.category, row), [])
            if len(heap) < _SHOWN:
                heapq.heappush(heap, (rank, next(self._count), _shrink(photo)))
            elif rank > heap[0][0]:
                heapq.heapreplace(heap, (rank, next(self._count), _shrink(photo)))

    def row(self, category: str, row: str) -> list[GalleryPhoto]:
        """The photos of a row, the most extreme first."""
        return [shown for _, _, shown in sorted(self.kept.get((category, row), ()), key=lambda item: -item[0])]


Calibrations = Mapping[str, Mapping[str, Any]]  # by category; they give the heat maps' scales and what is boxed


def write_report(evaluation: Evaluation, gallery: Gallery, calibrations: Calibrations | None = None) -> str:
    """The HTML page."""
    about = evaluation.about
    title = f"{about.get('artifact', 'detector')} on {about.get('data', 'data')}"
    parts = [f"<h1>{_text(title)}</h1>", _summary_table(evaluation), _about_table(about)]
    parts += [_files(evaluation)] if evaluation.findings() else []
    for name, result in evaluation.categories.items():
        calibration = (calibrations or {}).get(name)
        parts.append(_category(name, result, evaluation.thresholds.get(name), gallery, calibration))
    return _PAGE.replace("{title}", _text(title)).replace("{body}", "\n".join(parts))


def draw_sheet(
    evaluation: Evaluation, gallery: Gallery, calibrations: Calibrations | None = None, shown: int = 3
) -> Frame:
    """The contact sheet: of each category the defects and good photos with the lowest and the highest scores.

    shown: photos of each sort; a photo appears once.
    """
    rows = []
    for category in evaluation.categories:
        calibration, threshold = (calibrations or {}).get(category, {}), evaluation.thresholds.get(category)
        several = len(evaluation.categories) > 1
        extremes = [one for row in _ROWS for one in gallery.row(category, row)[:shown]]
        scale = score_scale(calibration, [one.pixel_scores for one in extremes])
        for one in {(one.kind, one.name): one for one in extremes}.values():
            caption = f"{category}/{one.kind}/{one.name}" if several else f"{one.kind}/{one.name}"
            rows.append(_sheet_row(one, caption, threshold, calibration.get("pixel_threshold"), scale))
    return contact_sheet(rows, title=f"{evaluation.about.get('artifact', 'detector')}: lowest and highest scores")


def _sheet_row(
    one: GalleryPhoto, caption: str, threshold: float | None, pixel_threshold: float | None, scale: ScoreScale
) -> SheetRow:
    found = defect_boxes(one.pixel_scores, pixel_threshold, one.frame.shape[:2])
    boxes = [(box.x, box.y, box.width, box.height) for box in found]
    rejected = threshold is not None and one.image_score > threshold
    decision = "" if threshold is None else "NG" if rejected else "OK"
    wrong = threshold is not None and rejected != (one.kind != "good")
    note = score_text(one.image_score, threshold)
    shown = boxes if rejected else ()
    return SheetRow(one.frame, one.pixel_scores, decision, caption, note, one.mask, shown, wrong, scale)


def _category(
    name: str,
    result: CategoryResult,
    threshold: float | None,
    gallery: Gallery,
    calibration: Mapping[str, Any] | None,
) -> str:
    pixels = result.pool(result.pixels)
    curves = {"image ROC": _image_roc(result), "pixel ROC": pixels.roc(), "per-region overlap": pixels.pro()}
    charts = [_curve_chart(title, x, y) for title, (x, y) in curves.items() if len(x) > 2]
    charts.append(_histogram(result, threshold))
    rows = {row: gallery.row(name, row) for row in _ROWS}
    maps = [shown.pixel_scores for shown in itertools.chain.from_iterable(rows.values())]
    scale = score_scale(calibration, maps)
    pictures = "".join(
        f"<h3>{_TITLES[row]}</h3><div class='row'>{''.join(_figure(one, scale, threshold) for one in shown)}</div>"
        for row, shown in rows.items()
        if shown
    )
    kinds = {"all": result.metrics(), **{kind: result.metrics(kind) for kind in result.kinds}}
    native = result.native_metrics()
    line = "" if native is None else f"<p>At the photos' own size: {_native_text(native)}.</p>"
    return (
        f"<h2>{_text(name)}</h2>{_metrics_table('kind of defect', kinds)}{line}{_rates(result, threshold)}"
        f"<div class='row'>{''.join(charts)}</div>{pictures}"
    )


def _about_table(about: dict[str, Any]) -> str:
    """A table of the provenance, nested tables flattened as `teacher.source`."""
    flat: dict[str, Any] = {}
    for key, value in about.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": one for inner, one in value.items()})
        else:
            flat[key] = value
    rows = "".join(
        f"<tr><th>{_text(key)}</th><td>{_text(value)}</td></tr>"
        for key, value in flat.items()
        if key == "image_size" or (value not in (None, "") and not isinstance(value, (list, dict)))
    )
    warning = "<p class='warning'>The teacher's weights are random: these figures say nothing.</p>"
    random = str(flat.get("teacher.source", "")).startswith("random")
    how = f"<details open><summary>How it was measured</summary><table>{rows}</table></details>"
    return f"{warning}{how}" if random else how


def _summary_table(evaluation: Evaluation) -> str:
    figures = {name: result.metrics() for name, result in evaluation.categories.items()}
    if len(figures) > 1:
        figures["mean"] = evaluation.mean()
    return _metrics_table("category", figures)


_COLUMNS = {
    "i_auroc": "I-AUROC",
    "p_auroc": "P-AUROC",
    "aupro": "AUPRO",
    "aupro_05": "AUPRO 0.05",
    "f1_max": "F1-max",
    "average_precision": "AP",
    "p_f1_max": "P-F1-max",
    "p_average_precision": "P-AP",
    "good": "good",
    "defects": "defects",
    "regions": "regions",
}


def _metrics_table(first: str, rows: dict[str, Metrics]) -> str:
    head = "".join(f"<th>{title}</th>" for title in (first, *_COLUMNS.values()))
    body = "".join(
        f"<tr><th>{_text(name)}</th>{''.join(f'<td>{_number(getattr(one, key))}</td>' for key in _COLUMNS)}</tr>"
        for name, one in rows.items()
    )
    return f"<div class='wide'><table class='figures'><tr>{head}</tr>{body}</table></div>"


def _native_text(native: dict[str, Any]) -> str:
    return ", ".join(f"{_COLUMNS[key]} {_number(native[key])}" for key in ("p_auroc", "aupro", "aupro_05"))


def _rates(result: CategoryResult, threshold: float | None) -> str:
    if threshold is None:
        return "<p>No threshold yet: <code>edgead calibrate</code> sets one.</p>"
    rates = result.rates(threshold)
    good = sum(1 for one in result.scored if not one.sample.label)
    return (
        f"<p>At the calibrated threshold {threshold:.4g}: {rates['false_alarms']} of {good} good photos raise an "
        f"alarm, {rates['missed']} of {len(result.scored) - good} defects are missed.</p>"
    )


def _files(evaluation: Evaluation) -> str:
    def items(problems: Sequence[Any]) -> str:
        return "".join(f"<li><code>{_text(p.path)}</code>: {_text(p.reason)}</li>" for p in problems)

    doubts = (
        f"<p class='warning'>{len(evaluation.doubts)} masks can hardly be right: P-AUROC and AUPRO mean little until "
        f"they are put right.</p><ul>{items(evaluation.doubts)}</ul>"
    )
    return (
        f"{doubts if evaluation.doubts else ''}"
        f"<details><summary>{len(evaluation.skipped)} files left out, {len(evaluation.notes)} used in part</summary>"
        f"<ul>{items(evaluation.skipped)}{items(evaluation.notes)}</ul></details>"
    )


def _image_roc(result: CategoryResult) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    labels = np.array([one.sample.label for one in result.scored])
    curve = metrics.cumulate(np.array([one.image_score for one in result.scored]), labels == 0, labels == 1)
    if not curve.negatives[-1] or not curve.positives[-1]:
        return np.zeros(0), np.zeros(0)
    return curve.negatives / curve.negatives[-1], curve.positives / curve.positives[-1]


def _curve_chart(title: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> str:
    """Both axes 0..1; the false-positive rate up to 0.3 of AUPRO is tinted."""
    points = " ".join(f"{40 + 200 * a:.1f},{210 - 200 * b:.1f}" for a, b in zip(x, y, strict=True))
    tint = (
        f"<rect x='40' y='10' width='60' height='200' fill='{_BLUE}' opacity='0.08'/>" if "overlap" in title else ""
    )
    ticks = "".join(
        f"<text x='{40 + 200 * t:.0f}' y='226' text-anchor='middle'>{t:g}</text>"
        f"<text x='34' y='{214 - 200 * t:.0f}' text-anchor='end'>{t:g}</text>"
        for t in (0, 0.5, 1)
    )
    return _chart(
        title,
        f"{tint}<polyline points='{points}' fill='none' stroke='{_BLUE}' stroke-width='2'/>{ticks}"
        f"<text x='140' y='242' text-anchor='middle'>false-positive rate</text>",
    )


def _histogram(result: CategoryResult, threshold: float | None) -> str:
    scores = np.array([one.image_score for one in result.scored])
    bad = np.array([bool(one.sample.label) for one in result.scored])
    ends = [*scores, threshold] if threshold is not None else list(scores)
    low, high = float(min(ends)), float(max(ends))
    high = high if high > low else low + 1
    edges = np.linspace(low, high, 31)
    bars = []
    for values, colour in ((scores[~bad], _BLUE), (scores[bad], _RED)):
        counts = np.histogram(values, edges)[0] / max(len(values), 1)
        bars.append((counts, colour))
    top = max(max(counts.max() for counts, _ in bars), 1e-9)
    body = "".join(
        f"<rect x='{40 + 200 * i / 30:.1f}' y='{210 - 195 * c / top:.1f}' width='6.2' height='{195 * c / top:.1f}' "
        f"fill='{colour}' opacity='0.6'/>"
        for counts, colour in bars
        for i, c in enumerate(counts)
        if c
    )
    if threshold is not None:
        at = 40 + 200 * (threshold - low) / (high - low)
        body += f"<line x1='{at:.1f}' x2='{at:.1f}' y1='10' y2='210' stroke='#222' stroke-dasharray='4 3'/>"
    body += f"<text x='40' y='226'>{low:.3g}</text><text x='240' y='226' text-anchor='end'>{high:.3g}</text>"
    for x, name, colour in ((60, "good", _BLUE), (100, "defect", _RED)):
        body += f"<text x='{x}' y='242' style='fill:{colour}'>{name}</text>"
    body += "<text x='150' y='242'>- - threshold</text>" if threshold is not None else ""
    return _chart("image scores", body)


def _chart(title: str, body: str) -> str:
    return (
        f"<figure><svg viewBox='0 0 250 250' role='img' aria-label='{_text(title)}'>"
        f"<rect x='40' y='10' width='200' height='200' fill='none' stroke='#999'/>{body}</svg>"
        f"<figcaption>{_text(title)}</figcaption></figure>"
    )


def _figure(one: GalleryPhoto, scale: ScoreScale, threshold: float | None) -> str:
    photo = one.frame if one.mask is None else outline(one.frame, one.mask)
    pair = "".join(
        f"<img src='data:image/jpeg;base64,{base64.b64encode(encode_image(picture, '.jpg')).decode()}' alt='{alt}'>"
        for picture, alt in ((photo, "photo"), (blend_heat(one.frame, one.pixel_scores, scale), "heat map"))
    )
    verdict = "" if threshold is None else (" NG" if one.image_score > threshold else " OK")
    return (
        f"<figure class='pair'>{pair}<figcaption>{_text(one.kind)} {one.image_score:.4g}{verdict}<br>"
        f"<small>{_text(one.name)}</small></figcaption></figure>"
    )


def _shrink(photo: ScoredPhoto) -> GalleryPhoto:
    frame = shrink(photo.frame, _SIDE)
    mask = None
    if photo.mask is not None:  # any covered pixel counts, so that small defects stay visible
        mask = np.asarray(
            cv2.resize(photo.mask.astype(np.float32), frame.shape[1::-1], interpolation=cv2.INTER_AREA) > 0
        )
    name = photo.sample.path.name
    return GalleryPhoto(name, photo.sample.kind, photo.image_score, frame, photo.pixel_scores.copy(), mask)


def _number(value: float | int | None) -> str:
    if value is None:
        return "<span title='not defined: no masks, or one class only'>n/a</span>"
    return str(value) if isinstance(value, int) else f"{100 * value:.2f}"


def _text(value: Any) -> str:
    return html.escape(" x ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value), quote=True)


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body{font:15px/1.45 system-ui,sans-serif;color:#222;max-width:1180px;margin:1.5em auto;padding:0 1em}
h2{border-bottom:2px solid #ddd;margin-top:2em}h3{margin:1.2em 0 .3em;font-size:1em}
table{border-collapse:collapse;margin:.6em 0}th,td{padding:.2em .7em;text-align:right;border-bottom:1px solid #e4e4e4}
tr>th:first-child{text-align:left}details table td{text-align:left;word-break:break-all}
.wide{overflow-x:auto}.row{display:flex;flex-wrap:wrap;gap:10px}figure{margin:0}figure svg{width:250px;height:250px}
svg text{font-size:11px;fill:#444}.pair img{height:120px;margin-right:2px}figcaption{font-size:13px;max-width:300px}
.warning{background:#c5303a;color:#fff;padding:.5em 1em}small{color:#777}
@media print{.row{break-inside:avoid}}
</style></head><body>
{body}
</body></html>
"""
