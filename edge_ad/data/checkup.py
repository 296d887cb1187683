"""Check every photo of a data folder: what is broken, double, odd or lacks its mask, and can it be trained on?"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.complaints import Listener, listen
from edge_ad.data.images import read_raw, to_frame
from edge_ad.data.loader import read_each
from edge_ad.data.masks import fit_mask, interpret_mask
from edge_ad.data.samples import Dataset, FolderUse, Problem, Sample
from edge_ad.data.words import meaning
from edge_ad.errors import DataError

FEWEST_NORMALS = 2  # one to train on, one to set the first threshold with
ENOUGH_NORMALS = 50  # below it, accuracy depends on the luck of the few
_THUMB = 32
_SAME_RMS, _SAME_MAX = 1.0, 6.0  # gray levels between thumbnails; re-encoded and halved copies measured 0.5..1.1
_OUTLIER = 6.0  # robust standard deviations


@dataclass(frozen=True)
class PhotoStats:
    """Statistics of one decoded photo. brightness, contrast: mean and standard deviation of gray, 0..255.

    complaint: what the decoder printed of it.
    """

    sample: Sample
    size: tuple[int, int]
    digest: str
    thumbnail: npt.NDArray[np.float32] = field(repr=False)
    brightness: float = 0.0
    contrast: float = 0.0
    sharpness: float = 0.0
    bits: int = 8
    complaint: str = ""


@dataclass(frozen=True)
class CategoryReport:
    """Counts of one product. sizes: "HxW" -> photos, most frequent first. defects: kind -> photos.

    set_apart: good photos of a validation split.
    """

    name: str
    train: int
    test_good: int
    defects: dict[str, int]
    with_mask: int
    sizes: dict[str, int]
    brightness: tuple[float, float]
    set_apart: int = 0


@dataclass(frozen=True)
class Checkup:
    """All findings; the lists name files. trainable: whether every category has enough readable good photos.

    copies: groups of identical pictures; near_copies: groups that differ only by encoding or scale. leaks: test
    photos that are also in train. odd: photos unlike the others. masks: missing, unreadable, empty, ill-fitting,
    guessed or doubtful. notes: what one should know before training. folders: what each was taken as.
    """

    name: str
    layout: str
    categories: list[CategoryReport]
    broken: list[Problem]
    unused: list[Problem]
    copies: list[list[Path]]
    near_copies: list[list[Path]]
    leaks: list[Path]
    odd: list[Problem]
    masks: list[Problem]
    notes: list[str]
    obstacles: list[str]
    folders: list[FolderUse]

    @property
    def trainable(self) -> bool:
        """Whether nothing stands in the way of training."""
        return not self.obstacles

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with `trainable`."""
        return {"trainable": self.trainable, **_plain(asdict(self))}


def check_up(dataset: Dataset, *, threads: int = 2) -> Checkup:
    """Decode every photo and mask of the dataset once and report."""
    broken: list[Problem] = []
    masks = [problem for problem in dataset.problems if "mask" in problem.reason]
    unused = [problem for problem in dataset.problems if problem not in masks]
    with listen() as listener:
        read = partial(_photo_stats, listener=listener)
        photos = [photo for _, photo in read_each(dataset.samples, read, broken, threads=threads)]
    masks += _check_masks(photos)
    copies, near = _find_copies(photos)
    train = {photo.sample.path for photo in photos if photo.sample.split == "train"}
    leaks = sorted({p for group in copies + near if train & set(group) for p in group if p not in train})
    reports = [_report(name, [k for k in photos if k.sample.category == name]) for name in dataset.categories]
    obstacles = [
        f"{report.name}: {report.train} readable photo(s) of good parts to train on, needs {FEWEST_NORMALS}"
        for report in reports
        if report.train < FEWEST_NORMALS
    ]
    return Checkup(
        dataset.name,
        dataset.layout,
        reports,
        broken,
        unused,
        copies,
        near,
        leaks,
        [
            problem
            for report in reports
            for problem in _find_odd([k for k in photos if k.sample.category == report.name])
        ],
        masks,
        _notes(dataset, reports, photos),
        obstacles,
        dataset.folders(),
    )


def _photo_stats(sample: Sample, listener: Listener) -> PhotoStats:
    since = listener.size()
    raw = read_raw(sample.path)
    complaint = listener.complaint(since, lambda: read_raw(sample.path))
    gray = cv2.cvtColor(to_frame(raw, sample.path), cv2.COLOR_RGB2GRAY)
    thumbnail = cv2.resize(gray.astype(np.float32), (_THUMB, _THUMB), interpolation=cv2.INTER_AREA)
    return PhotoStats(
        sample,
        (gray.shape[0], gray.shape[1]),
        hashlib.sha256(raw.tobytes() + str(raw.shape).encode()).hexdigest(),
        np.asarray(thumbnail, np.float32),
        float(gray.mean()),
        float(gray.std()),
        float(np.log(cv2.Laplacian(gray, cv2.CV_32F).var() + 1)),
        int(raw.max()).bit_length() if raw.dtype == np.uint16 else 8,
        complaint,
    )


def _check_masks(photos: Iterable[PhotoStats]) -> list[Problem]:
    problems = []
    for photo in photos:
        path = photo.sample.mask_path
        if path is None:
            continue
        findings: list[str] = []
        try:
            mask, *findings = interpret_mask(path)
            if not fit_mask(mask, photo.size, path).any() and photo.sample.label:
                findings.append("empty mask: no pixel is marked")
        except DataError as error:
            findings.append(error.message)
        reasons = "; ".join(filter(None, findings))
        problems += [Problem(path, reasons)] if reasons else []
    return problems


def _find_copies(photos: Sequence[PhotoStats]) -> tuple[list[list[Path]], list[list[Path]]]:
    """Groups of identical pictures, and of pictures whose thumbnails agree but that are not identical."""
    same: dict[str, list[Path]] = defaultdict(list)
    for photo in photos:
        same[photo.digest].append(photo.sample.path)
    firsts = {photo.digest: photo for photo in reversed(photos)}  # one picture of each group
    ordered = sorted(firsts.values(), key=lambda look: float(photo.thumbnail.mean()))
    means = np.array([photo.thumbnail.mean() for photo in ordered])
    thumbs = np.array([photo.thumbnail.ravel() for photo in ordered])
    leader = list(range(len(ordered)))

    def lead(i: int) -> int:
        while leader[i] != i:
            i = leader[i]
        return i

    for i in range(len(ordered)):
        # Equal pictures have equal means, so only neighbours in brightness are compared.
        end = int(np.searchsorted(means, means[i] + _SAME_RMS, side="right"))
        gaps = thumbs[i + 1 : end] - thumbs[i]
        close = (np.sqrt(np.mean(gaps**2, axis=1)) <= _SAME_RMS) & (np.abs(gaps).max(axis=1, initial=0) <= _SAME_MAX)
        for j in np.flatnonzero(close) + i + 1:
            if ordered[i].contrast > 1:  # blank pictures all look the same; they are odd, not double
                leader[lead(int(j))] = lead(i)
    near: dict[int, list[Path]] = defaultdict(list)
    for i, photo in enumerate(ordered):
        near[lead(i)].append(photo.sample.path)
    return _groups(same.values()), _groups(near.values())


def _groups(groups: Iterable[list[Path]]) -> list[list[Path]]:
    return sorted(sorted(group) for group in groups if len(group) > 1)


def _find_odd(photos: Sequence[PhotoStats]) -> list[Problem]:
    """Photos of one category that differ from its good ones in shape, brightness or sharpness, or are blank."""
    normals = [photo for photo in photos if photo.sample.label == 0]
    doubtful = [photo.sample for photo in normals if meaning(photo.sample.path.stem) == "defect"]
    odd = [
        Problem(k.sample.path, f"blank: all of it is gray level {k.brightness:.0f}") for k in photos if k.contrast < 1
    ]
    odd += [
        Problem(k.sample.path, f"damaged inside, part of it may be noise: {k.complaint}")
        for k in photos
        if k.complaint
    ]
    if len(doubtful) < len(normals):
        odd += [Problem(sample.path, "its name says defect, yet it counts as good") for sample in doubtful]
    if len(normals) < 5:
        return odd
    usual = float(np.median([k.size[1] / k.size[0] for k in normals]))
    size = Counter(k.size for k in normals).most_common(1)[0]
    for photo in photos:
        height, width = photo.size
        if abs(width / height / usual - 1) > 0.1:
            odd.append(Problem(photo.sample.path, f"{height}x{width}: other proportions than most (W/H {usual:.2f})"))
        elif size[1] > 0.8 * len(normals) and not 0.5 <= height / size[0][0] <= 2:
            odd.append(Problem(photo.sample.path, f"{height}x{width}: most are {size[0][0]}x{size[0][1]}"))
    for name, floor in (("brightness", 4.0), ("contrast", 3.0), ("sharpness", 0.25)):
        values = np.array([getattr(photo, name) for photo in normals])
        middle = float(np.median(values))
        spread = max(1.4826 * float(np.median(np.abs(values - middle))), floor)
        for photo, value in zip(normals, values, strict=True):
            if abs(value - middle) > _OUTLIER * spread and photo.contrast >= 1:
                odd.append(Problem(photo.sample.path, f"{name} {value:.3g}, the others' is about {middle:.3g}"))
    reasons: dict[Path, list[str]] = defaultdict(list)
    for path, reason in odd:
        reasons[path].append(reason)
    return [Problem(path, "; ".join(all_of_it)) for path, all_of_it in reasons.items()]


def _report(name: str, photos: Sequence[PhotoStats]) -> CategoryReport:
    defects = [photo.sample for photo in photos if photo.sample.label]
    sizes = Counter(f"{photo.size[0]}x{photo.size[1]}" for photo in photos)
    bright = [photo.brightness for photo in photos if not photo.sample.label] or [0.0]
    return CategoryReport(
        name,
        sum(photo.sample.split == "train" and not photo.sample.label for photo in photos),
        sum(photo.sample.split == "test" and not photo.sample.label for photo in photos),
        dict(sorted(Counter(sample.kind for sample in defects).items())),
        sum(sample.mask_path is not None for sample in defects),
        dict(sizes.most_common()),
        (round(float(np.mean(bright)), 1), round(float(np.std(bright)), 1)),
        sum(photo.sample.split == "validation" and not photo.sample.label for photo in photos),
    )


def _notes(dataset: Dataset, reports: Iterable[CategoryReport], photos: Sequence[PhotoStats]) -> list[str]:
    notes = []
    if meaning(dataset.name) == "defect" and len(dataset.normals) == len(dataset.samples):
        notes.append(
            f"the name of {dataset.name} itself says defects, yet {len(dataset.normals)} photos count as good"
        )
    for report in reports:
        if FEWEST_NORMALS <= report.train < ENOUGH_NORMALS:
            notes.append(
                f"{report.name}: {report.train} good photos to train on; {ENOUGH_NORMALS} or more are better"
            )
        if not report.defects:
            notes.append(
                f"{report.name}: no photos of defects; it can be trained on, `edgead eval` has nothing to measure"
            )
        elif not report.test_good:
            notes.append(f"{report.name}: no good photos to test with; `edgead eval` can't measure false alarms")
    dark = [photo for photo in photos if photo.bits < 16 and photo.bits > 8]
    if dark:
        most = max(photo.bits for photo in dark)
        notes.append(
            f"{len(dark)} 16-bit files use only {most} bits, so they come out {2 ** (16 - most)} times too dark; "
            "shift them up when saving"
        )
    return notes


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Problem):
        return {"path": str(value.path), "reason": value.reason}
    if isinstance(value, FolderUse):
        return {"path": str(value.path), "taken_as": value.taken_as, "files": value.files}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
