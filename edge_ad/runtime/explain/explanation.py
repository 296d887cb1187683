"""Explanation: what is known of why a part got its score, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ad.runtime.overlay import Frame, ScoreScale, score_scale
from edge_ad.runtime.verdict import Decision, DefectBox

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class HottestPixels:
    """The K pixels whose mean is the score (eq. 6), held against the limit of a single pixel.

    top_k: K. pixels: how many the map has. over: of all pixels, those over the pixel limit; in_score: of the K; both
    None without a pixel limit. lowest: the score of the least of the K.
    """

    top_k: int
    pixels: int
    over: int | None
    in_score: int | None
    lowest: float


@dataclass(frozen=True)
class Shares:
    """What map, detail and head each contribute; their sum is the score, and at the hottest pixel that pixel's score.

    The map measures how far each patch's features are from what a good part would show there; the head answers what
    it learnt from drawn defects; detail is how far fine structure, smaller than a patch, is from all that good parts
    show. head, detail: None for a detector without one.
    """

    map: float
    map_at_peak: float
    head: float | None = None
    head_at_peak: float | None = None
    detail: float | None = None
    detail_at_peak: float | None = None


@dataclass(frozen=True)
class LayerDistance:
    """How far a patch is from good ones, as one group of the network's blocks sees it.

    blocks: first and last, from 0. scale: 1 for the patch itself, 3 for it with its neighbours (3 x 3 patches).
    distance: to the nearest patch of a good part, 1 - cosine, 0..2. usual: the same of good patches like it, to the
    nearest in other photos. difference: what the detector itself measured in these blocks, only where scale is 1.
    """

    blocks: tuple[int, int]
    scale: int
    distance: float
    usual: float
    difference: float | None = None

    @property
    def times(self) -> float:
        """distance as a multiple of what is usual."""
        return self.distance / max(self.usual, 1e-6)


@dataclass(frozen=True, eq=False)
class NearestNormal:
    """The patch of a good part's photo that is most like the one where the score peaks.

    name: the photo's file. frame: the photo [H, W, 3] RGB. x, y: the patch's middle, in its pixels. grid: (rows,
    columns) of patches in any picture. photos: how many were searched, of known. distance, usual: as in
    LayerDistance, over all blocks and at scale 1.
    """

    name: str
    frame: Frame = field(repr=False)
    x: int
    y: int
    grid: tuple[int, int]
    photos: int
    known: int
    distance: float
    usual: float
    layers: tuple[LayerDistance, ...]

    @property
    def times(self) -> float:
        """distance as a multiple of what is usual."""
        return self.distance / max(self.usual, 1e-6)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the photo."""
        found = {key: value for key, value in vars(self).items() if key not in ("frame", "layers")}
        layers = [asdict(layer) | {"times": layer.times} for layer in self.layers]
        return found | {"times": self.times, "layers": layers}


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a part got its score.

    source: the photo's file. frame: [H, W, 3] RGB as it was scored. score: None where none could be made. limit:
    the image threshold, None before calibration. pixel_limit: above is a defect's pixel. x, y, peak: the hottest
    pixel, in pixels of the frame, and its score; None where the map is not known. good_scores: quantiles 0 to 100 %
    of the scores of the `normals` good parts that the limit rests on. pixel_scores: [h, w] over the frame. scale: of
    the heat map. example: the picture [H, W, 3] of a good part for a look at the same place, where no nearest patch
    was searched. left_out: what could not be told, and why; a sentence each.
    """

    source: str
    frame: Frame
    decision: Decision
    score: float | None
    limit: float | None
    pixel_limit: float | None = None
    x: int | None = None
    y: int | None = None
    peak: float | None = None
    boxes: tuple[DefectBox, ...] = ()
    good_scores: tuple[float, ...] = ()
    normals: int = 0
    hottest: HottestPixels | None = None
    shares: Shares | None = None
    nearest: NearestNormal | None = None
    example: Frame | None = None
    pixel_scores: Array | None = None
    scale: ScoreScale | None = None
    left_out: tuple[str, ...] = ()

    def heat_scale(self) -> ScoreScale:
        """The heat map's scale: the artifact's, else this picture's own."""
        return self.scale or score_scale(None, [] if self.pixel_scores is None else [self.pixel_scores])

    def window(self) -> tuple[int, int, int, int] | None:
        """(x, y, width, height) of the square around the hottest pixel that is shown enlarged; None without one."""
        if self.x is None or self.y is None:
            return None
        height, width = self.frame.shape[:2]
        box = next((box for box in self.boxes if _contains(box, self.x, self.y)), None)
        wanted = 1.4 * max(box.width, box.height) if box else 0
        side = max(int(min(max(wanted, min(height, width) / 5), min(height, width) / 2.5)), 1)
        return (*_square(self.x, self.y, side, height, width), side, side)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON; pictures and maps are left out."""
        return {
            "source": self.source,
            "decision": self.decision,
            "score": self.score,
            "limit": self.limit,
            "pixel_limit": self.pixel_limit,
            "peak": None if self.peak is None else {"x": self.x, "y": self.y, "score": self.peak},
            "boxes": [asdict(box) for box in self.boxes],
            "good_parts": {"count": self.normals, "highest": self.good_scores[-1]} if self.good_scores else None,
            "hottest_pixels": self.hottest and asdict(self.hottest),
            "shares": self.shares and asdict(self.shares),
            "nearest": self.nearest and self.nearest.to_dict(),
            "left_out": list(self.left_out),
        }


def _contains(box: DefectBox, x: int, y: int) -> bool:
    return box.x <= x <= box.x + box.width and box.y <= y <= box.y + box.height


def _square(x: int, y: int, side: int, height: int, width: int) -> tuple[int, int]:
    """Left and top of the square of that side around (x, y), moved into the picture."""
    return min(max(x - side // 2, 0), width - side), min(max(y - side // 2, 0), height - side)
