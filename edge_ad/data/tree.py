"""A data folder listed once, and the masks among its pictures."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from edge_ad.data.dataset import Problem
from edge_ad.data.images import Listing, is_image, listings_below
from edge_ad.data.masks import is_mask
from edge_ad.data.words import Meaning, meaning, means_masks_only
from edge_ad.errors import DataError

_NAMED_MASK = re.compile(
    r"^(?:(?:mask|label|gt)[_\- ])?(.+?)(?:[_\- .](?:masks?|labels?|gt|seg|annotation))?$", re.IGNORECASE
)
_UNREAD = {
    suffix: reason
    for suffixes, reason in (
        (".heic .heif", "HEIC is not read: save as JPEG"),
        (
            ".dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .pef .srw .raw",
            "raw files of cameras are not read: develop to PNG or TIFF",
        ),
        (".jxl .jxr .psd .tga .exr .hdr .pcx .svg .pdf .ico .fits .dcm .npy .j2k", "not read: save as PNG"),
        (".mp4 .mov .avi .mkv .webm .m4v .wmv .mpg .3gp", "films are not read: cut pictures out of them"),
        (".zip .tar .gz .tgz .7z .rar .xz", "archives are not opened: unpack them"),
    )
    for suffix in suffixes.split()
}


class Tree:
    """Everything below a folder, in the order of names."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError for a folder that can't be listed."""
        self.root = folder
        self._listings: dict[Path, Listing] = {one.path: one for one in listings_below(folder)}

    def folders(self, path: Path) -> list[Path]:
        """The folders in a folder."""
        return [path / name for name in self._listings[path].folders if path / name in self._listings]

    def by_meaning(self, path: Path) -> dict[Meaning, list[Path]]:
        """The folders in a folder by what their names say."""
        found: dict[Meaning, list[Path]] = defaultdict(list)
        for folder in self.folders(path):
            found[meaning(folder.name)].append(folder)
        return found

    def has(self, path: Path) -> bool:
        """Whether it is a folder of the tree."""
        return path in self._listings

    def images(self, path: Path) -> list[Path]:
        """Pictures at any depth below a folder, sorted; none where there is no such folder."""
        if path not in self._listings:
            return []
        own = [path / name for name in self._listings[path].files if is_image(name)]
        return sorted(own + [image for folder in self.folders(path) for image in self.images(folder)])

    def ignored(self) -> list[Problem]:
        """A Problem for each folder passed over that holds pictures, and for files of kinds that aren't read."""
        found = []
        for path, listing in self._listings.items():
            for name in listing.passed_over:
                count = sum(1 for one in listings_below(path / name) for file in one.files if is_image(file))
                if count:
                    found.append(
                        Problem(
                            path / name,
                            f"{count} picture(s) in a hidden folder, a device's own, a detector's or a run's",
                        )
                    )
            hidden = sum(name.startswith(".") and is_image(name.lstrip("._")) for name in listing.files)
            if hidden:
                found.append(Problem(path / ".*", f"{hidden} hidden file(s)"))
            suffixes = Counter(Path(name).suffix.lower() for name in listing.files if not name.startswith("."))
            found += [
                Problem(path / f"*{suffix}", f"{count} file(s): {_UNREAD[suffix]}")
                for suffix, count in suffixes.items()
                if suffix in _UNREAD
            ]
        return found


class Masks:
    """Masks by where the photo they belong to lies, without case and suffix. Each is taken once."""

    def __init__(self) -> None:
        self._by_key: dict[str, Path] = {}
        self._together: dict[str, Path] = {}
        self._left: dict[Path, str] = {}

    def __len__(self) -> int:
        return len(self._left)

    def add(self, path: Path, inner: Path) -> None:
        """A mask; inner: where it lies below the folder of masks, which is where its photo lies among the photos."""
        key = _key(inner)
        self._by_key.setdefault(key, path)
        named = inner.with_name(photo_stem(inner) + inner.suffix)
        bad = next((i for i, part in enumerate(named.parts[:-1]) if meaning(part) == "defect"), -1)
        for place in (named, Path(*named.parts[bad + 1 :])):
            self._by_key.setdefault(_key(place), path)
        if inner.stem.isdigit() and inner.parent.name:
            self._together.setdefault(inner.parent.as_posix().lower(), path.parent)
        self._left[path] = key

    def take(self, *inner: Path) -> Path | None:
        """The mask of the photo that lies at the first of these places that has one: a file, or a folder of them."""
        for place in inner:
            key = _key(place)
            path = self._by_key.get(key)
            if path in self._left:
                del self._left[path]
                return path
            if key in self._together:
                folder = self._together[key]
                self._left = {one: own for one, own in self._left.items() if one.parent != folder}
                return folder
        return None

    def unused(self) -> list[Problem]:
        """Masks that no photo claimed; the black ones that some datasets ship for good parts are no problem."""
        return [
            Problem(path, "mask without an image")
            for path, key in self._left.items()
            if meaning(key.split("/")[0]) != "good"
        ]


def photo_stem(mask: Path) -> str:
    """Name of the photo that a mask's name points at, without suffix: 000 for 000_mask.png, label-000.png."""
    found = _NAMED_MASK.match(mask.stem)
    return found[1] if found else mask.stem


def split_masks(paths: Sequence[Path], top: Path, *, exact: bool = False) -> tuple[list[Path], Masks]:
    """The photos among the pictures below `top`, and the masks: in a folder of masks, or beside their photos.

    A folder whose name may also be that of a product ("labels") holds masks only where one of its pictures is named
    as a photo elsewhere; exact: and lies at the same place. Beside its photo a mask has a name such as 000_mask.png,
    or the photo's with another suffix, if the pictures of that suffix look like masks.
    """
    photos: list[Path] = []
    maybe: dict[Path, list[Path]] = defaultdict(list)
    masks = Masks()
    pairs = _pairs(paths)
    names = {path.with_suffix("") for path in paths}
    for path in paths:
        inner = path.relative_to(top)
        at = next((i for i, part in enumerate(inner.parts[:-1]) if meaning(part) == "mask"), None)
        if at is not None:
            folder = top.joinpath(*inner.parts[: at + 1])
            maybe[folder].append(path)
        elif path in pairs or (photo_stem(path) != path.stem and path.with_name(photo_stem(path)) in names):
            masks.add(path, inner)
        else:
            photos.append(path)
    known = {_key(path.relative_to(top)) for path in photos}
    stems = {Path(path.stem.lower()) for path in photos}
    for folder, inside in maybe.items():
        places = {path: folder.parent.relative_to(top) / path.relative_to(folder) for path in inside}
        if means_masks_only(folder.name) or any(
            _key(one) in known or (not exact and Path(one.stem.lower()) in stems)
            for place in places.values()
            for one in (place, place.with_name(photo_stem(place) + place.suffix))
        ):
            for path, place in places.items():
                masks.add(path, place)
        else:
            photos += inside
    return sorted(photos), masks


def _pairs(paths: Iterable[Path]) -> set[Path]:
    """Pictures that lie beside a photo of the same name, and of whose suffix the first looks like a mask."""
    beside: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        beside[path.with_suffix("")].append(path)
    by_suffix: dict[str, list[Path]] = defaultdict(list)
    for group in beside.values():
        if len(group) > 1 and any(path.suffix.lower() in (".jpg", ".jpeg") for path in group):
            for path in group:
                if path.suffix.lower() not in (".jpg", ".jpeg"):
                    by_suffix[path.suffix.lower()].append(path)
    return {path for group in by_suffix.values() if _looks_like_mask(group[0]) for path in group}


def _looks_like_mask(path: Path) -> bool:
    try:
        return is_mask(path)
    except DataError:
        return False


def _key(path: Path) -> str:
    return path.with_suffix("").as_posix().lower()
