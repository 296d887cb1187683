"""The detection limit: from real defects with masks, and from test marks of exact size put onto good parts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_ad.calibrate.threshold import clopper_pearson
from edge_ad.data.images import Frame
from edge_ad.data.masks import fit_mask, interpret_mask
from edge_ad.data.samples import Sample
from edge_ad.errors import DataError
from edge_ad.qualify.pod import fit_hit_miss, fit_response
from edge_ad.qualify.probes import (
    CONTRASTS,
    KINDS,
    Measured,
    Probe,
    draw_probe,
    hair_width,
    is_rim,
    measure_defect,
    places_on,
)
from edge_ad.qualify.subject import Subject

SMALLEST, LARGEST = 2.0, 0.35  # sizes tried: pixels; share of the picture's shorter side
PILOT_SIZES, PILOT_TRIALS = 7, 3  # sizes that a pilot tries, and how often each
LADDER = 9  # sizes of the map, from smallest to largest
CELLS = 8  # of the map, along the part's longer side
MAP_PHOTOS = 3  # marks put at each place of the map


class Trial(NamedTuple):
    """One defect shown once."""

    size: float
    contrast: float
    score: float
    rim: bool


def real_defects(subject: Subject) -> dict[str, Any]:
    """By kind: how many were rejected, with bounds, and the limit over their length where masks tell it."""
    kinds: dict[str, list[tuple[float, Any]]] = {}
    left_out: list[str] = []
    measured: list[tuple[Sample, Measured | None]] = []
    for sample in subject.bad:
        try:
            measured.append((sample, _size(subject, sample, left_out)))
        except DataError as error:
            left_out.append(error.message)
    scores = subject.photo_scores([sample.path for sample, _ in measured])
    for (sample, size), score in zip(measured, scores, strict=True):
        kinds.setdefault(sample.kind, []).append((float(score), size))
    every = [one for found in kinds.values() for one in found]
    tables = {kind: _kind(found, subject.threshold) for kind, found in sorted(kinds.items())}
    if len(tables) > 1:
        tables = {"all kinds": _kind(every, subject.threshold)} | tables
    return {"kinds": tables, "parts": len(every), "left_out": left_out}


def _size(subject: Subject, sample: Sample, left_out: list[str]) -> Measured | None:
    """Of a real defect; None without a mask, or with one that can hardly be right, which is said in left_out."""
    if sample.mask_path is None:
        return None
    frame = subject.reader.read(sample.path)
    mask, _, doubt = interpret_mask(sample.mask_path)
    if doubt:
        left_out.append(f"the size of {sample.path}: its mask {doubt}")
        return None
    return measure_defect(frame, fit_mask(mask, frame.shape[:2], sample.path))


def _kind(found: Sequence[tuple[float, Any]], threshold: float) -> dict[str, Any]:
    hits = [score > threshold for score, _ in found]
    missed = len(hits) - sum(hits)
    table: dict[str, Any] = {
        "parts": len(hits),
        "missed": missed,
        "miss_rate": missed / len(hits),
        "miss_bound": clopper_pearson(missed, len(hits))[1],
    }
    sized = [(score, size) for score, size in found if size is not None]
    if sized:
        lengths, contrasts = [size.length for _, size in sized], [size.contrast for _, size in sized]
        table |= {
            "limit": asdict(fit_hit_miss(lengths, [score > threshold for score, _ in sized])),
            "sizes": lengths,
            "found": [score > threshold for score, _ in sized],
            "widths": [size.width for _, size in sized],
            "contrasts": contrasts,
            "median_width": float(np.median([size.width for _, size in sized])),
            "median_contrast": float(np.median(contrasts)),
        }
    return table


def contrasts_for(real: Mapping[str, Any] | None) -> tuple[float, ...]:
    """The contrasts of the marks: CONTRASTS, and a fainter one like the faintest kind of real defects where that is
    far below them, since a comparison with stronger marks would promise too much."""
    tables = (real or {}).get("kinds", {})
    faintest = min((t["median_contrast"] for t in tables.values() if "median_contrast" in t), default=math.inf)
    return (max(4, round(faintest)), *CONTRASTS) if faintest < CONTRASTS[0] / math.sqrt(2) else CONTRASTS


def probe_limits(subject: Subject, trials: int = 60, contrasts: Sequence[float] = CONTRASTS) -> dict[str, Any]:
    """By kind of mark and contrast: the limit over size, from hits and misses and from the scores; then by region.

    contrasts: gray levels, growing; regions are told at the last.
    Marks lie at random places of the part, each trial on the next photo. Sizes are drawn log-uniformly between half
    the largest size that a pilot never found and twice the smallest it always found; the pilot is not counted.
    """
    accepted = _accepted(subject)
    rng = np.random.default_rng(subject.seed)
    rows, pooled = [], []
    for kind in KINDS:
        for contrast in contrasts:
            low, high = _pilot(subject, accepted, kind, contrast, rng)
            sizes = np.exp(rng.uniform(math.log(low), math.log(high), trials))
            found = _tried(subject, accepted, kind, sizes, contrast, rng)
            rows.append(
                {"kind": kind, "contrast": contrast, **_fits(found, subject.threshold), **_points(found, subject)}
            )
            pooled += [(kind, contrast, trial) for trial in found]
    regions = []
    for kind in KINDS:
        for name, rim in (("inside", False), ("rim", True)):
            chosen = [t for k, c, t in pooled if k == kind and c == contrasts[-1] and t.rim == rim]
            if chosen:
                regions.append(
                    {"kind": kind, "region": name, "contrast": contrasts[-1], **_fits(chosen, subject.threshold)}
                )
    frame = subject.canvas(accepted[0])[0]
    return {
        "rows": rows,
        "regions": regions,
        "photos": len(accepted),
        "photos_left_out": len(subject.chosen(subject.good)) - len(accepted),
        "hair_width": hair_width(frame.shape),
        "picture": list(frame.shape[:2]),
    }


@dataclass
class _Place:
    """The search for the smallest mark that is found at one place on every one of its photos, by halving a ladder.

    ladder[high] is found (past its end: nothing is); below ladder[low] nothing is. shown: photos on which the middle
    one was found so far.
    """

    y: int
    x: int
    photos: Sequence[Path]
    high: int
    low: int = 0
    shown: int = 0

    @property
    def middle(self) -> int:
        """Of the ladder: what is shown next, on photo number `shown`."""
        return (self.low + self.high) // 2

    def take(self, found: bool) -> None:
        """The middle one was found on the photo, or not: then on the others it need not be shown."""
        self.shown += 1
        if not found:
            self.low, self.shown = self.middle + 1, 0
        elif self.shown == len(self.photos):
            self.high, self.shown = self.middle, 0


def probe_map(subject: Subject, cells: int = CELLS, contrast: float = CONTRASTS[1]) -> dict[str, Any]:
    """The smallest spot found at each place of the part, on all of a few photos.

    cells: of the map, along the part's longer side. contrast: gray levels.
    """
    accepted = _accepted(subject)
    frame, inside = subject.canvas(accepted[0])
    size = (frame.shape[0], frame.shape[1])
    ladder = [float(v) for v in np.geomspace(SMALLEST, LARGEST * min(size), LADDER)]
    count = min(MAP_PHOTOS, len(accepted))
    apart = len(accepted) // count
    places = [
        _Place(y, x, [accepted[(number + i * apart) % len(accepted)] for i in range(count)], LADDER)
        for number, (y, x) in enumerate(places_on(inside, size, cells))
    ]

    def mark(place: _Place) -> Frame:
        probe = Probe("spot", ladder[place.middle], contrast, place.y, place.x)
        return draw_probe(subject.canvas(place.photos[place.shown])[0], probe)

    while unsure := [place for place in places if place.low < place.high]:  # all at once: the graph gets full batches
        for place, score in zip(unsure, subject.scores(map(mark, unsure)), strict=True):
            place.take(bool(score > subject.threshold))
    return {
        "contrast": contrast,
        "places": [
            {"y": place.y, "x": place.x, "smallest": (*ladder, None)[place.low], "photos": count} for place in places
        ],
        "ladder": ladder,
        "picture": list(size),
        "photo": str(accepted[0]),
    }


def pictures(trials: int, contrasts: int = len(CONTRASTS)) -> int:
    """How many pictures `probe_limits` scores, with so many contrasts."""
    return len(KINDS) * contrasts * (PILOT_SIZES * PILOT_TRIALS + trials)


def map_pictures(cells: int) -> int:
    """How many pictures `probe_map` scores at most on a part that fills a square."""
    return cells * cells * MAP_PHOTOS * math.ceil(math.log2(LADDER + 1))


def _accepted(subject: Subject) -> list[Path]:
    """The good photos that the detector accepts as they are: a mark on another one would not be what is found."""
    chosen = subject.chosen(subject.good)
    scores = subject.photo_scores(chosen)
    accepted = [path for path, score in zip(chosen, scores, strict=True) if score <= subject.threshold]
    if not accepted:
        raise DataError(
            f"all {len(chosen)} good photos are rejected as they are", "calibrate the artifact: edgead calibrate"
        )
    return accepted


def _pilot(
    subject: Subject, photos: Sequence[Path], kind: str, contrast: float, rng: np.random.Generator
) -> tuple[float, float]:
    frame = subject.canvas(photos[0])[0]
    ladder = np.geomspace(SMALLEST, LARGEST * min(frame.shape[:2]), PILOT_SIZES)
    found = _tried(subject, photos, kind, np.repeat(ladder, PILOT_TRIALS), contrast, rng)
    hits = np.array([trial.score > subject.threshold for trial in found]).reshape(-1, PILOT_TRIALS).sum(1)
    never = [size for size, count in zip(ladder, hits, strict=True) if count == 0]
    always = [size for i, size in enumerate(ladder) if (hits[i:] == PILOT_TRIALS).all()]
    low = max(SMALLEST, (max(never) if never else ladder[0]) / 2)
    high = min(ladder[-1], 2 * (always[0] if always else ladder[-1]))
    return float(low), float(max(high, 1.5 * low))


def _tried(
    subject: Subject,
    photos: Sequence[Path],
    kind: str,
    sizes: npt.NDArray[np.float64],
    contrast: float,
    rng: np.random.Generator,
) -> list[Trial]:
    rims: list[bool] = []

    def frames() -> Iterable[Frame]:
        for number, size in enumerate(sizes):
            frame, inside = subject.canvas(photos[number % len(photos)])
            where = np.flatnonzero(np.ones(frame.shape[:2], bool) if inside is None else inside)
            y, x = divmod(int(rng.choice(where)), frame.shape[1])
            rims.append(bool(is_rim(inside, (frame.shape[0], frame.shape[1]))[y, x]))
            width = hair_width(frame.shape)
            yield draw_probe(frame, Probe(kind, float(size), contrast, y, x, rng.uniform(0, math.pi), width))

    scores = subject.scores(frames())
    return [Trial(float(s), contrast, float(score), rim) for s, score, rim in zip(sizes, scores, rims, strict=True)]


def _fits(found: Sequence[Trial], threshold: float) -> dict[str, Any]:
    sizes, scores = [trial.size for trial in found], [trial.score for trial in found]
    return {
        "limit": asdict(fit_hit_miss(sizes, [score > threshold for score in scores])),
        "from_scores": asdict(fit_response(sizes, scores, threshold)),
    }


def _points(found: Sequence[Trial], subject: Subject) -> dict[str, Any]:
    return {"sizes": [t.size for t in found], "found": [t.score > subject.threshold for t in found]}
