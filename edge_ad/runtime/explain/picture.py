"""An explanation as one picture: the part, what is unusual, the nearest good patch, the score."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from edge_ad.runtime.explain.explanation import Explanation, LayerDistance
from edge_ad.runtime.explain.words import USUAL, sentences
from edge_ad.runtime.overlay import (
    COLOURS,
    Colour,
    Frame,
    blend_heat,
    draw_boxes,
    draw_text,
    outline,
    resize_to,
    scale_boxes,
)

WIDTH, GAP, LINE = 1230, 15, 24
CELL = (WIDTH - 4 * GAP) // 3  # three columns
PAPER, INK, FAINT, PALE = (250, 250, 250), (30, 30, 34), (110, 110, 118), (222, 222, 226)
MARK: Colour = (0, 120, 220)  # the square that is shown enlarged
WHITE: Colour = (255, 255, 255)


def draw_explanation(explanation: Explanation) -> Frame:
    """The picture [H, W, 3] uint8 RGB, about 1230 pixels wide; parts of it that are not known say so."""
    picture, size = _fitted(explanation.frame)
    part = _marked(picture, explanation)
    rows = [
        _banner(explanation),
        _columns(
            ("The part" + ("; the blue square is enlarged below" if explanation.window() else ""), part),
            _heat(explanation, size),
            ("The score, and those of good parts", _gauge(explanation, size[0])),
        ),
    ]
    if explanation.window():
        rows.append(_columns(*_enlarged(explanation)))
    rows.append(_text(sentences(explanation)))
    return np.concatenate(rows)


def _fitted(frame: Frame) -> tuple[Frame, tuple[int, int]]:
    """The frame as wide as a column, or less where it would be taller than that, and its size."""
    factor = min(CELL / frame.shape[1], CELL / frame.shape[0])
    size = (max(round(frame.shape[0] * factor), 1), max(round(frame.shape[1] * factor), 1))
    return resize_to(frame, size), size


def _banner(one: Explanation) -> Frame:
    band = np.full((54, WIDTH, 3), COLOURS.get(one.decision, COLOURS["ERROR"]), np.uint8)
    used = draw_text(band, one.decision, (GAP, 27), 34, WHITE, bold=True)
    draw_text(band, sentences(one)[0], (GAP + used + 24, 27), 20, WHITE, WIDTH - used - 3 * GAP)
    return band


def _columns(*cells: tuple[str, Frame]) -> Frame:
    """Pictures side by side, each below its caption."""
    height = max(picture.shape[0] for _, picture in cells)
    band = np.full((LINE + height + GAP, WIDTH, 3), PAPER, np.uint8)
    for i, (caption, picture) in enumerate(cells):
        left = GAP + i * (CELL + GAP)
        draw_text(band, caption, (left, LINE // 2 + 2), 15, INK, CELL, bold=True)
        band[LINE : LINE + picture.shape[0], left : left + picture.shape[1]] = picture
    return band


def _marked(picture: Frame, one: Explanation) -> Frame:
    """The shrunk photo with its boxes and the square that is enlarged."""
    factor = picture.shape[1] / one.frame.shape[1]
    drawn = draw_boxes(picture, scale_boxes(one.boxes, factor))
    window = one.window()
    return draw_boxes(drawn, [_scaled(window, factor)], MARK) if window else drawn


def _scaled(box: tuple[float, float, float, float], factor: float) -> tuple[int, int, int, int]:
    x, y, width, height = (round(side * factor) for side in box)
    return x, y, width, height


def _heat(one: Explanation, size: tuple[int, int]) -> tuple[str, Frame]:
    """The heat map on the photo, with an outline around the pixels that make the score."""
    picture = _fitted(one.frame)[0]
    if one.pixel_scores is None:
        return "What is unusual: the map was not kept", _marked(picture, one)
    drawn = blend_heat(picture, one.pixel_scores, one.heat_scale())
    if one.hottest is None:
        return "What is unusual", drawn
    top = (one.pixel_scores >= one.hottest.lowest).astype(np.uint8)
    inside = cv2.resize(top, size[::-1], interpolation=cv2.INTER_NEAREST) > 0
    return f"What is unusual; white: the {one.hottest.top_k} pixels of the score", outline(drawn, inside, WHITE)


def _gauge(one: Explanation, height: int) -> Frame:
    """Good parts' scores as ticks, the limit as a line, this part's score as a bar; map's and head's shares in it."""
    picture = np.full((max(height, 150), CELL, 3), PAPER, np.uint8)
    known = [value for value in (one.score, one.limit, *one.good_scores[-1:]) if value is not None]
    if not known:
        draw_text(picture, "There is no score.", (0, 40), 16, INK, CELL)
        return picture
    low, high = min(0.0, *known), max(*known, 1e-6) * 1.08
    room = CELL - 20

    def at(value: float) -> int:
        return 10 + round(room * (value - low) / (high - low))

    y, line = 24, 22
    if one.good_scores:
        draw_text(picture, f"{one.normals or ''} good parts".strip(), (10, y), 15, FAINT, room)
        cv2.rectangle(picture, (at(one.good_scores[0]), y + 12), (at(one.good_scores[-1]), y + 12 + line), PALE, -1)
        for value in one.good_scores:
            cv2.line(picture, (at(value), y + 14), (at(value), y + 10 + line), COLOURS["OK"], 1)
        y += 64
    if one.score is not None:
        draw_text(picture, f"this part: {one.score:.2f}", (10, y), 15, INK, room, bold=True)
        cv2.rectangle(picture, (at(0), y + 12), (at(one.score), y + 12 + line), COLOURS[one.decision], -1)
        y += 64
    for name, share in _shares(one):
        draw_text(picture, f"of which {name}: {share:.2f}", (24, y), 15, INK, room)
        cv2.rectangle(picture, (at(0), y + 12), (at(share), y + 12 + line), FAINT, -1)
        y += 56
    if one.limit is not None:
        cv2.line(picture, (at(one.limit), 24), (at(one.limit), y - 8), INK, 2)
        right = at(one.limit) > CELL * 0.6
        text = f"limit {one.limit:.2f}"
        draw_text(picture, text, (at(one.limit) - (95 if right else -6), y + 4), 15, INK, room, bold=True)
    return picture


def _shares(one: Explanation) -> list[tuple[str, float]]:
    if one.shares is None or one.shares.head is one.shares.detail is None:
        return []
    named = ("the map", one.shares.map), ("the detail", one.shares.detail), ("the head", one.shares.head)
    return [(name, share) for name, share in named if share is not None]


def _enlarged(one: Explanation) -> list[tuple[str, Frame]]:
    """The square around the hottest pixel, the nearest good patch or the same place of a good part, and distances."""
    x, y, side, _ = one.window() or (0, 0, 1, 1)
    at = (one.x or 0, one.y or 0)
    near, part = one.nearest, _cut(one.frame, (x, y, side, side))
    cells = [("Enlarged: where it is most unusual", part)]
    if near is not None:
        cells[0] = (cells[0][0], _with_patch(part, one.frame, (at[0] - x, at[1] - y), side, near.grid))
        factor = near.frame.shape[1] / one.frame.shape[1]
        wide = max(round(side * factor), 1)
        # the same way from the patch to the rim as in the part: both patches lie at the same place of the pictures
        inside = (round((at[0] - x) * factor), round((at[1] - y) * factor))
        good = _cut(near.frame, (near.x - inside[0], near.y - inside[1], wide, wide))
        caption = f"Most similar patch of a good part, {near.name}"
        cells.append((caption, _with_patch(good, near.frame, inside, wide, near.grid)))
        cells.append(("Distance from it, times what is usual", _bars(near.layers)))
    elif one.example is not None:
        across, down = (one.example.shape[axis] / one.frame.shape[axis] for axis in (1, 0))
        place = (round(x * across), round(y * down), max(round(side * across), 1), max(round(side * down), 1))
        cells.append(("The same place of a good part", _cut(one.example, place)))
    return cells


def _with_patch(cell: Frame, frame: Frame, at: tuple[int, int], side: int, grid: tuple[int, int]) -> Frame:
    """The enlarged square with the patch around `at` marked. grid: patches of the frame. at, side: in its pixels."""
    enlarged = CELL / side
    height, width = frame.shape[0] / grid[0], frame.shape[1] / grid[1]
    return draw_boxes(cell, [_scaled((at[0] - width / 2, at[1] - height / 2, width, height), enlarged)], MARK)


def _cut(frame: Frame, window: tuple[int, int, int, int]) -> Frame:
    """The window (x, y, width, height) of the frame as a square of a column's width; gray beyond the frame."""
    x, y, width, height = window
    picture = np.full((height, width, 3), 190, np.uint8)
    top, left = max(y, 0), max(x, 0)
    inside = frame[top : max(y + height, top), left : max(x + width, left)]
    picture[top - y : top - y + inside.shape[0], left - x : left - x + inside.shape[1]] = inside
    return resize_to(picture, (CELL, CELL))


def _bars(layers: Sequence[LayerDistance]) -> Frame:
    """A bar for each group of blocks and scale; a line where good parts usually are."""
    picture = np.full((CELL, CELL, 3), PAPER, np.uint8)
    unit = (CELL - 20) / max(2.0, *(layer.times for layer in layers))
    row, one = min(60, (CELL - 70) // len(layers)), 10 + round(unit)
    for i, layer in enumerate(layers):
        first, last = layer.blocks
        seen = "patch alone" if layer.scale == 1 else f"with neighbours, {layer.scale} x {layer.scale}"
        blocks = f"block {first}" if first == last else f"blocks {first}-{last}"
        y = 4 + row * i
        draw_text(picture, f"{blocks}, {seen}: {layer.times:.1f}", (10, y + row // 4), row / 4, INK, CELL - 20)
        colour = COLOURS["NG"] if layer.times >= 2 else COLOURS["UNSURE"] if layer.times >= USUAL else COLOURS["OK"]
        cv2.rectangle(picture, (10, y + row // 2), (10 + round(unit * layer.times), y + row - 8), colour, -1)
        cv2.line(picture, (one, y + row // 2 - 3), (one, y + row - 5), INK, 2)
    y = 4 + row * len(layers) + 14
    draw_text(picture, "black line: usual among good parts", (10, y), 15, INK, CELL - 20)
    if len({layer.blocks for layer in layers}) > 1:
        draw_text(
            picture, "low blocks see texture and edges, high ones shape and place", (10, y + 26), 14, FAINT, CELL
        )
    return picture


def _text(lines: list[str]) -> Frame:
    """The sentences, wrapped."""
    wrapped = [row for line in lines[1:] for row in _wrapped(line)]
    band = np.full((LINE * len(wrapped) + 2 * GAP, WIDTH, 3), PAPER, np.uint8)
    for i, row in enumerate(wrapped):
        draw_text(band, row, (GAP, GAP + LINE * i + LINE // 2), 16, INK, WIDTH - 2 * GAP)
    return band


def _wrapped(line: str, letters: int = 125) -> list[str]:
    """The line in rows of at most so many letters, the second and later ones indented."""
    rows = [""]
    for word in line.split():
        if rows[-1] and len(rows[-1]) + 1 + len(word) > letters:
            rows.append("   " + word)
        else:
            rows[-1] = f"{rows[-1]} {word}" if rows[-1] else word
    return rows
