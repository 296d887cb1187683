import numpy as np
import pytest

from edge_ad.synthesis.defects import Triplet
from edge_ad.synthesis.quality import MemorisationCheck, feature_check, feature_distance
from edge_ad.synthesis.sheet import grid, triplet_sheet


def triplet(change=50, side=10):
    normal = np.full((40, 60, 3), 100, np.uint8)
    defective, mask = normal.copy(), np.zeros((40, 60), bool)
    mask[5 : 5 + side, 8 : 8 + side] = True
    defective[mask] += np.array([0, change, 0], np.uint8)
    return Triplet(normal, defective, mask)


def test_features_must_differ_within_the_mask():
    def features(frame):
        cells = frame.reshape(4, 10, 6, 10, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
        return cells.astype(np.float32) - 100 + np.array([1, 0, 0], np.float32)[:, None, None]

    # by hand: the mask [5:15, 8:18] lies on cells (0..1, 0..1) with shares .1, .4, .1, .4 of its area; there the
    # features are (1, 0, 0) and (1, 100 * share, 0), so 1 - cos = 1 - 1 / sqrt(1 + (100 * share)^2)
    shares = np.array([5 * 2, 5 * 8, 5 * 2, 5 * 8]) / 100
    by_hand = (shares * (1 - 1 / np.sqrt(1 + (100 * shares) ** 2))).sum() / shares.sum()
    assert feature_distance(features, triplet(change=100)) == pytest.approx(by_hand, rel=1e-5)
    assert feature_check(features, 0.999)(triplet(change=100)) == "features hardly differ"
    assert feature_check(features, 0.5)(triplet(change=100)) is None


def test_copies_of_training_images_are_found():
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 255, (6, 48, 48, 3), dtype=np.uint8))
    check = MemorisationCheck(frames)
    assert check.reason_to_reject(frames[3]) == "copy of a training image"
    assert check.distance(frames[3]) == 0
    noisy = np.clip(frames[3].astype(int) + rng.integers(-5, 6, frames[3].shape), 0, 255).astype(np.uint8)
    assert check.reason_to_reject(noisy) == "copy of a training image"
    assert check.reason_to_reject(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)) is None
    assert MemorisationCheck(frames[:1]).reason_to_reject(frames[0]) is None
    assert MemorisationCheck(frames, share=0).reason_to_reject(frames[0]) is None


def test_sheets_hold_every_frame():
    one = triplet()
    sheet = triplet_sheet([one] * 5, ["x"] * 5, side=60, columns=4)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (4 * (60 + 4 + 18) + 4, 4 * 64 + 4, 3)
    cells = grid([[one.normal, one.defective]])
    assert np.array_equal(cells[4:44, 4:64], one.normal)
    assert np.array_equal(cells[4:44, 68:128], one.defective)
