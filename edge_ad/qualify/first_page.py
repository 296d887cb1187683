"""The report's first page: a sentence a study, what was not measured, and what the words mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_ad.qualify.comparison import compared_text
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
WORDS = {
    "Score": "the detector's number for a picture; the higher, the stranger it looks. Above the threshold the part "
    "is rejected",
    "a90": "the size of defect that is found nine times in ten; smaller is better",
    "a90/95": "as a90, but certain: with 95 % confidence nine in ten defects of this size are found. Use this one",
    "Missed": "a bad part that was accepted. False alarm: a good part that was rejected",
    "At most (95 %)": "the true share is below this with 95 % confidence; "
    "more parts bring it nearer to what was seen",
    "Kappa": "agreement beyond what chance would give: 1 is perfect, 0 is chance",
    "Contrast": "how much brighter or darker than its surroundings, in gray levels of 255",
}


def add_first_page(document: Document, report: Mapping[str, Any], unit: float, name: str) -> None:
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
    document.add("heading", "Words used here")
    document.add("list", rows=[[f"{word}: {meaning}"] for word, meaning in WORDS.items()])


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
    if report["accepted"]["store"] is None:
        missing.append("What people did on the line: releases, labels, changes (give --store)")
    missing.append("Defects of kinds that are neither among the real ones shown nor like a spot or a thin scratch")
    missing.append("Other cameras, lenses, lamps and machines than those of these photos and this computer")
    return missing


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
    if report.get("marks_against_defects"):
        said = compared_text(report["marks_against_defects"])
        lines.append(f"Test marks of the same shape, size and contrast against real defects: {said}.")
    if report.get("confirmed_misses"):
        misses = report["confirmed_misses"]
        passed = [miss["name"] for miss in misses if not miss["caught"]]
        lines.append(
            f"Confirmed misses of the past: {len(misses) - len(passed)} of {len(misses)} are caught now"
            + (f"; NOT CAUGHT: {', '.join(passed)}." if passed else ".")
        )
    if report.get("false_alarms"):
        lines.append("False alarms: " + alarm_text(report["false_alarms"]))
    if report.get("steadiness"):
        study = report["steadiness"]
        lines.append(
            f"Steadiness: {study['flips']} of {study['parts']} parts got both verdicts when shown {study['shots']} "
            f"times in all. Judged right every time: {study['effective']} of {study['good'] + study['bad']} parts; "
            f"bad parts missed at least once: {study['missed']} of {study['bad']}; good parts rejected: "
            f"{study['alarmed']} of {study['good']}. AIAG's word for such rates: {study['judgement']}."
        )
    if report.get("robustness"):
        rows = report["robustness"]["rows"]
        broken = [row for row in rows if row["warned_in_time"] is not None]
        warned = sum(bool(row["warned_in_time"]) for row in broken)
        evident = sum(all_rejected(row, report["robustness"]["good"]) for row in broken)
        lines.append(
            f"Robustness ({report['robustness']['good']} good parts, {report['robustness']['defects']} defects): "
            f"{len(broken)} of {len(rows)} disturbances broke the promise or the detection at some strength; the "
            f"drift watch warned at that strength or before in {warned} of {len(broken)}"
            + (f", and in {evident} every part is rejected from there on, so that it sees none." if evident else ".")
        )
    if report.get("speed"):
        lines.append("Speed: " + _speed_text(report["speed"]))
    return lines


def limit_note(limit: Mapping[str, Any], unit: float, name: str) -> str:
    """What there is to say of a limit, sizes in the report's unit."""
    if not limit.get("between"):
        return str(limit["note"])
    low, high = (size * unit for size in limit["between"])
    return f"{limit['note']}; the limit lies between {low:.3g} and {high:.3g} {name}: show more defects of such sizes"


def all_rejected(row: Mapping[str, Any], good: int) -> bool:
    """Whether a disturbance that the watch did not warn of has every good part rejected where it breaks the line."""
    broken = [row[name] for name in ("promise_breaks", "detection_breaks") if row[name] is not None]
    return row["warned_in_time"] is False and row["steps"][min(broken)].get("alarms") == good


def _limit_text(limit: Mapping[str, Any], unit: float, name: str) -> str:
    sizes = f"{limit['smallest'] * unit:.3g} to {limit['largest'] * unit:.3g} {name}"
    basis = f"({limit['hits']} of {limit['trials']} found, sizes {sizes})"
    said, tried = [], limit["largest"]
    if limit["a90"] is not None and limit["a90"] <= tried:
        said.append(f"nine in ten are found from {limit['a90'] * unit:.3g} {name} on")
        if limit["a90_95"] is not None:
            sure = (
                f"from {limit['a90_95'] * unit:.3g} {name} on"
                if limit["a90_95"] <= tried
                else "not at any size tried"
            )
            said.append(f"with 95 % confidence {sure}")
    elif limit["a90"] is not None:
        said.append("nine in ten are not found at any size tried")
    said += [note] if (note := limit_note(limit, unit, name)) else []
    return f"{'; '.join(said)} {basis}"


def alarm_text(found: Mapping[str, Any]) -> str:
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
