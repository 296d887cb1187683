"""Procedural defects: what the kinds are, how large and how often, and where they are put."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from edge_ad.errors import ConfigError
from edge_ad.synthesis import marks, structure, surface
from edge_ad.synthesis.defects import Frame, is_grey
from edge_ad.synthesis.perlin import Floats, Mask
from edge_ad.synthesis.scene import Scene, Window

Draw = Callable[[Floats, Scene, np.random.Generator], Floats]


class Kind(NamedTuple):
    """A kind of defect: who draws it, its window's side as fractions of the frame's, how often it's chosen."""

    draw: Draw
    smallest: float
    largest: float
    weight: float = 1.0
    on_object: bool = True  # False: may stick out over the object's edge
    at_edge: float = 0.2  # how often it sits on the object's edge, where chips and dents like to be


KINDS = {
    "scratch": Kind(marks.scratch, 0.08, 0.8, 1.2),
    "crack": Kind(marks.crack, 0.08, 0.7),
    "pits": Kind(marks.pits, 0.04, 0.4, 1.2),
    "thread": Kind(marks.thread, 0.12, 0.8, 1.0, on_object=False),
    "tuft": Kind(marks.tuft, 0.12, 0.5, 0.7, on_object=False, at_edge=0.5),
    "stain": Kind(surface.stain, 0.06, 0.9, 1.2),
    "burn": Kind(surface.burn, 0.08, 0.6, 0.6),
    "peel": Kind(surface.peel, 0.12, 1.2, 1.2, at_edge=0.4),
    "corrode": Kind(surface.corrode, 1.0, 1.0, 0.5),
    "lump": Kind(surface.lump, 0.05, 0.5, 1.2, on_object=False),
    "glue": Kind(surface.glue, 0.08, 0.6),
    "smear": Kind(surface.smear, 0.1, 0.8, 0.8),
    "dent": Kind(surface.dent, 0.1, 0.6, 0.8),
    "missing": Kind(structure.missing, 0.05, 0.6, 1.0, at_edge=0.5),
    "shards": Kind(structure.shards, 0.08, 0.7, 1.2, at_edge=0.4),
    "bend": Kind(structure.bend, 0.12, 0.7, 1.2, on_object=False),
    "shift": Kind(structure.shift, 0.06, 0.6, 1.2),
    "thicken": Kind(structure.thicken, 0.1, 0.6, 0.8),
}


class ProceduralDefects:
    """Draws one to three defects of the chosen kinds; a `DefectSource`."""

    name = "procedural"

    def __init__(self, kinds: Sequence[str] = tuple(KINDS)) -> None:
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown or not kinds:
            raise ConfigError(f"unknown kinds of procedural defects: {unknown}", f"known: {', '.join(KINDS)}")
        self.kinds = [KINDS[kind] for kind in kinds]
        weights = np.array([kind.weight for kind in self.kinds])
        self._chances = weights / weights.sum()

    def __call__(self, frame: Frame, inside: Mask | None, rng: np.random.Generator) -> tuple[Frame, None]:
        """The frame with defects, uint8 [H,W,3]; the region is None, since any pixel may have changed."""
        defective = frame.copy()
        for _ in range(int(rng.choice([1, 2, 3], p=[0.75, 0.18, 0.07]))):
            kind = self.kinds[int(rng.choice(len(self.kinds), p=self._chances))]
            draw_defect(defective, frame, kind, inside, rng)
        return defective, None


def draw_defect(onto: Frame, frame: Frame, kind: Kind, inside: Mask | None, rng: np.random.Generator) -> Window:
    """The window of one defect of a kind, which is drawn into `onto` in place.

    A kind whose smallest side is 1 has the whole frame. Otherwise the window's side lies between the kind's
    bounds, rather large than small, and its middle lies on the object.

    Args:
        onto: uint8 [H,W,3], changed.
        frame: the normal frame that colours and structure are taken from.
        inside: bool [H,W], the object; None is everywhere.
    """
    centre = _place(frame.shape[:2], kind, inside, rng)
    window = _window(frame.shape[:2], kind, centre, rng)
    scene = Scene(frame, inside, window, centre, is_grey(frame))
    patch = onto[window.slices].astype(np.float32)
    drawn = kind.draw(patch, scene, rng)
    if kind.on_object and inside is not None:
        edge = cv2.blur(inside[window.slices].astype(np.float32), (3, 3))[..., None]
        drawn = patch + edge * (drawn - patch)
    onto[window.slices] = np.clip(drawn + 0.5, 0, 255).astype(np.uint8)
    return window


def _place(size: tuple[int, ...], kind: Kind, inside: Mask | None, rng: np.random.Generator) -> tuple[int, int]:
    """A random pixel (y, x) of the object, or of its edge."""
    if inside is None:
        return int(rng.integers(size[0])), int(rng.integers(size[1]))
    step = max(1, min(size) // 96)
    small = inside[::step, ::step]
    where = small
    if rng.random() < kind.at_edge:
        rim = small & ~cv2.erode(small.view(np.uint8), np.ones((3, 3), np.uint8)).view(np.bool_)
        where = rim if rim.any() else small
    places = np.flatnonzero(where if where.any() else np.ones_like(small))
    y, x = divmod(int(rng.choice(places)), small.shape[1])
    return y * step, x * step


def _window(size: tuple[int, ...], kind: Kind, centre: tuple[int, int], rng: np.random.Generator) -> Window:
    """A window of random size and shape round the centre, moved to lie within the frame."""
    if kind.smallest >= 1:
        return Window(0, 0, size[0], size[1])
    side = kind.smallest * (kind.largest / kind.smallest) ** (rng.random() ** 0.6) * min(max(size), 2 * min(size))
    stretch = np.exp(rng.uniform(-0.5, 0.5))
    height = int(np.clip(round(side * stretch), min(9, size[0]), size[0]))
    width = int(np.clip(round(side / stretch), min(9, size[1]), size[1]))
    top = int(np.clip(centre[0] - height // 2, 0, size[0] - height))
    left = int(np.clip(centre[1] - width // 2, 0, size[1] - width))
    return Window(top, left, height, width)
