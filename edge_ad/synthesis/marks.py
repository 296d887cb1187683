"""Procedural defects made of lines and points: scratches, cracks, pits, threads, splayed bristles."""

from __future__ import annotations

import cv2
import numpy as np

from edge_ad.synthesis.perlin import Floats
from edge_ad.synthesis.scene import Scene, mix
from edge_ad.synthesis.shapes import blob, clip_to_window, curve, shading, stroke


def scratch(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """One scratch or a bundle of nearly parallel ones, bright or dark, with a rim on one side."""
    height, width = scene.size
    count = 1 if rng.random() < 0.6 else int(rng.integers(2, 9))
    angle = rng.uniform(0, 2 * np.pi)
    strength = float(rng.choice([-1, 1])) * rng.uniform(30, 140)
    thickness = rng.uniform(0.6, 1.2 + max(height, width) / 90)
    coverage = np.zeros(scene.size, np.float32)
    for _ in range(count):
        length = rng.uniform(0.5, 1.2) * np.hypot(height, width) * 0.6
        turn = angle + rng.normal(0, 0.12)
        middle = np.array([width, height]) * (rng.uniform(0.3, 0.7, 2) if count > 1 else 0.5)
        start = middle - np.array([np.cos(turn), np.sin(turn)]) * length / 2
        line = curve(
            (start[0], start[1]), length, rng, angle=turn, bend=rng.normal(0, 0.4), jitter=rng.uniform(0, 0.05)
        )
        coverage = np.maximum(coverage, stroke(scene.size, line, thickness, taper=True, rng=rng))
    marked = patch + coverage[..., None] * np.float32(strength)
    if rng.random() < 0.5:  # the material pushed up beside the groove
        rim = cv2.warpAffine(coverage, np.array([[1, 0, 1.5], [0, 1, 1.5]]), (width, height))
        marked -= (rim * (1 - coverage))[..., None] * np.float32(strength * rng.uniform(0.2, 0.6))
    return marked


def crack(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """A jagged dark line with branches."""
    height, width = scene.size
    angle, length = rng.uniform(0, 2 * np.pi), 0.8 * np.hypot(height, width) * rng.uniform(0.5, 0.9)
    start = np.array([width, height]) / 2 - np.array([np.cos(angle), np.sin(angle)]) * length / 2
    jitter = rng.uniform(0.25, 0.55)
    thickness = rng.uniform(0.8, 1.2 + max(height, width) / 70)
    trunk = curve((start[0], start[1]), length, rng, angle=angle, bend=0, jitter=jitter, steps=40)
    coverage = stroke(scene.size, trunk, thickness, taper=True)
    for _ in range(int(rng.integers(0, 5))):
        root = trunk[int(rng.integers(5, 36))]
        branch = curve(
            (root[0], root[1]),
            length * rng.uniform(0.1, 0.4),
            rng,
            angle=angle + float(rng.choice([-1, 1])) * rng.uniform(0.3, 1.2),
            bend=0,
            jitter=jitter,
        )
        coverage = np.maximum(coverage, stroke(scene.size, branch, thickness * 0.6, taper=True))
    depth = rng.uniform(0.35, 0.95)
    dark = patch * np.float32(1 - depth) if rng.random() < 0.8 else patch + np.float32(depth) * (235 - patch)
    return mix(patch, dark, coverage)


def pits(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """A cluster of small holes, dark inside, with a lit and a shaded rim; sometimes one alone."""
    height, width = scene.size
    count = int(rng.choice([1, 2, 4, 8, 20]))
    depth = np.zeros(scene.size, np.uint8)
    for _ in range(count):
        spread = 0 if count == 1 else 0.2
        centre = (np.array([width, height]) * np.clip(rng.normal(0.5, spread, 2), 0.08, 0.92)).astype(int)
        largest = min(height, width) * (0.4 if count == 1 else 0.12)
        axes = np.maximum(1, rng.uniform(0.25, 1, 2) * largest).astype(int)
        level = int(rng.uniform(120, 255))
        cv2.ellipse(depth, centre.tolist(), axes.tolist(), rng.uniform(0, 180), 0, 360, level, -1, cv2.LINE_AA)
    ragged = cv2.GaussianBlur(depth.astype(np.float32) / 255, (0, 0), rng.uniform(0.5, 1.2))
    if count == 1:
        ragged = ragged * blob(scene.size, rng, ragged=0.9, soft=0.2)
    dark = patch * np.float32(rng.uniform(0.1, 0.65))
    pitted = mix(patch, dark if rng.random() < 0.8 else np.float32(255) - dark * 0.4, ragged)
    rim = shading(ragged, rng.uniform(0, 2 * np.pi)) * np.float32(rng.uniform(10, 70))
    return pitted + rim[..., None]


def thread(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """One to three fibres lying on the part: round (lit along one side), with a faint shadow."""
    height, width = scene.size
    colour = scene.colour(rng)
    thickness = rng.uniform(1.0, 1.5 + max(height, width) / 80)
    light = rng.uniform(0, 2 * np.pi)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.3) * max(height, width)
        start = np.array([width, height]) / 2 - np.array([np.cos(angle), np.sin(angle)]) * length / 2
        line = curve(
            (start[0], start[1]), length, rng, angle=angle, bend=rng.normal(0, 1.5), jitter=rng.uniform(0, 0.15)
        )
        line = clip_to_window(scene.size, line)
        coverage = stroke(scene.size, line, thickness)
        shadow = cv2.warpAffine(coverage, np.array([[1, 0, 2.0], [0, 1, 2.0]]), (width, height))
        patch = patch * (1 - cv2.GaussianBlur(shadow, (0, 0), 1.5) * np.float32(rng.uniform(0, 0.5)))[..., None]
        round_light = shading(cv2.GaussianBlur(coverage, (0, 0), max(0.6, thickness / 3)), light)
        body = colour + (round_light * np.float32(rng.uniform(15, 60)))[..., None]
        patch = mix(patch, body, coverage * np.float32(rng.uniform(0.75, 1)))
    return patch


def tuft(patch: Floats, scene: Scene, rng: np.random.Generator) -> Floats:
    """A fan of bristles or frayed strands in the part's own colours, spreading one way."""
    height, width = scene.size
    towards = rng.uniform(0, 2 * np.pi)
    root = np.array([width, height]) * 0.5 - 0.3 * np.array([np.cos(towards), np.sin(towards)]) * [width, height]
    colours = [scene.elsewhere(rng) for _ in range(3)]
    thickness = rng.uniform(0.9, 1.2 + max(height, width) / 110)
    fan = rng.uniform(0.2, 0.8)
    for _ in range(int(rng.integers(6, 45))):
        begin = root + rng.normal(0, 0.1, 2) * [width, height]
        strand = curve(
            (begin[0], begin[1]),
            rng.uniform(0.2, 0.65) * min(height, width),
            rng,
            angle=towards + rng.normal(0, fan),
            bend=rng.normal(0, 0.6),
            steps=8,
        )
        strand = clip_to_window(scene.size, strand)
        colour = colours[int(rng.integers(3))] * np.float32(rng.uniform(0.6, 1.4)) + np.float32(rng.uniform(0, 25))
        patch = mix(patch, colour, stroke(scene.size, strand, thickness))
    return patch
