"""Measure: the range of held-out normals' pixels, against which the fitted detector weighs all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from edge_ad.data.images import preprocess
from edge_ad.data.loader import PhotoReader
from edge_ad.data.samples import Sample
from edge_ad.model.detector import Detector
from edge_ad.training.run import TrainingRun

MOST_PHOTOS = 64


@torch.inference_mode()
def measure_normals(run: TrainingRun, detector: Detector, held_out: Sequence[Sample], reader: PhotoReader) -> None:
    """Set the detector's normal_range: middle and spread of maps and logits on held-out normals, so that both weigh
    alike in pixel_scores. The detector is left in eval mode."""
    detector.eval()
    detector.normal_range.copy_(torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    run.progress.phase("held-out normals", len(held_out))
    values: list[list[torch.Tensor]] = [[], []]
    model = run.config.model
    for sample in held_out[:MOST_PHOTOS]:
        image = preprocess(reader.read(sample.path), detector.image_size, model.mean, model.std)
        images = torch.from_numpy(image)[None].to(run.accelerator.device)
        _, maps, logits = detector.compare(images, detector.teacher(images))
        values[0].append((detector.map_y @ maps.mean(1) @ detector.map_x.T).flatten())
        if logits is not None:
            values[1].append((detector.head_y @ logits @ detector.head_x.T).flatten())
        run.progress.advance(1)
    for row, parts in enumerate(values):
        if parts:
            pixels = torch.cat(parts).float().cpu().numpy()
            middle, high = np.quantile(pixels, [0.5, 0.995])
            detector.normal_range[row] = torch.tensor([middle, max(float(high - middle), 1e-6)])
