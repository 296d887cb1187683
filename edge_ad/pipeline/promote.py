"""Promote: check a newly trained detector, and put it in the place of the one on the line."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_ad.artifact import MANIFEST, PICTURE, Artifact
from edge_ad.calibrate.calibration import score_photos
from edge_ad.calibrate.confirmed import check_confirmed_misses
from edge_ad.calibrate.threshold import clopper_pearson
from edge_ad.data.changes import Change, as_report, change, changes
from edge_ad.data.feedback import inherit
from edge_ad.data.held_out import photo_folders_of, relative_folders, training_photos
from edge_ad.data.samples import Sample, scan
from edge_ad.errors import ArtifactError, DataError, EdgeAdError
from edge_ad.runtime.engines.runner import GRAPHS
from edge_ad.runtime.predictor import Predictor, load
from edge_ad.runtime.products import ALL
from edge_ad.workspace import Workspace

EARLIER = "-earlier"  # ends the name of the folder that the replaced detector is kept in
LOADS = "it loads"
_MOST = 200  # photos that the threshold is checked on


class Check(NamedTuple):
    """One check of a detector. passed: None where it could not be made."""

    name: str
    passed: bool | None
    says: str


class Promotion(NamedTuple):
    """place: where the detector is now. earlier: where the replaced one is kept; None: there was none."""

    place: Path
    earlier: Path | None
    checks: list[Check]


def promote(
    candidate: Path,
    place: Path,
    *,
    normals: Path | None = None,
    force: bool = False,
    on_check: Callable[[Check], None] = lambda check: None,
) -> Promotion:
    """The detector `candidate`, checked and moved to `place`, where running lines pick it up.

    It must load with every file intact, pass its self-test, keep its threshold's promise on good parts that training
    did not see (`normals`; None: those it held out), and catch every confirmed miss. The detector that was there is
    kept beside it. force: move it whatever the checks say. on_check: gets each check when it was made.
    Raises ArtifactError, and changes nothing, where a check fails.
    """
    if candidate.resolve() == place.resolve():
        raise ArtifactError(
            f"{candidate} is the current detector already", "`edgead train` makes a new one beside it"
        )
    checks = []
    for check in examine(candidate, place if (place / MANIFEST).exists() else None, normals):
        checks.append(check)
        on_check(check)
    failed = [check for check in checks if check.passed is False]
    if failed and (not force or failed[0].name == LOADS):  # what doesn't load is never put on the line
        raise ArtifactError(
            f"{candidate} was not promoted, {place} stays: {'; '.join(check.says for check in failed)}",
            "mend that, or promote it all the same with --force",
        )
    said = _changes(candidate, place, checks)
    earlier = None
    if (place / MANIFEST).exists():
        earlier = place.with_name(place.name + EARLIER)
        if candidate.resolve() != earlier.resolve():
            _copy(place, earlier)
        else:  # back to the earlier one: they change places
            parked = earlier.with_name(f"{earlier.name}.parked")
            _copy(place, parked)
            candidate = _take(candidate, place, said)
            parked.rename(earlier)
            return Promotion(place, earlier, checks)
    _take(candidate, place, said)
    return Promotion(place, earlier, checks)


def _changes(candidate: Path, place: Path, checks: Sequence[Check]) -> list[Change]:
    """Both detectors' changes until now, and that the candidate takes the place, with what its checks said."""
    new, text = Artifact.open(candidate), f"{candidate.name} took the place of none"
    known = changes(new.manifest)
    if (place / MANIFEST).exists():
        old = Artifact.open(place)
        known = [*changes(old.manifest), *known]  # so that of the same second the older detector's come first
        text = f"{candidate.name} took the place of {old.digest()[:16]}"
    failed = [check.says for check in checks if check.passed is False]
    text += f"; by force, although: {'; '.join(failed)}" if failed else f"; {len(checks)} checks, none failed"
    return [*known, change(new, "promote", text)]


def examine(candidate: Path, replaces: Path | None, normals: Path | None) -> list[Check]:
    """The checks of `promote`, in order; after one that leaves no detector to look at, no more."""
    artifact = Artifact.open(candidate)
    try:
        for name in artifact.manifest.files:
            artifact.file(name)
        predictor = load(candidate, product=ALL)
    except EdgeAdError as error:
        return [Check(LOADS, False, error.message)]
    with predictor:
        checks = [
            Check(LOADS, True, f"{len(artifact.manifest.files)} files intact, {predictor.runner.name}"),
            _self_test(predictor),
        ]
        if checks[-1].passed is not False:
            checks.append(_threshold(artifact, predictor, normals))
            checks.append(_misses(artifact, replaces))
    return checks


def _self_test(predictor: Predictor) -> Check:
    """A grey picture must get a finite score; loading has compared the reference pictures where there are some."""
    height, width = predictor.preprocessing.image_size
    score = predictor.predict(np.full((height, width, 3), 128, np.uint8)).image_score
    finite = bool(np.isfinite(score))
    return Check("self-test", finite, f"a grey picture scores {score:.3g}")


def _threshold(artifact: Artifact, predictor: Predictor, normals: Path | None) -> Check:
    """Whether no more good parts are rejected than the threshold promises; refused where chance can't explain it."""
    name = "the threshold's promise"
    calibration: dict[str, Any] = artifact.manifest.calibration or {}
    if predictor.threshold is None:
        return Check(name, False, "it has no threshold: `edgead calibrate` sets one")
    rate = float(calibration.get("false_alarm_rate", 1.0))
    try:
        samples = _unseen(artifact, normals)
    except DataError as error:
        return Check(name, None, f"not checked: {error.message}")
    scores, used, _ = score_photos(predictor, samples[:: max(1, len(samples) // _MOST)])
    rejected = int((scores.image_scores > predictor.threshold).sum())
    lowest, _ = clopper_pearson(rejected, len(used))
    says = f"{rejected} of {len(used)} good parts rejected, at most 1 in {1 / rate:.3g} promised"
    return Check(name, lowest <= rate, says)


def _unseen(artifact: Artifact, normals: Path | None) -> tuple[Sample, ...]:
    found = training_photos(artifact).unseen if normals is None else scan(normals).normals
    if not found:
        raise DataError("there are no good parts that training did not see")
    return tuple(found)


def _misses(artifact: Artifact, replaces: Path | None) -> Check:
    """Whether every confirmed miss, of the replaced detector too, is caught."""
    try:
        found = check_confirmed_misses(artifact, replaces=replaces)
    except DataError as error:
        return Check("confirmed misses", False, error.message)
    return Check("confirmed misses", True, f"all {len(found)} caught" if found else "none filed")


def _copy(source: Path, target: Path, said: Sequence[Change] = ()) -> None:
    """Copy the artifact in one step, with its feedback, under the new folder's name. said: its changes."""
    opened = Artifact.open(source)
    training = dict(opened.manifest.training)
    with suppress(DataError):  # photos that are gone are found from nowhere
        training["photos"] = relative_folders(photo_folders_of(opened), target)
    reports = opened.manifest.reports | (as_report(said) if said else {})
    manifest = dataclasses.replace(opened.manifest, name=target.name, training=training, reports=reports)
    Artifact.create(target, manifest, {name: source / name for name in opened.manifest.files})
    inherit(source, target)
    if (source / PICTURE).is_file():
        shutil.copyfile(source / PICTURE, target / PICTURE)


def _take(candidate: Path, place: Path, said: Sequence[Change]) -> Path:
    """Put the candidate at `place` in one step, and remove it where it was."""
    _copy(candidate, place, said)
    shutil.rmtree(candidate)
    return place


@dataclass(frozen=True)
class Summary:
    """A detector in a line. mark: "*" current, "+" candidate. parity: rank correlation of each export with FP32.

    problem: what is wrong with it, "" for nothing.
    """

    name: str
    mark: str = ""
    photos: int | str = "-"
    i_auroc: float | None = None
    aupro: float | None = None
    threshold: float | None = None
    false_alarm_rate: float | None = None
    graphs: list[str] = field(default_factory=list)
    parity: dict[str, float] = field(default_factory=dict)
    trained: str = ""
    problem: str = ""


def summaries(workspace: Workspace) -> list[Summary]:
    """Every detector of the working folder, by name."""
    marks = {workspace.current: "*", workspace.candidate: "+"}
    return [_summary(path, marks.get(path, "")) for path in workspace.artifacts()]


def _summary(path: Path, mark: str) -> Summary:
    try:
        artifact = Artifact.open(path)
    except ArtifactError as error:
        return Summary(str(path), mark, problem=error.message)
    manifest = artifact.manifest
    training, calibration = manifest.training, manifest.calibration or {}
    measured = manifest.reports.get("eval", {})
    graphs: list[str] = [name for name, file in GRAPHS.items() if artifact.has(file)]
    graphs += sorted({Path(name).suffix[1:] for name in manifest.files if name.endswith((".engine", ".plan"))})
    parity: dict[str, float] = {}
    for name in graphs:
        rank = manifest.reports.get(f"export.{name}", {}).get("normals", {}).get("rank_correlation")
        parity |= {} if rank is None else {name: rank}
    photos = training.get("normals", 0) + training.get("held_out", 0)
    return Summary(
        str(path), mark, photos or "-", measured.get("i_auroc"), measured.get("aupro"),
        calibration.get("image_threshold"), calibration.get("false_alarm_rate"), graphs, parity, manifest.created,
    )  # fmt: skip
