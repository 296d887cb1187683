"""All studies of one detector, one after the other, and the files they are written to."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from edge_ad.artifact import Artifact, is_known_photo, write_atomically
from edge_ad.calibrate.confirmed import examine_misses
from edge_ad.data.feedback import entries
from edge_ad.data.loader import PhotoReader
from edge_ad.data.samples import Problem, Sample, scan
from edge_ad.errors import ConfigError, DataError
from edge_ad.progress import NoProgress, Progress
from edge_ad.qualify import limits, robustness, study
from edge_ad.qualify.comparison import marks_against_defects
from edge_ad.qualify.first_page import summary
from edge_ad.qualify.identity import accepted, identity, sign_report
from edge_ad.qualify.report import write_document
from edge_ad.qualify.subject import Subject
from edge_ad.runtime.engines.opening import choose_precision, open_runner
from edge_ad.runtime.line.station_predictor import StationPredictor
from edge_ad.runtime.predictor import Predictor
from edge_ad.runtime.products import calibration_for
from edge_ad.runtime.settings import read_station

SKIPPABLE = ("probes", "map", "robustness", "speed")
log = logging.getLogger(__name__)


class Effort(NamedTuple):
    """How much is measured. photos: that a study takes at most. trials: test marks for each kind and contrast.
    cells: of the map, along the part. every_strength: of disturbances, instead of halving their ladder."""

    photos: int
    trials: int
    cells: int
    every_strength: bool = False


EFFORTS = {
    "quick": Effort(16, 30, 5),
    "normal": Effort(30, 60, 8),
    "thorough": Effort(100, 120, 12, every_strength=True),
}


@dataclass(frozen=True)
class QualifyOptions:
    """What to qualify with; the command line's options, in its order. photos, trials: None takes the effort's."""

    good: Path
    bad: Path | None = None
    repeats: Path | None = None
    mm_per_pixel: float | None = None
    cycle_ms: float | None = None
    stations: int = 1
    photos: int | None = None
    trials: int | None = None
    settings: Path | None = None
    station: str = ""
    product: str = ""
    skip: tuple[str, ...] = ()
    sign: Path | None = None
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    effort: str = "normal"
    store: Path | None = None

    def __post_init__(self) -> None:
        if self.effort not in EFFORTS:
            raise ConfigError(f"--effort {self.effort}", f"use one of: {', '.join(EFFORTS)}")
        unknown = sorted(set(self.skip) - set(SKIPPABLE))
        if unknown:
            raise ConfigError(f"--skip {','.join(unknown)}", f"studies that can be left out: {', '.join(SKIPPABLE)}")

    @property
    def chosen_effort(self) -> Effort:
        """The effort with the numbers that were asked for by themselves."""
        effort = EFFORTS[self.effort]
        return effort._replace(photos=self.photos or effort.photos, trials=self.trials or effort.trials)


def qualify(artifact: Path, options: QualifyOptions, *, progress: Progress | None = None) -> dict[str, Any]:
    """The sealed report.

    Raises DataError without good photos that training never saw, ConfigError without a calibrated threshold.
    """
    opened = Artifact.open(artifact)
    good, trained = _unseen(opened, options.good)
    good, unreadable = _readable(good, options.good)
    bad, more = ([], []) if options.bad is None else _readable(_defective(options.bad), options.bad)
    parts = [] if options.repeats is None else study.read_repeats(options.repeats)
    effort, pace = options.chosen_effort, _Pace(progress or NoProgress())
    with _predictor(opened, options) as predictor:
        if predictor.threshold is None:
            raise ConfigError("the artifact has no threshold", "run `edgead calibrate` first")
        subject = Subject(
            predictor, predictor.threshold, [s.path for s in good], bad, effort.photos, advance=pace.advance
        )
        calibration = calibration_for(
            opened.manifest, options.product or ("all" if len(opened.manifest.classes) > 1 else "")
        )
        report: dict[str, Any] = {
            "format": 1,
            "threshold": predictor.threshold,
            "mm_per_pixel": options.mm_per_pixel,
            "effort": {"name": options.effort, **effort._asdict()},
            "good_left_out": trained,
            "unreadable": [f"{problem.path}: {problem.reason}" for problem in unreadable + more],
            "identity": identity(opened, predictor.runner, {
                "good": subject.good, "bad": [s.path for s in bad],
                "repeats": [photo for _, _, shots in parts for photo in shots],
            }),
            "accepted": accepted(opened, options.store),
        }  # fmt: skip
        products = [s.category for s in good] if len(opened.manifest.classes) > 1 else ()
        studies: dict[str, Callable[[], Any]] = {
            "false_alarms": lambda: study.false_alarms(subject, calibration, products),
            "real": lambda: limits.real_defects(subject) if bad else None,
            "steadiness": lambda: study.steadiness(subject, parts) if parts else None,
            "probes": lambda: limits.probe_limits(subject, effort.trials, limits.contrasts_for(report.get("real"))),
            "map": lambda: limits.probe_map(subject, effort.cells),
            "robustness": lambda: robustness.robustness(
                subject, calibration.get("false_alarm_rate"), _seen_spot(report), every=effort.every_strength
            ),
            "speed": lambda: study.speed(replace(subject, advance=lambda: None), options.cycle_ms, options.stations),
        }
        studies = {name: measure for name, measure in studies.items() if name not in options.skip}
        pace.plan({name: n for name, n in _pictures(subject, effort, parts).items() if name in studies})
        for name, measure in studies.items():
            with pace.study(name):
                report[name] = measure()
        if report.get("real") and report.get("probes"):
            report["marks_against_defects"] = marks_against_defects(report["real"], report["probes"])
        misses = entries(opened.path, "bad")
        report["confirmed_misses"] = [asdict(one) for one in examine_misses(opened, predictor.runner, misses)]
    return sign_report(report, options.sign)


def _pictures(
    subject: Subject, effort: Effort, parts: Sequence[tuple[str, bool | None, list[Path]]]
) -> dict[str, int]:
    """How many pictures each study will score, at most; the map's number is known only to its place."""
    good, bad = len(subject.good), len(subject.bad)
    taken = min(good, effort.photos)
    return {
        "false_alarms": good,
        "real": bad,
        "steadiness": sum(len(shots) for _, _, shots in parts),
        "probes": limits.pictures(effort.trials, len(limits.contrasts_for(None)) + bool(bad)),
        "map": limits.map_pictures(effort.cells),
        "robustness": robustness.pictures(taken, min(bad, effort.photos) or taken, every=effort.every_strength),
        "speed": 0,
    }


class _Pace:
    """Tells a person how far the studies are, and after the first of them how long the others will take."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._planned, self._done = progress, dict[str, int](), 0

    def plan(self, pictures: Mapping[str, int]) -> None:
        """pictures: by study, how many it will score."""
        self._planned = dict(pictures)

    def advance(self) -> None:
        """A picture was scored."""
        self._done += 1
        self._progress.advance(1)

    @contextmanager
    def study(self, name: str) -> Iterator[None]:
        """While a study is made."""
        total, self._done, begun = self._planned.pop(name), 0, time.monotonic()
        self._progress.phase(name.replace("_", " "), total)
        yield
        self._progress.advance(max(0, total - self._done))  # most need fewer than they may
        if name == "false_alarms" and self._done and (rest := sum(self._planned.values())):
            minutes = rest * (time.monotonic() - begun) / self._done / 60
            self._progress.say(f"up to {rest} pictures are left to score: {max(1, round(minutes))} min at this pace")


def write_report(report: Mapping[str, Any], out: Path) -> list[str]:
    """Write report.json, report.html and report.pdf into the folder; the summary's lines come back."""
    out.mkdir(parents=True, exist_ok=True)
    document = write_document(report)
    write_atomically(out / "report.json", json.dumps(report, indent=1).encode())
    write_atomically(out / "report.html", document.to_html().encode())
    write_atomically(out / "report.pdf", document.to_pdf())
    scale = report["mm_per_pixel"]
    return summary(report, scale or 1.0, "mm" if scale else "pixels")


def read_report(path: Path) -> dict[str, Any]:
    """A report.json; DataError where it is none."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(report, dict) or "sha256" not in report:
            raise ValueError("no report of edgead qualify")
    except (OSError, ValueError) as error:
        raise DataError(f"can't read {path}: {error}", "name a report.json that `edgead qualify` wrote") from error
    return report


def _predictor(artifact: Artifact, options: QualifyOptions) -> Predictor:
    place, backend, precision = read_station(options.settings, options.station, options.backend, options.precision)
    runner = open_runner(artifact, backend, choose_precision(artifact, precision), options.threads)
    return StationPredictor(artifact, runner, place) if place else Predictor(artifact, runner, options.product)


def _unseen(artifact: Artifact, folder: Path) -> tuple[list[Sample], int]:
    """Good photos that training didn't see, and how many it did."""
    samples = scan(folder).normals
    known = artifact.trained_on()
    if known is None:
        log.warning(
            "this artifact keeps no record of its training photos: make sure that none of these is among them"
        )
        return list(samples), 0
    unseen = [sample for sample in samples if not is_known_photo(sample.path, known)]
    if not unseen:
        raise DataError(
            f"all {len(samples)} good photos in {folder} were trained on",
            "take photos of good parts that training never saw",
        )
    return unseen, len(samples) - len(unseen)


def _readable(samples: Sequence[Sample], folder: Path) -> tuple[list[Sample], list[Problem]]:
    """The photos that can be decoded, and those that can't, which are logged: no study may end on one of them."""
    found, problems = PhotoReader(budget=0).decodable(samples)
    if not found:
        raise DataError(f"no photo of {folder} could be read", "`edgead check FOLDER` says what is there")
    return [one.sample for one in found], problems


def _defective(folder: Path) -> list[Sample]:
    """Every defective photo of the folder; all its photos where none is said to be (the folder is the kind)."""
    samples = scan(folder).samples
    bad = [sample for sample in samples if sample.label]
    if bad:
        return bad
    return [replace(sample, label=1, kind=folder.resolve().name) for sample in samples]


def _seen_spot(report: Mapping[str, Any]) -> float:
    """A spot that is found when nothing is disturbed: half again the limit of the strongest contrast."""
    rows = (report.get("probes") or {}).get("rows") or []
    limits_found = [row["limit"] for row in rows if row["kind"] == "spot"]
    known = limits_found[-1] if limits_found else {}
    return 1.5 * float(known.get("a90") or known.get("largest") or 12.0)
