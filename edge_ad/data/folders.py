"""Folders in which photos for training lie, by a quick look that decodes nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from edge_ad.data.images import is_image, is_output
from edge_ad.data.layouts import find_categories
from edge_ad.data.tree import Tree
from edge_ad.data.words import passed_over

_DEPTH = 3  # folders below a candidate that are looked into: NAME/train/good of a set of categories
_NOT_THESE = frozenset({"detectors", "edgead-run", "node_modules", "__pycache__"})


class PhotoFolder(NamedTuple):
    """A folder that may be trained on, and in a few words what is in it."""

    path: Path
    what: str


def photo_folders(here: Path) -> list[PhotoFolder]:
    """What `edgead train` could mean in this folder: the folder itself if it has a known layout, or photos and no
    folder of photos in it; else its folders that have photos, and itself where both have."""
    own = _count(here, 0)
    below = []
    for child in sorted(here.iterdir()):
        wanted = child.is_dir() and not passed_over(child.name) and child.name.lower() not in _NOT_THESE
        if wanted and not is_output(child) and (count := _count(child, _DEPTH)):
            below.append(PhotoFolder(child, _layout(child) or _photos(count)))
    if below and (layout := _layout(here, alone=True)):
        return [PhotoFolder(here, layout)]
    return [PhotoFolder(here, _photos(own)), *below] if own else below


def _layout(folder: Path, *, alone: bool = False) -> str:
    """The layout in words; "" where nothing says one. alone: only that of a folder that is one product itself."""
    try:
        found = find_categories(Tree(folder), folder)
    except OSError:  # a folder below that can't be listed: training will say so
        return ""
    if len(found) == 1 and found[0][0] == folder:
        return _NAMES[found[0][1]]
    return f"{len(found)} products" if found and not alone else ""


_NAMES = {"mvtec": "MVTec AD's layout", "visa": "VisA's layout", "plain": "good and bad photos"}


def _photos(count: int) -> str:
    return f"{count} photo{'s' * (count != 1)}"


def _count(folder: Path, depth: int) -> int:
    """Files in the folder and `depth` folders below that are called like images."""
    count = 0
    try:
        for entry in os.scandir(folder):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                below = Path(entry.path)
                count += _count(below, depth - 1) if depth and not is_output(below) else 0
            else:
                count += is_image(entry.name)
    except OSError:  # a folder that can't be listed is no candidate
        return 0
    return count
