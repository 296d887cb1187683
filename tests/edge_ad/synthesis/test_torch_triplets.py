"""Batched synthesis in PyTorch: step by step what the NumPy one computes, and altogether of the same distribution."""

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from edge_ad.config import SynthesisConfig
from edge_ad.synthesis import blended, defects, perlin, textures
from edge_ad.synthesis.draws import Draws, _mixed, item_seeds
from edge_ad.synthesis.sources import build_sources
from edge_ad.synthesis.torch_images import Pictures, jitter_colours, texture_images, value_noise
from edge_ad.synthesis.torch_masks import (
    choose_parts,
    close_gaps,
    dilate,
    erode,
    gaussian_blur,
    label_components,
    perlin_masks,
    perlin_noise,
    polygons,
    remove_specks,
    rotate,
)
from edge_ad.synthesis.torch_triplets import blend, defect_masks, draw_triplets, feather, match_colours, visible_masks

SIZE = (64, 80)
COUNT = 100


def draws(count, seed=0):
    return Draws(item_seeds(seed, torch.arange(count)))


@pytest.fixture(scope="module")
def masks():
    """Perlin masks [24, 64, 80] of the NumPy synthesis, and one U whose ends join at its bottom."""
    rng = np.random.default_rng(0)
    drawn = [perlin.perlin_mask(SIZE, rng, max_area=0.3, min_area=0.004) for _ in range(23)]
    bow = np.zeros(SIZE, bool)
    bow[5:60, 5] = bow[5:60, 70] = bow[59, 5:71] = True
    return np.stack([*drawn, bow])


@pytest.fixture(scope="module")
def frames():
    """Uneven frames [4, 64, 80, 3]."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    base = 90 + 60 * np.sin(x / 9)[None, ..., None] + 20 * np.cos(y / 5)[None, ..., None] * [1.0, 0.6, 0.2]
    return np.clip(base + rng.normal(0, 8, (4, *SIZE, 3)), 0, 255).astype(np.uint8)


def channels_first(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def test_draws_are_splitmix64_and_depend_on_the_item_alone():
    first = _mixed(torch.tensor([0x9E3779B97F4A7C15 - (1 << 64)]))
    assert int(first) % (1 << 64) == 0xE220A8397B1DCDAF  # the generator's published first number for seed 0
    many, few = draws(50), Draws(item_seeds(0, torch.tensor([31, 7])))
    torch.testing.assert_close(many.uniform(3, 4, 5)[[31, 7]], few.uniform(3, 4, 5), rtol=0, atol=0)
    torch.testing.assert_close(many.split(0, 1).uniform(3)[50:], many.split(1).uniform(3), rtol=0, atol=0)
    assert not torch.equal(many.uniform(3), many.uniform(4))
    assert not torch.equal(many.uniform(3), draws(50, seed=1).uniform(3))


def test_draws_have_the_distributions_they_name():
    drawn = draws(200)
    uniform = drawn.uniform(1, 100, low=-1, high=3).flatten().numpy()
    assert stats.kstest(uniform, stats.uniform(-1, 4).cdf).pvalue > 0.01
    assert stats.kstest(drawn.normal(2, 100).flatten().numpy(), stats.norm.cdf).pvalue > 0.01
    whole = drawn.whole(3, -1, 3, 100).flatten()
    assert stats.chisquare(torch.bincount(whole + 1).numpy()).pvalue > 0.01
    high = drawn.whole(4, 2, torch.arange(3, 203))
    assert ((high >= 2) & (high < torch.arange(3, 203))).all()
    counts = torch.bincount(drawn.choice(5, [0.5, 0.0, 0.3, 0.2], 100).flatten(), minlength=4).numpy()
    assert counts[1] == 0
    assert stats.chisquare(counts[[0, 2, 3]], 20000 * np.array([0.5, 0.3, 0.2])).pvalue > 0.01
    rows = drawn.uniform(6, 100).numpy()
    assert abs(np.corrcoef(rows[:-1].ravel(), rows[1:].ravel())[0, 1]) < 0.03  # neighbouring items


def test_noise_is_numpys_for_the_same_gradients():
    rng = np.random.default_rng(0)
    cells = [(1, 1), (4, 2), (7, 32)]
    angles = np.zeros((3, 33, 33), np.float32)
    wanted = []
    for i, (rows, columns) in enumerate(cells):
        own = angles[i, : rows + 1, : columns + 1] = rng.uniform(0, 6.28, (rows + 1, columns + 1))
        given = type("Given", (), {"uniform": lambda self, low, high, shape, own=own: own})()
        wanted.append(perlin.perlin_noise(SIZE, (rows, columns), given))
    ours = perlin_noise(SIZE, torch.tensor(cells), torch.from_numpy(angles))
    np.testing.assert_allclose(ours.numpy(), np.stack(wanted), atol=1e-5)


def test_turning_is_opencvs(frames):
    field = frames[0, ..., 0].astype(np.float32)
    turn = cv2.getRotationMatrix2D((SIZE[1] / 2, SIZE[0] / 2), 30, 1.0)
    wanted = cv2.warpAffine(field, turn, SIZE[::-1], borderMode=cv2.BORDER_REFLECT)
    ours = rotate(torch.from_numpy(field)[None], torch.tensor([30.0]))[0].numpy()
    assert np.abs(ours - wanted).mean() < 1  # OpenCV rounds positions to 1/32 pixel


def test_morphology_is_opencvs(masks):
    kernels = {side: cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)) for side in (3, 5, 7)}
    batch = torch.from_numpy(masks)
    for side, kernel in kernels.items():
        for ours, theirs in ((dilate, cv2.dilate), (erode, cv2.erode)):
            wanted = np.stack([theirs(mask.view(np.uint8), kernel) for mask in masks]).astype(bool)
            np.testing.assert_array_equal(ours(batch, side).numpy(), wanted)
        padded = [np.pad(mask.view(np.uint8), side) for mask in masks]
        wanted = np.stack([cv2.morphologyEx(one, cv2.MORPH_CLOSE, kernel)[side:-side, side:-side] for one in padded])
        np.testing.assert_array_equal(close_gaps(batch, side).numpy(), wanted.astype(bool))


def test_components_are_scipys(masks):
    for labels, mask in zip(label_components(torch.from_numpy(masks)).numpy(), masks, strict=True):
        wanted, count = ndimage.label(mask, np.ones((3, 3)))
        assert ((labels > 0) == mask).all()
        assert len({*zip(labels[mask].tolist(), wanted[mask].tolist(), strict=True)}) == count  # one to one


def test_specks_go_unless_there_is_nothing_else():
    mask = torch.zeros(2, 20, 20, dtype=torch.bool)
    mask[:, 3, 3:6] = True  # 3 pixels
    mask[0, 10, 10] = mask[0, 11, 11] = mask[0, 12, 12] = mask[0, 13, 12] = True  # 4, by their corners
    kept = remove_specks(mask)
    assert kept[0].sum() == 4
    assert kept[1].sum() == 3


def test_parts_are_drawn_by_the_root_of_their_area():
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[0, 2:14, 2:14] = True  # 144 pixels
    mask[0, 20:26, 20:26] = True  # 36
    mask[0, 30:33, 5:8] = True  # 9
    many = mask.repeat(600, 1, 1)
    one = choose_parts(many, torch.ones(600, dtype=torch.int64), draws(600)).sum((1, 2))
    counts = [int((one == area).sum()) for area in (144, 36, 9)]
    assert stats.chisquare(counts, 600 * np.array([12, 6, 3]) / 21).pvalue > 0.01
    two = choose_parts(many, torch.full((600,), 2), draws(600)).sum((1, 2))
    assert set(two.tolist()) == {180, 153, 45}
    for parts in (0, 3):
        assert (choose_parts(many, torch.full((600,), parts), draws(600)) == many).all()


def test_blurring_is_opencvs(frames):
    sigma = torch.tensor([0.7, 1.5, 2.5, 2.0])
    ours = gaussian_blur(channels_first(frames).float(), sigma, 2.5).permute(0, 2, 3, 1).numpy()
    for frame, own, width in zip(frames, ours, sigma.tolist(), strict=True):
        np.testing.assert_allclose(own, cv2.GaussianBlur(frame.astype(np.float32), (0, 0), width), atol=0.2)


def test_equation_3_by_hand():
    frames, anomalies = torch.full((2, 3, 4, 4), 100.0), torch.full((2, 3, 4, 4), 200.0)
    weight = torch.zeros(2, 4, 4)
    weight[:, 1, 1], weight[:, 2, 2] = 1.0, 0.5
    mixed = blend(frames, anomalies, weight, torch.tensor([0.25, 1.0]))
    assert mixed[:, 0, 1, 1].tolist() == [125, 200]
    assert mixed[:, 0, 2, 2].tolist() == [112, 150]  # 112.5, to the even number
    assert (mixed[:, :, 0] == 100).all()


def test_edges_blends_and_visible_masks_are_numpys(frames, masks):
    mask, sigma = torch.from_numpy(masks[:3]), torch.tensor([0.6, 1.2, 1.9])
    others = frames[[1, 2, 3]][:, ::-1].copy()
    ours, theirs = channels_first(frames[:3]).float(), channels_first(others).float()
    soft = feather(mask, sigma, 2.0)
    moved = match_colours(ours, theirs, mask)
    mixed = blend(ours, moved, soft, torch.tensor([0.4, 0.7, 1.0]))
    region = soft > 0.05
    seen = visible_masks(ours, mixed, region, 10.0)
    for i, delta in enumerate((0.4, 0.7, 1.0)):
        wanted_soft = blended.feather(masks[i], sigma[i].item())
        np.testing.assert_allclose(soft[i].numpy(), wanted_soft, atol=0.01)
        wanted_moved = blended.match_colours(frames[i], others[i], masks[i])
        assert np.abs(moved[i].permute(1, 2, 0).numpy() - wanted_moved)[masks[i]].mean() < 2
        exact = moved[i].permute(1, 2, 0).numpy().astype(np.uint8)
        wanted = defects.blend(frames[i], exact, soft[i].numpy(), delta)
        own = mixed[i].permute(1, 2, 0).numpy().astype(np.uint8)
        assert np.abs(own.astype(int) - wanted).max() <= 1  # OpenCV rounds halves up
        np.testing.assert_array_equal(seen[i].numpy(), defects.visible_mask(frames[i], own, region[i].numpy()))


def shapes(masks, inside):
    """What is compared of masks: share of the room, number of parts, length of the outline over root of area."""
    rows = []
    for mask, room in zip(masks, inside, strict=True):
        area = max(1, mask.sum())
        outline = (mask & ~ndimage.binary_erosion(mask)).sum()
        rows.append((area / room.sum(), ndimage.label(mask, np.ones((3, 3)))[1], outline / area**0.5))
    return np.array(rows).T


def alike(ours, theirs):
    """The least p-value of two-sample Kolmogorov-Smirnov tests, row by row."""
    return min(stats.ks_2samp(a, b).pvalue for a, b in zip(ours, theirs, strict=True))


@pytest.fixture(scope="module")
def disc():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return (y - 30) ** 2 + (x - 42) ** 2 < 26**2


def test_masks_have_numpys_distribution(disc):
    inside = torch.from_numpy(disc).expand(COUNT, -1, -1)
    source, rng = blended.BlendedDefects("texture", [(textures.NoiseTextures(), 1.0)]), np.random.default_rng(0)
    wanted = np.stack([source._mask(SIZE, disc, rng) for _ in range(COUNT)])
    ours = defect_masks(draws(COUNT), inside).numpy()
    assert (ours & ~disc).sum() == 0
    assert ours.reshape(COUNT, -1).any(1).all()
    assert alike(shapes(ours, inside.numpy()), shapes(wanted, inside.numpy())) > 0.01
    plain = perlin_masks(draws(COUNT, 5), inside, max_area=torch.full((COUNT,), 0.2), min_area=0.05).numpy()
    share = plain.reshape(COUNT, -1).sum(1) / disc.sum()
    assert share.min() >= 0.05 - 1 / disc.sum()
    assert share.max() <= 0.2 + 1 / disc.sum()


def test_polygons_have_numpys_distribution():
    rng = np.random.default_rng(0)
    wanted = np.stack([blended._pasted_polygon(SIZE, None, rng) for _ in range(2 * COUNT)])
    ours = polygons(draws(2 * COUNT), SIZE).numpy()
    assert stats.ks_2samp(ours.mean((1, 2)), wanted.mean((1, 2))).pvalue > 0.01
    middle = [np.array([ndimage.center_of_mass(one) for one in part if one.any()]).T for part in (ours, wanted)]
    assert alike(*middle) > 0.01


def colours(images):
    """What is compared of images P [N, H, W, 3]: mean, contrast, contrast of neighbours, colourfulness."""
    images = images.astype(np.float64)
    steps = np.abs(np.diff(images, axis=2)).mean((1, 2, 3))
    colourful = (images.max(3) - images.min(3)).mean((1, 2))
    return images.mean((1, 2, 3)), images.std((1, 2, 3)), steps, colourful


def pictures_of(frames):
    rng = np.random.default_rng(5)
    other = rng.integers(0, 255, (2, 96, 96, 3)).astype(np.uint8)
    other = np.stack([cv2.GaussianBlur(picture, (0, 0), 3) for picture in other])
    grey = torch.zeros(len(frames), dtype=torch.bool)
    return other, Pictures(channels_first(frames), grey, channels_first(other))


def test_anomaly_images_have_numpys_distribution(frames):
    other, pictures = pictures_of(frames)
    which = torch.arange(2 * COUNT) % len(frames)
    ours = texture_images(draws(2 * COUNT), pictures, which)
    assert ours.min() >= 0
    assert ours.max() <= 255
    assert (ours == ours.round()).all()
    rng = np.random.default_rng(0)
    sources = [
        textures.OwnStructure(), textures.NoiseTextures(), textures.OtherNormals(frames),
        textures.Textures(list(other)),
    ]  # fmt: skip
    kinds = rng.choice(4, 2 * COUNT, p=[0.4, 0.15, 0.15, 0.3])
    wanted = np.stack([sources[kind](frames[i % len(frames)], rng) for i, kind in enumerate(kinds)])
    assert alike(colours(ours.permute(0, 2, 3, 1).numpy()), colours(wanted)) > 0.005


def test_recolouring_and_value_noise_have_numpys_distribution(frames):
    rng = np.random.default_rng(0)
    which = torch.arange(2 * COUNT) % len(frames)
    ours = jitter_colours(draws(2 * COUNT), channels_first(frames)[which].float(), torch.full((2 * COUNT,), 0.7))
    wanted = np.stack([textures.jitter_colours(frames[i % len(frames)], rng, 0.7) for i in range(2 * COUNT)])
    assert alike(colours(ours.permute(0, 2, 3, 1).numpy()), colours(wanted)) > 0.005
    cells, octaves = torch.linspace(2, 40, COUNT), 1 + torch.arange(COUNT) % 5
    noise = value_noise(draws(COUNT), SIZE, cells, octaves).numpy()
    theirs = np.stack(
        [perlin.value_noise(SIZE, cell, rng, n) for cell, n in zip(cells.tolist(), octaves.tolist(), strict=True)]
    )
    compared = [(part.std((1, 2)), np.abs(np.diff(part)).mean((1, 2))) for part in (noise, theirs)]
    assert alike(*compared) > 0.005
    assert noise.min() == 0
    assert noise.max() == pytest.approx(1)


def test_triplets_have_numpys_distribution(frames, disc):
    config = SynthesisConfig(sources=("texture",))
    other, pictures = pictures_of(frames)
    inside = torch.from_numpy(disc).expand(len(frames), -1, -1)
    which = torch.arange(COUNT) % len(frames)
    ours, mask = draw_triplets(draws(COUNT), pictures, inside, which, config)
    normals = pictures.normals[which]
    assert mask.flatten(1).any(1).all()
    change = (ours.int() - normals.int()).abs().amax(1)
    assert (change[~mask] < config.visible).all()  # what changed visibly is marked
    assert not (mask & ~inside[which]).any()
    sources = [(blended.BlendedDefects(
        "texture",
        [(textures.OwnStructure(), 0.4), (textures.NoiseTextures(), 0.15), (textures.OtherNormals(frames), 0.15),
         (textures.Textures(list(other)), 0.3)],
        opacity=config.opacity, edges=config.edges,
    ), 1.0)]  # fmt: skip
    rng = np.random.default_rng(0)
    drawn = [defects.make_triplet(frames[i % len(frames)], rng, sources, inside=disc) for i in range(COUNT)]
    wanted = np.stack([triplet.mask for triplet in drawn])
    rooms = inside[which].numpy()
    assert alike(shapes(mask.numpy(), rooms), shapes(wanted, rooms)) > 0.005
    strength = (change * mask).sum((1, 2)) / mask.sum((1, 2))
    theirs = [np.abs(t.normal.astype(int) - t.defective).max(2)[t.mask].mean() for t in drawn]
    assert stats.ks_2samp(strength.numpy(), theirs).pvalue > 0.005


def test_a_triplet_is_the_same_in_whatever_batch(frames, disc):
    _, pictures = pictures_of(frames)
    inside = torch.from_numpy(disc).expand(len(frames), -1, -1)
    config, indices = SynthesisConfig(), torch.tensor([5, 2, 9, 700])

    def drawn(some, seed=0):
        return draw_triplets(Draws(item_seeds(seed, some)), pictures, inside, some % len(frames), config)

    images, masks = drawn(indices)
    again = [drawn(part) for part in indices.flip(0).split(1)][::-1]
    assert (torch.cat([image for image, _ in again]).int() - images.int()).abs().max() <= 1
    assert (torch.cat([mask for _, mask in again]) == masks).float().mean() > 0.999
    assert not torch.equal(drawn(indices, seed=1)[1], masks)


def test_generated_images_are_blended_by_their_own_opacity(frames, disc):
    config = SynthesisConfig(diffusion_opacity=(1.0, 1.0), edges="hard")
    white = torch.full((2, 3, *SIZE), 255, dtype=torch.uint8)
    pictures = Pictures(channels_first(frames), torch.zeros(4, dtype=torch.bool), generated=white)
    inside = torch.from_numpy(disc).expand(4, -1, -1)
    which = torch.arange(16) % 4
    ours, mask = draw_triplets(draws(16), pictures, inside, which, config, "ddpm")
    assert (ours.amin(1)[mask] == 255).float().mean() > 0.9  # but for closed gaps and stains


def test_sources_have_the_shares_of_the_batched_ones(frames):
    """`texture_images` repeats the weights that `build_sources` gives."""
    (source, _), *_ = build_sources(SynthesisConfig(sources=("texture",)), frames)
    names = [image.name for image in source._images]
    weights = dict(zip(names, source._chances.tolist(), strict=True))
    expected = {"own structure": 0.4, "noise": 0.15, "other normals": 0.15, "textures": 0.3}
    total = sum(expected[name] for name in names)
    assert weights == pytest.approx({name: expected[name] / total for name in names})
