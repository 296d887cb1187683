"""An empty batch has empty scores, on every backend for arrays."""

import numpy as np
import pytest

from edge_ad import kernels


@pytest.mark.parametrize("backend", ["numpy", "cpp"])
def test_an_empty_batch_has_empty_scores(backend, monkeypatch):
    if reason := kernels.available_backends()[backend]:
        pytest.skip(reason)
    monkeypatch.setenv("EDGE_AD_BACKEND", backend)
    features = np.zeros((0, 4, 3, 3), np.float32)
    scores = kernels.fused_score([features], [features], size=(8, 6), k=5, sigma=1.0)
    assert scores.pixel_scores.shape == (0, 8, 6)
    assert scores.image_score.shape == kernels.topk_mean(features, 5).shape == (0,)
