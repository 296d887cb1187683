"""Calibrate: photos of good parts in, a threshold with a stated false-alarm rate in the artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_ad.artifact import Artifact, check_folder, is_known_photo
from edge_ad.calibrate.calibration import (
    OperatingPoint,
    Scores,
    ThresholdRequest,
    calibration_record,
    median_shift,
    operating_points,
    score_frames,
    score_photos,
    with_product,
)
from edge_ad.calibrate.confirmed import MissResult, examine_misses, refuse_passed
from edge_ad.calibrate.defects import defective_frames
from edge_ad.calibrate.golden import add_golden_photos
from edge_ad.data.changes import as_report, change, changes
from edge_ad.data.feedback import inherit
from edge_ad.data.held_out import training_photos
from edge_ad.data.loader import log_left_out
from edge_ad.data.samples import Problem, Sample, scan
from edge_ad.errors import DataError
from edge_ad.progress import NoProgress, Progress
from edge_ad.runtime.engines.opening import open_fastest
from edge_ad.runtime.line.station_predictor import StationPredictor
from edge_ad.runtime.predictor import Predictor
from edge_ad.runtime.products import ALL
from edge_ad.runtime.settings import StationSettings, read_station
from edge_ad.runtime.watch.recalibration import is_inspected

FALSE_ALARMS = 0.01  # the rate that is promised unasked, where there are photos enough
HELD_OUT = "held out of training"


class Calibrated(NamedTuple):
    """artifact: with the new threshold. record: the manifest's `calibration`. scores: of `samples`, in that order.

    moved: how far the median score lies from that of the calibration before, in interquartile ranges; None where
    there was none.
    """

    artifact: Artifact
    record: dict[str, Any]
    scores: Scores
    samples: tuple[Sample, ...]
    operating_points: list[OperatingPoint]
    moved: float | None


class _Photos(NamedTuple):
    """What is scored. trained: how many of the folder's photos training saw."""

    samples: tuple[Sample, ...]
    trained: int
    left_out: Sequence[Problem]


def calibrate(
    artifact: Artifact | str | Path,
    normals: str | Path | None = None,
    false_alarms: float | None = None,
    *,
    confidence: float | None = None,
    tail_fit: bool = False,
    sensitivity: bool = False,
    out: Path | None = None,
    include_trained: bool = False,
    settings: Path | None = None,
    station: str = "",
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Calibrated:
    """The artifact's threshold, set from the scores of good parts that training never saw.

    normals: folder of photos; None takes those that training held out, and says what they can't promise.
    false_alarms: share of good parts that may be rejected, 0..1; None takes 0.01, or the least that so few photos
    can promise. confidence: None promises the rate on average over calibrations, 0.95 for this very threshold.
    tail_fit: extrapolate beyond the data, without a guarantee. sensitivity: also measure missed synthetic defects.
    out: folder of a calibrated copy. include_trained: score photos that training saw, too, which voids the promise.
    settings, station: a line whose cutting and tiling the photos go through. backend, precision, threads: as for
    `edge_ad.load`.
    Raises DataError where the photos can't promise the rate (naming how many can) or all were trained on.
    """
    progress = progress or NoProgress()
    opened = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    _check_target(opened, out)
    photos = (
        _held_out(opened, progress) if normals is None else _given(opened, Path(normals), include_trained, progress)
    )
    request = _request(false_alarms, confidence, tail_fit, len(photos.samples), progress)
    request.threshold(np.arange(float(len(photos.samples))))  # refuses now, before minutes of scoring
    place, backend, precision = read_station(settings, station, backend, precision)
    if out is None:
        add_golden_photos(opened, [sample.path for sample in photos.samples])
    runner, chosen, _ = open_fastest(opened, backend, precision, threads)
    kept = normals is not None and is_inspected(Path(normals))
    scorer = StationPredictor(opened, runner, place, straightened=kept) if place else Predictor(opened, runner)
    before: dict[str, Any] | None = opened.manifest.calibration
    own = place.product if place and len(opened.manifest.classes) > 1 and place.product != ALL else ""
    with scorer as predictor:
        progress.phase(f"scoring with {runner.name}", len(photos.samples))
        scores, used, broken = score_photos(predictor, photos.samples, lambda: progress.advance(1))
        rows = _operating_points(predictor, used, scores, request) if sensitivity else []
        record = _record(opened, scores, request, used, place, precision=chosen, backend=runner.name)
        record |= {"trained_on": photos.trained, "left_out": len(broken) + len(photos.left_out)}
        _qualify_promise(record, photos, held_out=normals is None, include_trained=include_trained)
        after = with_product(before, record, own) if own else record
        _need_caught(examine_misses(opened, runner, calibration=after), scores, progress)
    log_left_out([*photos.left_out, *broken])
    opened = opened if out is None else _copied(opened, out, used)
    said = change(opened, "calibrate", _new_threshold(before, record, own))
    opened.update(calibration=after, reports=as_report([*changes(opened.manifest), said]))
    known = (before or {}).get("score_quantiles", ())
    moved = median_shift(known, scores.image_scores) if len(known) == 101 else None
    return Calibrated(opened, record, scores, tuple(used), rows, moved)


def _new_threshold(before: Mapping[str, Any] | None, record: Mapping[str, Any], product: str) -> str:
    """The change in words."""
    earlier = ((before or {}).get("per_class") or {}).get(product, {}) if product else before or {}
    was = earlier.get("image_threshold")
    return (
        f"threshold{product and f' of {product}'} {'none' if was is None else f'{was:.4g}'} -> "
        f"{record['image_threshold']:.4g} from {record['normals']} good parts: {record['promise']}"
    )


def _check_target(artifact: Artifact, out: Path | None) -> None:
    """Refuse now, before minutes of scoring, what couldn't be written then."""
    if out is None:
        return artifact.check_writable()
    if out.exists():
        raise DataError(f"{out} exists", "choose another --out folder")
    return check_folder(out, artifact.size() + (1 << 20))


def _copied(artifact: Artifact, out: Path, used: Sequence[Sample]) -> Artifact:
    """A copy of the artifact with its feedback, and with reference pictures of its own."""
    files = {name: artifact.file(name) for name in artifact.manifest.files}
    copy = Artifact.create(out, artifact.manifest, files)
    inherit(artifact.path, copy.path)
    add_golden_photos(copy, [sample.path for sample in used])
    return copy


def _held_out(artifact: Artifact, progress: Progress) -> _Photos:
    """The photos that training held out, found again; says what a promise from them is worth."""
    found = training_photos(artifact)
    where = ", ".join(map(str, found.folders))
    if not found.unseen:
        raise DataError(f"training left no photo out of {where}", "name photos that it never saw: add --normals DIR")
    progress.say(
        f"no --normals: these are the {len(found.unseen)} photos in {where} that training did not see. They were "
        "taken together with its own, and its scores were scaled by them: parts of another day, lot or camera may be "
        "rejected more often than promised. Fresh photos (--normals DIR) can promise for those",
        "yellow",
    )
    return _Photos(found.unseen, 0, found.broken)


def _given(artifact: Artifact, folder: Path, include_trained: bool, progress: Progress) -> _Photos:
    """The folder's good photos, without those that training saw as far as the artifact knows; says how many."""
    dataset = scan(folder)
    samples = dataset.normals
    known = artifact.trained_on()
    if known is None:
        progress.say(
            "this artifact keeps no record of its training photos: make sure that none of these is among them, or "
            "the threshold will be too low",
            "yellow",
        )
        return _Photos(samples, 0, dataset.left_out)
    unseen = tuple(sample for sample in samples if not is_known_photo(sample.path, known))
    trained = len(samples) - len(unseen)
    if trained and not unseen and not include_trained:
        raise DataError(
            f"all {trained} photos in {folder} were trained on: parts to come score higher, and more would be "
            "rejected than promised",
            "take photos of good parts that training never saw, or keep the threshold that training left",
        )
    if trained:
        progress.say(
            f"{trained} of {len(samples)} photos were trained on and score lower than parts to come: "
            + ("scored all the same, so nothing is promised" if include_trained else "they are left out"),
            "bold yellow",
        )
    return _Photos(samples if include_trained else unseen, trained, dataset.left_out)


def _request(
    rate: float | None, confidence: float | None, tail_fit: bool, count: int, progress: Progress
) -> ThresholdRequest:
    if rate is None:
        least = 1 / (count + 1) if confidence is None else 1 - (1 - confidence) ** (1 / max(count, 1))
        rate = FALSE_ALARMS if tail_fit else max(FALSE_ALARMS, least * (1 + 1e-9))
        progress.say(
            f"no --false-alarms: {rate:.3g}"
            + (f", the least that {count} photos can promise" if rate > FALSE_ALARMS else ", one good part in 100")
        )
    return ThresholdRequest(rate, confidence, tail_fit)


def _need_caught(results: Sequence[MissResult], scores: Scores, progress: Progress) -> None:
    """DataError where the new threshold lets a confirmed miss pass; nothing has been written by then."""
    lowest = min((result.score for result in results if not result.caught and result.score is not None), default=None)
    hint = ""
    if lowest is not None:
        count = len(scores.image_scores)
        rejected = int((scores.image_scores >= lowest).sum())
        rate = (rejected + 1) / (count + 1)
        hint = f"a threshold below {lowest:.4g} would reject {rejected} of these {count} good parts: " + (
            f"calibrate with --false-alarms {rate:.2g} or more, or train again"
            if rate < 0.5
            else "this detector can't tell the miss from good parts, so train again, or light the defect better"
        )
    refuse_passed(results, "the new threshold", hint)
    if results:
        progress.say(f"it catches all {len(results)} confirmed misses")


def _record(
    artifact: Artifact,
    scores: Scores,
    request: ThresholdRequest,
    used: Sequence[Sample],
    place: StationSettings | None,
    *,
    precision: str,
    backend: str,
) -> dict[str, Any]:
    many = len(artifact.manifest.classes) > 1
    return calibration_record(
        scores,
        request,
        precision=precision,
        backend=backend,
        classes=[sample.category for sample in used] if many and not place else None,
        tiles=place.frame.tiling() if place else (),
    )


def _qualify_promise(record: dict[str, Any], photos: _Photos, *, held_out: bool, include_trained: bool) -> None:
    """Put what weakens the promise into its sentence."""
    if held_out:
        record["normals_from"] = HELD_OUT
        record["promise"] += "; measured on photos held out of training"
    elif photos.trained and include_trained:
        record["promise"] = (
            f"none, since {photos.trained} of {len(photos.samples)} photos were trained on (otherwise: "
            f"{record['promise']})"
        )


def _operating_points(
    predictor: Predictor, samples: Sequence[Sample], scores: Scores, request: ThresholdRequest
) -> list[OperatingPoint]:
    """Operating points from one synthetic defect on every good part."""
    defects = score_frames(predictor, defective_frames([sample.path for sample in samples]))
    return operating_points(scores, defects, request)
