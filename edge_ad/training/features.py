"""Features: the teacher run on normals and triplets, once where nothing changes the images."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from edge_ad.data.loader import PhotoReader
from edge_ad.data.samples import Sample
from edge_ad.errors import DataError
from edge_ad.model.detector import Detector
from edge_ad.training.batched_synthesis import wants_batches
from edge_ad.training.feature_cache import FeatureCache
from edge_ad.training.feature_source import BatchedFeatures, FeatureSource, OnlineFeatures
from edge_ad.training.run import TrainingRun
from edge_ad.training.triplets import DrawnTriplets, TripletSource

log = logging.getLogger("edge_ad.training")


def extract_features(
    run: TrainingRun,
    detector: Detector,
    samples: Sequence[Sample],
    triplets: TripletSource,
    reader: PhotoReader,
) -> FeatureSource:
    """What the fit reads: a filled feature cache, or pictures of each step where the student has its own encoder.

    samples: the normals to train on. reader: may hold them decoded. The detector moves to the training device, and
    a memory decoder gets its prototypes. Raises DataError when no time is left for the triplets that the head needs.
    """
    detector.to(run.accelerator.device)
    if run.config.model.student != "shared" or not run.config.training.triplets:
        if wants_batches(run, triplets):
            assert isinstance(triplets, DrawnTriplets)
            return BatchedFeatures(run, detector, samples, triplets, reader)
        return OnlineFeatures(run, detector, samples, triplets, reader)
    if run.is_main:
        cache = FeatureCache(run, detector, samples, triplets, reader)
        _fill(cache, run)
    run.accelerator.wait_for_everyone()
    if not run.is_main:
        cache = FeatureCache(run, detector, samples, triplets, reader)
        cache.samples = cache.samples[: cache.normals.done]
        cache.choose_prototypes()
    if run.config.model.head and not cache.cached_triplets:
        raise DataError("no time was left to make synthetic defects", "give more --max-minutes")
    return cache


def extract_memory(
    run: TrainingRun,
    detector: Detector,
    samples: Sequence[Sample],
    triplets: TripletSource,
    reader: PhotoReader,
    most: int,
) -> list[Sample]:
    """The first `most` normals, whose features are the memory's prototypes then; nothing else is computed.

    `extract_features` of the same run goes on with the normals that are left.
    """
    cache = FeatureCache(run, detector.to(run.accelerator.device), samples, triplets, reader)
    run.progress.phase("teacher on normals", min(most, len(samples)), cache.normals.done)
    cache.extract_normals(run.progress.advance, lambda: cache.normals.done >= most)
    cache.choose_prototypes()
    return cache.samples


def _fill(cache: FeatureCache, run: TrainingRun) -> None:
    """Features of normals (at most 40 % of the time), prototypes, then triplets (up to 65 %)."""
    count = len(cache.samples)
    run.progress.phase("teacher on normals", count, cache.normals.done)
    cache.extract_normals(run.progress.advance, lambda: run.elapsed() > 0.4 * run.limit)
    if len(cache.samples) < count:
        log.warning("time allows %d of %d normals; give more minutes for the rest", len(cache.samples), count)
    cache.choose_prototypes()
    cache.recall_normals()
    run.progress.phase("teacher on synthetic defects", cache.count, cache.triplets.done)
    cache.extract_triplets(run.progress.advance, lambda: run.elapsed() > 0.65 * run.limit)
