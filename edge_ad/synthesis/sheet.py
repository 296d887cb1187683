"""Contact sheets: many frames on one picture, for a person to judge."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from edge_ad.synthesis.defects import Frame, Triplet
from edge_ad.synthesis.perlin import Mask

GAP = 4


def grid(rows: Sequence[Sequence[Frame]], titles: Sequence[Sequence[str]] = (), side: int = 0) -> Frame:
    """Rows of frames on white, uint8 [H,W,3]; each frame is fitted into a square cell.

    Args:
        titles: a text above each frame, or none at all.
        side: of a cell in pixels; 0 takes the largest frame's longer side.
    """
    side = side or max(max(frame.shape[:2]) for row in rows for frame in row)
    head = 18 if titles else 0
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (side + GAP + head) + GAP, columns * (side + GAP) + GAP, 3), 255, np.uint8)
    for number, row in enumerate(rows):
        top = GAP + number * (side + GAP + head)
        for place, frame in enumerate(row):
            if titles:
                corner = (GAP + place * (side + GAP), top + 13)
                font = (cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
                cv2.putText(sheet, titles[number][place], corner, *font)
            scale = side / max(frame.shape[:2])
            size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
            cell = frame if scale == 1 else cv2.resize(frame, size, interpolation=how)
            left = GAP + place * (side + GAP)
            sheet[top + head : top + head + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet


def outline_mask(frame: Frame, mask: Mask) -> Frame:
    """The frame with the mask's outline in green."""
    marked = np.ascontiguousarray(frame.copy())
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(marked, outlines, -1, (0, 255, 0), max(1, max(mask.shape) // 200))
    return marked


def triplet_sheet(triplets: Sequence[Triplet], titles: Sequence[str], *, side: int = 160, columns: int = 8) -> Frame:
    """Triplets in pairs of rows: the defective image, and below it the normal one with the mask's outline."""
    rows: list[list[Frame]] = []
    heads: list[Sequence[str]] = []
    for first in range(0, len(triplets), columns):
        part = triplets[first : first + columns]
        rows.append([triplet.defective for triplet in part])
        rows.append([outline_mask(triplet.normal, triplet.mask) for triplet in part])
        heads += [titles[first : first + columns], ["normal, and mask"] * len(part)]
    return grid(rows, heads, side)
