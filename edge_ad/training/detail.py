"""Detail: the detail memory's prototypes, from the normals that were trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edge_ad.data.loader import PhotoReader
from edge_ad.data.samples import Sample
from edge_ad.model.detector import Detector
from edge_ad.training.measure import read_images
from edge_ad.training.run import TrainingRun

MOST_PHOTOS = 128  # of a product: more add little where only `prototypes` of their features are kept


@torch.no_grad()
def remember_detail(run: TrainingRun, detector: Detector, normals: Sequence[Sample], reader: PhotoReader) -> None:
    """Fill the detector's detail memory, if it has one, from at most MOST_PHOTOS normals of each product."""
    memory = detector.detail
    if memory is None:
        return
    generator = torch.Generator().manual_seed(run.config.training.seed)
    products = []
    for category in sorted({sample.category for sample in normals}):
        own = [sample for sample in normals if sample.category == category]
        products.append([own[i] for i in torch.randperm(len(own), generator=generator)[:MOST_PHOTOS].tolist()])
    run.progress.phase("detail of normals", sum(map(len, products)))
    pools = []
    for photos in products:
        some, pool = 16 * memory.per_product // len(photos) + 1, []
        for sample in photos:
            features = memory.features(read_images(run, detector, sample, reader))[0].flatten(1).T
            pool.append(features[torch.randperm(len(features), generator=generator)[:some].to(features.device)])
            run.progress.advance(1)
        pools.append(torch.cat(pool))
    memory.set_prototypes(pools, generator)
