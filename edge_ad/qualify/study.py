"""The other studies: false alarms, steadiness, speed."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.calibrate.threshold import clopper_pearson, normals_needed
from edge_ad.data.images import images_below, read_image
from edge_ad.data.loader import log_left_out, read_each
from edge_ad.data.samples import Problem, Sample
from edge_ad.data.words import meaning
from edge_ad.errors import DataError
from edge_ad.qualify.agreement import AppraisedPart, agreement
from edge_ad.qualify.subject import Subject

REGIONS = 3  # rows and columns that false alarms are counted in


def false_alarms(subject: Subject, calibration: Mapping[str, Any], products: Sequence[str] = ()) -> dict[str, Any]:
    """The calibration's promise and what more photos would buy; what the photos at hand say; by product and region.

    products: of each good photo, where the artifact knows several.
    """
    scores, pixels = [], []
    for prediction in subject.predict_photos(subject.good):
        scores.append(prediction.image_score)
        pixels.append(_marked_regions(prediction.pixel_scores, calibration.get("pixel_threshold")))
    above = np.array(scores) > subject.threshold
    own = calibration.get("per_class") or {}
    by_product = {
        name: {
            **_rate(above[np.array([p == name for p in products])]),
            "normals": own.get(name, {}).get("normals"),
        }
        for name in sorted(set(products))
    }
    places = np.array([p for p in pixels if p is not None])
    regions = [] if not len(places) else [
        [_rate(places[:, row, column]) for column in range(REGIONS)] for row in range(REGIONS)
    ]  # fmt: skip
    rate = calibration.get("false_alarm_rate")
    return {
        "promise": calibration.get("promise"),
        "promised_rate": rate,
        "promised_bound": calibration.get("upper_bound"),
        "calibrated_on": calibration.get("normals"),
        "measured": _rate(above),
        "kept": None if rate is None else bool(clopper_pearson(int(above.sum()), len(above))[0] <= rate),
        "products": by_product if len(by_product) > 1 else {},
        "regions": regions,
        "buys": [
            {"rate": r, "photos": normals_needed(r), "photos_95": normals_needed(r, 0.95)}
            for r in (0.05, 0.02, 0.01, 0.005, 0.001)
        ],
        "worst": [str(subject.good[i].name) for i in np.argsort(scores)[::-1][:3]],
    }


def _rate(events: Any) -> dict[str, Any]:
    count, parts = int(np.sum(events)), len(events)
    lower, upper = clopper_pearson(count, parts) if parts else (0.0, 1.0)
    return {"alarms": count, "parts": parts, "rate": count / parts if parts else None, "lower": lower, "upper": upper}


def _marked_regions(scores: Any, threshold: float | None) -> Any:
    """[REGIONS, REGIONS] bool: some pixel is marked there; None without a threshold."""
    if threshold is None:
        return None
    rows = np.array_split(np.asarray(scores) > threshold, REGIONS, axis=0)
    return [[bool(cell.any()) for cell in np.array_split(row, REGIONS, axis=1)] for row in rows]


def read_repeats(folder: Path) -> list[tuple[str, bool | None, list[Path]]]:
    """(part, is it bad, its photos) of DIR/PART/*.png, DIR/good/PART/*.png or DIR/bad/PART/*.png.

    A part is good or bad by the folder it lies in, or by how its name begins (good_07, bad-3); else nobody says.
    Raises DataError for a folder without parts.
    """
    parts: dict[Path, list[Path]] = {}
    for path in images_below(folder):
        if path.parent != folder:
            parts.setdefault(path.parent, []).append(path)
    if not parts:
        raise DataError(
            f"{folder} has no parts", "put each part's photos into a folder of its own: DIR/PART/shot.png"
        )
    found = []
    for part, photos in sorted(parts.items()):
        inner = part.relative_to(folder).parts
        said = {meaning(word) for word in (*inner, re.split("[-_]", inner[-1])[0])}
        bad = True if "defect" in said else False if "good" in said else None
        found.append((part.relative_to(folder).as_posix(), bad, photos))
    return found


def steadiness(subject: Subject, parts: Sequence[tuple[str, bool | None, list[Path]]]) -> dict[str, Any]:
    """The agreement study on parts shown several times, and each part's scores."""
    shown = []
    for name, bad, photos in parts:
        problems: list[Problem] = []
        named = [Sample(photo, "test", int(bool(bad)), "", None, name) for photo in photos]
        scores = subject.scores(frame for _, frame in read_each(named, lambda one: read_image(one.path), problems))
        log_left_out(problems)
        if not len(scores):
            continue
        shown.append(
            AppraisedPart(name, bad, tuple(bool(s > subject.threshold) for s in scores), tuple(map(float, scores)))
        )
    return {**asdict(agreement(shown, subject.threshold)), "shown": [part._asdict() for part in shown]}


def speed(subject: Subject, cycle_ms: float | None, stations: int = 1, calls: int = 200) -> dict[str, Any]:
    """Milliseconds from a decoded picture to its score, each of `stations` threads asking as fast as it can."""
    frame = subject.reader.read(subject.good[0])
    for _ in range(3):
        subject.predictor.predict_batch([frame])
    times: list[float] = []
    shared = threading.Lock()  # one detector serves all stations, as on the line

    def ask() -> None:
        for _ in range(max(1, calls // stations)):
            begun = time.perf_counter()
            with shared:
                subject.predictor.predict_batch([frame])
            times.append((time.perf_counter() - begun) * 1000)

    threads = [threading.Thread(target=ask) for _ in range(stations)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = (float(np.percentile(times, p)) for p in (50, 99))
    over = None if cycle_ms is None else sum(t > cycle_ms for t in times)
    return {
        "stations": stations, "parts": len(times), "p50_ms": p50, "p99_ms": p99, "max_ms": max(times),
        "cycle_ms": cycle_ms, "over": over, "picture": list(frame.shape[:2]),
    }  # fmt: skip
