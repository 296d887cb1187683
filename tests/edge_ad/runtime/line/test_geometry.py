import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.errors import ConfigError
from edge_ad.runtime.line.geometry import FrameFixer, merge_maps
from edge_ad.runtime.line.presence import Motion, Presence, small_gray
from edge_ad.runtime.settings import FrameSettings, PresenceSettings


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def test_region_is_a_view_and_right_angles_lose_nothing():
    frame = noise(50, 70)
    cut = FrameFixer(FrameSettings(roi=(10, 5, 30, 20))).apply(frame)
    assert np.shares_memory(cut, frame)
    assert np.array_equal(cut, frame[5:25, 10:40])
    for turns in range(1, 4):
        assert np.array_equal(FrameFixer(FrameSettings(rotate=90 * turns)).apply(frame), np.rot90(frame, turns))
    with pytest.raises(ConfigError, match="not inside the 70 x 50"):
        FrameFixer(FrameSettings(roi=(50, 0, 30, 20))).apply(frame)


def test_perspective_straightens_a_known_quadrilateral():
    """A rectangle drawn through a known homography comes back as it was."""
    flat = cv2.GaussianBlur(noise(80, 120), (0, 0), 3)
    corners = np.array([(40, 30), (180, 45), (170, 150), (25, 140)], np.float32)
    target = np.array([(0, 0), (120, 0), (120, 80), (0, 80)], np.float32)
    seen = cv2.warpPerspective(flat, cv2.getPerspectiveTransform(target, corners), (220, 180))
    fixer = FrameFixer(FrameSettings(corners=tuple(map(tuple, corners.tolist())), size=(80, 120)))
    straight = fixer.apply(seen)
    assert straight.shape == flat.shape
    error = np.abs(straight[4:-4, 4:-4].astype(int) - flat[4:-4, 4:-4])
    assert error.mean() < 2
    guessed = FrameFixer(FrameSettings(corners=tuple(map(tuple, corners.tolist())))).apply(seen)
    assert abs(guessed.shape[1] - 146) <= 2  # the longer of the two horizontal sides


def test_small_rotation_shows_no_black_corners():
    frame = np.full((60, 80, 3), 200, np.uint8)
    assert FrameFixer(FrameSettings(rotate=7.5)).apply(frame).min() == 200


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(16, 200),
    st.integers(16, 200),
    st.sampled_from([0, 0.15, 0.5]),
)
def test_tiles_cover_every_pixel_and_stay_inside(height, width, tile_h, tile_w, overlap):
    tiles = FrameFixer(FrameSettings(tile=(tile_h, tile_w), overlap=overlap)).tiles(height, width)
    covered = np.zeros((height, width), int)
    for y, x, h, w in tiles:
        assert 0 <= y <= height - h
        assert 0 <= x <= width - w
        covered[y : y + h, x : x + w] += 1
    assert covered.min() >= 1
    assert len(tiles) == len(set(tiles))


def test_stitched_map_of_a_smooth_field_is_the_field():
    height, width = 300, 500
    field = np.fromfunction(lambda y, x: np.sin(x / 60) + y / 200, (height, width)).astype(np.float32)
    tiles = FrameFixer(FrameSettings(tile=(128, 160), overlap=0.25)).tiles(height, width)
    maps = np.stack([field[y : y + h, x : x + w] for y, x, h, w in tiles])
    stitched = merge_maps(maps, tiles, height, width)
    assert stitched.shape == (height, width)
    assert np.abs(stitched - field).max() < 1e-4
    half = np.stack([cv2.resize(m, (80, 64), interpolation=cv2.INTER_AREA) for m in maps])
    small = merge_maps(half, tiles, height, width)
    assert small.shape == (150, 250)
    assert np.abs(small - cv2.resize(field, (250, 150), interpolation=cv2.INTER_AREA)).max() < 0.05


def test_presence_learned_and_by_reference(tmp_path):
    empty, part = np.full((120, 160, 3), 90, np.uint8), np.full((120, 160, 3), 90, np.uint8)
    part[30:90, 40:120] = 200
    learned = Presence(PresenceSettings(kind="learned"))
    brighter = [np.clip(empty.astype(int) + n, 0, 255).astype(np.uint8) for n in range(0, 40, 2)]
    assert not any(learned(small_gray(frame)) for frame in [empty, *brighter])
    assert learned(small_gray(part))
    cv2.imwrite(str(tmp_path / "empty.png"), empty)
    fixed = Presence(PresenceSettings(kind="reference", reference=str(tmp_path / "empty.png")))
    assert [fixed(small_gray(frame)) for frame in (part, empty)] == [True, False]
    assert Presence(PresenceSettings())(small_gray(empty))
    with pytest.raises(ConfigError, match=r"presence\.reference"):
        Presence(PresenceSettings(kind="reference"))


def test_motion_fires_once_for_each_part_that_comes_to_rest():
    def frame(x):
        picture = np.full((120, 160, 3), 90, np.uint8)
        picture[40:90, max(x, 0) : x + 50] = 220
        return small_gray(picture)

    motion = Motion(settle=2, level=25, share=0.05)
    moves = [*range(0, 60, 20), *[60] * 6, *range(80, 160, 20), *range(0, 60, 20), *[60] * 6]
    fired = [i for i, x in enumerate(moves) if motion(frame(x))]
    assert fired == [5, 18]
