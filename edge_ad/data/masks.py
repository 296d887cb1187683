"""Masks of defects as people save them: few values or smeared ones, in colour, in the alpha channel, upside down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Mask, images_below, read_raw
from edge_ad.errors import DataError

FEW_VALUES = 16  # a mask with more distinct values than this was resampled or saved with loss
MOST = 0.5  # no usual defect covers more of its picture than this share


class MaskReading(NamedTuple):
    """A mask [H, W], true on the defect. remark: how it was made out, where it is no plain one. doubt: why it can
    hardly be right. Both are empty for a plain mask."""

    mask: Mask
    remark: str = ""
    doubt: str = ""


def read_mask(path: Path | str) -> Mask:
    """Mask [H, W], true on the defect, as `interpret_mask` makes it out. Raises DataError."""
    return interpret_mask(path).mask


def interpret_mask(path: Path | str) -> MaskReading:
    """The mask of a file, or of all files of a folder together (MVTec LOCO has one a region).

    What is transparent is unmarked; where all that is opaque has one colour, the alpha channel is the mask. A
    picture of few values (0 and 255, 0 and 1, numbered kinds) counts where it isn't black. One of many was resampled
    or saved with loss (JPEG), and counts above half of its darkest mark. The remark names each of these guesses; a
    mask of most of the picture is doubted.
    Raises DataError as read_image, and for a folder whose masks differ in size.
    """
    path = Path(path)
    files = images_below(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} holds no mask", "restore its pictures")
    readings = [_read(file) for file in files]
    if len({reading.mask.shape for reading in readings}) > 1:
        raise DataError(f"{path} holds masks of different sizes", "restore its pictures")
    mask = np.logical_or.reduce([reading.mask for reading in readings])
    remarks = dict.fromkeys(reading.remark for reading in readings if reading.remark)
    share = float(mask.mean())
    doubts = dict.fromkeys(reading.doubt for reading in readings if reading.doubt)
    if share > MOST:
        doubts[f"marks {share:.0%} of the picture, most of it: inverted?"] = None
    return MaskReading(mask, "; ".join(remarks), "; ".join(doubts))


def is_mask(path: Path | str) -> bool:
    """Whether a picture has the few values of a mask, or almost so: photos have many. Raises DataError."""
    image = read_raw(path, alpha=True)
    values = _brightest(image)
    counts = np.bincount((values >> 8 if values.dtype == np.uint16 else values).ravel().astype(np.int64))
    extremes = np.sort(counts)[::-1][:2].sum()
    return bool(np.count_nonzero(counts) <= FEW_VALUES or extremes > 0.9 * values.size)


def fit_mask(mask: Mask, size: Sequence[int], name: Path | str) -> Mask:
    """The mask at its image's size (H, W); DataError when the proportions differ by more than 2 %."""
    (h, w), (to_h, to_w) = mask.shape, size
    if abs(h * to_w - w * to_h) > 0.02 * max(h * to_w, w * to_h) + max(to_h, to_w):
        raise DataError(
            f"{name} is {h}x{w} (H x W) but its image is {to_h}x{to_w}", "the mask belongs to another picture"
        )
    return resize_mask(mask, size)


def resize_mask(mask: Mask, size: Sequence[int]) -> Mask:
    """Mask at size (H, W), nearest pixel, so that no pixel is half a defect."""
    if mask.shape == tuple(size):
        return mask
    resized = cv2.resize(mask.astype(np.uint8), (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized > 0)


def _read(path: Path) -> MaskReading:
    image = read_raw(path, alpha=True)
    values = _brightest(image)
    if image.ndim == 3 and image.shape[2] == 4:
        alpha = image[:, :, 3]
        opaque = alpha > alpha.max() / 2 if alpha.any() else np.zeros(alpha.shape, bool)
        if not opaque.all():
            inside = values[opaque]
            if not inside.size or np.ptp(inside) == 0:
                return MaskReading(opaque, "taken from its alpha channel: its colours don't vary")
            values = np.where(opaque, values, 0)
    threshold, remark = _threshold(values)
    middle = (values > 0.2 * values.max()) & (values < 0.8 * values.max())
    doubt = "most of it is neither black nor white: a photo?" if remark and middle.mean() > MOST else ""
    return MaskReading(np.asarray(values > threshold), remark, doubt)


def _brightest(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(image[:, :, :3].max(axis=2) if image.ndim == 3 else image)


def _threshold(values: npt.NDArray[Any]) -> tuple[float, str]:
    """What a marked pixel lies above, and the remark on how it was found."""
    if values.dtype == np.uint8:
        counts = np.bincount(values.ravel(), minlength=256)  # faster than sorting a large mask
        present = np.flatnonzero(counts)
    else:
        present, counts = np.unique(values, return_counts=True)
    top = float(present[-1])
    groups = np.split(present, np.flatnonzero(np.diff(present.astype(float)) > 8) + 1)
    exact = top <= FEW_VALUES or all(len(group) == 1 for group in groups[1:])  # numbers of kinds, or far apart
    if len(present) <= FEW_VALUES and exact:
        return 0, ""
    threshold = top / 2
    if values.dtype == np.uint8:
        threshold = _darkest_mark(counts, top) / 2
    gray = f"{len(present)} gray values, as after saving as JPEG or scaling"
    return threshold, f"{gray}: counts above {threshold:.3g} of {top:.3g}"


def _darkest_mark(counts: npt.NDArray[np.intp], top: float) -> float:
    """The lowest gray value above a quarter of the highest near which a fifth of all those pixels lie.

    Between the levels of a smeared mask lie few pixels; several levels are numbered kinds.
    """
    lowest = int(top / 4) + 1
    bright = counts.copy()
    bright[:lowest] = 0
    for value in range(lowest + 8, int(top) + 1):
        if bright[value - 8 : value + 9].sum() >= 0.2 * bright.sum():
            return float(value)
    return top
