"""Test marks are as large and as strong as stated, and real defects are measured as they are."""

import math

import cv2
import numpy as np
import pytest

from edge_ad.qualify.disturbances import DISTURBANCES
from edge_ad.qualify.probes import Probe, draw_probe, hair_width, is_rim, measure_defect, places_on

GRAY = np.full((80, 120, 3), 150, np.uint8)


@pytest.mark.parametrize("size", [3.0, 7.0, 20.0])
def test_a_spot_has_its_diameter_and_contrast(size):
    change = GRAY.astype(int)[..., 0] - draw_probe(GRAY, Probe("spot", size, 40, 40.0, 60.0))[..., 0]
    assert change.max() == 40
    assert change.sum() / 40 == pytest.approx(math.pi * size**2 / 4, rel=0.08)


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 2])
def test_a_scratch_has_its_length_width_and_direction(angle):
    marked = draw_probe(GRAY, Probe("hair scratch", 40, 60, 40.0, 60.0, angle, 1.5))
    change = (GRAY.astype(int) - marked)[..., 0] / 60
    assert change.sum() == pytest.approx(40 * 1.5, rel=0.1)
    y, x = np.nonzero(change > 0.4)
    assert np.hypot(np.ptp(y), np.ptp(x)) == pytest.approx(40, abs=3)
    if np.ptp(x) and np.ptp(y):
        assert np.polyfit(x, y, 1)[0] == pytest.approx(math.tan(angle), abs=0.1)


def test_marks_on_dark_parts_are_bright_and_the_photo_is_left_alone():
    dark = np.full((60, 60, 3), 30, np.uint8)
    marked = draw_probe(dark, Probe("spot", 9, 100, 30, 30))
    assert marked.max() == 130
    assert (dark == 30).all()


def test_a_mark_at_the_pictures_corner_is_cut_off_there():
    marked = draw_probe(GRAY, Probe("spot", 10, 50, 0.0, 119.0))
    assert marked[0, 119, 0] == 100
    assert (marked != GRAY).any(2).sum() < 40


def test_hair_grows_with_the_picture():
    assert hair_width((100, 120)) == 1.0
    assert hair_width((3000, 4000, 3)) == 16.0


def test_a_drawn_defect_is_measured_as_it_was_drawn():
    probe = Probe("hair scratch", 50, 70, 40.0, 60.0, 0.3, 3.0)
    marked = draw_probe(GRAY, probe)
    measured = measure_defect(marked, (marked != GRAY).any(2))
    assert measured.length == pytest.approx(50, abs=4)
    assert measured.width == pytest.approx(3, abs=1.2)
    assert measured.contrast == pytest.approx(70, abs=2)
    assert measure_defect(GRAY, np.zeros((80, 120), bool)) is None


def test_contrast_is_measured_against_what_lies_beside_the_defect():
    """On a steep shade, next to print, in a mask six times as wide as the hair, and in one colour only."""
    shaded = np.repeat(np.tile(np.linspace(60, 220, 120), (80, 1))[..., None], 3, 2).astype(np.uint8)
    shaded[10:20, 20:100] = 30
    marked = draw_probe(shaded, Probe("hair scratch", 50, 25, 40.0, 60.0, 0.3, 2.0))
    mask = cv2.dilate((marked != shaded).any(2).astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
    assert measure_defect(marked, mask).contrast == pytest.approx(25, abs=7)
    assert measure_defect(shaded, mask).contrast < 7  # nothing there: what the shade and the print leave
    red = shaded.copy()
    red[..., 0] = marked[..., 0]
    assert measure_defect(red, mask).contrast == pytest.approx(measure_defect(marked, mask).contrast, abs=0.5)


def test_a_defect_without_surroundings_has_no_contrast():
    assert measure_defect(GRAY, np.ones((80, 120), bool)).contrast == 0


def test_the_largest_of_several_regions_counts():
    mask = np.zeros((80, 120), bool)
    mask[10:14, 10:14] = mask[40:45, 20:60] = True
    assert measure_defect(GRAY, mask).length == pytest.approx(40, abs=1)


def test_places_lie_on_the_part_and_the_rim_is_near_its_outline():
    part = np.zeros((80, 120), bool)
    part[20:60, 20:100] = True
    places = places_on(part, (80, 120), 8)
    assert len(places) == 8 * 4
    assert all(part[y, x] for y, x in places)
    assert len(places_on(None, (80, 120), 4)) == 4 * 3
    rim = is_rim(part, (80, 120))
    assert rim[21, 60]
    assert not rim[40, 60]
    assert is_rim(None, (80, 120))[2, 60]
    assert not is_rim(None, (80, 120))[40, 60]


@pytest.mark.parametrize("name", DISTURBANCES)
def test_disturbances_grow_with_their_strength(name):
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.normal(0, 1, (96, 128)), 0), 1)
    frame = np.repeat((60 + 120 * (smooth - smooth.min()) / np.ptp(smooth))[..., None], 3, 2)
    frame = np.clip(frame + rng.normal(0, 6, frame.shape), 0, 255).astype(np.uint8)
    disturbance = DISTURBANCES[name]
    changes = []
    for strength in disturbance.strengths:
        changed = disturbance.change(frame, strength, np.random.default_rng(1))
        assert changed.shape == frame.shape
        assert changed.dtype == np.uint8
        changes.append(float(np.abs(changed.astype(int) - frame).mean()))
    assert changes == sorted(changes)
    assert changes[0] > 0
