"""The report's tables and sentences, as HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from edge_ad.evaluation import CategoryResult, Evaluation, Metrics

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


def text(value: Any) -> str:
    """The value as HTML text; lists as 1 x 2."""
    return html.escape(" x ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value), quote=True)


def opening_sentence(evaluation: Evaluation) -> str:
    """What a person wants to know first: how many defects are missed, and how many good photos raise an alarm."""
    names = [name for name in evaluation.categories if name in evaluation.thresholds]
    if not names:
        return (
            "<p class='lead'>No threshold yet, so nothing is rejected or missed: <code>edgead calibrate</code> sets "
            "one. The figures below say how well scores tell defects from good photos.</p>"
        )
    rates = [evaluation.categories[name].rates(evaluation.thresholds[name]) for name in names]
    photos = [one for name in names for one in evaluation.categories[name].scored]
    good, missed, alarms = (
        sum(1 for one in photos if not one.sample.label),
        sum(int(one["missed"] or 0) for one in rates),
        sum(int(one["false_alarms"] or 0) for one in rates),
    )
    where = "At its calibrated threshold" if len(names) == 1 else f"At the thresholds of {len(names)} categories"
    less = len(evaluation.categories) - len(names)
    return (
        f"<p class='lead'>{where} this detector "
        f"<b class='bad'>misses {_of(missed, len(photos) - good, 'defect')}</b> "
        f"and <b class='good'>rejects {_of(alarms, good, 'good photo')}</b>."
        f"{f' {less} categories have no threshold yet.' if less else ''}</p>"
    )


def _of(count: int, total: int, noun: str) -> str:
    if not total:
        return f"no {noun}, as there was none to test with"
    share = f" ({count / total:.1%})" if count else ""
    return f"{count or 'none'} of {total} {noun}{'s' * (total != 1)}{share}"


def category_sentence(result: CategoryResult, threshold: float | None) -> str:
    """The same for one category."""
    if threshold is None:
        return "No threshold yet: <code>edgead calibrate</code> sets one."
    rates = result.rates(threshold)
    good = sum(1 for one in result.scored if not one.sample.label)
    return (
        f"At the calibrated threshold {threshold:.4g}: {rates['false_alarms']} of {good} good photos raise an "
        f"alarm, {rates['missed']} of {len(result.scored) - good} defects are missed."
    )


def about_table(about: dict[str, Any]) -> str:
    """How it was measured, folded: the provenance, nested tables flattened as `teacher.source`."""
    flat: dict[str, Any] = {}
    for key, value in about.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": one for inner, one in value.items()})
        else:
            flat[key] = value
    rows = "".join(
        f"<tr><th>{text(key)}</th><td>{text(value)}</td></tr>"
        for key, value in flat.items()
        if key == "image_size" or (value not in (None, "") and not isinstance(value, (list, dict)))
    )
    return f"<details><summary>How it was measured</summary><table>{rows}</table></details>"


def warnings(evaluation: Evaluation) -> str:
    """What makes the figures worthless or doubtful."""
    teacher = evaluation.about.get("teacher")
    random = isinstance(teacher, dict) and str(teacher.get("source", "")).startswith("random")
    parts = ["<p class='warning'>The teacher's weights are random: these figures say nothing.</p>"] if random else []
    if evaluation.doubts:
        parts.append(
            f"<p class='warning'>{len(evaluation.doubts)} masks can hardly be right: P-AUROC and AUPRO mean little "
            f"until they are put right.</p><ul>{_items(evaluation.doubts)}</ul>"
        )
    return "".join(parts)


def files(evaluation: Evaluation) -> str:
    """Files left out or used in part, folded; nothing where there are none."""
    if not evaluation.skipped and not evaluation.notes:
        return ""
    return (
        f"<details><summary>{len(evaluation.skipped)} files left out, {len(evaluation.notes)} used in part</summary>"
        f"<ul>{_items(evaluation.skipped)}{_items(evaluation.notes)}</ul></details>"
    )


def _items(problems: Sequence[Any]) -> str:
    return "".join(f"<li><code>{text(p.path)}</code>: {text(p.reason)}</li>" for p in problems)


def summary_table(evaluation: Evaluation) -> str:
    """What each category misses and rejects at its threshold, its figures, and their mean."""
    figures = {name: result.metrics() for name, result in evaluation.categories.items()}
    rates = {
        name: evaluation.categories[name].rates(threshold) for name, threshold in evaluation.thresholds.items()
        if name in figures
    }  # fmt: skip
    extra = {
        "missed": {name: f"{one['missed']} of {figures[name].defects}" for name, one in rates.items()},
        "rejected": {name: f"{one['false_alarms']} of {figures[name].good}" for name, one in rates.items()},
    }
    return metrics_table("category", {**figures, "mean": evaluation.mean()}, extra)


def metrics_table(first: str, rows: dict[str, Metrics], extra: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """Figures in per cent, a row each. first: heading of the rows' names. extra: more columns, by heading and row."""
    extra = extra or {}
    head = "".join(f"<th>{title}</th>" for title in (first, *extra, *_COLUMNS.values()))
    body = ""
    for name, one in rows.items():
        cells = [
            *(column.get(name, "") for column in extra.values()),
            *(_number(getattr(one, key)) for key in _COLUMNS),
        ]
        body += f"<tr><th>{text(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    return f"<div class='wide'><table class='figures'><tr>{head}</tr>{body}</table></div>"


def native_sentence(result: CategoryResult) -> str:
    """The pixel figures at the photos' own size; nothing where they were not asked for."""
    native = result.native_metrics()
    if native is None:
        return ""
    figures = ", ".join(f"{_COLUMNS[key]} {_number(native[key])}" for key in ("p_auroc", "aupro", "aupro_05"))
    return f"<p>At the photos' own size: {figures}.</p>"


def _number(value: float | int | None) -> str:
    if value is None:
        return "<span title='not defined: no masks, or one class only'>n/a</span>"
    return str(value) if isinstance(value, int) else f"{100 * value:.2f}"
