"""Masks in every way that people save them, each of the same region."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_ad.data import masks
from edge_ad.errors import DataError

TRUTH = np.zeros((60, 90), bool)
TRUTH[15:27, 18:60] = True
TRUTH[40:46, 70:74] = True
WHITE = TRUTH.astype(np.uint8) * np.uint8(255)


def saved(tmp_path, name, array, **options):
    Image.fromarray(array).save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 9), (0, 254)])
def test_few_values_count_where_they_are_not_black(tmp_path, values):
    path = saved(tmp_path, "m.png", np.where(TRUTH, *values[::-1]).astype(np.uint8))
    mask, *findings = masks.interpret_mask(path)
    np.testing.assert_array_equal(mask, TRUTH)
    assert findings == ["", ""]


@pytest.mark.parametrize("numbers", [(1, 2, 3), (80, 160, 255), (1, 2, 255), (254, 255, 253)])
def test_numbered_kinds_all_count(tmp_path, numbers):
    kinds = WHITE * np.uint8(0)
    kinds[15:27, 18:30], kinds[15:27, 30:60], kinds[40:46, 70:74] = numbers
    np.testing.assert_array_equal(masks.read_mask(saved(tmp_path, "m.png", kinds)), TRUTH)


def test_colour(tmp_path):
    colour = np.zeros((60, 90, 3), np.uint8)
    colour[TRUTH] = (0, 0, 9)
    np.testing.assert_array_equal(masks.read_mask(saved(tmp_path, "c.png", colour)), TRUTH)


@pytest.mark.parametrize("quality", [50, 75, 95, 100])
@pytest.mark.parametrize("again", [False, True])
def test_a_mask_saved_as_jpeg_has_no_more_regions(tmp_path, quality, again):
    path = saved(tmp_path, "m.jpg", WHITE, quality=quality)
    if again:  # what a labelling tool writes that was given the JPEG
        path = saved(tmp_path, "m.png", np.asarray(Image.open(path)))
    mask, remark, doubt = masks.interpret_mask(path)
    assert cv2.connectedComponents(mask.astype(np.uint8))[0] == 3
    assert np.count_nonzero(mask != TRUTH) <= (0 if quality >= 95 else 12)
    assert quality == 100 or "gray values" in remark
    assert doubt == ""


def test_numbered_kinds_saved_as_jpeg_all_count(tmp_path):
    kinds = WHITE.copy()
    kinds[40:46, 70:74] = 128
    mask = masks.read_mask(saved(tmp_path, "m.jpg", kinds, quality=95))
    assert np.count_nonzero(mask != TRUTH) <= 4


def test_a_scaled_mask_counts_above_half(tmp_path):
    small = cv2.resize(WHITE, (45, 30), interpolation=cv2.INTER_AREA)
    large = cv2.resize(WHITE, (180, 120), interpolation=cv2.INTER_CUBIC)
    reading = masks.interpret_mask(saved(tmp_path, "s.png", small))
    assert np.count_nonzero(reading.mask != TRUTH[::2, ::2]) < 25
    mask, remark, _ = masks.interpret_mask(saved(tmp_path, "l.png", large))
    assert np.count_nonzero(mask != np.kron(TRUTH, np.ones((2, 2), bool))) < 30
    assert "gray values" in remark


@pytest.mark.parametrize("colour", [255, 0, 77])
def test_in_the_alpha_channel(tmp_path, colour):
    path = saved(tmp_path, "m.png", np.dstack([np.full((60, 90, 3), colour, np.uint8), WHITE]))
    mask, remark, doubt = masks.interpret_mask(path)
    np.testing.assert_array_equal(mask, TRUTH)
    assert "alpha channel" in remark
    assert doubt == ""


def test_what_is_transparent_is_not_marked(tmp_path):
    colours = np.full((60, 90, 3), 255, np.uint8)
    colours[:, :15] = 0
    visible = TRUTH.copy()
    visible[:, :15] = True
    path = saved(tmp_path, "m.png", np.dstack([colours, visible.astype(np.uint8) * np.uint8(255)]))
    np.testing.assert_array_equal(masks.read_mask(path), TRUTH)


def test_an_opaque_alpha_channel_says_nothing(tmp_path):
    path = saved(tmp_path, "m.png", np.dstack([WHITE, WHITE, WHITE, np.full_like(WHITE, 255)]))
    mask, *findings = masks.interpret_mask(path)
    np.testing.assert_array_equal(mask, TRUTH)
    assert findings == ["", ""]


@pytest.mark.parametrize("name", ["m.png", "m.jpg"])
def test_most_of_the_picture_is_doubted(tmp_path, name):
    mask, _, doubt = masks.interpret_mask(saved(tmp_path, name, 255 - WHITE))
    assert mask.mean() > 0.85
    assert "marks 90% of the picture, most of it: inverted?" in doubt


def test_a_photo_in_a_masks_place_is_doubted(tmp_path):
    photo = np.random.default_rng(0).normal(120, 25, (60, 90)).clip(0, 255).astype(np.uint8)
    assert "a photo?" in masks.interpret_mask(saved(tmp_path, "m.png", photo)).doubt


def test_a_folder_is_all_of_its_masks(tmp_path):
    first, second = WHITE.copy(), WHITE.copy()
    first[:30], second[30:] = 0, 0
    saved(tmp_path, "000.png", first)
    saved(tmp_path, "001.png", second)
    np.testing.assert_array_equal(masks.read_mask(tmp_path), TRUTH)
    saved(tmp_path, "002.png", second[:20])
    with pytest.raises(DataError, match="different sizes"):
        masks.read_mask(tmp_path)


def test_a_photo_is_no_mask(tmp_path):
    photo = np.random.default_rng(0).integers(40, 200, (60, 90, 3), np.uint8)
    assert not masks.is_mask(saved(tmp_path, "p.png", photo))
    assert masks.is_mask(saved(tmp_path, "m.png", WHITE))
    assert masks.is_mask(saved(tmp_path, "m.jpg", WHITE))


def test_of_another_size():
    mask = np.zeros((100, 50), bool)
    mask[:50] = True
    assert masks.fit_mask(mask, (20, 10), "m.png")[:10].all()
    with pytest.raises(DataError, match=r"m\.png is 100x50"):
        masks.fit_mask(mask, (50, 100), "m.png")
