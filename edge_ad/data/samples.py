"""What is in a data folder: MVTec AD, VisA and MPDD layouts, or a plain folder of photos."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from edge_ad.data.images import images_below
from edge_ad.errors import DataError

GOOD = frozenset({"good", "ok", "normal", "normals"})
BAD = frozenset({"bad", "ng", "defect", "defects", "defective", "anomaly", "anomalous", "anomalies"})
MASKS = frozenset({"ground_truth", "mask", "masks"})
_DEPTH = 3  # how far below the folder categories are looked for
_VISA_SPLIT = Path("split_csv") / "1cls.csv"


@dataclass(frozen=True)
class Sample:
    """One photo. label: 0 good, 1 defect. kind: "good" or the defect's name. mask_path: None where there is none."""

    path: Path
    split: Literal["train", "test"]
    label: int
    kind: str
    mask_path: Path | None
    category: str


class Problem(NamedTuple):
    """A file that can't be used, or used only in part, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Dataset:
    """The photos of a folder. layout: "mvtec" (MPDD too, and converted VisA), "visa" or "plain"; "a+b" if mixed."""

    name: str
    layout: str
    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...] = ()

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
        """Good photos of both splits (to train on, take `train`)."""
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


def scan(folder: Path | str) -> Dataset:
    """The folder's photos, without decoding them.

    folder: one category or a root of several, nested up to three folders deep, in one of these layouts:
    - MVTec AD, MPDD, converted VisA: train/good, test/<kind>, ground_truth/<kind>/<stem>_mask.png (or <stem>.png);
    - VisA as published: Data/Images/{Normal,Anomaly}, Data/Masks/Anomaly, split by split_csv/1cls.csv; without
      that file every tenth normal is for testing;
    - plain: good photos at any depth, defective ones below bad/ (their folder names the kind), masks below masks/
      or ground_truth/; beside a folder good/ every other folder is a kind of defect. Where there are defective
      photos, every fifth good one is for testing.
    Folder names are compared without case. Empty files are left out and named in `problems`.
    Raises DataError when the folder is missing or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}", "name a folder of photos")
    try:
        found = [_read_category(path, layout) for path, layout in _categories(folder)]
        loose = _outside(folder, [one.path for one in found])
        found = found or [_read_category(folder, "plain")]
    except OSError as error:
        raise DataError(f"can't list {error.filename}: {error.strerror}", "check the rights of the folder") from error
    several = len(found) > 1
    samples: list[Sample] = []
    problems = loose
    for one in found:
        name = one.path.relative_to(folder).as_posix()
        samples += [replace(s, category=name) for s in one.samples] if several else one.samples
        problems += one.problems
    if not samples:
        raise DataError(
            f"{folder} has no usable image" + (f" ({len(problems)} problems)" if problems else ""),
            "put photos of good parts into it (JPEG, PNG, BMP, TIFF or WebP)",
        )
    layout = "+".join(sorted({one.layout for one in found}))
    return Dataset(folder.resolve().name, layout, tuple(samples), tuple(problems))


class _Category(NamedTuple):
    path: Path
    layout: str
    samples: list[Sample]
    problems: list[Problem]


def _categories(folder: Path, depth: int = 0) -> Iterator[tuple[Path, str]]:
    """Folders that are one category each, with their layout."""
    layout = _layout(folder)
    if layout is not None:
        yield folder, layout
    elif depth < _DEPTH:
        for child in _folders(folder):
            if child.name.lower() not in GOOD | BAD | MASKS:
                yield from _categories(child, depth + 1)


def _outside(folder: Path, categories: Iterable[Path]) -> list[Problem]:
    """A Problem for each folder with photos that lie in no category; none where there are no categories."""
    inside = set(categories)
    if not inside or folder in inside:
        return []
    counts = Counter(path.parent for path in images_below(folder) if not inside & set(path.parents))
    return [Problem(path, f"{count} photo(s) not used: the folder is no category") for path, count in counts.items()]


def _layout(folder: Path) -> str | None:
    names = {child.name.lower(): child for child in _folders(folder)}
    splits = names.keys() & {"train", "test"}
    with_good = any(f.name.lower() in GOOD for split in splits for f in _folders(names[split]))
    if len(splits) == 2 or with_good or ("test" in splits and MASKS & names.keys()):  # one may be unpublished
        return "mvtec"
    if (folder / "Data" / "Images").is_dir():
        return "visa"
    if names.keys() & (GOOD | BAD):
        return "plain"
    return None


def _read_category(folder: Path, layout: str) -> _Category:
    readers: dict[str, Callable[[Path], tuple[list[Sample], list[Problem]]]]
    readers = {"mvtec": _read_mvtec, "visa": _read_visa, "plain": _read_plain}
    samples, problems = readers[layout](folder)
    usable = []
    for sample in samples:
        try:
            empty = sample.path.stat().st_size == 0
        except OSError as error:
            problems.append(Problem(sample.path, error.strerror or str(error)))
            continue
        if empty:
            problems.append(Problem(sample.path, "empty file (0 bytes)"))
        else:
            usable.append(sample)
    return _Category(folder, layout, usable, problems)


def _read_mvtec(folder: Path) -> tuple[list[Sample], list[Problem]]:
    name = folder.resolve().name
    tops = {child.name.lower(): child for child in _folders(folder)}
    samples, problems = [], []
    for path in images_below(tops["train"]) if "train" in tops else ():
        inner = path.relative_to(tops["train"]).parts[:-1]
        if inner and inner[0].lower() not in GOOD:
            problems.append(Problem(path, f"not used: '{inner[0]}' below train is not a folder of good photos"))
        else:
            samples.append(Sample(path, "train", 0, "good", None, name))
    masks = _mask_index(tops[next(iter(MASKS & tops.keys()))]) if MASKS & tops.keys() else None
    for path in images_below(tops["test"]) if "test" in tops else ():
        relative = path.relative_to(tops["test"])
        kind = relative.parent.as_posix()
        if kind == ".":
            problems.append(Problem(path, "not used: lies in test itself, not in test/good or test/<kind>"))
        elif relative.parts[0].lower() in GOOD:
            samples.append(Sample(path, "test", 0, "good", None, name))
        else:
            samples.append(Sample(path, "test", 1, kind, _pop_mask(masks, relative), name))
            problems += _no_mask(samples[-1], masks)
    problems += _unused_masks(masks)
    return samples, problems


def _read_visa(folder: Path) -> tuple[list[Sample], list[Problem]]:
    name = folder.resolve().name
    kinds = _visa_kinds(folder)
    split_file = next((p / _VISA_SPLIT for p in (folder, folder.parent) if (p / _VISA_SPLIT).is_file()), None)
    problems: list[Problem] = []
    if split_file is not None:
        samples = []
        for row in _rows(split_file, ("object", "split", "label", "image", "mask")):
            if row["object"] != folder.name:
                continue
            path, label = split_file.parents[1] / row["image"], int(row["label"].lower() != "normal")
            mask = split_file.parents[1] / row["mask"] if row["mask"] else None
            kind = kinds.get(path.name, "anomaly") if label else "good"
            split: Literal["train", "test"] = "train" if row["split"].lower() == "train" else "test"
            samples.append(Sample(path, split, label, kind, mask if mask and mask.is_file() else None, name))
            problems += [Problem(path, f"its mask {mask} is missing")] if mask and not mask.is_file() else []
        return samples, problems
    images = folder / "Data" / "Images"
    samples = _hold_out(
        [Sample(p, "train", 0, "good", None, name) for p in images_below(images / "Normal")], every=10
    )
    masks = _mask_index(folder / "Data" / "Masks" / "Anomaly")
    for path in images_below(images / "Anomaly"):
        kind = kinds.get(path.name, "anomaly")
        samples.append(Sample(path, "test", 1, kind, _pop_mask(masks, Path(path.name)), name))
        problems += _no_mask(samples[-1], masks)
    return samples, problems


def _read_plain(folder: Path) -> tuple[list[Sample], list[Problem]]:
    name = folder.resolve().name
    photos, masks = _split_masks(folder)
    sorted_by_kind = any(child.name.lower() in GOOD for child in _folders(folder))
    masked = bool(masks)
    good: list[Sample] = []
    bad: list[Sample] = []
    problems: list[Problem] = []
    for path in photos:
        inner = path.relative_to(folder)
        folders = inner.parts[:-1]
        at = next((i for i, part in enumerate(folders) if part.lower() in BAD), None)
        if at is not None:
            inner = Path(*inner.parts[at + 1 :])
            kind = inner.parent.as_posix() if len(inner.parts) > 1 else folders[at]
        elif sorted_by_kind and folders and folders[0].lower() not in GOOD:
            kind = inner.parent.as_posix()
        elif sorted_by_kind and not folders:
            problems.append(Problem(path, "not used: lies beside the folder of good photos, not in it"))
            continue
        else:
            good.append(Sample(path, "train", 0, "good", None, name))
            continue
        bad.append(Sample(path, "test", 1, kind, _pop_mask(masks, inner), name))
    if masked:
        problems += [problem for sample in bad for problem in _no_mask(sample, masks)]
    problems += _unused_masks(masks)
    return _hold_out(good, every=5 if bad else 0) + bad, problems


def _split_masks(folder: Path) -> tuple[list[Path], dict[str, Path]]:
    """Photos, and masks by the key of the photo they belong to."""
    everything = images_below(folder)
    stems = {path.with_suffix("") for path in everything}
    photos, masks = [], {}
    for path in everything:
        inner = path.relative_to(folder)
        at = next((i for i, part in enumerate(inner.parts[:-1]) if part.lower() in MASKS), None)
        beside = path.stem.lower().endswith("_mask") and path.with_suffix("").with_name(path.stem[:-5]) in stems
        if at is None and not beside:
            photos.append(path)
            continue
        parts = list(inner.parts if at is None else inner.parts[at + 1 :])
        bad = next((i for i, part in enumerate(parts[:-1]) if part.lower() in BAD), -1)
        masks[_mask_key(Path(*parts[bad + 1 :]))] = path
    return photos, masks


def _hold_out(samples: list[Sample], every: int) -> list[Sample]:
    """Every n-th sample goes to the test split, counted in sorted order, so that any two runs agree."""
    return [replace(s, split="test") if every and i % every == every - 1 else s for i, s in enumerate(samples)]


def _visa_kinds(folder: Path) -> dict[str, str]:
    """Image name -> defect kind from image_anno.csv; several kinds on one part are "combined"."""
    table = folder / "image_anno.csv"
    if not table.is_file():
        return {}
    rows = [(Path(row["image"]), row["label"].strip()) for row in _rows(table, ("image", "label"))]
    return {p.name: "combined" if "," in label else label for p, label in rows if p.parent.name == "Anomaly"}


def _rows(table: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = set(columns) - set(reader.fieldnames or ())
            if missing:
                raise DataError(f"{table} lacks the columns {sorted(missing)}", "restore the file as published")
            return [{key: (row[key] or "").strip() for key in columns} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} is no CSV file: {error}", "restore the file as published") from error


def _mask_index(folder: Path) -> dict[str, Path]:
    return {_mask_key(path.relative_to(folder)): path for path in images_below(folder)}


def _mask_key(path: Path) -> str:
    """Where a mask or image lies below its top folder, without suffix and `_mask`, without case."""
    return path.with_suffix("").as_posix().lower().removesuffix("_mask")


def _pop_mask(masks: dict[str, Path] | None, image: Path) -> Path | None:
    return masks.pop(_mask_key(image), None) if masks else None


def _no_mask(sample: Sample, masks: dict[str, Path] | None) -> list[Problem]:
    return [Problem(sample.path, "no mask for this defect")] if masks is not None and not sample.mask_path else []


def _unused_masks(masks: dict[str, Path] | None) -> list[Problem]:
    """Masks that no image claimed; the black ones that some datasets ship for good parts are no problem."""
    unused = (masks or {}).items()
    return [Problem(path, "mask without an image") for key, path in unused if key.split("/")[0] not in GOOD]


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir())
