"""The layouts that data folders come in: which folders are one product each, and how to read them."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from edge_ad.data.dataset import Problem, Sample, Split
from edge_ad.data.masks import read_mask
from edge_ad.data.tree import Masks, Tree, split_masks
from edge_ad.data.words import meaning
from edge_ad.errors import DataError

UNTOLD = "defect"  # the kind of a defect that no folder names
_VISA_SPLIT = Path("split_csv") / "1cls.csv"
_NUMBER = re.compile(r"[a-z]{0,4}[-_ ]?\d+", re.IGNORECASE)  # a part's own folder, such as S0001
Read = tuple[list[Sample], list[Problem]]


def find_categories(tree: Tree, folder: Path) -> list[tuple[Path, str]]:
    """Folders at any depth that are one product each, with their layout; none where nothing says so.

    A folder with train and test, or VisA's Data/Images, is one wherever it lies. One in which a folder's name says
    good or defective is one unless such products lie below it.
    """
    sure = _sure_layout(tree, folder)
    if sure is not None:
        return [(folder, sure)]
    said = tree.by_meaning(folder)
    named = [*said["good"], *said["defect"]]
    below = [
        found for child in tree.folders(folder) if meaning(child.name) == "" for found in find_categories(tree, child)
    ]
    hidden = [found for child in named for found in find_categories(tree, child) if found[1] != "plain"]
    if named and not hidden and not any(layout != "plain" for _, layout in below):
        return [(folder, "plain")]
    return [*below, *hidden, *(found for child in said["mask"] for found in find_categories(tree, child))]


def _sure_layout(tree: Tree, folder: Path) -> str | None:
    said = tree.by_meaning(folder)
    splits = [*said["train"], *said["test"]]
    with_good = any(tree.by_meaning(split)["good"] for split in splits)
    two = bool(said["train"]) + bool(said["test"]) + bool(said["validation"]) > 1
    if splits and (two or with_good or (said["test"] and said["mask"])):  # one may be unpublished
        return "mvtec"
    return "visa" if tree.has(folder / "Data" / "Images") else None


def read_category(tree: Tree, folder: Path, layout: str) -> Read:
    """Samples and problems of one product. Raises DataError for a damaged table of a published split."""
    readers: dict[str, Callable[[Tree, Path], Read]]
    readers = {"mvtec": _read_mvtec, "visa": _read_visa, "plain": _read_plain}
    return readers[layout](tree, folder)


def _read_mvtec(tree: Tree, folder: Path) -> Read:
    name = folder.resolve().name
    said = tree.by_meaning(folder)
    shared = Masks()
    for top in said["mask"]:
        for path in tree.images(top):
            shared.add(path, path.relative_to(top))
    samples: list[Sample] = []
    problems: list[Problem] = []
    defects: list[Sample] = []
    masked = bool(shared)
    splits: tuple[Split, ...] = ("train", "validation", "test")
    for split in splits:
        for top in said[split]:
            photos, masks = split_masks(tree.images(top), top, exact=True)
            masked |= bool(masks)
            untold = []
            for path in photos:
                inner = path.relative_to(top)
                kind = inner.parent.as_posix()
                good = len(inner.parts) > 1 and meaning(inner.parts[0]) == "good"
                if good:
                    samples.append(Sample(path, split, 0, "good", None, name))
                elif len(inner.parts) == 1:
                    untold.append((path, masks.take(inner) or shared.take(inner)))
                elif split == "train":
                    reason = f"'{inner.parts[0]}' below train is not a folder of good photos"
                    problems.append(Problem(top / inner.parts[0], reason))
                else:
                    mask = masks.take(inner) or shared.take(inner)
                    defects.append(Sample(path, split, 1, kind, mask, name))
            by_mask = [path for path, mask in untold if mask is not None]
            if split == "test" and not by_mask:
                problems += [Problem(path, f"lies in {top.name} itself, not in good or <kind>") for path, _ in untold]
            else:
                told, unreadable = _by_masks(untold, split, name)
                samples += told
                problems += unreadable
            problems += masks.unused()
    problems = _counted(problems)
    problems += [Problem(top, f"{len(tree.images(top))} photo(s) without labels") for top in said["unlabelled"]]
    if masked:
        problems += [problem for sample in defects for problem in _no_mask(sample)]
    samples = sorted(samples + defects, key=lambda one: (splits.index(one.split), one.path))
    return samples, problems + shared.unused() + _beside(tree, folder, said.values())


def _beside(tree: Tree, folder: Path, known: Iterable[Sequence[Path]]) -> list[Problem]:
    """Folders and photos beside the splits that are none of them."""
    inside = {path for paths in known for path in paths if meaning(path.name) not in ("", "good", "defect")}
    loose = [path for path in tree.images(folder) if not inside & set(path.parents)]
    return [Problem(path, f"{count} photo(s): lie beside the splits, in none of them")
            for path, count in Counter(path.parent for path in loose).items()]  # fmt: skip


def _by_masks(found: Sequence[tuple[Path, Path | None]], split: Split, category: str) -> Read:
    """Photos of which only a mask tells whether they are good: one that marks nothing, or no mask, is good."""

    def marks(mask: Path | None) -> bool | str:
        try:
            return mask is not None and bool(read_mask(mask).any())
        except DataError as error:
            return error.message

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(marks, [mask for _, mask in found]))
    told = any(mask is not None for _, mask in found)
    samples, problems = [], []
    for (path, mask), answer in zip(found, answers, strict=True):
        if isinstance(answer, str):
            problems.append(Problem(path, f"its mask can't be read, and nothing else tells what it is: {answer}"))
        elif answer:
            samples.append(Sample(path, split, 1, UNTOLD, mask, category, "as its mask tells"))
        else:
            samples.append(Sample(path, split, 0, "good", None, category, "as its mask tells" if told else ""))
    return samples, problems


def _read_plain(tree: Tree, folder: Path) -> Read:
    name = folder.resolve().name
    photos, masks = split_masks(tree.images(folder), folder)
    masked = bool(masks)
    sorted_by_kind = any(meaning(child.name) == "good" for child in tree.folders(folder))
    good: list[Sample] = []
    bad: list[Sample] = []
    untold: list[Path] = []
    problems: list[Problem] = []
    stems = Counter(path.stem.lower() for path in photos)
    for path in photos:
        inner = path.relative_to(folder)
        folders = inner.parts[:-1]
        said = [meaning(part) for part in folders]
        places = [inner]
        if "defect" in said:
            at = said.index("defect")
            places.append(Path(*inner.parts[at + 1 :]))
            kind = _kind(folders[at + 1 :]) or folders[at]
        elif "good" in said:
            good.append(Sample(path, "train", 0, "good", None, name))
            continue
        elif sorted_by_kind and folders:
            kind = _kind(folders) or folders[0]
        elif sorted_by_kind:
            problems.append(Problem(path, "lies beside the folder of good photos, not in it"))
            continue
        else:
            untold.append(path)
            continue
        places += [Path(inner.name)] if stems[path.stem.lower()] == 1 else []
        bad.append(Sample(path, "test", 1, kind, masks.take(*places), name))
    told, more, unreadable = _untold(untold, folder, masks, stems)
    good += told
    bad += more
    if masked:
        problems += [problem for sample in bad for problem in _no_mask(sample)]
    samples = _hold_out(sorted(good, key=lambda sample: sample.path), every=5 if bad else 0) + bad
    return _published(folder, samples), problems + unreadable + masks.unused()


def _untold(
    paths: Sequence[Path], folder: Path, masks: Masks, stems: Counter[str]
) -> tuple[list[Sample], list[Sample], list[Problem]]:
    """Good and defective photos, and problems, where no folder tells: by file names, else by masks; else all good."""
    name = folder.resolve().name
    named = [path for path in paths if meaning(path.stem) == "defect"]
    if len(named) == len(paths):
        named = []
    bad = [Sample(p, "test", 1, UNTOLD, masks.take(p.relative_to(folder)), name, "as its name says") for p in named]
    left = []
    for path in sorted(set(paths) - set(named)):
        inner = path.relative_to(folder)
        places = [inner, *([Path(inner.name)] if stems[path.stem.lower()] == 1 else [])]
        left.append((path, masks.take(*places)))
    samples, problems = _by_masks(left, "train", name)
    good = [
        replace(one, reason="as no name says otherwise") if not one.reason and one.path.parent != folder else one
        for one in samples
        if not one.label
    ]
    bad += [replace(one, split="test") for one in samples if one.label]
    return good, bad, problems


def _kind(folders: Sequence[str]) -> str:
    """Name of a kind of defect: the folders without those of single parts at their end."""
    kept = list(folders)
    while kept and _NUMBER.fullmatch(kept[-1]):
        kept.pop()
    return "/".join(kept)


def _hold_out(samples: Sequence[Sample], every: int) -> list[Sample]:
    """Every n-th sample goes to the test split, counted in sorted order, so that any two runs agree."""
    return [replace(s, split="test") if every and i % every == every - 1 else s for i, s in enumerate(samples)]


def _published(folder: Path, samples: list[Sample]) -> list[Sample]:
    """The samples in the split that Real-IAD publishes for its product, where its file is found beside them."""
    tops = [base / inner for base in (folder.parent, folder.parent.parent) for inner in ("", "realiad_jsons")]
    tops += [top / "realiad_jsons" for top in tops]
    file = next((top / f"{folder.name}.json" for top in tops if (top / f"{folder.name}.json").is_file()), None)
    if file is None:
        return samples
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        splits: dict[str, Split] = {
            row["image_path"]: "train" if split == "train" else "test" for split in ("train", "test")
            for row in table[split]
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no split as Real-IAD publishes it: {error}", "restore or remove it") from error
    return [replace(s, split=splits.get(s.path.relative_to(folder).as_posix(), s.split)) for s in samples]


def _read_visa(tree: Tree, folder: Path) -> Read:
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
            split: Split = "train" if row["split"].lower() == "train" else "test"
            samples.append(Sample(path, split, label, kind, mask if mask and mask.is_file() else None, name))
            problems += [Problem(path, f"its mask {mask} is missing")] if mask and not mask.is_file() else []
        return samples, problems
    images = folder / "Data" / "Images"
    samples = _hold_out([Sample(p, "train", 0, "good", None, name) for p in tree.images(images / "Normal")], every=10)
    masks = Masks()
    top = folder / "Data" / "Masks" / "Anomaly"
    for path in tree.images(top):
        masks.add(path, path.relative_to(top))
    for path in tree.images(images / "Anomaly"):
        kind = kinds.get(path.name, "anomaly")
        samples.append(Sample(path, "test", 1, kind, masks.take(Path(path.name)), name))
        problems += _no_mask(samples[-1])
    return samples, problems


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


def _no_mask(sample: Sample) -> list[Problem]:
    return [] if sample.mask_path else [Problem(sample.path, "no mask for this defect")]


def _counted(problems: Iterable[Problem]) -> list[Problem]:
    """One Problem with a count for each folder that was named more than once; files keep theirs."""
    counts = Counter(problems)
    return [p if p.path.is_file() else Problem(p.path, f"{n} photo(s): {p.reason}") for p, n in counts.items()]
