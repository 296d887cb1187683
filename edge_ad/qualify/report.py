"""The report in words, tables and charts, made from its JSON alone, so that all three carry the same figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_ad.qualify.charts import map_chart, pod_chart, repeat_chart, robustness_chart
from edge_ad.qualify.document import Document

STUDIES = {
    "real": "The miss rate on real defects (give --bad with defective parts)",
    "probes": "The detection limit with test marks",
    "map": "The smallest mark found by place",
    "false_alarms": "False alarms",
    "steadiness": "Steadiness of the judgement (give --repeats with parts shown several times)",
    "robustness": "What happens when light, lens or fixture change",
    "speed": "Speed",
}


def write_document(report: Mapping[str, Any]) -> Document:
    """The whole report. report: as `edgead qualify` writes it to report.json."""
    document = Document(f"Qualification of {report['identity']['artifact']}")
    scale = report["mm_per_pixel"]
    unit, name = (scale, "mm") if scale else (1.0, "pixels")
    _first_page(document, report, unit, name)
    if report.get("real"):
        _real(document, report["real"], unit, name)
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


def not_measured(report: Mapping[str, Any]) -> list[str]:
    """What a reader might look for and the report has no figure of, with the reason."""
    missing = [f"{text}: not measured" for name, text in STUDIES.items() if not report.get(name)]
    real = (report.get("real") or {}).get("kinds", {})
    unsized = [kind for kind, table in real.items() if "limit" not in table]
    if unsized:
        missing.append(f"The size of real defects of these kinds (no masks): {', '.join(unsized)}")
    if report["mm_per_pixel"] is None:
        missing.append("Sizes in millimetres (give --mm-per-pixel): all sizes are in pixels of the photos")
    if report.get("speed") and report["speed"]["cycle_ms"] is None:
        missing.append("Whether it is fast enough for the line (give --cycle-ms)")
    if report.get("robustness") and not report["robustness"]["real"]:
        missing.append("Robustness on real defects: test marks stand in for them")
    missing.append("Defects of kinds that are neither among the real ones shown nor like a spot or a thin scratch")
    missing.append("Other cameras, lenses, lamps and machines than those of these photos and this computer")
    return missing


def _first_page(document: Document, report: Mapping[str, Any], unit: float, name: str) -> None:
    identity = report["identity"]
    document.add("title", document.name)
    document.add(
        "text",
        f"Measured {identity['measured']} by {identity['measured_by']}; detector {identity['artifact_sha256'][:16]}.",
    )
    document.add("heading", "In short")
    document.add("list", rows=[[line] for line in summary(report, unit, name)])
    document.add("heading", "What was not measured")
    document.add("list", rows=[[line] for line in not_measured(report)])


def summary(report: Mapping[str, Any], unit: float, name: str) -> list[str]:
    """A sentence a study, each figure with the number of parts behind it."""
    lines = []
    if report.get("real"):
        table = next(iter(report["real"]["kinds"].values()))
        lines.append(
            f"Real defects: {table['missed']} of {table['parts']} defective parts were accepted; with 95 % "
            "confidence at "
            f"most {table['miss_bound']:.1%} of parts like these are."
        )
    if report.get("probes"):
        for row in report["probes"]["rows"]:
            if row["contrast"] == 50:
                limit = _limit_text(row["limit"], unit, name)
                lines.append(
                    f"Test marks, {row['kind']}, 50 gray levels of contrast: {limit}. "
                    "An optical limit, not a miss rate."
                )
    if report.get("false_alarms"):
        lines.append("False alarms: " + _alarm_text(report["false_alarms"]))
    if report.get("steadiness"):
        study = report["steadiness"]
        lines.append(
            f"Steadiness: {study['flips']} of {study['parts']} parts got both verdicts when shown "
            f"{study['shots']} times in "
            f"all; attribute agreement: {study['judgement']}."
        )
    if report.get("robustness"):
        rows = report["robustness"]["rows"]
        broken = [row for row in rows if row["warned_in_time"] is not None]
        warned = sum(bool(row["warned_in_time"]) for row in broken)
        lines.append(
            f"Robustness ({report['robustness']['good']} good parts, {report['robustness']['defects']} defects): "
            f"{len(broken)} of {len(rows)} disturbances broke the promise or the detection at some strength; "
            "the drift "
            f"watch warned at that strength or before in {warned} of {len(broken)}."
        )
    if report.get("speed"):
        lines.append("Speed: " + _speed_text(report["speed"]))
    return lines


def _limit_text(limit: Mapping[str, Any], unit: float, name: str) -> str:
    sizes = f"{limit['smallest'] * unit:.3g} to {limit['largest'] * unit:.3g} {name}"
    basis = f"({limit['hits']} of {limit['trials']} found, sizes {sizes})"
    said = []
    if limit["a90"] is not None:
        said.append(f"nine in ten are found from {limit['a90'] * unit:.3g} {name} on")
    if limit["a90_95"] is not None:
        said.append(f"with 95 % confidence from {limit['a90_95'] * unit:.3g} {name} on")
    said += [limit["note"]] if limit["note"] else []
    return f"{'; '.join(said)} {basis}"


def _alarm_text(found: Mapping[str, Any]) -> str:
    measured = found["measured"]
    promise = found["promise"] or "no promise, the artifact is not calibrated with photos of good parts"
    return (
        f"{promise} ({found['calibrated_on'] or 0} good parts). Here {measured['alarms']} of "
        f"{measured['parts']} good parts were "
        f"rejected; with 95 % confidence at most {measured['upper']:.1%} are."
    )


def _speed_text(speed: Mapping[str, Any]) -> str:
    text = (
        f"half of the parts within {speed['p50_ms']:.1f} ms, 99 of 100 within {speed['p99_ms']:.1f} ms, the slowest "
        f"{speed['max_ms']:.1f} ms ({speed['parts']} pictures, {speed['stations']} station(s) asking at once)"
    )
    return (
        text
        if speed["cycle_ms"] is None
        else f"{text}; {speed['over']} took longer than the {speed['cycle_ms']:g} ms cycle."
    )


def _size(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value * unit:.3g}"


def _real(document: Document, real: Mapping[str, Any], unit: float, name: str) -> None:
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
        rows.append([kind, table["parts"], table["missed"], f"{table['miss_bound']:.1%}", _size(limit["a90"], unit),
                     _size(limit["a90_95"], unit), _size(table.get("median_width"), unit),
                     f"{table['median_contrast']:.0f}" if "median_contrast" in table else "-",
                     limit["note"]])  # fmt: skip
    document.add("table", rows=[head, *rows])
    if real["left_out"]:
        document.add(
            "warning", f"{len(real['left_out'])} photos could not be used: {'; '.join(real['left_out'][:5])}"
        )
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
        [row["kind"], row["contrast"], row["limit"]["trials"], row["limit"]["hits"], _size(row["limit"]["a90"], unit),
         _size(row["limit"]["a90_95"], unit), _size(row["from_scores"]["a90"], unit),
         _size(row["from_scores"]["a90_95"], unit),
         row["limit"]["note"]]
        for row in probes["rows"]
    ]  # fmt: skip
    document.add("table", rows=[head, *rows])
    titles = [f"{row['kind']}, contrast {row['contrast']}" for row in probes["rows"]]
    document.add(
        "chart", "Share of test marks found, over their size", chart=pod_chart(probes["rows"], titles, unit, name)
    )
    head = ["kind", "where", "marks", "found", f"a90, {name}", f"a90/95, {name}", "note"]
    regions = [
        [row["kind"], row["region"], row["limit"]["trials"], row["limit"]["hits"], _size(row["limit"]["a90"], unit),
         _size(row["limit"]["a90_95"], unit), row["limit"]["note"]]
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
            f"place; sizes tried: {', '.join(f'{v * unit:.2g}' for v in found['ladder'])} {name}"
        )
        document.add("chart", text, chart=map_chart(found, unit, name))


def _false_alarms(document: Document, found: Mapping[str, Any]) -> None:
    document.add("page")
    document.add("heading", "False alarms")
    document.add("text", _alarm_text(found))
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
        cells = [[f"{cell['alarms']} (≤ {cell['upper']:.1%})" for cell in row] for row in found["regions"]]
        document.add("table", f"By region of the picture: good parts of {parts} marked there, and the bound (95 %)",
                     rows=[["left", "middle", "right"], *cells])  # fmt: skip


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
        ["tolerance used up by it (3 x spread)", percent(study["tolerance_used"]), "-",
         f"{study['good']} good parts", "≤ 30 %"],
    ])  # fmt: skip
    document.add(
        "chart", "Scores of every shot; the line is the threshold", chart=repeat_chart(study["shown"], threshold)
    )


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
        "at which more "
        "good parts are rejected than promised, or fewer defects found, beyond chance (95 %). The drift watch "
        "is the one "
        f"that runs on the line; it saw up to {found['watched']} accepted parts drawn with replacement from "
        "these photos.",
    )
    rows = []
    for row in found["rows"]:
        steps = row["steps"]

        def at(key: str, row: Mapping[str, Any] = row) -> str:
            return "-" if row[key] is None else f"{row['steps'][row[key]]['strength']:g}"

        warned = None if row["warns"] is None else steps[row["warns"]]["warning"]
        what = "-" if warned is None else f"{warned['number']} {warned['side']}, after {warned['parts']} parts"
        timely = {None: "nothing broke", True: "yes", False: "NO"}[row["warned_in_time"]]
        tried = " ".join(f"{step['strength']:g}" for step in steps)
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
    late = [row["name"] for row in found["rows"] if row["warned_in_time"] is False]
    if late:
        document.add(
            "warning", f"The drift watch did not warn in time of: {', '.join(late)}. Check these by golden parts."
        )
    document.add("chart", "Good parts rejected and defects found, over the strength",
                 chart=robustness_chart(found["rows"], found["good"], found["defects"]))  # fmt: skip


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
    proof = "signature" in report
    document.add(
        "text",
        f"SHA-256 of report.json: {report['sha256']}. "
        + (f"Signed (Ed25519) with the key {report['public_key']}. " if proof else "Not signed (--sign KEY). ")
        + "Check it with: edgead qualify --verify report.json",
    )
