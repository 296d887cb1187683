"""Procedural defects of a surface: stains, burns, peeled or rusty areas, lumps, glue, smears, dents."""

from __future__ import annotations

import cv2
import numpy as np

from edge_ad.synthesis.perlin import Floats, value_noise
from edge_ad.synthesis.scene import RUST, Scene, grain, mix
from edge_ad.synthesis.shapes import blob, shading


def stain(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """A translucent patch that tints what is below, sometimes with a darker rim as dried liquid has."""
    coverage = blob(scene.size, rng, ragged=rng.uniform(0.2, 1.0), soft=rng.uniform(0.05, 0.9))
    uneven = 1 - np.float32(rng.uniform(0, 0.6)) * value_noise(scene.size, rng.uniform(2, 8), rng)
    if rng.random() < 0.6:
        tinted = patch * (scene.colour(rng) / 255 * np.float32(0.8) + np.float32(0.15))
    else:
        tinted = np.broadcast_to(scene.colour(rng), patch.shape)
    stained = mix(patch, tinted, coverage * uneven * np.float32(rng.uniform(0.25, 1.0)))
    if rng.random() < 0.35:
        rim = np.clip(1 - np.abs(coverage - 0.5) * 4, 0, 1)
        stained -= (rim * np.float32(rng.uniform(15, 60)))[..., None]
    return stained


def burn(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """A charred middle in a brownish halo."""
    halo = blob(scene.size, rng, ragged=rng.uniform(0.2, 0.7), soft=1.0)
    brown = np.array([1.0, 0.75, 0.5], np.float32) if not scene.grey else np.full(3, 0.75, np.float32)
    scorched = mix(patch, patch * brown * np.float32(rng.uniform(0.4, 0.8)), halo)
    core = np.clip(halo * np.float32(rng.uniform(1.5, 3)) - np.float32(rng.uniform(0.4, 1)), 0, 1)
    char = np.float32(rng.uniform(8, 40)) + grain(scene.size, rng) * 8
    return mix(scorched, np.repeat(char[..., None], 3, axis=2), core * np.float32(rng.uniform(0.6, 1)))


def peel(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """Paint gone in patches with sharp, ragged edges: rust, bare metal or primer shows, rough and spotted."""
    area = blob(scene.size, rng, ragged=1.0, soft=rng.uniform(0.3, 0.9))
    return _corroded(patch, area, rng.uniform(0.15, 0.8), scene, rng)


def corrode(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """The same over most of the part, as rust or a failed coat has it: spots, islands, or nearly everything."""
    uneven = value_noise(scene.size, rng.uniform(1, 3), rng, octaves=2)
    area = np.clip(uneven * np.float32(rng.uniform(0.8, 2.5)) + np.float32(rng.uniform(-0.3, 0.3)), 0, 1)
    return _corroded(patch, area, rng.uniform(0.2, 1.0), scene, rng)


def _corroded(patch: Floats, area: Floats, amount: float, scene: Scene, rng: np.random.Generator) -> Floats:
    """What is below shows where noise with fine detail, in the given area, is below `amount`."""
    flakes = value_noise(scene.size, rng.uniform(4, 12), rng, octaves=4)
    fine = value_noise(scene.size, rng.uniform(20, 50), rng, octaves=2)
    level = area * (flakes + np.float32(rng.uniform(0.1, 0.6)) * fine + np.float32(amount)) - np.float32(0.75)
    coverage = np.clip(level * np.float32(rng.uniform(4, 25)), 0, 1)
    below = _bare(scene, rng)
    if rng.random() < 0.7:  # the part's relief, light and shade stay on what shows
        tone = cv2.GaussianBlur(patch.mean(axis=2), (0, 0), rng.uniform(0.6, max(1.0, min(scene.size) / 20)))
        below = below * np.clip(tone / max(float(tone.mean()), 1.0), 0.3, 2)[..., None]
    peeled = mix(patch, below, coverage * np.float32(rng.uniform(0.75, 1)))
    edge = shading(cv2.GaussianBlur(coverage, (0, 0), 1.0), rng.uniform(0, 2 * np.pi))
    return peeled + (edge * np.float32(rng.uniform(0, 45)))[..., None]


def _bare(scene: Scene, rng: np.random.Generator) -> Floats:
    """The material below a coat [h,w,3]: three colours mixed by noise of two scales, with grain."""
    if scene.grey or rng.random() < 0.4:
        colours = [scene.colour(rng) for _ in range(3)]
    else:
        order = rng.permutation(len(RUST))
        colours = [np.array(RUST[int(i)], np.float32) * np.float32(rng.uniform(0.5, 1.4)) for i in order[:3]]
    broad = value_noise(scene.size, rng.uniform(3, 10), rng, octaves=4)
    spots = value_noise(scene.size, rng.uniform(15, 40), rng, octaves=3)
    bare = mix(np.broadcast_to(colours[0], (*scene.size, 3)), colours[1], np.clip(broad * 3 - 1, 0, 1))
    bare = mix(bare, colours[2], np.clip(spots * 4 - np.float32(rng.uniform(1.5, 3)), 0, 1))
    return bare + (grain(scene.size, rng, fine=16) * np.float32(rng.uniform(5, 25)))[..., None]


def lump(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """Foreign matter lying on the part: opaque, rough, lit from one side, with a shadow; or crumbs of it."""
    height, width = scene.size
    coverage = blob(scene.size, rng, ragged=rng.uniform(0.3, 1.0), soft=rng.uniform(0.03, 0.2))
    if rng.random() < 0.3:
        coverage = coverage * np.clip((value_noise(scene.size, rng.uniform(6, 14), rng) - 0.5) * 12, 0, 1)
    bumps = coverage * 2 + value_noise(scene.size, rng.uniform(4, 16), rng, octaves=4)
    light = rng.uniform(0, 2 * np.pi)
    lit = shading(cv2.GaussianBlur(bumps, (0, 0), 1.0), light)
    shift = np.array([[1, 0, 3 * np.cos(light)], [0, 1, 3 * np.sin(light)]])
    shadow = cv2.GaussianBlur(cv2.warpAffine(coverage, shift, (width, height)), (0, 0), 2)
    shaded = patch * (1 - shadow * np.float32(rng.uniform(0, 0.5)))[..., None]
    body = scene.colour(rng) + (lit * np.float32(rng.uniform(20, 130)))[..., None]
    body = body + (grain(scene.size, rng) * np.float32(rng.uniform(3, 20)))[..., None]
    return mix(shaded, body, coverage)


def glue(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """A clear or milky drop: what is below is blurred, displaced and lightened, with highlights on top."""
    height, width = scene.size
    coverage = blob(scene.size, rng, ragged=rng.uniform(0.1, 0.7), soft=rng.uniform(0.1, 0.4))
    dome = cv2.GaussianBlur(coverage, (0, 0), max(1.0, min(height, width) / 16))
    light = rng.uniform(0, 2 * np.pi)
    slope = shading(dome, light)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    bend = slope * np.float32(rng.uniform(1, 5))
    below = cv2.remap(patch, x + bend, y - bend, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    below = cv2.GaussianBlur(below, (0, 0), rng.uniform(0.6, 3))
    milk = np.float32(rng.uniform(0, 0.7))
    tone = np.float32(rng.uniform(100, 250)) if rng.random() < 0.75 else scene.colour(rng)
    body = below * (1 - milk) + tone * milk
    lit = np.clip(slope * 2 - 0.9, 0, 1) * np.float32(rng.uniform(20, 160))
    return mix(patch, body + (lit + slope * np.float32(rng.uniform(5, 40)))[..., None], coverage)


def smear(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """The surface lost its texture, its brightness or its sharpness: wiped, polished, faded, dusty."""
    coverage = blob(scene.size, rng, ragged=rng.uniform(0.2, 0.9), soft=rng.uniform(0.1, 0.8))
    blurred = cv2.GaussianBlur(patch, (0, 0), rng.uniform(1.5, max(2.0, min(scene.size) / 10)))
    gain, lift = np.float32(rng.uniform(0.75, 1.3)), np.float32(rng.uniform(-35, 35))
    dust = grain(scene.size, rng, fine=16) * np.float32(rng.uniform(0, 20))
    return mix(patch, blurred * gain + lift + dust[..., None], coverage)


def dent(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """A hollow or a bump of the surface: reflections move and one flank is lit, the other in shade."""
    height, width = scene.size
    hollow = blob(scene.size, rng, ragged=rng.uniform(0, 0.4), soft=1.0)
    hollow = cv2.GaussianBlur(hollow, (0, 0), max(1.0, min(height, width) / 20))
    light = rng.uniform(0, 2 * np.pi)
    slope_x, slope_y = shading(hollow, 0), shading(hollow, np.pi / 2)
    reach = np.float32(float(rng.choice([-1, 1])) * rng.uniform(0.02, 0.09) * min(height, width))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    moved = cv2.remap(
        patch, x + slope_x * reach, y + slope_y * reach, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    lit = np.float32(np.cos(light)) * slope_x + np.float32(np.sin(light)) * slope_y
    shade = lit * np.float32(rng.uniform(15, 80)) * (moved.mean(axis=2) / 255 + np.float32(0.25))
    return moved + shade[..., None]
