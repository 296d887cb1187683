"""An evaluation with known scores, without any detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_ad.data.samples import Problem, Sample
from edge_ad.evaluation import CategoryResult, Evaluation, ImageScore, ScoredPhoto
from edge_ad.pixel_metrics import PixelMetrics
from edge_ad.report import Gallery

SCORES = {
    "good": [i / 100 for i in range(20)] + [0.35],
    "dent": [0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
    "<scratch>": [0.45, 0.55, 0.65, 0.75],
}


@pytest.fixture
def measured():
    """Builds (Evaluation, Gallery) of categories; thresholds by category, masks or none, what else is known."""

    def build(names=("bottle",), thresholds=None, scores=SCORES, masks=True, **about):
        gallery, categories = Gallery(), {}
        for name in names:
            result = categories[name] = CategoryResult()
            for kind, values in scores.items():
                for i, score in enumerate(values):
                    path = Path(f"/d/{kind}/{i}.png")
                    _add(result, gallery, Sample(path, "test", int(kind != "good"), kind, None, name), score, masks)
        about = {"artifact": "bottle", "data": "parts", "image_size": [64, 64], **about}
        skipped = (Problem(Path("/d/broken.png"), "can't be decoded"),)
        return Evaluation(categories, skipped, about=about, thresholds=thresholds or {}), gallery

    return build


def _add(result, gallery, sample, score, masks):
    result.scored.append(ImageScore(sample, score))
    frame, pixels = np.full((64, 80, 3), 90, np.uint8), np.zeros((256, 256), np.float32)
    pixels[100:140, 100:140] = score
    mask = small = None
    if sample.label:
        mask, small = np.zeros((64, 80), bool), np.zeros((256, 256), bool)
        mask[26:34, 32:44] = True
        small[104:136, 104:140] = True
    if masks:
        result.pixels.setdefault(sample.kind, PixelMetrics()).update(pixels, small)
    gallery(ScoredPhoto(sample, score, frame, pixels, mask))
