"""Metrics against hand-solved cases and other people's implementations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from edge_ad import metrics


def test_auroc_by_hand():
    # defects 0.9 and 0.4 against good 0.5 and 0.1: 3 of 4 pairs are in order
    assert metrics.image_auroc([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0]) == pytest.approx(0.75)
    assert metrics.image_auroc([1.0, 1.0], [1, 0]) == 0.5
    assert np.isnan(metrics.image_auroc([1.0, 2.0], [1, 1]))


def test_f1_and_precision_by_hand():
    # threshold 0.4: 2 true, 1 false -> F1 = 2*2/(2*2+1+0) = 0.8
    assert metrics.f1_max([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0]) == pytest.approx(0.8)
    # recall 1/2 at precision 1, then 1 at 2/3
    assert metrics.average_precision([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0]) == pytest.approx(0.5 + 0.5 * 2 / 3)


@pytest.mark.parametrize("decimals", [1, 8])
def test_against_sklearn(decimals):
    rng = np.random.default_rng(decimals)
    labels = rng.random(500) < 0.3
    scores = np.round(rng.normal(size=500) + labels, decimals)
    precision, recall, _ = precision_recall_curve(labels, scores)
    assert metrics.image_auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics.average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores))
    assert metrics.f1_max(scores, labels) == pytest.approx(np.max(2 * precision * recall / (precision + recall)))


def test_aupro_by_hand():
    # Twelve good pixels, regions of 1 and 2 pixels. Scores from high to low: the single pixel (overlap 1/2),
    # one good pixel, half of the second region (3/4), and all the rest at 0.
    scores = np.array([[9, 0, 8, 0, 0], [0, 0, 0, 0, 0], [7, 0, 0, 0, 0]], float)
    mask = np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]], bool)
    # Points: (0, 0), (0, 1/2), (1/12, 1/2), (1/12, 3/4), (1, 1)
    at_30 = 0.75 + 0.25 * (0.3 - 1 / 12) / (11 / 12)
    expected = (0.5 / 12 + (0.3 - 1 / 12) * (0.75 + at_30) / 2) / 0.3
    assert metrics.aupro([scores], [mask], 0.3) == pytest.approx(expected, abs=1e-12)
    assert metrics.aupro([scores], [mask], 0.05) == pytest.approx(0.5)


def test_diagonal_pixels_are_one_region():
    mask = np.eye(3, dtype=bool)
    weights, count = metrics.region_weights(mask)
    assert count == 1
    assert weights[mask].tolist() == [1 / 3] * 3


def test_not_finite_is_refused():
    with pytest.raises(ValueError, match="1 of 2 scores"):
        metrics.image_auroc([np.nan, 1.0], [0, 1])
