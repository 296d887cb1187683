"""Triplets drawn on the training device, in batches: normals, textures and anomaly images stay in its memory.

What only the processor can draw (procedural defects), it draws ahead of the step, each once: a reservoir keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from edge_ad.data.images import preprocess
from edge_ad.data.loader import PhotoReader
from edge_ad.data.samples import Sample
from edge_ad.model.detector import Detector
from edge_ad.synthesis.defects import Frame, is_grey, make_triplet
from edge_ad.synthesis.draws import Draws, item_seeds
from edge_ad.synthesis.foreground import find_foreground
from edge_ad.synthesis.generated import GeneratedImages
from edge_ad.synthesis.procedural import ProceduralDefects
from edge_ad.synthesis.sources import parse_sources
from edge_ad.synthesis.textures import Textures
from edge_ad.synthesis.torch_images import Pictures
from edge_ad.synthesis.torch_triplets import draw_triplets
from edge_ad.training.run import TrainingRun
from edge_ad.training.triplets import DrawnTriplets

Array = np.ndarray[Any, Any]

RESERVOIR_BYTES = 1 << 30  # of procedural triplets: beyond it they come again
NORMAL, TEXTURE, DDPM, PROCEDURAL = range(4)  # what a row of a batch is
TEXTURE_SIDE = 512


class Drawn(NamedTuple):
    """float32 images ready for the teacher [B, 3, H, W] twice, and masks, bool [B, H, W]."""

    normals: torch.Tensor
    defective: torch.Tensor
    masks: torch.Tensor


class BatchedSynthesis:
    """Triplets by number, of normals resized to the detector's input; number and seed alone decide what is drawn.

    samples: the normals. Settings and sources of defects are the run's and those of `source`.
    """

    def __init__(
        self,
        run: TrainingRun,
        detector: Detector,
        samples: Sequence[Sample],
        source: DrawnTriplets,
        reader: PhotoReader,
    ) -> None:
        self._config, self._device = run.config.synthesis, run.accelerator.device
        self._seed, self._size = run.config.training.seed, detector.image_size
        model = run.config.model
        scale = torch.tensor([model.mean, model.std], device=self._device) * 255
        self._mean, self._std = scale[0, :, None, None], scale[1, :, None, None]
        self._frames = [_resized(reader.read(sample.path), self._size) for sample in samples]
        self._inside = [find_foreground(frame) if self._config.foreground else None for frame in self._frames]
        everywhere = np.ones(self._size, bool)
        inside = np.stack([everywhere if one is None or not one.any() else one for one in self._inside])
        self._room = torch.from_numpy(inside).to(self._device)
        self._pictures = Pictures(
            self._upload(self._frames),
            torch.tensor([is_grey(frame) for frame in self._frames], device=self._device),
            self._upload(_textures()),
            self._upload(_generated(source, self._size)),
        )
        shares = parse_sources(self._config.sources)
        self._kinds = [{"texture": TEXTURE, "ddpm": DDPM, "procedural": PROCEDURAL}[name] for name in shares]
        self._shares = list(shares.values())
        self._reservoir: dict[int, tuple[Frame, Array]] = {}
        room = RESERVOIR_BYTES // (4 * self._size[0] * self._size[1])
        self._capacity = max(1, room // len(samples)) * len(samples)
        self._procedural = [(ProceduralDefects(), 1.0)]

    def assemble(self, indices: Sequence[int], defective: Sequence[bool]) -> dict[str, Array]:
        """What a batch needs from the processor: of each row its number, normal and kind, and procedural defects."""
        numbers = np.array(indices, np.int64)
        kinds = np.array([self._kind(i) if bad else NORMAL for i, bad in zip(indices, defective, strict=True)])
        rows = {"numbers": numbers, "normals": numbers % len(self._frames), "kinds": kinds}
        drawn = [self._from_reservoir(number) for number in numbers[kinds == PROCEDURAL].tolist()]
        if drawn:
            normals, images, masks = zip(*drawn, strict=True)
            rows["normals"][kinds == PROCEDURAL] = normals
            rows |= {"images": np.stack(images), "masks": np.stack(masks)}
        return rows

    def draw(self, rows: dict[str, Array]) -> Drawn:
        """The assembled rows on the training device."""
        which, numbers = self._to_device(rows["normals"]), self._to_device(rows["numbers"])
        images = self._pictures.normals[which]
        masks = torch.zeros(len(which), *self._size, dtype=torch.bool, device=self._device)
        for kind, name in ((TEXTURE, "texture"), (DDPM, "ddpm")):
            places = np.flatnonzero(rows["kinds"] == kind)
            if len(places):
                at = self._to_device(places)
                draws = Draws(item_seeds(self._seed, numbers[at]))
                images[at], masks[at] = draw_triplets(
                    draws, self._pictures, self._room, which[at], self._config, name
                )
        if "images" in rows:
            at = self._to_device(np.flatnonzero(rows["kinds"] == PROCEDURAL))
            images[at] = self._to_device(rows["images"]).permute(0, 3, 1, 2).contiguous()
            masks[at] = self._to_device(rows["masks"])
        return Drawn(self._normalised(self._pictures.normals[which]), self._normalised(images), masks)

    def _kind(self, number: int) -> int:
        drawn = np.random.default_rng([self._seed, 2, number]).choice(len(self._kinds), p=self._shares)
        return self._kinds[int(drawn)]

    def _from_reservoir(self, number: int) -> tuple[int, Frame, Array]:
        """Normal, defective frame and mask of a procedural triplet, drawn when first asked for."""
        place = number % self._capacity
        normal = place % len(self._frames)  # which is the number modulo the normals, too
        if place not in self._reservoir:
            rng = np.random.default_rng([self._seed, 3, place])
            triplet = make_triplet(
                self._frames[normal], rng, self._procedural, inside=self._inside[normal], visible=self._config.visible
            )
            self._reservoir[place] = triplet.defective, triplet.mask
        return normal, *self._reservoir[place]

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float() - self._mean) / self._std

    def _upload(self, frames: Sequence[Frame]) -> torch.Tensor | None:
        if not len(frames):
            return None
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous().to(self._device)

    def _to_device(self, array: Array) -> torch.Tensor:
        return to_device(array, self._device)


def to_device(array: Array, device: torch.device) -> torch.Tensor:
    """The array on the device, without waiting for it."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # from ordinary memory a copy would wait
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def wants_batches(run: TrainingRun, source: object) -> bool:
    """Whether triplets are to be drawn in batches on the training device: by the settings, else on a GPU.

    Triplets that were written beforehand are read, and not drawn.
    """
    engine = run.config.synthesis.engine
    chosen = engine == "torch" or (engine == "auto" and run.accelerator.device.type == "cuda")
    return chosen and isinstance(source, DrawnTriplets)


def _resized(frame: Frame, size: tuple[int, int]) -> Frame:
    """The frame as the detector sees it, in grey levels."""
    image = preprocess(frame, size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return np.ascontiguousarray(np.rint(image.transpose(1, 2, 0) * 255).clip(0, 255).astype(np.uint8))


def _textures() -> list[Frame]:
    found = Textures.from_scikit_image()
    side = (TEXTURE_SIDE, TEXTURE_SIDE)
    return [] if found is None else [np.asarray(cv2.resize(one, side)) for one in found.pictures]


def _generated(source: DrawnTriplets, size: tuple[int, int]) -> list[Frame]:
    images = source.generated
    if not isinstance(images, GeneratedImages):
        return []
    wide = size[1], size[0]
    whole = [images.image(number) for number in range(len(images))]
    return [np.asarray(cv2.resize(one, wide, interpolation=cv2.INTER_CUBIC)) for one in whole]
