"""Triplets (I, A, M) for whole batches, on any device: `blended` and `defects` in PyTorch, of the same distribution.

Defects are drawn at the size of the normals given, by equation 3: A = (1 - M) * I + (1 - delta) M * I + delta M * P.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_ad.config import SynthesisConfig
from edge_ad.synthesis.defects import MAX_AREA, MIN_AREA, MIN_DIFFERENCE
from edge_ad.synthesis.draws import Draws
from edge_ad.synthesis.torch_images import Pictures, generated_images, resize_by_area, texture_images, without_colour
from edge_ad.synthesis.torch_masks import (
    close_gaps,
    gaussian_blur,
    perlin_masks,
    polygons,
    remove_specks,
)

ATTEMPTS = 2  # of a defect that shows; then a plain stain, which always does
# streams of random numbers
EDGES, OPACITY, SIGMA, POLYGON, AREA, PARTS, GROWTH = range(64, 71)
HARD, FEATHERED, SEAMLESS = range(3)
EDGE_SHARES = {
    "hard": (1.0, 0.0, 0.0), "feathered": (0.0, 1.0, 0.0), "seamless": (0.0, 0.0, 1.0), "mixed": (0.35, 0.4, 0.25),
}  # fmt: skip


def draw_triplets(
    draws: Draws, pictures: Pictures, inside: Tensor, which: Tensor, config: SynthesisConfig, source: str = "texture"
) -> tuple[Tensor, Tensor]:
    """Defective frames A, uint8 [B, 3, H, W], and masks, bool [B, H, W], of normals by number.

    inside: bool [N, H, W], where the object is on each normal. which: int64 [B], normals by number. source:
    `texture`, or `ddpm` where there are generated images. A defect that hardly shows, or is too small or too large,
    is drawn again; what shows no better then becomes a plain stain, so that no mask is empty.
    """
    frames, room = pictures.normals[which].float(), inside[which]
    again = which.repeat(
        ATTEMPTS
    )  # all attempts at once: the device has few large things to do instead of many small
    own, many, rooms = draws.split(*range(ATTEMPTS)), pictures.normals[again].float(), inside[again]
    images = texture_images(own, pictures, again) if source == "texture" else generated_images(own, pictures)
    opacity = config.opacity if source == "texture" else config.diffusion_opacity
    images = without_colour(own, images, pictures.grey[again])
    blended, region = blend_defects(own, many, images, rooms, opacity, config.edges)
    seen = visible_masks(many, blended, region, config.visible)
    good = _good(many, blended, seen, config.visible)
    defective, mask = _plain_stains(draws.split(ATTEMPTS), frames, room)
    for one, its_mask, fine in reversed(
        list(zip(*(t.chunk(ATTEMPTS) for t in (blended, seen, good)), strict=True))  # the first that is good
    ):
        defective = torch.where(fine[:, None, None, None], one, defective)
        mask = torch.where(fine[:, None, None], its_mask, mask)
    strays = (_change(frames, defective) >= config.visible) & ~mask
    return torch.where(strays[:, None], frames, defective).to(torch.uint8), mask


def blend_defects(
    draws: Draws, frames: Tensor, anomalies: Tensor, inside: Tensor, opacity: tuple[float, float], edges: str
) -> tuple[Tensor, Tensor]:
    """Frames with P blended into random masks (eq. 3), float32 [B, 3, H, W] of whole numbers, and where they may have
    changed, bool [B, H, W]. See `blended.BlendedDefects`."""
    mask = defect_masks(draws, inside)
    delta = draws.uniform(OPACITY, low=opacity[0], high=opacity[1])
    edge = draws.choice(EDGES, EDGE_SHARES[edges])[:, None, None]
    widest = 1.5 + max(mask.shape[1:]) / 150
    soft = feather(mask, draws.uniform(SIGMA, low=0.6, high=widest), widest)
    weight = torch.where(edge == HARD, mask.float(), soft)
    anomalies = torch.where((edge == SEAMLESS)[:, None], match_colours(frames, anomalies, mask), anomalies)
    return blend(frames, anomalies, weight, delta), torch.where(edge == HARD, mask, soft > 0.05)


def blend(frames: Tensor, anomalies: Tensor, weight: Tensor, delta: Tensor) -> Tensor:
    """A = I + delta M * (P - I), rounded to grey levels (eq. 3); weight M [B, H, W] in 0..1, delta [B]."""
    amount = (weight * delta[:, None, None])[:, None]
    return (frames + amount * (anomalies - frames)).round()


def defect_masks(draws: Draws, inside: Tensor) -> Tensor:
    """Where to blend, bool [B, H, W]: Perlin noise six times in seven, else a polygon, cut to the object."""
    drawn = draws.uniform(AREA, 3)
    max_area = torch.exp(math.log(0.02) + drawn[:, 0] * math.log(0.4 / 0.02))
    parts = torch.where(drawn[:, 1] < 0.2, 0, draws.whole(PARTS, 1, 4))
    noise = perlin_masks(draws, inside, max_area=max_area, parts=parts, morphology=draws.whole(GROWTH, -1, 3))
    pasted = polygons(draws, (inside.shape[1], inside.shape[2])) & inside
    paste = (drawn[:, 2] < 0.15) & pasted.flatten(1).any(1)
    return torch.where(paste[:, None, None], pasted, noise)


def feather(mask: Tensor, sigma: Tensor, widest: float) -> Tensor:
    """Masks [B, H, W] with their edges blurred inwards, 0..1: 1 in the middle, 0 at the outline."""
    soft = gaussian_blur(mask[:, None].float(), sigma, widest)[:, 0]
    return torch.maximum((soft * 2 - 1).clamp(0, 1), soft * 0.5) * mask


def match_colours(frames: Tensor, anomalies: Tensor, mask: Tensor, strength: float = 0.9) -> Tensor:
    """P with its colours moved towards the frame's along the mask's outline; see `blended.match_colours`."""
    height, width = mask.shape[1:]
    small = (max(4, height // 4), max(4, width // 4))
    core = resize_by_area(mask[:, None].float(), small) > 0.5
    ring = (F.max_pool2d(core.float(), 5, 1, 2) - core.float()).clamp(min=0)
    gap = resize_by_area(frames, small).round() - resize_by_area(anomalies, small).round()
    sigma = (0.25 * core.sum((1, 2, 3)).clamp(min=1).sqrt()).clamp(min=2.0)
    widest = max(2.0, 0.25 * math.sqrt(small[0] * small[1]))
    spread = gaussian_blur(torch.cat([gap * ring, ring], 1), sigma, widest)
    correction = spread[:, :3] / spread[:, 3:].clamp(min=1e-3)
    correction = F.interpolate(correction, (height, width), mode="bilinear", align_corners=False)
    return (anomalies + strength * correction).clamp(0, 255).floor()


def visible_masks(frames: Tensor, defective: Tensor, region: Tensor, visible: float) -> Tensor:
    """True [B, H, W] where the two differ so much that a person may see it; see `defects.visible_mask`."""
    change = F.avg_pool2d(F.pad(_change(frames, defective)[:, None], (1,) * 4, mode="reflect"), 3, 1)[:, 0]
    changed = remove_specks((change.round() >= visible) & region)
    gap = max(3, round(max(region.shape[1:]) / 64)) | 1
    return close_gaps(changed, gap) & region


def _good(frames: Tensor, defective: Tensor, mask: Tensor, visible: float) -> Tensor:
    """Which masks [B] are neither too small nor too large, and show."""
    pixels = mask.sum((1, 2))
    area = pixels / mask[0].numel()
    mean = (_change(frames, defective) * mask).sum((1, 2)) / pixels.clamp(min=1)
    return (area >= MIN_AREA) & (area <= MAX_AREA) & (mean >= MIN_DIFFERENCE * visible)


def _plain_stains(draws: Draws, frames: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """A blob half-way to black or white, whichever is further."""
    tenth = torch.full((len(draws),), 0.1, device=frames.device)
    blob = perlin_masks(draws, inside, min_area=0.01, max_area=tenth, parts=torch.full_like(tenth, 2).long())
    end = torch.where(frames.mean(1, keepdim=True) < 128, 255.0, 0.0)
    return torch.where(blob[:, None], ((frames + end) / 2).floor(), frames), blob


def _change(frames: Tensor, defective: Tensor) -> Tensor:
    return (frames - defective).abs().amax(1)
