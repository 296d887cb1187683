"""What is in a data folder: the layouts of public data sets, or a plain folder of photos."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from edge_ad.data.dataset import Dataset, FolderUse, Problem, Sample, Split
from edge_ad.data.layouts import find_categories, read_category
from edge_ad.data.tree import Tree
from edge_ad.errors import DataError

__all__ = ["Dataset", "FolderUse", "Problem", "Sample", "Split", "scan"]


def scan(folder: Path | str) -> Dataset:
    """The folder's photos, without decoding them: only masks are decoded, where nothing else tells what is good.

    folder: one product, or a root at any height above several, in one of these layouts:
    - MVTec AD and its kin (MVTec AD 2, MVTec LOCO, MPDD, BTAD, KolektorSDD2, converted VisA): train, validation,
      test or test_public, each with good and a folder a kind of defect, masks below ground_truth or beside photos;
    - VisA as published: Data/Images/{Normal,Anomaly}, Data/Masks/Anomaly, split by split_csv/1cls.csv; without
      that file every tenth normal is for testing;
    - plain, and so Real-IAD and KolektorSDD: good photos at any depth, defective ones below a folder whose name says
      so (the folder in it names the kind), masks below masks/ or ground_truth/ or beside the photos; beside a folder
      of good photos every other folder is a kind of defect. Where no folder tells, file names do, else masks, else
      all photos are good. Where there are defective photos, every fifth good one is for testing, unless Real-IAD's
      own split lies beside.
    What names say is in `edge_ad.data.words`, without case. Empty files, hidden folders, those that a NAS or system
    keeps for itself, and files of kinds that aren't read are left out and named in `problems`; `Dataset.folders`
    says what each folder was taken as.
    Raises DataError when the folder is missing or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        close = difflib.get_close_matches(folder.name, _folders_beside(folder), 1)
        hint = f"did you mean {folder.with_name(close[0])}?" if close else "name a folder of photos"
        raise DataError(f"{folder} {what}", hint)
    try:
        tree = Tree(folder)
        problems = tree.ignored()
    except OSError as error:
        raise DataError(f"can't list {error.filename}: {error.strerror}", "check the rights of the folder") from error
    categories = find_categories(tree, folder)
    problems += _outside(tree, [path for path, _ in categories])
    categories = categories or [(folder, "plain")]
    samples: list[Sample] = []
    for path, layout in categories:
        found, more = read_category(tree, path, layout)
        name = path.relative_to(folder).as_posix()
        samples += [replace(sample, category=name) for sample in found] if len(categories) > 1 else found
        problems += more
    usable, empty = _not_empty(samples)
    problems += empty
    if not usable:
        raise DataError(
            f"{folder} has no usable image" + (f" ({len(problems)} problems)" if problems else ""),
            f"the first: {problems[0].path.name}: {problems[0].reason}"
            if problems
            else "put photos of good parts into it (JPEG, PNG, BMP, TIFF or WebP)",
        )
    layouts = "+".join(sorted({layout for _, layout in categories}))
    return Dataset(folder.resolve().name, layouts, tuple(usable), tuple(problems), folder)


def _folders_beside(folder: Path) -> list[str]:
    """Names of the folders in its parent; none where that can't be listed."""
    try:
        return [entry.name for entry in os.scandir(folder.parent) if entry.is_dir()]
    except OSError:
        return []


def _outside(tree: Tree, categories: list[Path]) -> list[Problem]:
    """A Problem for each folder with photos that lie in no category; none where there are no categories."""
    inside = set(categories)
    if not inside or tree.root in inside:
        return []
    counts = Counter(path.parent for path in tree.images(tree.root) if not inside & set(path.parents))
    return [Problem(path, f"{count} photo(s) not used: the folder is no category") for path, count in counts.items()]


def _not_empty(samples: list[Sample]) -> tuple[list[Sample], list[Problem]]:
    usable: list[Sample] = []
    problems: list[Problem] = []
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
    return usable, problems
