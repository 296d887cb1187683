"""Confirmed misses: defects that were once let pass, and that every threshold, graph and model must catch since."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_ad.artifact import Artifact
from edge_ad.config import read_section
from edge_ad.data.feedback import Entry, entries
from edge_ad.data.images import preprocess, read_image
from edge_ad.errors import ConfigError, DataError
from edge_ad.runtime.engines.opening import choose_precision, open_runner
from edge_ad.runtime.engines.runner import Runner
from edge_ad.runtime.line.one_picture import judge_picture
from edge_ad.runtime.products import ALL, calibration_for
from edge_ad.runtime.settings import StationSettings


@dataclass(frozen=True)
class MissResult:
    """What a detector says of one confirmed miss. score, threshold: None where there is none; caught: it is NG."""

    name: str
    score: float | None
    threshold: float | None
    caught: bool
    note: str = ""

    def __str__(self) -> str:
        if self.score is None or self.threshold is None:
            return f"{self.name} (no threshold yet)"
        return f"{self.name} (score {self.score:.4g}, limit {self.threshold:.4g})"


def examine_misses(
    artifact: Artifact,
    runner: Runner,
    misses: Iterable[Entry] | None = None,
    *,
    calibration: Mapping[str, Any] | None = None,
) -> list[MissResult]:
    """What this graph with this calibration says of each confirmed miss, inspected as its line does it.

    misses: default: the artifact's own, in bad/. calibration: instead of the artifact's. DataError: a picture was
    changed since, can't be read, or is of a product that the artifact doesn't know.
    """
    manifest = artifact.manifest
    if calibration is not None:
        manifest = dataclasses.replace(manifest, calibration=dict(calibration))
    judged = Artifact(artifact.path, manifest)
    chosen = entries(artifact.path, "bad") if misses is None else misses
    return [_examine(judged, runner, miss) for miss in chosen]


def check_confirmed_misses(
    artifact: Artifact | Path | str,
    *,
    replaces: Artifact | Path | str | None = None,
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> list[MissResult]:
    """What the artifact says of every confirmed miss; DataError, naming them, where it lets one pass.

    replaces: the artifact in use until now, whose confirmed misses count as well. backend, precision, threads: of the
    graph that will inspect. Nothing is opened, and the list is empty, where there is no confirmed miss.
    """
    opened = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    misses = entries(opened.path, "bad")
    if replaces is not None:
        known = {miss.known.sha256 or miss.path.read_bytes() for miss in misses}
        earlier = replaces.path if isinstance(replaces, Artifact) else Path(replaces)
        misses += [m for m in entries(earlier, "bad") if (m.known.sha256 or m.path.read_bytes()) not in known]
    if not misses:
        return []
    runner = open_runner(opened, backend, choose_precision(opened, precision), threads)
    try:
        results = examine_misses(opened, runner, misses)
    finally:
        runner.close()
    refuse_passed(results, opened.path)
    return results


def refuse_passed(results: Sequence[MissResult], what: Path | str, hint: str = "") -> None:
    """DataError, naming the confirmed misses that would pass again; what: the artifact, threshold or graph."""
    passed = [result for result in results if not result.caught]
    if passed:
        raise DataError(
            f"{what} lets {len(passed)} of {len(results)} confirmed misses pass again: "
            + ", ".join(map(str, passed)),
            hint
            or "calibrate with more --false-alarms, or train again; a picture that was filed by mistake is taken out "
            f"with `edgead feedback ARTIFACT --forget {passed[0].name}`",
        )


def _examine(artifact: Artifact, runner: Runner, miss: Entry) -> MissResult:
    miss.check()
    known = miss.known
    try:
        station = read_section(StationSettings, {**known.station, "product": known.product}, "station")
        # a model of one product needs no name, whatever the earlier one was called
        product = ALL if len(artifact.manifest.classes) < 2 else known.product
        calibration = calibration_for(artifact.manifest, product)
    except ConfigError as error:
        raise DataError(f"{miss.path}: {error.message}", f"add it again with its product; {error.hint}") from error
    how = artifact.manifest.preprocessing
    judgement = judge_picture(
        read_image(miss.path),
        station,
        calibration,
        lambda tile: preprocess(tile, how.image_size, how.mean, how.std),
        runner,
        straightened=known.straightened,
    )
    return MissResult(miss.name, judgement.score, judgement.threshold, judgement.decision == "NG", known.note)
