"""The definitions against hand-solved cases and other people's implementations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from edge_ad.kernels import reference

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_cosine_map_of_known_angles():
    teacher = np.array([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], np.float64).reshape(1, 2, 1, 6)
    student = np.array([[5, 0, -3, 1, 0, 2], [0, 2, 0, 1, 0, 0]], np.float64).reshape(1, 2, 1, 6)
    expected = [0, 1, 2, 1 - np.sqrt(0.5), 0, 0.5]  # same, right angle, opposed, 45 degrees, two zeros, one zero
    ours = reference.cosine_map(teacher, student, channels_last=False, eps=1e-6)
    np.testing.assert_allclose(ours[0, 0], expected, atol=1e-15)


def test_cosine_map_keeps_digits_where_features_nearly_agree():
    rng = np.random.default_rng(0)
    teacher = rng.standard_normal((1, 384, 4, 4))
    student = teacher + 1e-3 * rng.standard_normal(teacher.shape)
    exact = reference.cosine_map(teacher, student, channels_last=False, eps=1e-6)
    plain = reference.cosine_map(*(x.astype(np.float32) for x in (teacher, student)), channels_last=False, eps=1e-6)
    np.testing.assert_allclose(plain, exact, rtol=1e-3)  # 1 - cos in float32 is off by 10 % here
    assert exact.max() < 2e-6


def test_topk_mean_by_hand():
    scores = np.array([[5.0, 1, 4, 2], [-1, -2, -3, -4]])
    np.testing.assert_array_equal(reference.topk_mean(scores, 2), [4.5, -1.5])
    np.testing.assert_array_equal(reference.topk_mean(scores, 4), [3, -2.5])


@pytest.mark.parametrize(("how", "expected"), [("mean", 2.5), ("sum", 10.0), ("product", 27.0)])
def test_combine_by_hand(how, expected):
    maps = [np.full((1, 1, 1), value) for value in (1.0, 3.0)]
    np.testing.assert_allclose(reference.combine(maps, how, (1.0, 3.0)), expected)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_blur_is_scipys(sigma):
    maps = np.random.default_rng(0).random((2, 9, 30))
    expected = [ndimage.gaussian_filter(m, sigma, mode="nearest") for m in maps]
    np.testing.assert_allclose(reference.blur(maps, sigma), expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(1, 70), st.integers(1, 70), st.booleans(), st.integers(0, 9)
)
def test_resize_is_pillows_two_passes_in_every_byte(height, width, h, w, gray, seed):
    shape = (height, width) if gray else (height, width, 3)
    frame = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    wide = Image.fromarray(frame).resize((w, height), Image.Resampling.BILINEAR)
    expected = np.asarray(wide.resize((w, h), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(reference.resize(frame, (h, w)), expected)


@pytest.mark.parametrize("shape", [(480, 640, 3), (333, 333, 3), (270, 480), (64, 48, 3)])
@pytest.mark.parametrize("size", [(64, 64), (252, 252), (336, 448)])
def test_resize_is_pillows_in_every_byte(shape, size):
    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    ours = reference.resize(frame, size)
    expected = np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))
    if shape[0] * size[1] > shape[1] * size[0]:  # Pillow from 13 on shrinks tall pictures vertically first
        assert np.abs(ours.astype(int) - expected).max() <= 1
        wide = Image.fromarray(frame).resize((size[1], shape[0]), Image.Resampling.BILINEAR)
        expected = np.asarray(wide.resize(size[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(ours, expected)


def test_preprocess_normalises_in_channel_order():
    frame = np.zeros((2, 2, 3), np.uint8)
    frame[..., 2] = 255  # blue in RGB
    rgb = reference.preprocess(frame, (1, 1), MEAN, STD, channels="rgb")[:, 0, 0]
    bgr = reference.preprocess(frame, (1, 1), MEAN, STD, channels="bgr")[:, 0, 0]
    low, high = -np.array(MEAN) / STD, (1 - np.array(MEAN)) / STD
    np.testing.assert_allclose(rgb, [low[0], low[1], high[2]], rtol=1e-6)
    np.testing.assert_allclose(bgr, [high[0], low[1], low[2]], rtol=1e-6)
    gray = reference.preprocess(np.full((5, 5), 255, np.uint8), (3, 3), MEAN, STD, channels="rgb")
    np.testing.assert_allclose(gray, np.broadcast_to(high[:, None, None], (3, 3, 3)), rtol=1e-6)


def test_find_defects_by_hand():
    scores = np.array([[9, 0, 0, 0], [0, 7, 0, 3], [0, 0, 0, 4], [np.nan, 0, 0, 0]], np.float32)
    diagonal, right = reference.find_defects(scores, 2.0, min_area=1)
    assert diagonal == reference.Defect((0, 0, 2, 2), 2, 9.0)  # corners connect
    assert right == reference.Defect((3, 1, 1, 2), 2, 4.0)
    assert reference.find_defects(scores, 3.0, min_area=2) == [diagonal]  # 3 is not above 3
    assert reference.find_defects(scores, 9.0, min_area=1) == []
    assert len(reference.find_defects(np.full((1, 1), 0.1, np.float32), 0.1, min_area=1)) == 1  # float32(0.1) > 0.1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.floats(0.1, 0.9), st.integers(0, 1000))
def test_find_defects_agrees_with_scipys_labels(height, width, threshold, seed):
    scores = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    labels, _ = ndimage.label(scores.astype(float) > threshold, np.ones((3, 3)))
    expected = {
        ((x.start, y.start, x.stop - x.start, y.stop - y.start), int((labels == i).sum()), float(peak))
        for i, (y, x) in enumerate(ndimage.find_objects(labels), 1)
        for peak in [scores[labels == i].max()]
    }
    assert set(reference.find_defects(scores, threshold, min_area=1)) == expected
