"""The diffusion model's anomaly images on disk: written once, hash-checked, read without torch."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_ad.artifact import write_atomically
from edge_ad.config import read_section, to_plain
from edge_ad.data.images import decode_image, encode_image
from edge_ad.errors import ArtifactError, ConfigError
from edge_ad.synthesis.defects import Frame

INDEX = "images.json"
GIVE_UP = 8  # rejected samples in a row, per image wanted


@dataclass(frozen=True)
class GeneratedImage:
    """One anomaly image: its file, what it was drawn from, and its hash."""

    file: str
    seed: int
    s: float
    sha256: str
    origin: int = -1  # index of the normal image it started from; -1: from noise


@dataclass(frozen=True)
class CacheIndex:
    """What a cache holds, and for which model and sampler settings it is valid."""

    checkpoint: str  # sha256 of the weights
    sampler: str  # settings that change an image, as text
    seed: int
    images: tuple[GeneratedImage, ...] = ()


class GeneratedImages:
    """Anomaly images P of a cache folder, resized to the frame; an `AnomalyImages`.

    Files are read when first used and their hash is checked then.
    """

    name = "ddpm"

    def __init__(self, folder: Path) -> None:
        index = read_index(folder)
        if index is None or not index.images:
            raise ArtifactError(f"no generated images in {folder}", "run `edgead synth DATA --source ddpm --out DIR`")
        self._folder, self.index = folder, index
        self._read: dict[int, Frame] = {}

    def __len__(self) -> int:
        return len(self.index.images)

    def image(self, number: int) -> Frame:
        """The image, uint8 [R,R,3]; ArtifactError when its file is missing or damaged."""
        if number not in self._read:
            record = self.index.images[number]
            frame = read_generated(self._folder, record)
            if frame is None:
                raise ArtifactError(
                    f"the generated image {self._folder / record.file} is missing or damaged",
                    "run `edgead synth` again: it draws this one anew and keeps the others",
                )
            self._read[number] = frame
        return self._read[number]

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        anomaly = self.image(int(rng.integers(len(self))))
        resized: Frame = cv2.resize(anomaly, (frame.shape[1], frame.shape[0]), interpolation=cv2.INTER_CUBIC)
        return resized


def fill_cache(
    folder: Path,
    index: CacheIndex,
    count: int,
    draw: Callable[[Sequence[int]], list[tuple[Frame, float, int]]],
    *,
    reject: Callable[[Frame], str | None] | None = None,
    say: Callable[[str], None] = lambda text: None,
    batch: int = 4,
) -> Counter[str]:
    """Counts of rejected samples by reason, once the folder holds `count` images of this model and sampler.

    What is there and whole is kept; a file whose hash is wrong is drawn again from its own seed; images of another
    model or other settings are dropped. The index is written after each batch, so a killed run loses one batch.

    Args:
        index: what the cache must be valid for; its `images` are ignored.
        draw: seeds -> (frame, s, origin) each.
        reject: says why a frame is not to be kept, or None.
        say: is told of what was found wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = _kept(folder, index, draw, say)[:count]
    rejected: Counter[str] = Counter()
    seed = max((record.seed for record in kept), default=index.seed * 1_000_003 - 1) + 1
    missed = 0
    while len(kept) < count:
        seeds = range(seed, seed + batch)
        seed += batch
        for number, (frame, s, origin) in zip(seeds, draw(seeds), strict=True):
            reason = reject(frame) if reject is not None else None
            if reason is not None:
                rejected[reason] += 1
                missed += 1
            elif len(kept) < count:
                kept.append(_write(folder, frame, number, s, origin))
        write_index(folder, CacheIndex(index.checkpoint, index.sampler, index.seed, tuple(kept)))
        if missed > GIVE_UP * count:
            raise ArtifactError(
                f"{missed} generated images were rejected and {len(kept)} of {count} kept: {dict(rejected)}",
                "train the diffusion model longer, or raise the perturbation's strength",
            )
    write_index(folder, CacheIndex(index.checkpoint, index.sampler, index.seed, tuple(kept)))
    return rejected


def read_index(folder: Path) -> CacheIndex | None:
    """The cache's index; None when there is none or it can't be read (a cache can be made again)."""
    try:
        data: Any = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        images = tuple(read_section(GeneratedImage, image, "images") for image in data.pop("images"))
        return CacheIndex(images=images, **data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError):
        return None


def write_index(folder: Path, index: CacheIndex) -> None:
    """Write the index, whole or not at all."""
    write_atomically(folder / INDEX, json.dumps(to_plain(index), indent=1).encode())


def read_generated(folder: Path, record: GeneratedImage) -> Frame | None:
    """The image, or None when its file is missing or isn't what was written."""
    try:
        data = (folder / record.file).read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != record.sha256:
        return None
    return decode_image(data, record.file)


def _kept(
    folder: Path,
    index: CacheIndex,
    draw: Callable[[Sequence[int]], list[tuple[Frame, float, int]]],
    say: Callable[[str], None],
) -> list[GeneratedImage]:
    """The images of an earlier run that are still valid, damaged ones being drawn again."""
    found = read_index(folder)
    if found is None:
        if (folder / INDEX).exists():
            say(f"{folder / INDEX} is damaged: all generated images are drawn again")
        return []
    if (found.checkpoint, found.sampler, found.seed) != (index.checkpoint, index.sampler, index.seed):
        say(f"the generated images in {folder} are of another model, seed or sampler setting: drawn again")
        return []
    kept = []
    for record in found.images:
        if read_generated(folder, record) is None:
            say(f"{folder / record.file} is missing or damaged (its sha256 differs): drawn again from its seed")
            ((frame, s, origin),) = draw([record.seed])
            record = _write(folder, frame, record.seed, s, origin)
        kept.append(record)
    return kept


def _write(folder: Path, frame: Frame, seed: int, s: float, origin: int) -> GeneratedImage:
    name = f"{seed:08d}.png"
    data = encode_image(frame)
    write_atomically(folder / name, data)
    return GeneratedImage(name, seed, s, hashlib.sha256(data).hexdigest(), origin)
