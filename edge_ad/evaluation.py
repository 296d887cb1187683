"""Metrics of a detector on labelled photos, whatever runs it: per category and per kind of defect.

Photos are read ahead in threads and scored one batch at a time; of each only its score is kept and its pixels
go into histograms, so memory does not grow with the test set.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad import __version__, metrics
from edge_ad.artifact import Artifact, Preprocessing
from edge_ad.data.images import Frame, Mask, preprocess, read_image
from edge_ad.data.loader import batches, read_each, reason_of
from edge_ad.data.masks import fit_mask, interpret_mask, resize_mask
from edge_ad.data.samples import Dataset, Problem, Sample
from edge_ad.errors import DataError
from edge_ad.pixel_metrics import PixelMetrics
from edge_ad.runtime.engines.runner import Outputs, Runner

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Metrics:
    """Fractions, 0..1; None where not defined (one class only, or no masks).

    i_: over photos; p_: over pixels; aupro: per-region overlap up to FPR 0.3, aupro_05 up to 0.05; f1_max and
    average_precision over photos. good, defects, regions: how many the figures rest on.
    """

    i_auroc: float | None = None
    p_auroc: float | None = None
    aupro: float | None = None
    f1_max: float | None = None
    average_precision: float | None = None
    aupro_05: float | None = None
    p_f1_max: float | None = None
    p_average_precision: float | None = None
    good: int = 0
    defects: int = 0
    regions: int = 0


class ImageScore(NamedTuple):
    """One photo and its score."""

    sample: Sample
    image_score: float


class ScoredPhoto(NamedTuple):
    """One photo with its scores. pixel_scores: [256, 256]; mask: [H, W] of the frame, None where unknown."""

    sample: Sample
    image_score: float
    frame: Frame
    pixel_scores: Scores
    mask: Mask | None


@dataclass
class CategoryResult:
    """Scores and pixels of one category. pixels, native: at the size of pixel_scores and at the photos' size, by
    kind of defect ("good" among them)."""

    scored: list[ImageScore] = field(default_factory=list)
    pixels: dict[str, PixelMetrics] = field(default_factory=dict)
    native: dict[str, PixelMetrics] = field(default_factory=dict)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the kinds of defect, sorted."""
        return tuple(sorted({one.sample.kind for one in self.scored if one.sample.label}))

    def metrics(self, kind: str | None = None) -> Metrics:
        """Metrics over all photos, or over the good ones and one kind of defect."""
        chosen = [one for one in self.scored if kind is None or not one.sample.label or one.sample.kind == kind]
        scores, labels = np.array([s.image_score for s in chosen]), np.array([s.sample.label for s in chosen], int)
        pixels = self.pool(self.pixels, kind)
        return Metrics(
            _known(metrics.image_auroc(scores, labels)),
            _known(pixels.auroc()),
            _known(pixels.aupro()),
            _known(metrics.f1_max(scores, labels)),
            _known(metrics.average_precision(scores, labels)),
            _known(pixels.aupro(0.05)),
            _known(pixels.f1_max()[0]),
            _known(pixels.average_precision()),
            int((labels == 0).sum()),
            int(labels.sum()),
            pixels.regions,
        )

    def native_metrics(self) -> dict[str, Any] | None:
        """Pixel metrics at the photos' own size; None where they were not asked for."""
        if not self.native:
            return None
        pixels = self.pool(self.native)
        return {
            "p_auroc": _known(pixels.auroc()),
            "aupro": _known(pixels.aupro()),
            "aupro_05": _known(pixels.aupro(0.05)),
            "regions": pixels.regions,
        }

    def pool(self, collected: Mapping[str, PixelMetrics], kind: str | None = None) -> PixelMetrics:
        """Pixel metrics of the good photos and those of one kind of defect, or of all kinds."""
        return PixelMetrics().merge(*(p for name, p in collected.items() if kind in (None, name) or name == "good"))

    def rates(self, threshold: float) -> dict[str, float | int | None]:
        """False-alarm rate and missed rate (0..1) of a threshold on the image score, with the counts behind them."""
        alarms = [one.image_score > threshold for one in self.scored if not one.sample.label]
        hits = [one.image_score > threshold for one in self.scored if one.sample.label]
        return {
            "threshold": threshold,
            "false_alarms": sum(alarms),
            "false_alarm_rate": sum(alarms) / len(alarms) if alarms else None,
            "missed": len(hits) - sum(hits),
            "missed_rate": 1 - sum(hits) / len(hits) if hits else None,
        }


@dataclass(frozen=True)
class Evaluation:
    """Results by category. about: provenance. skipped: files left out; notes: used in part, or read
    with a guess; doubts: masks that can hardly be right, so that the figures over pixels mean little."""

    categories: dict[str, CategoryResult]
    skipped: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    doubts: tuple[Problem, ...] = ()

    def findings(self) -> list[str]:
        """A line for each file that was left out, used in part or doubted."""
        named = (("left out", self.skipped), ("used in part", self.notes), ("doubtful", self.doubts))
        return [f"{title}: {one.path}: {one.reason}" for title, problems in named for one in problems]

    def mean(self) -> Metrics:
        """The unweighted mean over categories, each metric over the categories that have it; counts are sums."""
        return _mean([result.metrics() for result in self.categories.values()])

    def to_dict(self) -> dict[str, Any]:
        """For JSON: a key per category, `mean`, `about`; for one category its figures at the top level too."""
        tables = {name: self._table(name, result) for name, result in self.categories.items()}
        mean = _mean([Metrics(**{key: table[key] for key in _NAMES}) for table in tables.values()])
        top = dataclasses.asdict(mean) if len(tables) == 1 else {}
        about = {
            **self.about,
            "categories": list(tables),
            "skipped": _plain(self.skipped),
            "notes": _plain(self.notes),
            "doubts": _plain(self.doubts),
        }
        return {**top, **tables, "mean": dataclasses.asdict(mean), "about": about}

    def _table(self, name: str, result: CategoryResult) -> dict[str, Any]:
        table: dict[str, Any] = dataclasses.asdict(result.metrics())
        table["kinds"] = {kind: dataclasses.asdict(result.metrics(kind)) for kind in result.kinds}
        table["native"] = result.native_metrics()
        table["at_threshold"] = result.rates(self.thresholds[name]) if name in self.thresholds else None
        return table


def _plain(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [{"path": str(one.path), "reason": one.reason} for one in problems]


_NAMES = tuple(f.name for f in dataclasses.fields(Metrics))
_COUNTS = ("good", "defects", "regions")


def evaluate(
    runner: Runner,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    batch: int = 4,
    native: bool = True,
    thresholds: Mapping[str, float] | None = None,
    about: Mapping[str, Any] | None = None,
    on_photo: Callable[[ScoredPhoto], None] | None = None,
    advance: Callable[[], None] | None = None,
) -> Evaluation:
    """Metrics of the detector on the dataset's test photos.

    preprocessing: the artifact's; its image_size must be the runner's. native: also measure pixels at the photos'
    own size, the scores upsampled bilinearly. thresholds: image threshold by category, for false alarms and misses.
    on_photo: gets every photo with its scores, and must not keep them all. advance: called once a photo.

    Masks are brought to the size of pixel_scores by taking the nearest pixel. Defects without a mask count for the
    figures over photos only; where no defect has one, figures over pixels are None. Masks of most of a picture
    count, and are named in `doubts`. A photo that can't be read is skipped and named.
    Raises DataError when none is left.
    """
    samples = dataset.test
    if not samples:
        raise DataError(
            f"{dataset.name} has no test photos", "put good and defective ones into test/ or good/ and bad/"
        )
    results: dict[str, CategoryResult] = {}
    skipped = list(dataset.left_out)
    notes = [problem for problem in dataset.problems if problem not in skipped]
    doubts: list[Problem] = []
    masked = {s.category for s in samples if s.mask_path}
    for group in batches(read_each(samples, partial(_load, preprocessing=preprocessing), skipped), batch):
        outputs: Outputs = runner(np.stack([one.image for _, one in group]))
        for i, (sample, one) in enumerate(group):
            photo = ScoredPhoto(sample, float(outputs.image_score[i]), one.frame, outputs.pixel_scores[i], one.mask)
            result = results.setdefault(sample.category, CategoryResult())
            result.scored.append(ImageScore(sample, photo.image_score))
            notes += one.notes
            doubts += one.doubts
            if sample.category in masked:
                _count_pixels(result, photo, native)
            if on_photo:
                on_photo(photo)
            if advance:
                advance()
    if advance:
        for _ in range(len(samples) - sum(len(result.scored) for result in results.values())):
            advance()
    if not results:
        raise DataError(f"no photo of {dataset.name} could be read", f"the first: {skipped[0].reason}")
    left_out = {problem.path for problem in skipped}
    notes = [problem for problem in notes if problem.path not in left_out]
    ordered = {name: results[name] for name in sorted(results)}
    return Evaluation(ordered, tuple(skipped), tuple(notes), dict(about or {}), dict(thresholds or {}), tuple(doubts))


def _count_pixels(result: CategoryResult, photo: ScoredPhoto, native: bool) -> None:
    kind = photo.sample.kind
    if photo.sample.label and photo.mask is None:
        return
    small = None if photo.mask is None else resize_mask(photo.mask, photo.pixel_scores.shape)
    result.pixels.setdefault(kind, PixelMetrics()).update(photo.pixel_scores, small)
    if native:
        height, width = photo.frame.shape[:2]
        scores = cv2.resize(photo.pixel_scores, (width, height), interpolation=cv2.INTER_LINEAR)
        result.native.setdefault(kind, PixelMetrics()).update(scores, photo.mask)


class _LoadedPhoto(NamedTuple):
    frame: Frame
    image: npt.NDArray[np.float32]
    mask: Mask | None = None
    notes: list[Problem] = []  # noqa: RUF012  (never changed)
    doubts: list[Problem] = []  # noqa: RUF012


def _load(sample: Sample, preprocessing: Preprocessing) -> _LoadedPhoto:
    frame = read_image(sample.path)
    image = preprocess(frame, preprocessing.image_size, preprocessing.mean, preprocessing.std)
    path = sample.mask_path
    if path is None:
        return _LoadedPhoto(frame, image)
    try:
        mask, remark, doubt = interpret_mask(path)
        remarks = [remark] if remark else []
        if mask.shape != frame.shape[:2]:
            mask = fit_mask(mask, frame.shape[:2], path)  # a mask of another picture would spoil figures over pixels
            remarks.append(f"mask resized to the photo's {frame.shape[0]}x{frame.shape[1]}")
    except DataError as error:
        return _LoadedPhoto(frame, image, None, [Problem(path, reason_of(error, path))])
    if sample.label and not mask.any():
        remarks.append("mask of a defect is empty: its pixels are not counted")
    notes = [Problem(path, text) for text in remarks]
    return _LoadedPhoto(
        frame, image, mask if mask.any() or not sample.label else None, notes, [Problem(path, doubt)] * bool(doubt)
    )


def _mean(figures: Sequence[Metrics]) -> Metrics:
    values: dict[str, Any] = {}
    for name in _NAMES:
        known = [getattr(one, name) for one in figures if getattr(one, name) is not None]
        values[name] = sum(known) if name in _COUNTS else (math.fsum(known) / len(known) if known else None)
    return Metrics(**values)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def provenance(artifact: Artifact, dataset: Dataset, runner: Runner) -> dict[str, Any]:
    """What is needed to repeat an evaluation: detector, settings, seed, teacher, data, engine."""
    manifest = artifact.manifest
    return {
        "artifact": manifest.name,
        "artifact_sha256": artifact.digest(),
        "preset": manifest.config.get("preset"),
        "image_size": list(runner.image_size),
        "seed": manifest.training.get("seed"),
        "teacher": manifest.teacher,
        "training": manifest.training,
        "classes": list(manifest.classes),
        "trained": manifest.created,
        "runner": runner.name,
        "data": dataset.name,
        "layout": dataset.layout,
        "split": {"train": len(dataset.train), "test": len(dataset.test)},
        "edge_ad": __version__,
        "measured": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def category_calibrations(calibration: Mapping[str, Any] | None, categories: Sequence[str]) -> dict[str, Any]:
    """By category, the manifest's calibration with the category's own thresholds and scores in it."""
    common = dict(calibration or {})
    own = common.get("per_class") or {}
    return {name: common | own.get(name, {}) for name in categories}
