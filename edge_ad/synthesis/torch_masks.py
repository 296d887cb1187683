"""Random masks for whole batches, on any device: `perlin`'s and `blended`'s in PyTorch, of the same distribution.

Nothing here waits for the device: all shapes are known beforehand, and what a mask needs less often (further tries, a
moved threshold) is computed for all and chosen where it is needed.
"""

from __future__ import annotations

import functools
import math

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_ad.synthesis.draws import Draws, constant
from edge_ad.synthesis.perlin import SCALES, TRIES

SWEEPS = 5  # of labels along rows and columns: enough for blobs; a maze may fall into several parts
MOST_PARTS, MOST_CORNERS = 3, 8
# streams of random numbers
CELLS, ANGLES, TURN, PARTS, CORNERS, RADII, SHAPE, PLACE = range(8)


def perlin_noise(size: tuple[int, int], cells: Tensor, angles: Tensor) -> Tensor:
    """Gradient noise [B, H, W], as `perlin.perlin_noise` of each item.

    cells: int64 [B, 2], lattice cells along (y, x). angles: of the gradients, [B, most + 1, most + 1] radians.
    """
    i, dy, fade_y = _lattice(size[0], cells[:, 0])
    j, dx, fade_x = _lattice(size[1], cells[:, 1])
    item = torch.arange(len(cells), device=cells.device)[:, None, None]
    along_y, along_x = angles.sin(), angles.cos()

    def corner(down: int, right: int) -> Tensor:
        at = item, i[:, :, None] + down, j[:, None, :] + right
        return along_x[at] * (dx[:, None, :] - right) + along_y[at] * (dy[:, :, None] - down)

    left = torch.lerp(corner(0, 0), corner(1, 0), fade_y[:, :, None])
    right = torch.lerp(corner(0, 1), corner(1, 1), fade_y[:, :, None])
    return torch.lerp(left, right, fade_x[:, None, :]) * math.sqrt(2)


def perlin_masks(
    draws: Draws,
    inside: Tensor,
    *,
    max_area: Tensor,
    min_area: float = 0.004,
    threshold: float = 0.5,
    parts: Tensor | None = None,
    morphology: Tensor | None = None,
) -> Tensor:
    """Random masks, bool [B, H, W], as `perlin.perlin_mask` of each item; empty only where `inside` is.

    inside: bool [B, H, W]. max_area: [B], min_area: bounds as fractions of `inside`. parts: int64 [B], keep at most
    that many, 1..MOST_PARTS; 0 keeps all. morphology: int64 [B], -1 erodes, 1 and 2 dilate by that many pixels.
    """
    count, height, width = inside.shape
    cells = constant(SCALES, inside.device)[draws.whole(CELLS, 0, len(SCALES), TRIES * 2)]
    angles = draws.uniform(ANGLES, TRIES * (max(SCALES) + 1) ** 2, high=2 * math.pi)
    noise = perlin_noise((height, width), cells.reshape(-1, 2), angles.reshape(-1, max(SCALES) + 1, max(SCALES) + 1))
    noise = rotate(noise, draws.uniform(TURN, TRIES, low=-90, high=90).flatten()).reshape(-1, TRIES, height, width)
    room = inside.sum((1, 2))
    low, high = min_area * room, max_area * room
    area = ((noise > threshold) & inside[:, None]).sum((2, 3))
    good = (area >= low[:, None]) & (area <= high[:, None])
    chosen = torch.where(good.any(1), good.int().argmax(1), TRIES - 1)
    noise = noise[torch.arange(count, device=inside.device), chosen]
    mask = torch.where(
        good.any(1)[:, None, None], noise > threshold, noise >= _bound(noise, inside, area[:, -1], low, high)
    )
    mask &= inside
    if morphology is not None:
        mask = _grown(mask, morphology, inside)
    return mask if parts is None else choose_parts(mask, parts, draws)


def polygons(draws: Draws, size: tuple[int, int]) -> Tensor:
    """Pasted pieces, bool [B, H, W]: a jagged polygon of 4 to 8 corners somewhere in each frame."""
    height, width = size
    device = draws.uniform(SHAPE).device
    stretch = draws.uniform(SHAPE, 3)
    side = torch.exp(math.log(0.05) + stretch[:, 0] * math.log(8)) * max(size)
    high, wide = ((side * torch.exp(1.6 * stretch[:, k + 1] - 0.8)).clamp(5, size[k]).floor() for k in range(2))
    place = draws.uniform(PLACE, 2)
    top, left = (place[:, 0] * (height - high + 1)).floor(), (place[:, 1] * (width - wide + 1)).floor()
    corners = draws.whole(CORNERS, 4, MOST_CORNERS + 1)
    drawn = draws.uniform(RADII, 2, MOST_CORNERS)
    number = torch.arange(MOST_CORNERS, device=device)
    angle = (drawn[:, 0] * 2 * math.pi).masked_fill(number >= corners[:, None], 9.0).sort(1).values
    radius = 0.35 + 0.63 * drawn[:, 1]
    last = corners[:, None] - 1
    number = torch.minimum(number.expand_as(angle), last)  # corners too many repeat the last one
    angle, radius = angle.gather(1, number), radius.gather(1, number)
    x = left[:, None] + wide[:, None] / 2 * (1 + angle.cos() * radius)
    y = top[:, None] + high[:, None] / 2 * (1 + angle.sin() * radius)
    rows = torch.arange(height, device=device)[None, None, :, None]
    columns = torch.arange(width, device=device)[None, None, None, :]
    x0, y0, x1, y1 = (v[:, :, None, None] for v in (x, y, x.roll(-1, 1), y.roll(-1, 1)))
    along_x, along_y, to_x, to_y = x1 - x0, y1 - y0, columns - x0, rows - y0
    spans = (y0 > rows) != (y1 > rows)
    crossed = spans & (to_x < along_x * to_y / torch.where(along_y == 0, 1.0, along_y))
    length = (along_x**2 + along_y**2).clamp(min=1e-9)
    share = ((to_x * along_x + to_y * along_y) / length).clamp(0, 1)
    # OpenCV fills with an outline that wide
    near = (to_x - share * along_x) ** 2 + (to_y - share * along_y) ** 2 < 0.65**2
    return (crossed.sum(1) % 2 == 1) | near.any(1)


def choose_parts(mask: Tensor, parts: Tensor, draws: Draws) -> Tensor:
    """At most `parts` connected parts of each mask, drawn without replacement by the root of their area; 0 keeps all.

    Source: the largest of log weight + Gumbel noise are such a draw (Kool et al., "Stochastic beams", 2019).
    """
    labels = label_components(mask).flatten(1)
    area = label_areas(labels)
    flat = mask.flatten(1)
    root = flat & (labels == torch.arange(1, flat.shape[1] + 1, device=mask.device))
    noise = -torch.log(-torch.log(draws.uniform(PARTS, flat.shape[1]) + 1e-9) + 1e-9)
    score = (0.5 * area.gather(1, labels).clamp(min=1).float().log() + noise).masked_fill(~root, -math.inf)
    best = score.topk(MOST_PARTS).values
    least = best.gather(1, (parts.clamp(min=1) - 1)[:, None])
    kept = torch.zeros_like(area, dtype=torch.bool).scatter_(1, labels * root, root & (score >= least))
    return torch.where((parts == 0)[:, None], flat, flat & kept.gather(1, labels)).reshape(mask.shape)


def label_components(mask: Tensor) -> Tensor:
    """Labels int64 [B, H, W] of the connected parts (8 neighbours): equal within a part, above 0, and 0 outside.

    A part's label is 1 + the largest position in it. Labels spread along whole runs of rows and columns and to all
    neighbours, and from where a label is from, SWEEPS times.
    """
    _, height, width = mask.shape
    labels = (
        torch.arange(1.0, height * width + 1, device=mask.device).reshape(1, height, width) * mask
    )  # exact to 2^24
    across, down = _runs(mask), _runs(mask.transpose(1, 2))
    for _ in range(SWEEPS):
        labels = _most_of_run(labels, across, mask)
        labels = _most_of_run(labels.transpose(1, 2), down, mask.transpose(1, 2)).transpose(1, 2)
        labels = F.max_pool2d(labels[:, None], 3, 1, 1)[:, 0] * mask
        flat = labels.flatten(1)  # where a label is from, a larger one may have come meanwhile
        labels = flat.gather(1, (flat.long() - 1).clamp(min=0)).reshape(mask.shape) * mask
    return labels.long()


def label_areas(labels: Tensor) -> Tensor:
    """How many pixels [B, N + 1] have each label of `labels` [B, N]."""
    zero = torch.zeros(len(labels), labels.shape[1] + 1, dtype=torch.int64, device=labels.device)
    return zero.scatter_add_(1, labels, torch.ones_like(labels))


def remove_specks(mask: Tensor, smallest: int = 4) -> Tensor:
    """The masks [B, H, W] without parts of fewer pixels than that; all are kept where there is nothing else."""
    labels = label_components(mask).flatten(1)
    large = label_areas(labels).gather(1, labels).reshape(mask.shape) >= smallest
    kept = mask & large
    return torch.where(kept.flatten(1).any(1)[:, None, None], kept, mask)


def close_gaps(mask: Tensor, gap: int) -> Tensor:
    """The masks [B, H, W] with gaps of up to `gap` pixels (odd) filled: dilated by an ellipse, then eroded."""
    padded = F.pad(mask, (gap,) * 4)
    return erode(dilate(padded, gap), gap)[:, gap:-gap, gap:-gap]


def dilate(mask: Tensor, side: int) -> Tensor:
    """The masks [B, H, W] grown by an ellipse of that many pixels a side (odd)."""
    kernel = constant(_ellipse(side), mask.device).reshape(1, 1, side, side)
    return F.conv2d(mask[:, None].float(), kernel, padding=side // 2)[:, 0] > 0.5


def erode(mask: Tensor, side: int) -> Tensor:
    """The masks shrunk by an ellipse; what lies beyond the frame counts as mask."""
    return ~dilate(~mask, side)


def gaussian_blur(images: Tensor, sigma: Tensor, widest: float) -> Tensor:
    """Each of the images [B, C, H, W] blurred by its own sigma [B], at most `widest` pixels; mirrored at edges."""
    count, channels, height, width = images.shape
    for axis, length in ((2, height), (3, width)):
        reach = min(math.ceil(3.5 * widest), length - 1)
        offset = torch.arange(-reach, reach + 1, device=images.device)
        kernel = torch.exp(-0.5 * (offset / sigma[:, None].clamp(min=1e-3)) ** 2)
        kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
        pad = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        shape = (-1, 1, 2 * reach + 1, 1) if axis == 2 else (-1, 1, 1, 2 * reach + 1)
        flat = F.pad(images, pad, mode="reflect").flatten(0, 1)[None]
        images = F.conv2d(flat, kernel.reshape(shape), groups=count * channels)[0].unflatten(0, (count, channels))
    return images


def rotate(fields: Tensor, degrees: Tensor) -> Tensor:
    """Fields [B, H, W] turned about their middle, mirrored at the edges."""
    height, width = fields.shape[1:]
    angle = torch.deg2rad(degrees)[:, None, None]
    y = torch.arange(height, device=fields.device)[None, :, None] - height / 2
    x = torch.arange(width, device=fields.device)[None, None, :] - width / 2
    source_x = angle.cos() * x - angle.sin() * y + width / 2
    source_y = angle.sin() * x + angle.cos() * y + height / 2
    return sample_at(fields[:, None], source_y, source_x)[:, 0]


def sample_at(images: Tensor, y: Tensor, x: Tensor, mode: str = "bilinear", padding: str = "reflection") -> Tensor:
    """Values [B, C, h, w] of images [B, C, H, W] at positions y, x [B, h, w]; pixel centres are whole numbers."""
    height, width = images.shape[2:]
    where = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    return F.grid_sample(images, where, mode, padding, align_corners=False)


def _lattice(length: int, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per item and pixel [B, length]: lattice cell, offset in it (0..1), faded offset."""
    position = (torch.arange(length, device=cells.device) + 0.5) * (cells[:, None].float() / length)
    cell = torch.minimum(position.long(), cells[:, None] - 1)
    offset = position - cell
    return cell, offset, offset**3 * (offset * (offset * 6 - 15) + 10)


def _bound(noise: Tensor, inside: Tensor, area: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The threshold [B, 1, 1] that gives the nearest allowed area."""
    ordered = noise.masked_fill(~inside, -math.inf).flatten(1).sort(1, descending=True).values
    wanted = torch.minimum(torch.maximum(area, low), high).round().long().clamp(1, ordered.shape[1])
    return ordered.gather(1, wanted[:, None] - 1)[:, :, None]


def _grown(mask: Tensor, pixels: Tensor, inside: Tensor) -> Tensor:
    """Masks eroded (-1) or dilated (1, 2); what would be empty stays as it was."""
    amount = pixels[:, None, None]
    grown = torch.where(amount == -1, erode(mask, 3), mask)
    grown = torch.where(amount == 1, dilate(mask, 3), grown)
    grown = torch.where(amount == 2, dilate(mask, 5), grown) & inside
    return torch.where(grown.flatten(1).any(1)[:, None, None], grown, mask)


def _runs(mask: Tensor) -> Tensor:
    """Numbers [B * H * W] of the runs of true pixels along the last axis, counted through, from 1; 0 outside."""
    starts = mask & ~F.pad(mask, (1, 0))[..., :-1]
    return starts.flatten().cumsum(0) * mask.flatten()


def _most_of_run(labels: Tensor, runs: Tensor, mask: Tensor) -> Tensor:
    """Each run's largest label, everywhere in the run."""
    flat = labels.flatten()
    most = torch.zeros(len(flat) + 1, dtype=flat.dtype, device=flat.device).scatter_reduce_(0, runs, flat, "amax")
    return most[runs].reshape(labels.shape) * mask


@functools.cache
def _ellipse(side: int) -> tuple[float, ...]:
    return tuple(map(float, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)).ravel()))
