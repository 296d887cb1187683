"""What a training run reads: normal photos, synthetic triplets, and the teacher's features of both."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from edge_ad.config import Config
from edge_ad.data.images import preprocess
from edge_ad.data.loader import PhotoReader
from edge_ad.model.detector import Detector
from edge_ad.model.head import UPSCALE
from edge_ad.model.student import MemoryDecoder, unit_tokens
from edge_ad.synthesis.dataset import NormalFrames
from edge_ad.synthesis.defects import Triplet
from edge_ad.synthesis.shards import WrittenTriplets
from edge_ad.training.features import FeatureStore, Row

log = logging.getLogger("edge_ad.training")

Array = np.ndarray[Any, Any]
TripletMaker = Callable[[Array, np.random.Generator], Triplet]
LONGEST_SIDE = 1024  # photos are synthesised on at most this size; the detector sees less anyway


@dataclass(frozen=True)
class Batch:
    """One step's input. clean and corrupt: teacher features [B, G, C, h, w] of I and of A; masks [B, 2h, 2w]
    in 0..1; images [B, 3, H, W] of A for a separate student encoder; recalled [B, N, G*C] for a memory decoder."""

    clean: torch.Tensor
    corrupt: torch.Tensor
    masks: torch.Tensor
    images: torch.Tensor | None = None
    recalled: torch.Tensor | None = None


class TripletBank:
    """Normals, and triplets made from them with a seed each, so that triplet i is the same in every run."""

    def __init__(
        self,
        paths: Sequence[Path],
        detector: Detector,
        config: Config,
        triplets: TripletMaker | WrittenTriplets,
        reader: PhotoReader,
    ) -> None:
        self.paths, self.reader = list(paths), reader
        self.frames = NormalFrames(self.paths, LONGEST_SIDE, reader)
        self.detector, self.config, self.source = detector, config, triplets
        grid = detector.teacher.grid
        self.mask_size = (grid[0] * UPSCALE, grid[1] * UPSCALE)
        self.device = torch.device("cpu")
        self.autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    def normal(self, index: int) -> Array:
        """Normal image [3, H, W] float32, ready for the teacher."""
        return self.read(self.paths[index])

    def read(self, path: Path) -> Array:
        """Photo [3, H, W] float32, ready for the teacher."""
        return self._prepare(self.reader.read(path))

    def triplet(self, index: int) -> tuple[Array, Array, Array]:
        """Normal and defective image [3, H, W] float32, and the mask [2h, 2w] as shares 0..1, of triplet `index`.

        Made from normal `index` modulo their number; where triplets were written beforehand, one of those.
        """
        if isinstance(self.source, WrittenTriplets):
            triplet = self.source[index % len(self.source)]
        else:
            rng = np.random.default_rng([self.config.training.seed, index])
            triplet = self.source(self.frames[index % len(self.paths)], rng)
        height, width = self.mask_size
        mask = cv2.resize(triplet.mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        return self._prepare(triplet.normal), self._prepare(triplet.defective), mask

    def teach(self, images: Array | Sequence[Array]) -> torch.Tensor:
        """Teacher features [B, G, C, h, w] of images [3, H, W], on the training device, as inspection has them."""
        return self._taught(self._tensor(images))

    def _lesson(self, images: torch.Tensor) -> torch.Tensor:
        """Teacher features, float32, of images [B, 3, H, W], computed in the training's precision."""
        with self.autocast():
            return self._taught(images).float()

    def _taught(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():  # no inference mode: its tensors can't be kept for a student's gradient
            return self.detector.teacher(images)

    def _tensor(self, rows: Array | Sequence[Array]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(rows)).to(self.device).float()

    def _prepare(self, frame: Array) -> Array:
        model = self.config.model
        return preprocess(frame, self.detector.image_size, model.mean, model.std)


class CachedBank(TripletBank):
    """Teacher features of all normals and of a fixed set of triplets, computed once and kept on disk (float16)."""

    def open(self, folder: Path, triplets: int, key: Any) -> None:
        """Open or create the stores; `fill_normals` and `fill_triplets` then compute what is missing."""
        grid = self.detector.teacher.grid
        model = self.config.model
        features: Row = ((model.groups, self.detector.teacher.channels, *grid), "float16")
        tokens: Row = ((grid[0] * grid[1], model.groups * self.detector.teacher.channels), "float16")
        memory = {"recalled": tokens} if isinstance(self.detector.student.decoder, MemoryDecoder) else {}
        self.normals = FeatureStore(folder / "normals", len(self.paths), {"features": features}, key)
        self.recalls = FeatureStore(folder / "recalls", len(self.paths), memory, key)
        masks: Row = (self.mask_size, "float16")
        # the normals of written triplets are pictures of their own
        clean = {"clean": features} if isinstance(self.source, WrittenTriplets) else {}
        self.triplets = FeatureStore(
            folder / "triplets", triplets, {"features": features, "masks": masks, **clean, **memory}, key
        )

    def fill_normals(self, advance: Callable[[int], None], stop: Callable[[], bool]) -> int:
        """Teacher features of the normals; return how many are done."""

        def compute(indices: list[int]) -> dict[str, Array]:
            features = self._lesson(self._tensor([self.normal(i) for i in indices]))
            advance(len(indices))
            return {"features": features.half().cpu().numpy()}

        return self.normals.fill(compute, 4, stop)

    def fill_memory(self, category_of: Mapping[Path, str]) -> None:
        """Choose the decoder's prototypes from each category's normals, and recall each normal from them."""
        decoder = self.detector.student.decoder
        if not isinstance(decoder, MemoryDecoder):
            return
        generator = torch.Generator().manual_seed(self.config.training.seed)
        photos = Counter(category_of[path] for path in self.paths)
        pools: dict[str, list[torch.Tensor]] = {name: [] for name in sorted(photos)}
        for i, path in enumerate(self.paths):
            tokens = unit_tokens(self._stored(self.normals, [i]))[0]
            some = 16 * decoder.per_product // photos[category_of[path]] + 1
            pools[category_of[path]].append(tokens[torch.randperm(len(tokens), generator=generator)[:some]])
        decoder.memorise([torch.cat(pool) for pool in pools.values()], generator)
        self.recalls.fill(lambda rows: {"recalled": self._recall(self._stored(self.normals, rows))}, 4, lambda: False)

    def fill_triplets(self, advance: Callable[[int], None], stop: Callable[[], bool]) -> int:
        """Make the triplets and compute the features of A; return how many are done."""

        def compute(indices: list[int]) -> dict[str, Array]:
            made = [self.triplet(i) for i in indices]
            features = self._lesson(self._tensor([defective for _, defective, _ in made]))
            rows = {"features": features.half().cpu().numpy(), "masks": np.stack([mask for *_, mask in made])}
            if "clean" in self.triplets.arrays:
                clean = self._lesson(self._tensor([normal for normal, *_ in made]))
                rows["clean"] = clean.half().cpu().numpy()
            if "recalled" in self.triplets.arrays:
                rows["recalled"] = self._recall(features)
            advance(len(indices))
            return rows

        return self.triplets.fill(compute, 4, stop)

    def prepared(self, indices: Sequence[int], defective: Sequence[bool]) -> dict[str, Array]:
        """Stored rows: row i of the batch is triplet indices[i] where defective[i], else normal indices[i]."""
        rows: dict[str, list[Array]] = {"clean": [], "corrupt": [], "masks": []}
        if self.recalls.arrays:
            rows["recalled"] = []
        for index, bad in zip(indices, defective, strict=True):
            normal = index % self.normals.done
            store, row = (self.triplets, index) if bad else (self.normals, normal)
            own = bad and "clean" in self.triplets.arrays
            clean = self.triplets.arrays["clean"][row] if own else self.normals.arrays["features"][normal]
            rows["clean"].append(clean)
            rows["corrupt"].append(store.arrays["features"][row])
            rows["masks"].append(store.arrays["masks"][row] if bad else np.zeros(self.mask_size, np.float16))
            if self.recalls.arrays:
                recalls = self.triplets if bad else self.recalls
                rows["recalled"].append(recalls.arrays["recalled"][row])
        return {name: np.stack(arrays) for name, arrays in rows.items()}

    def batch(self, prepared: dict[str, Array]) -> Batch:
        """The batch on the training device."""
        return Batch(**{name: self._tensor(array) for name, array in prepared.items()})

    def _stored(self, store: FeatureStore, rows: Sequence[int]) -> torch.Tensor:
        return self._tensor([store.arrays["features"][row] for row in rows])

    def _recall(self, features: torch.Tensor) -> Array:
        with torch.inference_mode():
            return self.detector.student.decoder.recall(features).half().cpu().numpy()


class OnlineBank(TripletBank):
    """New triplets in every step, and the teacher run on both images; for a student encoder of its own."""

    def prepared(self, indices: Sequence[int], defective: Sequence[bool]) -> dict[str, Array]:
        """Pictures of a batch; the triplet of an index is made anew, with the index as its seed."""
        normals, images, masks = [], [], []
        for index, bad in zip(indices, defective, strict=True):
            if bad:
                normal, image, mask = self.triplet(index)
            else:
                normal = image = self.normal(index % len(self.paths))
                mask = np.zeros(self.mask_size, np.float32)
            normals.append(normal)
            images.append(image)
            masks.append(mask)
        made = {"images": np.stack(images), "masks": np.stack(masks)}
        return {**made, "normals": np.stack(normals)} if any(defective) else made

    def batch(self, prepared: dict[str, Array]) -> Batch:
        """The batch on the training device, with the teacher's features."""
        images = self._tensor(prepared["images"])
        corrupt = self._lesson(images)
        clean = self._lesson(self._tensor(prepared["normals"])) if "normals" in prepared else corrupt
        return Batch(clean, corrupt, self._tensor(prepared["masks"]), images=images)
