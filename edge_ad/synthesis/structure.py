"""Procedural defects of shape: missing material, chips and shards, bends, shifted or thickened structure."""

from __future__ import annotations

import cv2
import numpy as np

from edge_ad.synthesis.perlin import Floats, value_noise
from edge_ad.synthesis.scene import Scene, grain, mix
from edge_ad.synthesis.shapes import blob, polygon, shading


def missing(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """A hole or a bite: the backdrop shows, with a lit or shaded cut edge."""
    if rng.random() < 0.5:
        coverage = polygon(scene.size, rng, int(rng.integers(4, 10)))
    else:
        coverage = blob(scene.size, rng, ragged=rng.uniform(0, 0.8), soft=0.05)
    behind = scene.backdrop(rng) + (grain(scene.size, rng) * np.float32(rng.uniform(0, 4)))[..., None]
    holed = mix(patch, behind, coverage)
    edge = shading(cv2.GaussianBlur(coverage, (0, 0), 1.2), rng.uniform(0, 2 * np.pi))
    return holed + (edge * np.float32(rng.uniform(0, 60)))[..., None]


def shards(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """A broken place: facets at odd angles, each showing something else, darker, brighter, with glints."""
    height, width = scene.size
    outline = polygon(scene.size, rng, int(rng.integers(5, 14)))
    outline = np.clip(outline - (value_noise(scene.size, rng.uniform(4, 10), rng) > 0.8), 0, 1)
    count = int(rng.integers(2, 9))
    centres = rng.uniform(0, 1, (count, 2)) * [height, width]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    wobble = (value_noise(scene.size, 5, rng) - 0.5) * np.float32(max(height, width) * 0.2)
    distance = np.stack([np.hypot(y - cy + wobble, x - cx - wobble) for cy, cx in centres])
    facet = distance.argmin(axis=0)
    broken = patch.copy()
    for index in range(count):
        here = facet == index
        face = scene.crop(rng) * np.float32(rng.uniform(0.3, 1.5)) + np.float32(rng.uniform(-30, 30))
        tilt = np.cos(rng.uniform(0, 6)) * (x / width - 0.5) + np.sin(rng.uniform(0, 6)) * (y / height - 0.5)
        face += (tilt * np.float32(rng.uniform(0, 140)))[..., None]
        broken[here] = face[here]
    lines = cv2.morphologyEx(facet.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    glint = np.clip((value_noise(scene.size, rng.uniform(6, 16), rng, octaves=4) - 0.7) * 6, 0, 1)
    broken += (lines * np.float32(rng.uniform(-60, 120)))[..., None]
    broken = mix(broken, scene.colour(rng) * 0.2 + np.float32(190), glint * np.float32(rng.uniform(0, 1)))
    return mix(patch, cv2.GaussianBlur(broken, (0, 0), 0.6), outline)


def bend(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """The structure pushed, pinched or twisted within a soft region; nothing is added."""
    height, width = scene.size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    from_y, from_x = y - np.float32(height / 2), x - np.float32(width / 2)
    falloff = np.clip(1 - np.hypot(from_y / (height / 2), from_x / (width / 2)), 0, 1)
    falloff = falloff * falloff * (3 - 2 * falloff)
    draw = rng.random()
    if draw < 0.45:
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.08, 0.25) * min(height, width)
        move_y, move_x = falloff * np.sin(angle) * reach, falloff * np.cos(angle) * reach
    elif draw < 0.7:
        turn = falloff * float(rng.choice([-1, 1])) * rng.uniform(0.3, 1.2)
        move_y = from_y * (np.cos(turn) - 1) + from_x * np.sin(turn)
        move_x = from_x * (np.cos(turn) - 1) - from_y * np.sin(turn)
    elif draw < 0.85:
        pull = falloff * float(rng.choice([-0.6, 0.45])) * rng.uniform(0.5, 1)
        move_y, move_x = from_y * pull, from_x * pull
    else:
        reach = np.float32(rng.uniform(0.1, 0.3) * min(height, width))
        move_y = (value_noise(scene.size, 3, rng, 2) - 0.5) * falloff * reach * 2
        move_x = (value_noise(scene.size, 3, rng, 2) - 0.5) * falloff * reach * 2
    moved: Floats = cv2.remap(
        patch,
        (x + move_x).astype(np.float32),
        (y + move_y).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    return moved


def shift(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """A piece of the structure from nearby in the wrong place: broken strands, doubled edges, a wrong part."""
    reach = rng.uniform(0.2, 1.0) * max(scene.size) if rng.random() < 0.7 else None
    other = scene.crop(rng, reach)
    draw = rng.random()
    if draw < 0.3:
        other = other[::-1]
    elif draw < 0.5:
        other = other[:, ::-1]
    elif draw < 0.75:
        middle = (scene.window.width / 2, scene.window.height / 2)
        turn = cv2.getRotationMatrix2D(middle, rng.uniform(-180, 180), rng.uniform(0.8, 1.6))
        other = cv2.warpAffine(other, turn, scene.size[::-1], borderMode=cv2.BORDER_REFLECT)
    if rng.random() < 0.4:
        other = other * np.float32(rng.uniform(0.75, 1.3)) + np.float32(rng.uniform(-20, 20))
    if rng.random() < 0.5:
        coverage = polygon(scene.size, rng, int(rng.integers(4, 9)))
        coverage = cv2.GaussianBlur(coverage, (0, 0), rng.uniform(0.5, 2))
    else:
        coverage = blob(scene.size, rng, ragged=rng.uniform(0, 0.7), soft=rng.uniform(0.05, 0.4))
    return mix(patch, np.ascontiguousarray(other), coverage)


def thicken(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """Bright or dark structure grown within a region: swollen or starved wires, flash, worn edges."""
    radius = int(rng.integers(1, 2 + max(1, min(scene.size) // 24)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    change = cv2.dilate if rng.random() < 0.5 else cv2.erode
    coverage = blob(scene.size, rng, ragged=rng.uniform(0, 0.7), soft=rng.uniform(0.1, 0.4))
    return mix(patch, cv2.GaussianBlur(change(patch, kernel), (0, 0), 0.7), coverage)
