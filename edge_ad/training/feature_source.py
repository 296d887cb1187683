"""What a training step reads, as batches of teacher features; here by running the teacher in each step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from edge_ad.data.images import preprocess
from edge_ad.data.loader import PhotoReader
from edge_ad.data.samples import Sample
from edge_ad.model.detector import Detector
from edge_ad.model.head import UPSCALE
from edge_ad.synthesis.dataset import NormalFrames
from edge_ad.synthesis.torch_images import resize_by_area
from edge_ad.training.batched_synthesis import NORMAL, BatchedSynthesis, to_device
from edge_ad.training.run import TrainingRun
from edge_ad.training.triplets import LONGEST_SIDE, DrawnTriplets, TripletSource

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Batch:
    """One step's input. clean and corrupt: teacher features [B, G, C, h, w] of I and of A; masks [B, 2h, 2w]
    in 0..1; images [B, 3, H, W] of A for a separate student encoder; recalled [B, N, G*C] for a memory decoder."""

    clean: torch.Tensor
    corrupt: torch.Tensor
    masks: torch.Tensor
    images: torch.Tensor | None = None
    recalled: torch.Tensor | None = None


class FeatureSource(ABC):
    """Batches of normals and triplets by number.

    samples: the normals. prefetch: whether threads that assemble batches ahead are of use.
    """

    prefetch = True

    def __init__(
        self,
        run: TrainingRun,
        detector: Detector,
        samples: Sequence[Sample],
        triplets: TripletSource,
        reader: PhotoReader,
    ) -> None:
        self.samples = list(samples)
        self._config, self._detector, self._source, self._reader = run.config, detector, triplets, reader
        self._accelerator = run.accelerator
        grid = detector.teacher.grid
        self._mask_size = (grid[0] * UPSCALE, grid[1] * UPSCALE)

    @property
    def triplet_count(self) -> int:
        """How many different triplets a batch may ask for."""
        return 2**31 - 1

    @property
    def cached_triplets(self) -> int:
        """How many triplets' features are on disk."""
        return 0

    @abstractmethod
    def assemble(self, indices: Sequence[int], defective: Sequence[bool]) -> dict[str, Array]:
        """Rows of a batch in memory, without the GPU: row i is triplet indices[i] where defective[i], else normal
        indices[i] modulo their number."""

    @abstractmethod
    def batch(self, rows: dict[str, Array]) -> Batch:
        """The assembled rows as a batch on the training device."""

    def _normal(self, index: int) -> Array:
        """Normal image [3, H, W] float32, ready for the teacher."""
        return self._prepare(self._reader.read(self.samples[index].path))

    def _triplet(self, index: int) -> tuple[Array, Array, Array]:
        """Normal and defective image [3, H, W] float32, and the mask [2h, 2w] as shares 0..1, of triplet `index`."""
        frames = NormalFrames([sample.path for sample in self.samples], LONGEST_SIDE, self._reader)
        triplet = self._source.draw(index, frames)
        height, width = self._mask_size
        mask = cv2.resize(triplet.mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        return self._prepare(triplet.normal), self._prepare(triplet.defective), mask

    def _extract(self, images: torch.Tensor) -> torch.Tensor:
        """Teacher features [B, G, C, h, w] float32 of images [B, 3, H, W], computed in the training's precision."""
        # no inference mode: its tensors can't be kept for a student's gradient
        with self._accelerator.autocast(), torch.no_grad():
            features: torch.Tensor = self._detector.teacher(images)
        return features.float()

    def _extract_both(
        self, normals: torch.Tensor, images: torch.Tensor, defective: Array
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of I and of A, the teacher run once on all pictures that differ: `defective` are their places."""
        if not len(defective):
            corrupt = self._extract(images)
            return corrupt, corrupt
        places = to_device(defective, images.device)
        both = self._extract(torch.cat([images, normals[places]]))
        corrupt = both[: len(images)]
        return corrupt.index_copy(0, places, both[len(images) :]), corrupt

    def _shares(self, masks: torch.Tensor) -> torch.Tensor:
        """Masks bool [B, H, W] as shares 0..1 of the head's positions, float32 [B, 2h, 2w]."""
        return resize_by_area(masks[:, None].float(), self._mask_size)[:, 0]

    def _tensor(self, rows: Array | Sequence[Array]) -> torch.Tensor:
        return to_device(np.asarray(rows), self._accelerator.device).float()

    def _prepare(self, frame: Array) -> Array:
        model = self._config.model
        return preprocess(frame, self._detector.image_size, model.mean, model.std)


class BatchedFeatures(FeatureSource):
    """New triplets in every step, drawn in batches on the training device; for a student encoder of its own."""

    def __init__(
        self,
        run: TrainingRun,
        detector: Detector,
        samples: Sequence[Sample],
        triplets: DrawnTriplets,
        reader: PhotoReader,
    ) -> None:
        super().__init__(run, detector, samples, triplets, reader)
        self._synthesis = BatchedSynthesis(run, detector, samples, triplets, reader)

    def assemble(self, indices: Sequence[int], defective: Sequence[bool]) -> dict[str, Array]:
        """What the device needs of a batch: numbers, and procedural defects."""
        return self._synthesis.assemble(indices, defective)

    def batch(self, rows: dict[str, Array]) -> Batch:
        """The batch on the training device, with the teacher's features."""
        with torch.no_grad():
            drawn = self._synthesis.draw(rows)
        clean, corrupt = self._extract_both(drawn.normals, drawn.defective, np.flatnonzero(rows["kinds"] != NORMAL))
        return Batch(clean, corrupt, self._shares(drawn.masks), images=drawn.defective)


class OnlineFeatures(FeatureSource):
    """New triplets in every step, and the teacher run on both images; for a student encoder of its own."""

    def assemble(self, indices: Sequence[int], defective: Sequence[bool]) -> dict[str, Array]:
        """Pictures of a batch; the triplet of an index is drawn anew, with the index as its seed."""
        normals, images, masks = [], [], []
        for index, bad in zip(indices, defective, strict=True):
            if bad:
                normal, image, mask = self._triplet(index)
            else:
                normal = image = self._normal(index % len(self.samples))
                mask = np.zeros(self._mask_size, np.float32)
            normals.append(normal)
            images.append(image)
            masks.append(mask)
        rows = {"images": np.stack(images), "masks": np.stack(masks), "normals": np.stack(normals)}
        return {**rows, "defective": np.flatnonzero(defective)}

    def batch(self, rows: dict[str, Array]) -> Batch:
        """The batch on the training device, with the teacher's features."""
        images = self._tensor(rows["images"])
        clean, corrupt = self._extract_both(self._tensor(rows["normals"]), images, rows["defective"])
        return Batch(clean, corrupt, self._tensor(rows["masks"]), images=images)
