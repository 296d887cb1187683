"""Anomaly images P that need no training: pieces of the photo itself, other photos, textures, noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.data.images import images_below, read_image
from edge_ad.data.loader import log_left_out, read_each
from edge_ad.data.samples import Problem, Sample
from edge_ad.errors import DataError
from edge_ad.synthesis.defects import Frame, Frames
from edge_ad.synthesis.perlin import value_noise

TEXTURE_SIDE = 512
SCIKIT_TEXTURES = ("brick", "gravel", "grass", "coins", "camera", "moon", "coffee", "rocket")


class OwnStructure:
    """P from the frame itself: turned, mirrored, shifted or cut into tiles and shuffled, often recoloured.

    Source: structural sources of MemSeg (Yang et al., 2022), after CutPaste and NSA.
    """

    name = "own structure"

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        height, width = frame.shape[:2]
        draw = rng.random()
        if draw < 0.35:
            other = _shuffle_tiles(frame, rng)
        elif draw < 0.7:
            turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(0, 360), rng.uniform(0.7, 2.0))
            turn[:, 2] += rng.uniform(-0.3, 0.3, 2) * [width, height]
            other = cv2.warpAffine(frame, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
        else:
            by = (int(rng.integers(height)), int(rng.integers(width)))
            other = np.roll(frame, by, axis=(0, 1))
            if rng.random() < 0.5:
                other = other[::-1] if rng.random() < 0.5 else other[:, ::-1]
        return jitter_colours(np.ascontiguousarray(other), rng, chance=0.6)


class OtherNormals:
    """P from another normal frame, moved, turned and often recoloured.

    Args:
        frames: normal frames, uint8 [H,W,3] of any size; only indexed, so it may read them lazily.
    """

    name = "other normals"

    def __init__(self, frames: Frames) -> None:
        if not len(frames):
            raise DataError("no normal frames to take pieces from", "check the folder of good parts")
        self._frames = frames

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        other = self._frames[int(rng.integers(len(self._frames)))]
        return jitter_colours(_random_crop(other, frame.shape[:2], rng, smallest=0.4), rng, chance=0.5)


class Textures:
    """P from pictures of other things, cropped, turned and recoloured at random.

    Args:
        pictures: uint8 [H,W,3], at least one.
    """

    name = "textures"

    def __init__(self, pictures: Sequence[Frame]) -> None:
        if not pictures:
            raise DataError("no textures given", "name a folder with pictures")
        self.pictures = [_shrink(picture) for picture in pictures]

    @classmethod
    def from_folder(cls, folder: Path) -> Textures:
        """All pictures below a folder; DataError when there are none."""
        paths = images_below(folder)
        if not paths:
            raise DataError(f"no pictures in {folder}", "give a folder with PNG or JPEG textures")
        samples = [Sample(path, "train", 0, "good", None, "") for path in paths]
        problems: list[Problem] = []
        pictures = [picture for _, picture in read_each(samples, lambda one: _shrink(read_image(one.path)), problems)]
        log_left_out(problems)
        if not pictures:
            raise DataError(f"no picture in {folder} could be read", "`edgead check FOLDER` says what is there")
        return cls(pictures)

    @classmethod
    def from_scikit_image(cls) -> Textures | None:
        """The photographs that scikit-image's wheel carries; None where it isn't installed."""
        try:
            from skimage import data  # noqa: PLC0415  (optional)
        except ImportError:
            return None
        pictures = []
        for name in SCIKIT_TEXTURES:
            try:
                picture = np.asarray(getattr(data, name)())
            except (AttributeError, OSError, RuntimeError):  # another version ships other files
                continue
            pictures.append(picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2))
        return cls(pictures) if pictures else None

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        picture = self.pictures[int(rng.integers(len(self.pictures)))]
        return jitter_colours(_random_crop(picture, frame.shape[:2], rng, smallest=0.15), rng, chance=0.8)


class NoiseTextures:
    """P made of coloured noise, from clouds to grain; needs no files."""

    name = "noise"

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        height, width = frame.shape[:2]
        level = value_noise((height, width), float(np.exp(rng.uniform(0.7, 4.0))), rng, int(rng.integers(1, 6)))
        if rng.random() < 0.3:
            level = np.abs(level * 2 - 1)  # veins
        near = frame[int(rng.integers(height)), int(rng.integers(width))] if rng.random() < 0.6 else None
        low = rng.uniform(0, 255, 3) if near is None else near * rng.uniform(0.4, 1.6)
        high = low + rng.normal(0, 70, 3) + rng.normal(0, 50)
        steps = np.linspace(0, 1, 256)[:, None]
        palette = np.clip(low + steps * (high - low), 0, 255).astype(np.uint8)
        coloured: Frame = palette[(level * 255).astype(np.uint8)]
        return coloured


def jitter_colours(frame: Frame, rng: np.random.Generator, chance: float = 1.0) -> Frame:
    """The frame with brightness, contrast, gamma and channel gains jittered; sometimes inverted or posterised.

    Args:
        chance: how often anything changes at all.
    """
    if rng.random() >= chance:
        return frame
    levels = np.linspace(0, 1, 256)
    table = levels ** np.exp(rng.normal(0, 0.4))
    table = (table - 0.5) * rng.uniform(0.6, 1.5) + 0.5 + rng.normal(0, 0.12)
    draw = rng.random()
    if draw < 0.08:
        table = 1 - table
    elif draw < 0.14:
        table = np.floor(table * 5) / 5
    gains = np.exp(rng.normal(0, 0.18 if rng.random() < 0.5 else 0.03, 3))
    tables = np.clip(table[:, None] * gains * 255, 0, 255).astype(np.uint8)
    changed: Any = cv2.LUT(frame, tables[None])
    if rng.random() < 0.15:
        changed = cv2.GaussianBlur(changed, (0, 0), rng.uniform(0.7, 2.5))
    return changed


def _shuffle_tiles(frame: Frame, rng: np.random.Generator) -> Frame:
    """Tiles of the frame in a random order; what is left over by the division keeps its place."""
    rows, columns = int(rng.choice([2, 3, 4, 8])), int(rng.choice([2, 3, 4, 8]))
    height, width = frame.shape[0] // rows, frame.shape[1] // columns
    if not (height and width):
        return frame[::-1]
    tiles = frame[: rows * height, : columns * width].reshape(rows, height, columns, width, 3)
    flat = tiles.transpose(0, 2, 1, 3, 4).reshape(-1, height, width, 3)[rng.permutation(rows * columns)]
    shuffled = frame.copy()
    shuffled[: rows * height, : columns * width] = (
        flat.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4).reshape(rows * height, -1, 3)
    )
    return shuffled


def _random_crop(picture: Frame, size: tuple[int, ...], rng: np.random.Generator, smallest: float) -> Frame:
    """A random part of the picture (`smallest`..1 of its sides), mirrored at random, at the size wanted."""
    height, width = picture.shape[:2]
    share = rng.uniform(smallest, 1.0)
    rows, columns = max(1, int(height * share)), max(1, int(width * share))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    part = picture[top : top + rows, left : left + columns]
    part = part[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))]
    if rng.random() < 0.5:
        part = part.transpose(1, 0, 2)
    resized: Any = cv2.resize(np.ascontiguousarray(part), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return resized


def _shrink(picture: NDArray[Any]) -> Frame:
    """RGB uint8, longest side at most TEXTURE_SIDE, to keep a folder of textures small in memory."""
    scale = TEXTURE_SIDE / max(picture.shape[:2])
    picture = np.ascontiguousarray(picture[..., :3])
    if scale >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    shrunk: Any = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return shrunk
