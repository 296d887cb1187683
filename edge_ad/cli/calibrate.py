"""`edgead calibrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table


def command(
    artifact: Annotated[Path, typer.Argument(help="Folder that `edgead train` wrote.")],
    normals: Annotated[Path, typer.Option(help="Photos of good parts that training never saw.")],
    false_alarms: Annotated[float, typer.Option(help="Share of good parts that may be rejected, such as 0.001.")],
    confidence: Annotated[
        float | None, typer.Option(help="Promise the rate for this very threshold with that confidence (0.95).")
    ] = None,
    tail_fit: Annotated[
        bool, typer.Option("--tail-fit", help="Extrapolate beyond the data (generalised Pareto). No guarantee.")
    ] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Also show missed synthetic defects against false alarms.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write a calibrated copy here, for a second camera or line.")
    ] = None,
    include_trained: Annotated[
        bool, typer.Option("--include-trained", help="Also score photos that training saw. Voids the promise.")
    ] = False,
    settings: Annotated[
        Path | None,
        typer.Option(help="Settings of `edgead run`: score whole parts as that line does, cut, tiled, by product."),
    ] = None,
    station: Annotated[str, typer.Option(help="Which of the settings' stations, where they have several.")] = "",
    backend: Annotated[str, typer.Option(help="Engine to score with: the one that will inspect.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Set the threshold from photos of good parts, with a stated false-alarm rate.

    The threshold belongs to pictures that are inspected as these were scored. A line that straightens, cuts or tiles
    its pictures, or whose artifact knows several products, is calibrated with its own --settings.
    """
    from edge_ad.artifact import Artifact
    from edge_ad.calibrate.calibration import ThresholdRequest, calibration_record, score_photos, with_product
    from edge_ad.calibrate.confirmed import examine_misses
    from edge_ad.calibrate.golden import add_golden_photos
    from edge_ad.data.feedback import inherit
    from edge_ad.data.loader import log_left_out
    from edge_ad.data.samples import scan
    from edge_ad.runtime.engines.opening import open_fastest
    from edge_ad.runtime.line.station_predictor import StationPredictor
    from edge_ad.runtime.predictor import Predictor
    from edge_ad.runtime.products import ALL
    from edge_ad.runtime.settings import read_station
    from edge_ad.runtime.watch.recalibration import is_inspected

    console = Console(stderr=True, highlight=False)
    opened = Artifact.open(artifact)
    _check_target(opened, out)
    dataset = scan(normals)
    samples: Any = dataset.normals
    unseen = _unseen(console, opened, samples, normals, include_trained)
    trained = len(samples) - len(unseen)
    samples = samples if include_trained else unseen
    request = ThresholdRequest(false_alarms, confidence, tail_fit)
    request.threshold(np.arange(float(len(samples))))  # refuses now, before minutes of scoring
    place, backend, precision = read_station(settings, station, backend, precision)
    if out is None:
        add_golden_photos(opened, [sample.path for sample in samples])
    runner, chosen, _ = open_fastest(opened, backend, precision, threads)
    straight = is_inspected(normals)
    scorer = StationPredictor(opened, runner, place, straightened=straight) if place else Predictor(opened, runner)
    with scorer as predictor, Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"scoring with {runner.name}", total=len(samples))
        scores, samples, broken = score_photos(predictor, samples, lambda: progress.advance(task))
        rows = _operating_points(predictor, samples, scores, request) if sensitivity else []
        many = len(opened.manifest.classes) > 1
        record = calibration_record(
            scores, request, precision=chosen, backend=runner.name, tiles=place.frame.tiling() if place else (),
            classes=[s.category for s in samples] if many and not place else None,
        )  # fmt: skip
        record |= {"trained_on": trained, "left_out": len(broken) + len(dataset.left_out)}
        if trained and include_trained:
            words = f"none, since {trained} of {len(samples)} photos were trained on"
            record["promise"] = f"{words} (otherwise: {record['promise']})"
        before: dict[str, Any] | None = opened.manifest.calibration
        own = place.product if place and many and place.product != ALL else ""
        after = with_product(before, record, own) if own else record
        _need_caught(console, examine_misses(opened, runner, calibration=after), scores.image_scores)
    log_left_out([*dataset.left_out, *broken])
    if out is not None:
        opened = Artifact.create(out, opened.manifest, {name: opened.file(name) for name in opened.manifest.files})
        inherit(artifact, opened.path)
        add_golden_photos(opened, [sample.path for sample in samples])
    opened.update(calibration=after)
    _say(console, record, scores.image_scores, [sample.path for sample in samples], rows, before)
    typer.echo(json.dumps({**record, "sensitivity": [row._asdict() for row in rows]} if rows else record))


def _check_target(artifact: Any, out: Path | None) -> None:
    """Refuse now, before minutes of scoring, what couldn't be written then."""
    from edge_ad.artifact import check_folder
    from edge_ad.errors import DataError

    if out is None:
        return artifact.check_writable()
    if out.exists():
        raise DataError(f"{out} exists", "choose another --out folder")
    return check_folder(out, artifact.size() + (1 << 20))


def _unseen(console: Console, artifact: Any, samples: Any, folder: Path, include_trained: bool) -> Any:
    """The samples that training didn't see, as far as the artifact knows; says how many others there are."""
    from edge_ad.artifact import is_known_photo
    from edge_ad.errors import DataError

    known = artifact.trained_on()
    if known is None:
        console.print(
            "[yellow]this artifact keeps no record of its training photos[/]: make sure that none of these is among "
            "them, or the threshold will be too low"
        )
        return samples
    unseen = tuple(sample for sample in samples if not is_known_photo(sample.path, known))
    trained = len(samples) - len(unseen)
    if not trained:
        return unseen
    if not unseen and not include_trained:
        raise DataError(
            f"all {trained} photos in {folder} were trained on: parts to come score higher, and more would be "
            "rejected than promised",
            "take photos of good parts that training never saw, or keep the threshold that training left",
        )
    console.print(
        f"[bold yellow]{trained} of {len(samples)} photos were trained on[/] and score lower than parts to come: "
        + ("scored all the same, so nothing is promised" if include_trained else "they are left out")
    )
    return unseen


def _need_caught(console: Console, results: Any, scores: Any) -> None:
    """DataError where the new threshold lets a confirmed miss pass; nothing has been written by then."""
    from edge_ad.calibrate.confirmed import refuse_passed

    lowest = min((result.score for result in results if not result.caught and result.score is not None), default=None)
    hint = ""
    if lowest is not None:
        rejected = int((scores >= lowest).sum())
        hint = (
            f"a threshold below {lowest:.4g} would reject {rejected} of these {len(scores)} good parts: calibrate "
            f"with --false-alarms {(rejected + 1) / (len(scores) + 1):.2g} or more, or train again"
        )
    refuse_passed(results, "the new threshold", hint)
    if results:
        console.print(f"it catches all {len(results)} confirmed misses")


def _operating_points(predictor: Any, samples: Any, scores: Any, request: Any) -> list[Any]:
    """Operating points from one synthetic defect on every good part."""
    from edge_ad.calibrate.calibration import operating_points, score_frames
    from edge_ad.calibrate.defects import defective_frames

    defects = score_frames(predictor, defective_frames([sample.path for sample in samples]))
    return operating_points(scores, defects, request)


def _say(
    console: Console, record: dict[str, Any], scores: Any, paths: list[Path], rows: list[Any], before: Any
) -> None:
    from edge_ad.calibrate.calibration import median_shift

    console.print(
        f"image threshold {record['image_threshold']:.4g}, pixel threshold {record['pixel_threshold']:.4g} "
        f"from {record['normals']} good parts"
    )
    console.print(f"promise: {record['promise']}")
    console.print("it holds for independent good parts like these; look at the ones that set it:")
    for index in np.argsort(-scores)[:3]:
        console.print(f"  {scores[index]:.4g}  {paths[index]}", soft_wrap=True)
    if rows:
        _show_operating_points(console, rows, len(scores))
    if before and len(before.get("score_quantiles", ())) == 101:
        moved = median_shift(before["score_quantiles"], scores)
        console.print(f"the median score moved by {moved:+.2f} interquartile ranges since the last calibration")


def _show_operating_points(console: Console, rows: list[Any], normals: int) -> None:
    from edge_ad.calibrate.calibration import RATES
    from edge_ad.calibrate.threshold import normals_needed

    table = Table(
        "good parts rejected", "threshold", "defects missed", "at worst",
        title=f"{rows[0].defects} synthetic defects, one on each photo on which one could be drawn",
    )  # fmt: skip
    for row in rows:
        missed = f"{round(row.missed * row.defects)} of {row.defects}"
        rejected = f"1 in {1 / row.false_alarm_rate:.3g}" + (" (set)" if row.chosen else "")
        table.add_row(rejected, f"{row.threshold:.4g}", missed, f"{row.missed_upper:.0%}")
    console.print(table)
    console.print(
        "(set): the threshold written now. At worst: the share missed of defects drawn like these, with 95 % "
        "confidence. Real ones may be harder or easier to see: choose between rows by it, promise no detection rate"
    )
    stricter = [rate for rate in RATES if normals_needed(rate) > normals]
    if stricter:
        console.print(
            f"a row for 1 in {1 / stricter[0]:.3g} needs {normals_needed(stricter[0])} good parts, here are {normals}"
        )
