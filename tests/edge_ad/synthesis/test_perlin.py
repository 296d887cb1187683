import numpy as np
import pytest

from edge_ad.synthesis.perlin import perlin_mask, perlin_noise, value_noise


def naive_perlin(size, cells, angle):
    """The definition, a pixel at a time, in float64."""
    height, width = size
    noise = np.full(size, np.nan)
    for y in range(height):
        for x in range(width):
            v, u = (y + 0.5) * cells[0] / height, (x + 0.5) * cells[1] / width
            i, j = min(int(v), cells[0] - 1), min(int(u), cells[1] - 1)
            total = 0.0
            for a in (0, 1):
                for b in (0, 1):
                    dy, dx = v - i - a, u - j - b
                    gradient = angle[i + a, j + b]
                    fade = 1.0
                    for d in (abs(dy), abs(dx)):
                        t = 1 - d
                        fade *= t**3 * (t * (6 * t - 15) + 10)
                    total += fade * (np.cos(gradient) * dx + np.sin(gradient) * dy)
            noise[y, x] = total * np.sqrt(2)
    return noise


@pytest.mark.parametrize(
    ("size", "cells"), [((9, 13), (2, 3)), ((16, 16), (1, 1)), ((7, 5), (5, 7)), ((1, 4), (1, 2))]
)
def test_noise_is_perlins_definition(size, cells):
    rng = np.random.default_rng(3)
    angle = np.random.default_rng(3).uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1)).astype(np.float32)
    exact = naive_perlin(size, cells, angle.astype(np.float64))
    assert np.abs(perlin_noise(size, cells, rng) - exact).max() < 1e-5


@pytest.mark.parametrize("size", [(64, 64), (31, 97), (5, 9)])
def test_masks_keep_their_bounds_and_their_seed(size):
    for seed in range(20):
        mask = perlin_mask(size, np.random.default_rng(seed), min_area=0.05, max_area=0.2)
        again = perlin_mask(size, np.random.default_rng(seed), min_area=0.05, max_area=0.2)
        assert mask.shape == size
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, again)
        assert 0.05 - 1 / mask.size <= mask.mean() <= 0.2 + 2 / mask.size + 0.01  # equal values share a side


def test_mask_stays_inside_and_is_never_empty():
    inside = np.zeros((48, 64), bool)
    inside[10:14, 20:23] = True
    for seed in range(30):
        mask = perlin_mask(inside.shape, np.random.default_rng(seed), inside=inside, morphology=seed % 5 - 2, parts=1)
        assert mask.any()
        assert not (mask & ~inside).any()


def test_parts_and_morphology():
    import cv2

    for seed in range(5):
        full = perlin_mask((96, 96), np.random.default_rng(seed), min_area=0.02)
        few = perlin_mask((96, 96), np.random.default_rng(seed), min_area=0.02, parts=1)
        wide = perlin_mask((96, 96), np.random.default_rng(seed), min_area=0.02, morphology=2)
        assert cv2.connectedComponents(few.astype(np.uint8), connectivity=8)[0] == 2
        assert not (few & ~full).any()
        assert not (full & ~wide).any()


def test_bad_bounds_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="area bounds"):
        perlin_mask((8, 8), rng, min_area=0.5, max_area=0.1)
    with pytest.raises(ValueError, match="no room"):
        perlin_mask((8, 8), rng, inside=np.zeros((8, 8), bool))


def test_value_noise_fills_its_range():
    noise = value_noise((33, 70), 4, np.random.default_rng(0))
    assert noise.dtype == np.float32
    assert (noise.min(), noise.max()) == (0, 1)
