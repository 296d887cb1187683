"""The report in words, tables and charts, made from its JSON alone, so that all three carry the same figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edge_ad.qualify.charts import map_chart, pod_chart, repeat_chart, robustness_chart, short
from edge_ad.qualify.document import Document
from edge_ad.qualify.first_page import add_first_page, alarm_text, all_rejected, limit_note

ACCEPTED = 60  # rows of who accepted what that are printed


def write_document(report: Mapping[str, Any]) -> Document:
    """The whole report. report: as `edgead qualify` writes it to report.json."""
    document = Document(f"Qualification of {report['identity']['artifact']}")
    scale = report["mm_per_pixel"]
    unit, name = (scale, "mm") if scale else (1.0, "pixels")
    add_first_page(document, report, unit, name)
    if report.get("real"):
        _real(document, report["real"], unit, name, report.get("marks_against_defects") or ())
    if report.get("probes"):
        _probes(document, report, unit, name)
    if report.get("false_alarms"):
        _false_alarms(document, report["false_alarms"])
    if report.get("steadiness"):
        _steadiness(document, report["steadiness"], report["threshold"])
    if report.get("robustness"):
        _robustness(document, report["robustness"])
    _identity(document, report)
    return document


def _size(limit: Mapping[str, Any], key: str, unit: float) -> str:
    """The limit's a90 or a90_95; beyond the sizes tried only that it lies there, since a curve says little there."""
    value = limit[key]
    if value is None:
        return "-"
    return f"{value * unit:.3g}" if value <= limit["largest"] else f"> {limit['largest'] * unit:.3g}"


def _compared(document: Document, rows: Sequence[Mapping[str, Any]]) -> None:
    document.add(
        "table",
        "Do the test marks (next page) predict the real defects? Each defect is compared with marks of its shape and "
        "contrast",
        rows=[
            ["kind", "real defects", "of them thin", "found", "marks predict", "chance if so", "agree"],
            *(
                [row["kind"], row["parts"], row["thin"], row["found"], f"{row['expected']:.1f}",
                 f"{row['chance']:.2g}", "yes" if row["agree"] else "NO"]
                for row in rows
            ),
        ],
    )  # fmt: skip
    apart = [row["kind"] for row in rows if not row["agree"]]
    if apart:
        document.add(
            "warning",
            f"The marks' limit does not hold for real defects of these kinds: {', '.join(apart)}. "
            "Believe the real ones.",
        )


def _real(
    document: Document,
    real: Mapping[str, Any],
    unit: float,
    name: str,
    compared: Sequence[Mapping[str, Any]] = (),
) -> None:
    document.add("page")
    document.add("heading", "Real defects")
    document.add(
        "text",
        "Each defective part was judged once. a90 is the length found nine times in ten, a90/95 its upper "
        "bound with 95 % "
        "confidence (MIL-HDBK-1823A, hit/miss; length is the longest extent of the largest marked region).",
    )
    head = ["kind", "parts", "accepted (missed)", "missed at most (95 %)", f"a90, {name}", f"a90/95, {name}",
            f"median width, {name}", "median contrast", "note"]  # fmt: skip
    rows = []
    for kind, table in real["kinds"].items():
        limit = table.get("limit") or {"a90": None, "a90_95": None, "note": "no masks: sizes unknown"}
        rows.append([kind, table["parts"], table["missed"], f"{table['miss_bound']:.1%}", _size(limit, "a90", unit),
                     _size(limit, "a90_95", unit),
                     f"{table['median_width'] * unit:.3g}" if "median_width" in table else "-",
                     f"{table['median_contrast']:.0f}" if "median_contrast" in table else "-",
                     limit_note(limit, unit, name)])  # fmt: skip
    document.add("table", rows=[head, *rows])
    if real["left_out"]:
        document.add(
            "warning", f"{len(real['left_out'])} photos could not be used: {'; '.join(real['left_out'][:5])}"
        )
    if compared:
        _compared(document, compared)
    sized = {kind: table for kind, table in real["kinds"].items() if "sizes" in table}
    if sized:
        chart = pod_chart(list(sized.values()), list(sized), unit, name)
        document.add("chart", "Share of real defects found, over their length", chart=chart)


def _probes(document: Document, report: Mapping[str, Any], unit: float, name: str) -> None:
    probes = report["probes"]
    document.add("page")
    document.add("heading", "Optical limit, not miss rate")
    document.add(
        "text",
        f"Marks of exact size were drawn into {probes['photos']} photos of good parts that the detector "
        "accepts as they are "
        f"({probes['photos_left_out']} more were rejected unmarked and left out). The generator of these marks "
        "is not the "
        "one the detector was trained with. Real defects may be easier or harder to see. A hair scratch is "
        f"{probes['hair_width'] * unit:.2g} {name} wide; its size is its length, a spot's its diameter. The "
        "right columns "
        "use the scores (a-hat vs a) instead of hits and misses: where both agree, the model fits.",
    )
    head = ["kind", "contrast", "marks", "found", f"a90, {name}", f"a90/95, {name}", f"a90 from scores, {name}",
            f"a90/95 from scores, {name}", "note"]  # fmt: skip
    rows = [
        [row["kind"], row["contrast"], row["limit"]["trials"], row["limit"]["hits"], _size(row["limit"], "a90", unit),
         _size(row["limit"], "a90_95", unit), _size(row["from_scores"], "a90", unit),
         _size(row["from_scores"], "a90_95", unit),
         limit_note(row["limit"], unit, name)]
        for row in probes["rows"]
    ]  # fmt: skip
    document.add("table", rows=[head, *rows])
    titles = [f"{row['kind']}, contrast {row['contrast']}" for row in probes["rows"]]
    document.add(
        "chart", "Share of test marks found, over their size", chart=pod_chart(probes["rows"], titles, unit, name)
    )
    head = ["kind", "where", "marks", "found", f"a90, {name}", f"a90/95, {name}", "note"]
    regions = [
        [row["kind"], row["region"], row["limit"]["trials"], row["limit"]["hits"], _size(row["limit"], "a90", unit),
         _size(row["limit"], "a90_95", unit), limit_note(row["limit"], unit, name)]
        for row in probes["regions"]
    ]  # fmt: skip
    if regions:
        document.add(
            "table", "By region: inside the part and near its outline, strongest contrast", rows=[head, *regions]
        )
    if report.get("map"):
        found = report["map"]
        text = (
            f"Smallest spot of {found['contrast']} gray levels found on all of {found['places'][0]['photos']} "
            "photos at each "
            f"place; sizes tried: {', '.join(short(v * unit) for v in found['ladder'])} {name}"
        )
        document.add("chart", text, chart=map_chart(found, unit, name))


def _false_alarms(document: Document, found: Mapping[str, Any]) -> None:
    document.add("page")
    document.add("heading", "False alarms")
    said = alarm_text(found)
    document.add(
        "text",
        f"{said[0].upper()}{said[1:]} That says something only where these are other photos than those that set the "
        "threshold.",
    )
    if found["kept"] is False:
        document.add(
            "warning", "More good parts are rejected than was promised: calibrate again with photos of today's parts."
        )
    document.add("text", f"The good photos with the highest scores: {', '.join(found['worst'])}. Look at them first.")
    rows = [[f"1 in {1 / row['rate']:.0f}", row["photos"], row["photos_95"]] for row in found["buys"]]
    document.add("table", "What more photos of good parts would buy",
                 rows=[["false alarms", "photos, on average", "photos, with 95 % confidence"], *rows])  # fmt: skip
    if found["products"]:
        document.add("table", "By product", rows=[["product", "good parts", "rejected", "at most (95 %)"], *(
            [name, row["parts"], row["alarms"], f"{row['upper']:.1%}"]
            for name, row in found["products"].items())])  # fmt: skip
    if found["regions"]:
        parts = found["regions"][0][0]["parts"]
        cells = [
            [name, *(f"{cell['alarms']} (≤ {cell['upper']:.1%})" for cell in row)]
            for name, row in zip(("top", "middle", "bottom"), found["regions"], strict=True)
        ]
        document.add("table", f"By region of the picture: good parts of {parts} marked there, and the bound (95 %)",
                     rows=[["", "left", "middle", "right"], *cells])  # fmt: skip


def _steadiness(document: Document, study: Mapping[str, Any], threshold: float) -> None:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    document.add("page")
    document.add("heading", "Steadiness: attribute agreement study")
    document.add(
        "text",
        f"{study['parts']} parts ({study['good']} known as good, {study['bad']} as bad) were shown "
        f"{study['shots']} times in "
        f"all. AIAG's judgement of the three rates: {study['judgement']}. Bounds are over parts, since shots "
        "of one part "
        "are no independent trials.",
    )
    bounds = study["effectiveness_bounds"]
    known = study["good"] + study["bad"]
    document.add("table", rows=[
        ["figure", "value", "bound (95 %)", "of how many", "AIAG: acceptable"],
        ["effectiveness (judged right every time)", percent(study["effectiveness"]),
         "-" if bounds is None else f"{bounds[0]:.1%} to {bounds[1]:.1%}", f"{known} parts", "≥ 90 %"],
        ["miss rate", percent(study["miss_rate"]), f"missed at least once: at most {percent(study['miss_bound'])}",
         f"{study['bad']} bad parts", "≤ 2 %"],
        ["false-alarm rate", percent(study["false_alarm_rate"]),
         f"rejected at least once: at most {percent(study['false_alarm_bound'])}",
         f"{study['good']} good parts", "≤ 5 %"],
        ["kappa against the reference", _number(study["kappa"]), "-", f"{known} parts", "> 0.75"],
        ["kappa between shots (Fleiss)", _number(study["kappa_within"]), "-", f"{study['parts']} parts", "> 0.75"],
        ["parts with both verdicts", study["flips"], "-", f"{study['parts']} parts", "0"],
        ["spread of the score within a part", _number(study["spread"]),
         "-" if study["spread_bound"] is None else f"at most {study['spread_bound']:.3g}",
         f"{study['shots']} shots", "-"],
        ["tolerance used up by it (3 x spread)", _used(study["tolerance_used"]), "-",
         f"{study['good']} good parts", "≤ 30 %"],
    ])  # fmt: skip
    document.add(
        "chart", "Scores of every shot; the line is the threshold", chart=repeat_chart(study["shown"], threshold)
    )


def _used(share: float | None) -> str:
    if share is None:
        return "-"
    return f"{share:.1%}" if math.isfinite(share) else "all: good parts score above the threshold"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _robustness(document: Document, found: Mapping[str, Any]) -> None:
    document.add("page")
    document.add("heading", "When light, lens or fixture change")
    what = "real defects" if found["real"] else f"test spots of {found['spot']:.3g} pixels"
    document.add(
        "text",
        f"{found['good']} good parts and {found['defects']} {what}, changed step by step. Unchanged, "
        f"{found['alarms_before']} "
        f'good parts were rejected and {found["found_before"]} defects found. "Breaks" is the first strength '
        "at which more good parts are rejected than promised, or fewer defects found, beyond chance (95 %, each "
        "strength by itself). The drift watch is the one "
        f"that runs on the line; it saw up to {found['watched']} accepted parts drawn with replacement from "
        f"these photos. {_which_strengths(found)}",
    )
    rows = []
    for row in found["rows"]:
        steps = row["steps"]

        def at(key: str, row: Mapping[str, Any] = row) -> str:
            return "-" if row[key] is None else f"{row['steps'][row[key]]['strength']:g}"

        warned = None if row["warns"] is None else steps[row["warns"]]["warning"]
        what = "-" if warned is None else f"{warned['number']} {warned['side']}, after {warned['parts']} parts"
        timely = {None: "nothing broke", True: "yes", False: "NO"}[row["warned_in_time"]]
        if all_rejected(row, found["good"]):
            what, timely = "it sees accepted parts only", "all rejected"
        tried = " ".join(f"{step['strength']:g}" for step in steps if len(step) > 1)
        rows.append(
            [
                f"{row['name']}, {row['unit']}",
                tried,
                at("promise_breaks"),
                at("detection_breaks"),
                at("warns"),
                what,
                timely,
            ]
        )
    head = [
        "disturbance",
        "strengths tried",
        "promise breaks at",
        "detection breaks at",
        "drift watch warns at",
        "of what",
        "in time",
    ]
    document.add("table", rows=[head, *rows])
    late = [
        row["name"]
        for row in found["rows"]
        if row["warned_in_time"] is False and not all_rejected(row, found["good"])
    ]
    if late:
        document.add(
            "warning", f"The drift watch did not warn in time of: {', '.join(late)}. Check these by golden parts."
        )
    document.add("chart", "Good parts rejected and defects found, over the strength",
                 chart=robustness_chart(found))  # fmt: skip


def _which_strengths(found: Mapping[str, Any]) -> str:
    """How the strengths were chosen, and what is taken for granted thereby."""
    if found["every"]:
        return "Every strength listed was tried."
    ladders = [" ".join(f"{step['strength']:g}" for step in row["steps"]) for row in found["rows"]]
    return (
        "Strengths were tried by halving the ladder, as if what breaks at one broke at all greater ones "
        f"(--effort thorough tries every one): {'; '.join(ladders)}."
    )


def _identity(document: Document, report: Mapping[str, Any]) -> None:
    document.add("page")
    document.add("heading", "What was measured, with what")
    flat: list[list[str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif value not in (None, "", []):
            flat.append([prefix, str(value)])

    walk("", report["identity"])
    document.add("table", rows=[["what", "value"], *flat])
    _accepted(document, report["accepted"])
    proof = "signature" in report
    document.add(
        "text",
        f"SHA-256 of report.json: {report['sha256']}. "
        + (f"Signed (Ed25519) with the key {report['public_key']}. " if proof else "Not signed (--sign KEY). ")
        + "Check it with: edgead qualify --verify report.json",
    )


def _accepted(document: Document, found: Mapping[str, Any]) -> None:
    rows = [[row["time"][:19].replace("T", " "), row["by"], row["kind"], row["text"]] for row in found["rows"]]
    if rows:
        document.add(
            "table", "Who accepted what, when (UTC)", rows=[["when", "who", "what", "in words"], *rows[-ACCEPTED:]]
        )
    said = [f"The {ACCEPTED} newest of {len(rows)} are shown; report.json has all."] if len(rows) > ACCEPTED else []
    if not rows:
        said.append("Nobody changed a threshold, promoted a detector or filed a part, as far as the artifact knows.")
    if found["store"] is None:
        said.append("What was done on the line is not here: name its store with --store.")
    elif found["routine"]:
        counts = ", ".join(f"{kind} {count} times" for kind, count in sorted(found["routine"].items()))
        said.append(f"Routine on the line, not listed: {counts}.")
    if said:
        document.add("text", " ".join(said))
