"""What was found in a data folder: samples, problems, and what each folder was taken as."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from edge_ad.errors import DataError

Split = Literal["train", "validation", "test"]
_ALIKE = 6  # so many folders side by side that were taken as the same are one row


@dataclass(frozen=True)
class Sample:
    """One photo. label: 0 good, 1 defect. kind: "good" or the defect's name. mask_path: None where there is none.

    split: "validation" photos are set apart: not trained on, not measured on, but there for calibration. mask_path:
    a file, or a folder whose files together are the mask. reason: why it counts as what it does, where no folder's
    name says so.
    """

    path: Path
    split: Split
    label: int
    kind: str
    mask_path: Path | None
    category: str
    reason: str = ""


class Problem(NamedTuple):
    """A file or folder that can't be used, or used only in part, and why."""

    path: Path
    reason: str


class FolderUse(NamedTuple):
    """What the files of a folder were taken as, and how many there are; files 0: `taken_as` says it itself."""

    path: Path
    taken_as: str
    files: int

    def line(self, root: Path) -> str:
        """In words, with the path as seen from `root`."""
        path = self.path.relative_to(root).as_posix() if self.path.is_relative_to(root) else str(self.path)
        return f"{path}: {f'{self.files} ' if self.files else ''}{self.taken_as}"


@dataclass(frozen=True)
class Dataset:
    """The photos of a folder. layout: "mvtec" (and its kin), "visa", "realiad" or "plain"; "a+b" if mixed."""

    name: str
    layout: str
    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...] = ()
    root: Path = Path()

    @property
    def train(self) -> tuple[Sample, ...]:
        """Photos to train on; all of them are good."""
        return tuple(s for s in self.samples if s.split == "train" and s.label == 0)

    @property
    def test(self) -> tuple[Sample, ...]:
        """Photos to measure on, good and defective."""
        return tuple(s for s in self.samples if s.split == "test")

    @property
    def normals(self) -> tuple[Sample, ...]:
        """Good photos of all splits (to train on, take `train`)."""
        return tuple(s for s in self.samples if s.label == 0)

    @property
    def left_out(self) -> tuple[Problem, ...]:
        """The problems of what is no sample; the others are of samples that lack something, such as their mask."""
        used = {sample.path for sample in self.samples}
        return tuple(problem for problem in self.problems if problem.path not in used)

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the products, sorted."""
        return tuple(sorted({s.category for s in self.samples}))

    def only(self, category: str) -> Dataset:
        """The part of one category."""
        samples = tuple(s for s in self.samples if s.category == category)
        if not samples:
            raise DataError(f"{self.name} has no category '{category}'", f"it has: {', '.join(self.categories)}")
        return replace(self, name=category, samples=samples)

    def all_for_testing(self) -> Dataset:
        """Every photo in the test split: for a labelled folder that training never saw."""
        return replace(self, samples=tuple(replace(s, split="test") for s in self.samples))

    def folders(self) -> list[FolderUse]:
        """Each folder, what its files were taken as and how many; where many side by side agree, one row for all."""
        counts: dict[tuple[Path, str], int] = Counter()
        for sample in self.samples:
            counts[sample.path.parent, _taken_as(sample)] += 1
            if sample.mask_path is not None:
                counts[sample.mask_path.parent, "mask(s) of defects"] += 1
        left_out: dict[tuple[Path, str], int] = Counter()
        for path, reason in self.left_out:
            if path.is_file():
                left_out[path.parent, f"left out: {reason}"] += 1
            else:
                left_out[path, f"left out: {reason}"] = 0
        return _merged(FolderUse(path, what, count) for (path, what), count in [*counts.items(), *left_out.items()])


def _taken_as(sample: Sample) -> str:
    what = "good photo(s)" if not sample.label else f"photo(s) of defects ('{sample.kind}')"
    use = {"train": "to train on", "validation": "set apart for calibration", "test": "to measure with"}[sample.split]
    if sample.label and sample.split != "test":
        use = "not trained on"
    return f"{what} {use}" + (f", {sample.reason}" if sample.reason else "")


def _merged(uses: Iterable[FolderUse]) -> list[FolderUse]:
    alike: dict[tuple[Path, str], list[FolderUse]] = defaultdict(list)
    for use in uses:
        alike[use.path.parent, use.taken_as].append(use)
    rows = []
    for (parent, what), group in alike.items():
        if len(group) > _ALIKE:
            rows.append(FolderUse(parent / f"* ({len(group)} folders)", what, sum(use.files for use in group)))
        else:
            rows += group
    return sorted(rows)
