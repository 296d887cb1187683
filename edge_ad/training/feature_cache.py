"""The feature cache: the teacher runs once on all normals and on a fixed set of triplets, and disk keeps the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch

from edge_ad.data.loader import PhotoReader
from edge_ad.data.samples import Sample
from edge_ad.model.detector import Detector
from edge_ad.model.student import MemoryDecoder, unit_tokens
from edge_ad.training.batched_synthesis import BatchedSynthesis, Drawn, wants_batches
from edge_ad.training.feature_source import Array, Batch, FeatureSource
from edge_ad.training.feature_store import FeatureStore, Row
from edge_ad.training.run import TrainingRun
from edge_ad.training.triplets import DrawnTriplets, TripletSource


class FeatureCache(FeatureSource):
    """Teacher features of all normals and of `count` triplets (float16), in memory-mapped files of the run's folder.

    `extract_normals`, `choose_prototypes`, `recall_normals` and `extract_triplets`, in this order, compute what is
    missing.
    """

    def __init__(
        self,
        run: TrainingRun,
        detector: Detector,
        samples: Sequence[Sample],
        triplets: TripletSource,
        reader: PhotoReader,
    ) -> None:
        super().__init__(run, detector, samples, triplets, reader)
        self._run, on_cpu = run, run.accelerator.device.type == "cpu"
        self._together = 4 if on_cpu else 16  # pictures of one call of the teacher
        self.prefetch = not on_cpu  # rows are only read
        wanted = run.config.training.triplets
        self.count = wanted if triplets.count is None else min(wanted, triplets.count)
        grid, channels = detector.teacher.grid, detector.teacher.channels
        groups, folder = run.config.model.groups, run.folder / "cache"
        features: Row = ((groups, channels, *grid), "float16")
        tokens: Row = ((grid[0] * grid[1], groups * channels), "float16")
        masks: Row = (self._mask_size, "float16")
        memory = {"recalled": tokens} if isinstance(detector.student.decoder, MemoryDecoder) else {}
        clean = {"clean": features} if triplets.own_normals else {}
        self.normals = FeatureStore(folder / "normals", len(self.samples), {"features": features}, run.key)
        self.recalls = FeatureStore(folder / "recalls", len(self.samples), memory, run.key)
        rows = {"features": features, "masks": masks, **clean, **memory}
        self.triplets = FeatureStore(folder / "triplets", self.count, rows, run.key)
        if self.recalls.done or self.triplets.done:  # both rest on the normals of then
            self.samples = self.samples[: self.normals.done]

    @property
    def triplet_count(self) -> int:
        """How many triplets a batch may ask for."""
        return self.triplets.done

    @property
    def cached_triplets(self) -> int:
        """How many triplets' features are on disk."""
        return self.triplets.done

    def extract_normals(self, advance: Callable[[int], None], stop: Callable[[], bool]) -> None:
        """Features of the normals, until `stop()` says so; of the samples those that are done remain."""

        def compute(indices: list[int]) -> dict[str, Array]:
            features = self._extract(self._tensor([self._normal(i) for i in indices]))
            advance(len(indices))
            return {"features": features.half().cpu().numpy()}

        self.normals.fill(compute, self._together, lambda: self.normals.done >= len(self.samples) or stop())
        self.samples = self.samples[: self.normals.done]

    def choose_prototypes(self) -> None:
        """Choose the memory decoder's prototypes from each category's normals; other decoders have none."""
        decoder = self._detector.student.decoder
        if not isinstance(decoder, MemoryDecoder):
            return
        generator = torch.Generator().manual_seed(self._config.training.seed)
        photos = Counter(sample.category for sample in self.samples)
        pools: dict[str, list[torch.Tensor]] = {name: [] for name in sorted(photos)}
        for index, sample in enumerate(self.samples):
            tokens = unit_tokens(self._stored(self.normals, [index]))[0]
            some = 16 * decoder.per_product // photos[sample.category] + 1
            pools[sample.category].append(tokens[torch.randperm(len(tokens), generator=generator)[:some]])
        decoder.set_prototypes([torch.cat(pool) for pool in pools.values()], generator)

    def recall_normals(self) -> None:
        """What the memory recalls of each normal; the prototypes stay as they are from here on."""

        def compute(rows: list[int]) -> dict[str, Array]:
            return {"recalled": self._recall(self._stored(self.normals, rows))}

        if self.recalls.arrays:
            self.recalls.fill(compute, self._together, lambda: self.recalls.done >= len(self.samples))

    def extract_triplets(self, advance: Callable[[int], None], stop: Callable[[], bool]) -> None:
        """Draw the triplets and extract the features of A, until `stop()` says so."""

        batched: BatchedSynthesis | None = None
        if wants_batches(self._run, self._source) and self.triplets.done < self.count:
            assert isinstance(self._source, DrawnTriplets)
            batched = BatchedSynthesis(self._run, self._detector, self.samples, self._source, self._reader)

        def compute(indices: list[int]) -> dict[str, Array]:
            normals, defective, masks = self._drawn(indices, batched)
            features = self._extract(defective)
            rows = {"features": features.half().cpu().numpy(), "masks": masks.half().cpu().numpy()}
            if "clean" in self.triplets.arrays:
                rows["clean"] = self._extract(normals).half().cpu().numpy()
            if "recalled" in self.triplets.arrays:
                rows["recalled"] = self._recall(features)
            advance(len(indices))
            return rows

        self.triplets.fill(compute, self._together, stop)

    def assemble(self, indices: Sequence[int], defective: Sequence[bool]) -> dict[str, Array]:
        """Stored rows: row i of the batch is triplet indices[i] where defective[i], else normal indices[i]."""
        rows: dict[str, list[Array]] = {"clean": [], "corrupt": [], "masks": []}
        if self.recalls.arrays:
            rows["recalled"] = []
        for index, bad in zip(indices, defective, strict=True):
            normal = index % len(self.samples)
            store, row = (self.triplets, index) if bad else (self.normals, normal)
            own = bad and "clean" in self.triplets.arrays
            clean = self.triplets.arrays["clean"][row] if own else self.normals.arrays["features"][normal]
            rows["clean"].append(clean)
            rows["corrupt"].append(store.arrays["features"][row])
            rows["masks"].append(store.arrays["masks"][row] if bad else np.zeros(self._mask_size, np.float16))
            if self.recalls.arrays:
                recalls = self.triplets if bad else self.recalls
                rows["recalled"].append(recalls.arrays["recalled"][row])
        return {name: np.stack(arrays) for name, arrays in rows.items()}

    def batch(self, rows: dict[str, Array]) -> Batch:
        """The batch on the training device."""
        return Batch(**{name: self._tensor(array) for name, array in rows.items()})

    def _drawn(self, indices: list[int], batched: BatchedSynthesis | None) -> Drawn:
        """Normals, defective images and masks as shares of positions [B, 2h, 2w], of triplets by number."""
        if batched is None:
            normals, defective, masks = zip(*(self._triplet(i) for i in indices), strict=True)
            return Drawn(self._tensor(normals), self._tensor(defective), self._tensor(masks))
        with torch.no_grad():
            drawn = batched.draw(batched.assemble(indices, [True] * len(indices)))
        return drawn._replace(masks=self._shares(drawn.masks))

    def _stored(self, store: FeatureStore, rows: Sequence[int]) -> torch.Tensor:
        return self._tensor([store.arrays["features"][row] for row in rows])

    def _recall(self, features: torch.Tensor) -> Array:
        with torch.inference_mode():
            return self._detector.student.decoder.recall(features).half().cpu().numpy()
