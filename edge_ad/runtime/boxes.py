"""Defects' boxes in the picture's own pixels, from the scores of a smaller map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_ad.kernels import find_defects
from edge_ad.runtime.verdict import DefectBox

MAX_BOXES = 100  # a picture that is defective all over needs no more


def defect_boxes(
    scores: npt.NDArray[np.float32], threshold: float | None, size: tuple[int, int]
) -> tuple[DefectBox, ...]:
    """Connected regions above the pixel threshold, largest peak first; none without a threshold.

    scores: [h, w] over the whole picture. size: (H, W) of the picture, in whose pixels the boxes and areas are.
    """
    if threshold is None or not (scores > threshold).any():
        return ()
    scale_y, scale_x = size[0] / scores.shape[0], size[1] / scores.shape[1]
    defects = sorted(find_defects(scores, threshold), key=lambda defect: -defect.peak)[:MAX_BOXES]
    return tuple(
        DefectBox(
            round(x * scale_x),
            round(y * scale_y),
            max(round(width * scale_x), 1),
            max(round(height * scale_y), 1),
            max(round(defect.area * scale_x * scale_y), 1),
            float(defect.peak),
        )
        for defect in defects
        for x, y, width, height in [defect.box]
    )
