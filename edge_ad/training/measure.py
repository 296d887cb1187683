"""Measure: the range of held-out normals' pixels, against which the fitted detector weighs all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from edge_ad.data.images import preprocess
from edge_ad.data.loader import PhotoReader
from edge_ad.data.samples import Sample
from edge_ad.model.detector import PARTS, Detector
from edge_ad.training.run import TrainingRun

MOST_PHOTOS = 64


@torch.inference_mode()
def measure_normals(run: TrainingRun, detector: Detector, held_out: Sequence[Sample], reader: PhotoReader) -> None:
    """Set the detector's normal_range: middle and spread of map, logits and detail on held-out normals, so that all
    weigh alike in pixel_scores. The detector is left in eval mode."""
    detector.eval()
    detector.normal_range.copy_(torch.tensor([0.0, 1.0]).expand_as(detector.normal_range))
    run.progress.phase("held-out normals", len(held_out))
    pictures = []
    for sample in held_out[:MOST_PHOTOS]:
        images = read_images(run, detector, sample, reader)
        _, maps, logits = detector.compare(images, detector.teacher(images))
        detail = None if detector.detail is None else detector.detail(images)
        pictures.append(detector.normalised_pixels(maps.mean(1), logits, detail))
        run.progress.advance(1)
    for row, name in enumerate(PARTS):
        parts = [picture[name] for picture in pictures if name in picture]
        if parts:
            middle, high = np.quantile(torch.cat(parts).float().cpu().numpy(), [0.5, 0.995])
            detector.normal_range[row] = torch.tensor([middle, max(float(high - middle), 1e-6)])


def read_images(run: TrainingRun, detector: Detector, sample: Sample, reader: PhotoReader) -> torch.Tensor:
    """One photo as the detector takes it, float32 [1, 3, H, W] on the training device."""
    model = run.config.model
    image = preprocess(reader.read(sample.path), detector.image_size, model.mean, model.std)
    return torch.from_numpy(image)[None].to(run.accelerator.device)
