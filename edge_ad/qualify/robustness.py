"""Robustness: growing disturbances until the false-alarm promise or the detection breaks, and whether drift warns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ad.calibrate.threshold import clopper_pearson
from edge_ad.data.images import Frame, read_image
from edge_ad.qualify.disturbances import DISTURBANCES, Disturbance
from edge_ad.qualify.probes import CONTRASTS, Probe, draw_probe
from edge_ad.qualify.subject import Subject, canvas
from edge_ad.runtime.watch.drift import DriftConfig, DriftMonitor, image_statistics

REFERENCE, WATCHED = 500, 300  # parts the watch has seen before the change, and sees after it


def robustness(subject: Subject, promised: float | None, spot: float) -> dict[str, Any]:
    """By disturbance and strength: false alarms, defects found, and after how many parts the drift watch warns.

    promised: the false-alarm rate of the calibration. spot: diameter in pixels of the test mark used where there are
    no real defects (one found before the disturbance). The promise counts as broken where more than the promised
    share is rejected with 95 % confidence; detection, where so many fewer are found that chance explains it in
    fewer than one case in twenty. The watch sees parts drawn with replacement from the photos.
    """
    good = [read_image(path) for path in subject.chosen(subject.good)]
    real = [read_image(sample.path) for sample in subject.bad]
    if len(real) > subject.photos:
        real = [real[i] for i in np.linspace(0, len(real) - 1, subject.photos).round().astype(int)]
    bad = real or _marked(subject, spot)
    before, found = subject.scores(good), subject.scores(bad)
    base = found > subject.threshold
    rows = []
    for name, disturbance in DISTURBANCES.items():
        steps = [_step(subject, disturbance, s, good, bad, (before, base), promised) for s in disturbance.strengths]
        rows.append({"name": name, "unit": disturbance.unit, "steps": steps, **_breaks(steps)})
    return {
        "rows": rows,
        "good": len(good),
        "defects": len(bad),
        "real": bool(real),
        "spot": None if real else spot,
        "alarms_before": int((before > subject.threshold).sum()),
        "found_before": int(base.sum()),
        "promised": promised,
        "watched": WATCHED,
    }


def _marked(subject: Subject, spot: float) -> list[Frame]:
    rng, frames = np.random.default_rng(subject.seed + 1), []
    for path in subject.chosen(subject.good):
        frame, inside = canvas(path)
        where = np.flatnonzero(np.ones(frame.shape[:2], bool) if inside is None else inside)
        y, x = divmod(int(rng.choice(where)), frame.shape[1])
        frames.append(draw_probe(frame, Probe("spot", spot, CONTRASTS[-1], y, x)))
    return frames


def _step(
    subject: Subject,
    disturbance: Disturbance,
    strength: float,
    good: Sequence[Frame],
    bad: Sequence[Frame],
    before: tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]],
    promised: float | None,
) -> dict[str, Any]:
    rng = np.random.default_rng(subject.seed)
    changed = [disturbance.change(frame, strength, rng) for frame in good]
    scores = subject.scores(changed)
    hits = subject.scores(disturbance.change(frame, strength, rng) for frame in bad) > subject.threshold
    alarms = int((scores > subject.threshold).sum())
    lost, gained = int((before[1] & ~hits).sum()), int((~before[1] & hits).sum())
    least = clopper_pearson(alarms, len(good))[0]
    return {
        "strength": strength,
        "alarms": alarms,
        "found": int(hits.sum()),
        "promise_broken": least > (promised if promised is not None else 1.0),
        # McNemar's exact test, one-sided: were as many lost as gained, P(this many lost or more) of lost + gained
        "detection_broken": lost > 0 and clopper_pearson(lost, lost + gained)[0] > 0.5,
        "warning": _watch(subject, good, before[0], changed, scores),
    }


def _watch(
    subject: Subject,
    good: Sequence[Frame],
    before: npt.NDArray[np.float64],
    changed: Sequence[Frame],
    after: npt.NDArray[np.float64],
) -> dict[str, Any] | None:
    """The first warning of the line's drift watch: after how many accepted parts, of what; None where none came."""
    rng = np.random.default_rng(subject.seed)
    monitor = DriftMonitor(DriftConfig(reference=REFERENCE), seed=subject.seed)
    for frames, scores, count in ((good, before, REFERENCE), (changed, after, WATCHED)):
        accepted = np.flatnonzero(scores <= subject.threshold)
        if not len(accepted):
            return None
        statistics = {int(i): image_statistics(frames[int(i)]) for i in accepted}
        for part in range(count):
            i = int(rng.choice(accepted))
            risen = monitor.update(float(scores[i]), statistics[i])
            if risen and frames is good:
                monitor.acknowledge()
            elif risen:
                return {
                    "parts": part + 1,
                    "number": risen.name,
                    "side": risen.side,
                    "advice": asdict(risen)["advice"],
                }
    return None


def _breaks(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Index of the first strength at which something breaks and of the first warning, None for never."""

    def first(is_so: Any) -> int | None:
        return next((i for i, step in enumerate(steps) if is_so(step)), None)

    broken = first(lambda step: step["promise_broken"] or step["detection_broken"])
    warned = first(lambda step: step["warning"] is not None)
    return {
        "promise_breaks": first(lambda step: step["promise_broken"]),
        "detection_breaks": first(lambda step: step["detection_broken"]),
        "warns": warned,
        "warned_in_time": None if broken is None else warned is not None and warned <= broken,
    }
