"""Anomaly images P for whole batches, on any device: `textures`' sources in PyTorch, of the same distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_ad.synthesis.draws import Draws, constant
from edge_ad.synthesis.torch_masks import gaussian_blur, sample_at

# streams of random numbers
KIND, MOVE, COLOUR, COLOUR_NORMAL, PICTURE, CROP, TILES, CELLS, GRID, PALETTE, PALETTE_NORMAL, GREY = range(32, 44)
OCTAVES = 5
SHUFFLE, AFFINE = 0.35, 0.7  # ends of their shares of the frame's own structure; the rest is rolled
TILE_COUNTS = (2, 3, 4, 8)
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Pictures:
    """What P is made of, on the device: uint8 [N, 3, H, W] each. normals, and generated (or None), have one size.

    grey: bool [N], normals that have next to no colour. textures: pictures of other things, of any one size, or None.
    """

    normals: Tensor
    grey: Tensor
    textures: Tensor | None = None
    generated: Tensor | None = None


def texture_images(draws: Draws, pictures: Pictures, which: Tensor) -> Tensor:
    """P [B, 3, H, W] float32 of whole numbers 0..255, of the frames' own structure, noise, other normals, pictures.

    which: int64 [B], the normal that each P is to be blended into. Kinds are drawn by the weights that
    `sources.build_sources` gives them.
    """
    weights = [0.4, 0.15, 0.15, 0.3 if pictures.textures is not None else 0.0]
    kind = draws.choice(KIND, weights)
    height, width = pictures.normals.shape[2:]
    own_y, own_x = _own_structure(draws, height, width)
    crop_y, crop_x = _crop(draws, (height, width), (height, width), 0.4)
    own = (kind == 0)[:, None, None]
    other = draws.whole(PICTURE, 0, len(pictures.normals))
    frames = pictures.normals[torch.where(kind == 0, which, other)].float()
    moved = sample_at(frames, torch.where(own, own_y, crop_y), torch.where(own, own_x, crop_x))
    if pictures.textures is not None:
        texture = pictures.textures[draws.whole(PICTURE, 0, len(pictures.textures))].float()
        y, x = _crop(draws, tuple(texture.shape[2:]), (height, width), 0.15)
        moved = torch.where((kind == 3)[:, None, None, None], sample_at(texture, y, x), moved)
    chance = constant((0.6, 0.0, 0.5, 0.8), kind.device)[kind]
    coloured = jitter_colours(draws, moved.round().clamp(0, 255), chance)
    noise = _noise_images(draws, pictures.normals[which])
    return torch.where((kind == 1)[:, None, None, None], noise, coloured)


def generated_images(draws: Draws, pictures: Pictures) -> Tensor:
    """P [B, 3, H, W] float32, each one of the diffusion model's images."""
    assert pictures.generated is not None
    return pictures.generated[draws.whole(PICTURE, 0, len(pictures.generated))].float()


def without_colour(draws: Draws, images: Tensor, grey: Tensor) -> Tensor:
    """Images [B, 3, H, W] in grey where the frame is (bool [B]), but for 15 % of them: colour would give it away."""
    luma = torch.einsum("bchw,c->bhw", images, constant(LUMA, images.device)).round()
    change = grey & (draws.uniform(GREY) < 0.85)
    return torch.where(change[:, None, None, None], luma[:, None], images)


def jitter_colours(draws: Draws, images: Tensor, chance: Tensor) -> Tensor:
    """Images [B, 3, H, W] of whole numbers 0..255 with brightness, contrast, gamma and channel gains jittered;
    sometimes inverted, posterised or blurred. See `textures.jitter_colours`.

    chance: [B], how often anything changes at all.
    """
    drawn, normal = draws.uniform(COLOUR, 6), draws.normal(COLOUR_NORMAL, 5)
    levels = torch.linspace(0, 1, 256, device=images.device)[None]
    table = levels ** torch.exp(0.4 * normal[:, 0:1])
    table = (table - 0.5) * (0.6 + 0.9 * drawn[:, 0:1]) + 0.5 + 0.12 * normal[:, 1:2]
    kind = drawn[:, 1:2]
    table = torch.where(kind < 0.08, 1 - table, torch.where(kind < 0.14, (table * 5).floor() / 5, table))
    gains = torch.exp(normal[:, 2:5] * torch.where(drawn[:, 2:3] < 0.5, 0.18, 0.03))
    tables = (table[:, None] * gains[:, :, None] * 255).clamp(0, 255).floor()
    changed = tables.gather(2, images.long().flatten(2)).reshape(images.shape)
    blurred = gaussian_blur(changed, 0.7 + 1.8 * drawn[:, 3], 2.5).round()
    changed = torch.where((drawn[:, 4] < 0.15)[:, None, None, None], blurred, changed)
    return torch.where((drawn[:, 5] < chance)[:, None, None, None], changed, images)


def value_noise(draws: Draws, size: tuple[int, int], cells: Tensor, octaves: Tensor) -> Tensor:
    """Smooth noise [B, H, W] in 0..1, as `perlin.value_noise`: `octaves` [B] of detail, from `cells` [B] on."""
    height, width = size
    longer = max(size)
    total = torch.zeros(len(draws), height, width, device=cells.device)
    for octave in range(OCTAVES):
        n = (cells * 2**octave).clamp(max=longer)
        most = min(longer, math.ceil(math.exp(4) * 2**octave)) + 2
        grid = draws.uniform(GRID + 100 * (octave + 1), 1, most, most)
        y, x = (
            (torch.arange(side, device=cells.device) + 0.5)
            * ((n * side / longer).round() + 1).clamp(min=2)[:, None] / side - 0.5
            for side in size
        )  # fmt: skip
        where = y[:, :, None].expand(-1, -1, width), x[:, None, :].expand(-1, height, -1)
        share = 0.5**octave * (octave < octaves)
        total += share[:, None, None] * sample_at(grid, *where, mode="bicubic", padding="border")[:, 0]
    low, high = total.amin((1, 2), keepdim=True), total.amax((1, 2), keepdim=True)
    return (total - low) / (high - low).clamp(min=1e-6)


def _noise_images(draws: Draws, frames: Tensor) -> Tensor:
    """P made of coloured noise, from clouds to grain, [B, 3, H, W]."""
    count, _, height, width = frames.shape
    drawn = draws.uniform(CELLS, 9)
    cells = torch.exp(0.7 + 3.3 * drawn[:, 0])
    level = value_noise(draws, (height, width), cells, draws.whole(CELLS + 1000, 1, OCTAVES + 1))
    veins = (drawn[:, 1] < 0.3)[:, None, None]
    level = (torch.where(veins, (level * 2 - 1).abs(), level) * 255).floor() / 255
    pixel = (drawn[:, 2] * height * width).long().clamp(max=height * width - 1)
    near = frames.flatten(2)[torch.arange(count, device=frames.device), :, pixel].float()
    low = torch.where((drawn[:, 3] < 0.6)[:, None], near * (0.4 + 1.2 * drawn[:, 4:5]), 255 * drawn[:, 5:8])
    normal = draws.normal(PALETTE_NORMAL, 4)
    rise = 70 * normal[:, :3] + 50 * normal[:, 3:]
    return (low[:, :, None, None] + level[:, None] * rise[:, :, None, None]).clamp(0, 255).floor()


def _own_structure(draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where each pixel [B, H, W] comes from, in a frame of that size: tiles shuffled, or turned, or rolled."""
    drawn = draws.uniform(MOVE, 8)
    y = torch.arange(height, device=drawn.device, dtype=torch.float32)[None, :, None].expand(len(draws), -1, width)
    x = torch.arange(width, device=drawn.device, dtype=torch.float32)[None, None, :].expand(len(draws), height, -1)
    kind = drawn[:, 0, None, None]
    tiles = _shuffled(draws, y, x)
    angle, scale = 2 * math.pi * drawn[:, 1, None, None], 0.7 + 1.3 * drawn[:, 2, None, None]
    from_x = x - width / 2 - (0.6 * drawn[:, 3, None, None] - 0.3) * width
    from_y = y - height / 2 - (0.6 * drawn[:, 4, None, None] - 0.3) * height
    turned_x = (angle.cos() * from_x - angle.sin() * from_y) / scale + width / 2
    turned_y = (angle.sin() * from_x + angle.cos() * from_y) / scale + height / 2
    flip = drawn[:, 5, None, None]
    flipped_y, flipped_x = torch.where(flip < 0.25, height - 1 - y, y), x
    flipped_x = torch.where((flip >= 0.25) & (flip < 0.5), width - 1 - x, x)
    rolled_y = (flipped_y - (drawn[:, 6, None, None] * height).floor()) % height
    rolled_x = (flipped_x - (drawn[:, 7, None, None] * width).floor()) % width
    source_y = torch.where(kind < SHUFFLE, tiles[0], torch.where(kind < AFFINE, turned_y, rolled_y))
    source_x = torch.where(kind < SHUFFLE, tiles[1], torch.where(kind < AFFINE, turned_x, rolled_x))
    return source_y, source_x


def _shuffled(draws: Draws, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Tiles in a random order; what is left over by the division keeps its place."""
    height, width = y.shape[1:]
    counts = constant(TILE_COUNTS, y.device)[draws.whole(TILES, 0, len(TILE_COUNTS), 2)]
    rows, columns = counts[:, 0, None, None], counts[:, 1, None, None]
    high, wide = (height // rows).clamp(min=1), (width // columns).clamp(min=1)
    most = max(TILE_COUNTS) ** 2
    order = draws.uniform(TILES + 1000, most)
    order = order.masked_fill(torch.arange(most, device=y.device) >= counts.prod(1, keepdim=True), 2.0).argsort(1)
    row, column = (y / high).floor().long(), (x / wide).floor().long()
    inside = (row < rows) & (column < columns)
    tile = (row * columns + column).clamp(max=most - 1)
    origin = order.gather(1, tile.flatten(1)).reshape(tile.shape)
    from_y = (origin // columns) * high + y - row * high
    from_x = (origin % columns) * wide + x - column * wide
    return torch.where(inside, from_y, y), torch.where(inside, from_x, x)


def _crop(draws: Draws, picture: tuple[int, ...], size: tuple[int, int], smallest: float) -> tuple[Tensor, Tensor]:
    """Where each pixel [B, *size] comes from: a random part of the picture, mirrored and turned over at random."""
    drawn = draws.uniform(CROP, 6)
    share = smallest + (1 - smallest) * drawn[:, 0]
    along_y = ((torch.arange(size[0], device=share.device) + 0.5) / size[0])[None, :, None].expand(
        len(draws), -1, size[1]
    )
    along_x = ((torch.arange(size[1], device=share.device) + 0.5) / size[1])[None, None, :].expand(
        len(draws), size[0], -1
    )
    over = (drawn[:, 5] < 0.5)[:, None, None]
    found = []
    for axis, own, cross in ((0, along_y, along_x), (1, along_x, along_y)):
        length = (picture[axis] * share).floor().clamp(min=1)
        first = (drawn[:, 1 + axis] * (picture[axis] - length + 1)).floor()
        place = (torch.where(over, cross, own) * length[:, None, None] - 0.5).clamp(min=0)
        place = torch.minimum(place, length[:, None, None] - 1)
        flipped = (drawn[:, 3 + axis] < 0.5)[:, None, None]
        place = torch.where(flipped, length[:, None, None] - 1 - place, place)
        found.append(first[:, None, None] + place)
    return found[0], found[1]


def resize_by_area(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [B, C, H, W] float32 at another size, each pixel the mean of what it covers."""
    return F.interpolate(images, size, mode="area")
