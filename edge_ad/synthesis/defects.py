"""Triplets (normal image, defective image, mask) from sources of defects; equation 3's blend among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import DataError
from edge_ad.synthesis.perlin import Floats, Mask, perlin_mask

Frame = NDArray[np.uint8]

VISIBLE = 10  # grey levels out of 255 by which a pixel must change to count as changed
MIN_AREA, MAX_AREA = 0.0002, 0.7  # of a mask, as fractions of the frame
MIN_DIFFERENCE = 1.6  # mean change over the mask, as a multiple of `visible`: what hardly shows teaches noise
TRIES = 6


class Triplet(NamedTuple):
    """(I, A, M): uint8 [H,W,3] RGB twice and bool [H,W], true where the defect changed the image visibly."""

    normal: Frame
    defective: Frame
    mask: Mask


class DefectSource(Protocol):
    """Draws a defect onto a normal frame.

    Takes the frame (never changed in place), the object's mask or None where everything is object, and the
    generator; gives the defective frame and the region [H,W] bool outside of which nothing changed.
    """

    name: str

    def __call__(self, frame: Frame, inside: Mask | None, rng: np.random.Generator) -> tuple[Frame, Mask | None]: ...


class Frames(Protocol):
    """Frames that are only counted and indexed, so that they may be read when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Frame: ...


class AnomalyImages(Protocol):
    """Gives a global anomaly image P, uint8 [H,W,3], as large as the frame it is to be blended into."""

    name: str

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame: ...


def blend(frame: Frame, anomaly: Frame, weight: Floats | Mask, delta: float) -> Frame:
    """The defective image A, uint8 [H,W,3].

    A = (1 - M) * I + (1 - delta) M * I + delta M * P = I + delta M * (P - I)

    Args:
        frame: I, uint8 [H,W,3].
        anomaly: P, uint8 [H,W,3].
        weight: M [H,W], binary, or 0..1 with soft edges (a departure from the paper's binary M).
        delta: opacity, 0..1.

    Source: the paper, equation 3.
    """
    amount = (weight * np.float32(delta)).astype(np.float32)
    mixed: Any = cv2.blendLinear(anomaly, frame, amount, 1 - amount)
    return mixed


def visible_mask(normal: Frame, defective: Frame, region: Mask | None, visible: float = VISIBLE) -> Mask:
    """True [H,W] where the two frames differ so much that a person may see it.

    The largest channel's |difference|, averaged 3x3, is compared with `visible`; gaps within a defect are
    closed (an annotator would fill them) and lone specks dropped. Never outside `region`, if given.
    """
    change = cv2.absdiff(normal, defective)
    change = cv2.max(cv2.max(change[..., 0], change[..., 1]), change[..., 2])
    touched = cv2.boundingRect(change)
    if touched[2] == 0:
        return np.zeros(change.shape, np.bool_)
    gap = max(3, round(max(change.shape) / 64)) | 1
    x, y, width, height = touched
    top, left = max(0, y - gap), max(0, x - gap)
    window = (slice(top, y + height + gap), slice(left, x + width + gap))
    changed = (cv2.blur(change[window], (3, 3)) >= visible).view(np.uint8)
    if region is not None:
        changed &= region[window].view(np.uint8)
    changed = _without_specks(changed)
    padded = cv2.copyMakeBorder(changed, gap, gap, gap, gap, cv2.BORDER_CONSTANT)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap))
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[gap:-gap, gap:-gap].astype(np.bool_)
    mask = np.zeros(change.shape, np.bool_)
    mask[window] = closed if region is None else closed & region[window]
    return mask


def make_triplet(
    frame: Frame,
    rng: np.random.Generator,
    sources: Sequence[tuple[DefectSource, float]],
    *,
    inside: Mask | None = None,
    visible: float = VISIBLE,
    rejected: Counter[str] | None = None,
) -> Triplet:
    """A triplet from one of the sources, drawn by weight; its mask is never empty.

    A drawn defect whose visible area is out of bounds is thrown away and drawn again, from any source.

    Args:
        frame: I, uint8 [H,W,3] RGB.
        rng: the same state and arguments give the same triplet.
        sources: (source, weight) pairs; weights need not sum to 1.
        inside: bool [H,W], the object; None where everything is object (textures).
        visible: grey levels by which a pixel must change to belong to the mask.
        rejected: counts, as "source: reason", of what was thrown away; None doesn't count.

    Raises:
        DataError: frame isn't uint8 [H,W,3], or no source changed it visibly (even a plain stain failed).
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise DataError(
            f"a frame must be uint8 [H,W,3], got {frame.dtype} {list(frame.shape)}", "read it with read_image"
        )
    if not sources or not any(weight > 0 for _, weight in sources):
        raise DataError("no source of defects with a weight above 0", "name one, e.g. --source procedural")
    if inside is not None and not inside.any():
        inside = None
    for _ in range(TRIES):
        source = choose(sources, rng)
        defective, region = source(frame, inside, rng)
        mask = visible_mask(frame, defective, region, visible)
        area = float(np.count_nonzero(mask)) / mask.size
        fault = "too small or invisible" if area < MIN_AREA else "too large" if area > MAX_AREA else ""
        if not fault and _mean_change(frame, defective, mask) < MIN_DIFFERENCE * visible:
            fault = "too faint"
        if not fault:
            return Triplet(frame, _without_strays(frame, defective, mask, visible), mask)
        if rejected is not None:
            rejected[f"{source.name}: {fault}"] += 1
    return _plain_stain(frame, inside, rng)


def choose(sources: Sequence[tuple[DefectSource, float]], rng: np.random.Generator) -> DefectSource:
    """One of (source, weight) pairs, by weight."""
    weights = np.array([weight for _, weight in sources], np.float64)
    return sources[int(rng.choice(len(sources), p=weights / weights.sum()))][0]


def _mean_change(frame: Frame, defective: Frame, mask: Mask) -> float:
    """Mean over the mask of the largest channel's change, in grey levels."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    window = (slice(y, y + height), slice(x, x + width))
    return float(cv2.absdiff(frame[window], defective[window])[mask[window]].max(axis=1).mean())


def _without_strays(frame: Frame, defective: Frame, mask: Mask, visible: float) -> Frame:
    """The defective frame with single changed pixels outside the mask put back, so that the mask is the truth."""
    change = cv2.absdiff(frame, defective)
    strays = cv2.max(cv2.max(change[..., 0], change[..., 1]), change[..., 2]) >= visible
    strays &= ~mask
    if not strays.any():
        return defective
    cleaned = defective.copy()
    cleaned[strays] = frame[strays]
    return cleaned


def is_grey(frame: Frame) -> bool:
    """True when the frame has next to no colour."""
    sample = frame[::8, ::8].astype(np.int16)
    return bool((sample.max(axis=2) - sample.min(axis=2)).mean() < 4)


def _without_specks(changed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Drop parts of fewer than 4 pixels (all are kept if there is nothing else)."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(changed, connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= 4
    keep[0] = False
    return keep[labels].view(np.uint8) if keep.any() and count > 1 else changed


def _plain_stain(frame: Frame, inside: Mask | None, rng: np.random.Generator) -> Triplet:
    """The last resort: a blob half-way to black or white, whichever is further, which always shows."""
    blob = perlin_mask((frame.shape[0], frame.shape[1]), rng, min_area=0.01, max_area=0.1, inside=inside, parts=2)
    defective = frame.copy()
    values = frame[blob].astype(np.int16)
    end = np.where(values.mean(axis=1, keepdims=True) < 128, 255, 0)
    defective[blob] = ((values + end) // 2).astype(np.uint8)
    return Triplet(frame, defective, blob)
