from collections import Counter

import cv2
import numpy as np
import pytest

from edge_ad.config import SynthesisConfig
from edge_ad.errors import ConfigError, DataError
from edge_ad.synthesis.defects import VISIBLE, blend, make_triplet, visible_mask
from edge_ad.synthesis.foreground import find_foreground
from edge_ad.synthesis.procedural import KINDS, ProceduralDefects, draw_defect
from edge_ad.synthesis.sources import build_sources, parse_sources
from edge_ad.synthesis.textures import NoiseTextures, OtherNormals, OwnStructure, Textures


def texture(size=(96, 128), seed=0, grey=False):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 255, (*size, 1 if grey else 3), dtype=np.uint8).repeat(3 if grey else 1, axis=2)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def part(size=(96, 128)):
    """A dark disc on a light background lit unevenly."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    disc = (y - size[0] / 2) ** 2 + (x - size[1] / 2) ** 2 < (0.35 * min(size)) ** 2
    frame = np.stack([200 + x * 30 / size[1]] * 3, axis=2)
    frame[disc] = (40, 60, 90)
    return frame.astype(np.uint8), disc


def test_blend_is_equation_3():
    rng = np.random.default_rng(0)
    frame, anomaly = rng.integers(0, 256, (2, 7, 9, 3), dtype=np.uint8)
    mask = rng.random((7, 9)) < 0.5
    m, i, p, delta = mask[..., None].astype(np.float64), frame.astype(np.float64), anomaly.astype(np.float64), 0.3
    exact = (1 - m) * i + (1 - delta) * m * i + delta * m * p
    assert np.abs(blend(frame, anomaly, mask, delta).astype(np.float64) - exact).max() <= 0.51
    assert np.array_equal(blend(frame, anomaly, mask, 1.0)[mask], anomaly[mask])
    assert np.array_equal(blend(frame, anomaly, mask, 1.0)[~mask], frame[~mask])


def test_visible_mask_drops_what_did_not_change():
    frame = np.full((64, 64, 3), 100, np.uint8)
    changed = frame.copy()
    changed[10:30, 10:30, 1] += 40
    changed[40:60, 40:60] += 3  # under the limit
    changed[5, 60] = 255  # a speck
    mask = visible_mask(frame, changed, None)
    exact = np.zeros((64, 64), bool)
    exact[10:30, 10:30] = True
    assert (mask & ~cv2.dilate(exact.view(np.uint8), np.ones((3, 3))).view(bool)).sum() <= 9
    assert mask[11:29, 11:29].all()
    assert not visible_mask(frame, frame, None).any()
    region = np.zeros((64, 64), bool)
    region[:20] = True
    assert not visible_mask(frame, changed, region)[20:].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(96, 128), (15, 60)])
def test_each_kind_draws_within_its_window(kind, size):
    frame = texture(size, grey=kind == "bend")
    seen = 0
    for seed in range(4):
        onto = frame.copy()
        window = draw_defect(onto, frame, KINDS[kind], None, np.random.default_rng(seed))
        changed = (onto != frame).any(axis=2)
        seen += bool(changed.any())
        changed[window.slices] = False
        assert not changed.any()
    assert seen >= 3


@pytest.mark.parametrize("source", ["procedural", "texture"])
def test_triplets_are_seeded_visible_and_exact(source):
    frame, disc = part()
    inside = find_foreground(frame)
    assert inside is not None
    sources = build_sources(SynthesisConfig(sources=(source,)), [texture(), frame])
    before = frame.copy()
    for seed in range(12):
        triplet = make_triplet(frame, np.random.default_rng(seed), sources, inside=inside)
        again = make_triplet(frame, np.random.default_rng(seed), sources, inside=inside)
        assert all(np.array_equal(a, b) for a, b in zip(triplet, again, strict=True))
        assert triplet.mask.any()
        difference = cv2.absdiff(triplet.normal, triplet.defective).max(axis=2)
        assert difference[triplet.mask].mean() > 8
        assert (difference[~triplet.mask] < VISIBLE).all()
        if source == "texture":
            assert not (triplet.mask & ~inside).any()
    assert np.array_equal(frame, before)
    assert disc.any()


@pytest.mark.parametrize(
    ("change", "side", "fault"),
    [
        (0, 20, "too small or invisible"),
        (60, 1, "too small or invisible"),
        (60, 90, "too large"),
        (12, 20, "too faint"),
    ],
)
def test_unusable_defects_are_counted_and_replaced(change, side, fault):
    class Square:
        name = "square"

        def __call__(self, frame, inside, rng):
            changed = frame.copy()
            changed[:side, : side * 4 // 3] += np.uint8(change)
            return changed, None

    rejected = Counter()
    frame = np.full((96, 128, 3), 100, np.uint8)
    triplet = make_triplet(frame, np.random.default_rng(0), [(Square(), 1.0)], rejected=rejected)
    assert rejected == {f"square: {fault}": 6}
    assert triplet.mask.any()
    assert (triplet.normal != triplet.defective).any(axis=2)[triplet.mask].all()


def test_wrong_frames_and_sources_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="uint8"):
        make_triplet(np.zeros((8, 8)), rng, [(ProceduralDefects(), 1.0)])
    with pytest.raises(DataError, match="no source"):
        make_triplet(texture(), rng, [])
    with pytest.raises(ConfigError, match="unknown kinds"):
        ProceduralDefects(["scrach"])


def test_sources_are_parsed_strictly():
    assert parse_sources("ddpm:1,texture:3") == {"ddpm": 0.25, "texture": 0.75}
    assert parse_sources(["procedural"]) == {"procedural": 1.0}
    for bad in ("dpm:1", "texture:x", "texture:-1", "texture:0", "texture:1,texture:1", "ddpm:nan"):
        with pytest.raises(ConfigError):
            parse_sources(bad)
    with pytest.raises(ConfigError, match="trained diffusion"):
        build_sources(SynthesisConfig(sources=("ddpm:1",)), [texture()])


@pytest.mark.parametrize("grey", [False, True])
def test_anomaly_images_fit_the_frame(grey, tmp_path):
    frame = texture((40, 57), grey=grey)
    cv2.imwrite(str(tmp_path / "wood.png"), texture((600, 30)))
    makers = [OwnStructure(), NoiseTextures(), OtherNormals([texture((90, 30))]), Textures.from_folder(tmp_path)]
    for maker in makers:
        for seed in range(6):
            anomaly = maker(frame, np.random.default_rng(seed))
            assert anomaly.shape == frame.shape
            assert anomaly.dtype == np.uint8
    with pytest.raises(DataError, match="no pictures"):
        Textures.from_folder(tmp_path / "none")


def test_foreground_is_found_or_not_claimed():
    frame, disc = part()
    inside = find_foreground(frame)
    assert inside is not None
    assert inside[disc].all()
    assert inside.sum() < 1.25 * disc.sum()
    assert find_foreground(texture()) is None
    assert find_foreground(np.full((50, 60, 3), 90, np.uint8)) is None
