"""Robustness: growing disturbances until the false-alarm promise or the detection breaks, and whether drift warns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ad.calibrate.threshold import clopper_pearson
from edge_ad.data.images import Frame
from edge_ad.qualify.disturbances import DISTURBANCES, Disturbance
from edge_ad.qualify.probes import CONTRASTS, Probe, draw_probe
from edge_ad.qualify.subject import Subject
from edge_ad.runtime.watch.drift import DriftConfig, DriftMonitor, ImageStatistics, image_statistics

REFERENCE, WATCHED = 500, 300  # parts the watch has seen before the change, and sees after it


def robustness(subject: Subject, promised: float | None, spot: float, *, every: bool = False) -> dict[str, Any]:
    """By disturbance and strength: false alarms, defects found, and after how many parts the drift watch warns.

    promised: the false-alarm rate of the calibration. spot: diameter in pixels of the test mark used where there are
    no real defects (one found before the disturbance). every: try every strength, instead of halving them, which
    takes it that what breaks at one strength breaks at all greater ones. The promise counts as broken where more than
    the promised share is rejected with 95 % confidence; detection, where so many fewer are found that chance explains
    it in fewer than one case in twenty. The watch sees parts drawn with replacement from the photos.
    """
    shown = _Shown(subject, promised, spot)
    rows = []
    for name, disturbance in DISTURBANCES.items():
        ladder = _Ladder(shown, disturbance)
        if every:
            for index in range(len(ladder.steps)):
                ladder.good(index)
                ladder.bad(index)
        rows.append({"name": name, "unit": disturbance.unit, "steps": ladder.steps, **ladder.breaks()})
    return {
        "rows": rows,
        "good": len(shown.good),
        "defects": len(shown.found),
        "real": shown.spot is None,
        "spot": shown.spot,
        "alarms_before": int((shown.before > subject.threshold).sum()),
        "found_before": int(shown.found.sum()),
        "promised": promised,
        "watched": WATCHED,
        "every": every,
    }


def breaks_promise(alarms: int, parts: int, promised: float | None) -> bool:
    """Whether more good parts are rejected than promised, with 95 % confidence; False where nothing was promised."""
    return promised is not None and clopper_pearson(alarms, parts)[0] > promised


def loses_defects(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> bool:
    """Whether fewer of the same defects are found than before, beyond chance: McNemar's exact test, one-sided.

    before, after: [n]. Were as many lost as gained, so many lost or more of those that changed would come in fewer
    than one case in twenty.
    """
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    return lost > 0 and clopper_pearson(lost, lost + gained)[0] > 0.5


def pictures(good: int, defects: int, *, every: bool = False) -> int:
    """How many pictures `robustness` scores at most, of so many parts."""
    steps = [len(one.strengths) for one in DISTURBANCES.values()]
    halved = [math.ceil(math.log2(count + 1)) for count in steps]
    if every:
        return (good + defects) * sum(steps)
    # of good parts, two ladders are halved: the promise's and the watch's
    return good * sum(min(count, 2 * half) for count, half in zip(steps, halved, strict=True)) + defects * sum(halved)


class _Shown:
    """The parts that are disturbed, as they are: good and defective ones, and what the detector says of them.

    before: [good] scores. found: [defects] bool. spot: None where the defects are real.
    """

    def __init__(self, subject: Subject, promised: float | None, spot: float) -> None:
        self.subject, self.promised = subject, promised
        self.good = subject.chosen(subject.good)
        self.before = subject.photo_scores(self.good)
        real = subject.chosen([sample.path for sample in subject.bad])
        self.spot = None if real else spot
        self._defects: list[Path] | list[Frame] = real or _marked(subject, spot)
        scores = subject.photo_scores(real) if real else subject.scores(self.defects())
        self.found = scores > subject.threshold
        self._statistics = [image_statistics(subject.reader.read(path)) for path in self.good]

    def defects(self) -> Iterator[Frame]:
        """The defective parts' frames."""
        for one in self._defects:
            yield self.subject.reader.read(one) if isinstance(one, Path) else one

    def warning(
        self, scores: npt.NDArray[np.float64], statistics: Sequence[ImageStatistics]
    ) -> dict[str, Any] | None:
        """The first warning of the line's drift watch: after how many accepted parts, of what; None where none came.

        scores, statistics: of the good parts, disturbed.
        """
        watch = DriftMonitor(DriftConfig(reference=REFERENCE), seed=self.subject.seed)
        for _, score, one in self._accepted(self.before, self._statistics, REFERENCE):
            if watch.update(score, one):
                watch.acknowledge()
        for part, score, one in self._accepted(scores, statistics, WATCHED):
            if risen := watch.update(score, one):
                return {"parts": part, "number": risen.name, "side": risen.side, "advice": asdict(risen)["advice"]}
        return None

    def _accepted(
        self, scores: npt.NDArray[np.float64], statistics: Sequence[ImageStatistics], count: int
    ) -> Iterator[tuple[int, float, ImageStatistics]]:
        """So many accepted parts, numbered from 1, drawn with replacement; none where none is accepted."""
        rng = np.random.default_rng(self.subject.seed)
        accepted = np.flatnonzero(scores <= self.subject.threshold)
        for part in range(count if len(accepted) else 0):
            i = int(rng.choice(accepted))
            yield part + 1, float(scores[i]), statistics[i]


class _Ladder:
    """One disturbance at growing strength; each strength is tried when it is first asked for."""

    def __init__(self, shown: _Shown, disturbance: Disturbance) -> None:
        self._shown, self._disturbance = shown, disturbance
        self.steps: list[dict[str, Any]] = [{"strength": strength} for strength in disturbance.strengths]

    def good(self, index: int) -> dict[str, Any]:
        """The step with what becomes of good parts: `alarms`, `promise_broken` and the watch's `warning`."""
        step, shown = self.steps[index], self._shown
        if "alarms" not in step:
            statistics: list[ImageStatistics] = []

            def changed() -> Iterator[Frame]:
                for frame in self._changed(map(shown.subject.reader.read, shown.good), index):
                    statistics.append(image_statistics(frame))
                    yield frame

            scores = shown.subject.scores(changed())
            step["alarms"] = int((scores > shown.subject.threshold).sum())
            step["promise_broken"] = breaks_promise(step["alarms"], len(scores), shown.promised)
            step["warning"] = shown.warning(scores, statistics)
        return step

    def bad(self, index: int) -> dict[str, Any]:
        """The step with what becomes of defects: how many are `found`, and `detection_broken`."""
        step, shown = self.steps[index], self._shown
        if "found" not in step:
            hits = shown.subject.scores(self._changed(shown.defects(), index)) > shown.subject.threshold
            step["found"] = int(hits.sum())
            step["detection_broken"] = loses_defects(shown.found, hits)
        return step

    def breaks(self) -> dict[str, Any]:
        """Index of the first strength at which something breaks and of the first warning, None for never."""
        promise = self._first(lambda index: bool(self.good(index)["promise_broken"]))
        detection = self._first(lambda index: bool(self.bad(index)["detection_broken"]))
        warns = self._first(lambda index: self.good(index)["warning"] is not None)
        broken = min((index for index in (promise, detection) if index is not None), default=None)
        if broken is not None and self.good(broken)["warning"] is not None:
            warns = broken if warns is None else min(broken, warns)
        return {
            "promise_breaks": promise,
            "detection_breaks": detection,
            "warns": warns,
            "warned_in_time": None if broken is None else warns is not None and warns <= broken,
        }

    def _first(self, is_so: Callable[[int], bool]) -> int | None:
        """The first strength of which it is so, by halving; None for none.

        Where all were tried, the very first one, whatever lies between.
        """
        if all({"alarms", "found"} <= step.keys() for step in self.steps):
            return next(filter(is_so, range(len(self.steps))), None)
        low, high = 0, len(self.steps)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if is_so(middle) else (middle + 1, high)
        return low if low < len(self.steps) else None

    def _changed(self, frames: Iterable[Frame], index: int) -> Iterator[Frame]:
        rng = np.random.default_rng(self._shown.subject.seed)
        for frame in frames:
            yield self._disturbance.change(frame, self._disturbance.strengths[index], rng)


def _marked(subject: Subject, spot: float) -> list[Frame]:
    rng, frames = np.random.default_rng(subject.seed + 1), []
    for path in subject.chosen(subject.good):
        frame, inside = subject.canvas(path)
        where = np.flatnonzero(np.ones(frame.shape[:2], bool) if inside is None else inside)
        y, x = divmod(int(rng.choice(where)), frame.shape[1])
        frames.append(draw_probe(frame, Probe("spot", spot, CONTRASTS[-1], y, x)))
    return frames
