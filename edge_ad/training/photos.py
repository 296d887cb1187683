"""Scan: the photos of good parts that a detector is trained on, found and decoded once for all steps."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_ad.data.feedback import entries
from edge_ad.data.loader import PhotoReader
from edge_ad.data.samples import Dataset, Problem, Sample, scan
from edge_ad.errors import DataError
from edge_ad.synthesis.dataset import NormalFrames

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photos:
    """Usable photos of good parts, each once, and the reader that keeps them decoded.

    sizes: (H, W) in pixels of each sample. skipped: photos that can't be used, and why. folders: where they lie.
    """

    samples: tuple[Sample, ...]
    sizes: tuple[tuple[int, int], ...]
    skipped: tuple[Problem, ...]
    reader: PhotoReader
    folders: tuple[Path, ...] = ()

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the products, sorted."""
        return tuple(sorted({sample.category for sample in self.samples}))

    def frames(self, side: int) -> NormalFrames:
        """The photos as frames by number, their longest side at most `side` pixels."""
        return self.frames_of(self.samples, side)

    def frames_of(self, samples: Sequence[Sample], side: int) -> NormalFrames:
        """Some of the photos as frames by number, their longest side at most `side` pixels."""
        return NormalFrames([sample.path for sample in samples], side, self.reader)

    def median_size(self) -> tuple[int, int]:
        """Median (H, W) of the photos."""
        height, width = np.median(np.array(self.sizes), axis=0)
        return round(float(height)), round(float(width))


def find_photos(
    folders: str | Path | Sequence[str | Path | Dataset], say: Callable[[str], None] = lambda text: None
) -> Photos:
    """The photos to train on of folders or scanned data sets; DataError when one of them has none.

    say: takes a line for each folder: what its files were taken as, and how many there are.
    """
    reader = PhotoReader()
    found: dict[Path, tuple[Sample, tuple[int, int]]] = {}
    skipped: list[Problem] = []
    folders = [folders] if isinstance(folders, str | Path) else folders
    for folder in folders:
        dataset = folder if isinstance(folder, Dataset) else scan(folder)
        for use in dataset.folders():
            say(use.line(dataset.root))
        usable, problems = reader.decodable(dataset.train)
        if not usable:
            where = dataset.name if isinstance(folder, Dataset) else folder
            raise DataError(f"no usable photos of good parts in {where}", "`edgead check FOLDER` says what is there")
        lacking = set(dataset.categories) - {one.sample.category for one in usable}
        if lacking:
            log.warning("no usable photos of good parts of %s: not trained on", ", ".join(sorted(lacking)))
        for one in usable:
            found.setdefault(one.sample.path.resolve(), (one.sample, one.size))
        skipped += problems
    samples, sizes = zip(*found.values(), strict=True)
    _say_proportions(sizes)
    named = tuple(dict.fromkeys(Path(folder) for folder in folders if not isinstance(folder, Dataset)))
    return Photos(samples, sizes, tuple(skipped), reader, named)


def _say_proportions(sizes: Sequence[tuple[int, int]]) -> None:
    """Warn where photos have other proportions than the median, to which the network's size is fitted."""
    ratios = np.array([width / height for height, width in sizes])
    usual = float(np.median(ratios))
    odd = ratios[abs(ratios / usual - 1) > 0.1]
    if len(odd):
        log.warning(
            "%d of %d photos have other proportions (W/H %.2f to %.2f) than the middle one (%.2f) and are squeezed "
            "into its: cut them alike, or train one detector for each",
            len(odd),
            len(ratios),
            odd.min(),
            odd.max(),
            usual,
        )


def rejected_good(artifact: Path, categories: Sequence[str]) -> list[Sample]:
    """Good parts that the detector in `artifact` rejected, for the next one to learn; none where there is none.

    categories: of the photos; parts of another product are left out, and said.
    """
    samples = []
    for one in entries(artifact, "good"):
        category = categories[0] if len(categories) == 1 else one.known.product
        if category not in categories:
            log.warning("%s is left out: its product %r is not among %s", one.path, category, ", ".join(categories))
            continue
        samples.append(Sample(one.path, "train", 0, "good", None, category))
    return samples


def check_enough(samples: Sequence[Sample]) -> None:
    """DataError where a product has too few photos to train on some and keep others for the threshold."""
    for name, count in Counter(sample.category for sample in samples).items():
        if count < 2:
            raise DataError(f"{count} usable photo(s) of good parts of {name}", "give at least 2, better 50 or more")


def split_held_out(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Normals to train on, and those kept for the first threshold: of each category at least 4, at most half."""
    check_enough(samples)
    counts = Counter(sample.category for sample in samples)
    left = {name: min(count // 2, max(4, round(share * count))) for name, count in counts.items()}
    fit: list[Sample] = []
    held: list[Sample] = []
    for index in np.random.default_rng(seed).permutation(len(samples)):
        sample = samples[index]
        left[sample.category] -= 1
        (held if left[sample.category] >= 0 else fit).append(sample)
    return fit, held
