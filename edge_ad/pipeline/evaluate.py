"""Evaluate: an artifact and labelled photos in, its metrics out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_ad import evaluation
from edge_ad.artifact import Artifact
from edge_ad.data.samples import Dataset, scan
from edge_ad.errors import ArtifactError
from edge_ad.evaluation import Evaluation, ScoredPhoto, category_calibrations, provenance
from edge_ad.export.compare import open_any_runner
from edge_ad.progress import NoProgress, Progress

METRICS = ("i_auroc", "p_auroc", "aupro", "f1_max")


def evaluate(
    artifact: Artifact | str | Path,
    data: Dataset | str | Path,
    *,
    category: str | None = None,
    every: bool = False,
    backend: str = "auto",
    precision: str = "auto",
    native: bool = True,
    batch: int = 4,
    threads: int | None = None,
    on_photo: Callable[[ScoredPhoto], None] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Metrics of the detector on the test photos of `data`, by category; the artifact keeps their mean.

    data: a category, a set of them, or good/ and bad/. category: only that one. every: measure on photos set apart
    for training, too. backend: as for `edge_ad.load`, or "torch" for the weights themselves. native: also measure
    pixels at the photos' own size. on_photo: gets each photo with its scores, such as a `edge_ad.report.Gallery`.
    Raises DataError where there are no test photos.
    """
    progress = progress or NoProgress()
    opened = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    dataset = data if isinstance(data, Dataset) else scan(data)
    dataset = dataset.only(category) if category else dataset
    dataset = dataset.all_for_testing() if every else dataset
    runner = open_any_runner(opened, backend, precision, threads, device=None)
    calibrations = category_calibrations(opened.manifest.calibration, dataset.categories)
    own = (opened.manifest.calibration or {}).get("per_class") or {}
    if own and (strangers := sorted(set(dataset.categories) - own.keys())):
        progress.say(
            f"no threshold of its own for {', '.join(strangers)}: the common one holds; the artifact's products are "
            f"{', '.join(sorted(own))}, known by the names of their folders",
            "yellow",
        )
    progress.phase(f"measuring with {runner.name}", len(dataset.test))
    try:
        result = evaluation.evaluate(
            runner,
            dataset,
            opened.manifest.preprocessing,
            batch=batch,
            native=native,
            thresholds={n: c["image_threshold"] for n, c in calibrations.items() if "image_threshold" in c},
            about=provenance(opened, dataset, runner),
            on_photo=on_photo,
            advance=lambda: progress.advance(1),
        )
    finally:
        runner.close()
    _keep(opened, result.to_dict(), runner.name)
    return result


def _keep(artifact: Artifact, figures: dict[str, Any], runner: str) -> None:
    """Note the mean in the artifact, for `edgead list`; one that can't be written is measured all the same."""
    about, mean = figures["about"], figures["mean"]
    note = {name: mean.get(name) for name in METRICS}
    try:
        artifact.update(
            reports={"eval": {**note, "data": about["data"], "runner": runner, "measured": about["measured"]}}
        )
    except ArtifactError:
        return
