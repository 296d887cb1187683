"""Synthetic defects on photos of good parts, for the sensitivity view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_ad.data.images import read_image
from edge_ad.errors import DataError
from edge_ad.synthesis.defects import make_triplet
from edge_ad.synthesis.foreground import find_foreground
from edge_ad.synthesis.procedural import ProceduralDefects


def defective_frames(paths: Sequence[Path], seed: int = 0) -> Iterator[npt.NDArray[np.uint8]]:
    """Each photo with one procedural defect (scratch, crack, stain, ...), on the part where it can be told apart.

    Photos on which no visible defect could be drawn are left out; DataError when that is all of them. Real defects
    may be harder: the view compares thresholds, it does not promise a detection rate.
    """
    rng = np.random.default_rng(seed)
    drawn = 0
    for path in paths:
        frame = read_image(path)
        try:
            triplet = make_triplet(frame, rng, [(ProceduralDefects(), 1.0)], inside=find_foreground(frame))
        except DataError:
            continue
        drawn += 1
        yield triplet.defective
    if not drawn:
        raise DataError("no synthetic defect could be drawn on these photos", "leave --sensitivity out")
