"""Prediction: what the detector says of one picture, and how a person sees it."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Frame, encode_image, shrink, write_image
from edge_ad.errors import DataError
from edge_ad.runtime.boxes import defect_boxes
from edge_ad.runtime.overlay import (
    ScoreScale,
    blend_heat,
    draw_banner,
    draw_boxes,
    heat_map,
    scale_boxes,
    score_scale,
    score_text,
)
from edge_ad.runtime.verdict import Decision, DefectBox

_NOTEBOOK_SIDE = 480  # longest side of the picture that a notebook shows, pixels


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """What the detector says of one picture; a notebook shows it as a picture.

    image_score: higher is more anomalous, unbounded. pixel_scores: [256, 256]. threshold: None before calibration.
    is_anomalous: image_score > threshold, None before calibration. frame: the picture [H, W, 3], RGB, as it was
    scored. source: the file it came from, "" where there was none. pixel_threshold: above is a defect's pixel, None
    before calibration. scale: of the heat map; None for the picture's own, which can't be compared with others.
    """

    image_score: float
    pixel_scores: npt.NDArray[np.float32]
    threshold: float | None
    is_anomalous: bool | None
    frame: Frame
    source: str = ""
    pixel_threshold: float | None = None
    scale: ScoreScale | None = None

    @property
    def decision(self) -> Decision:
        """OK or NG as the line decides; UNSURE before calibration."""
        return "UNSURE" if self.is_anomalous is None else "NG" if self.is_anomalous else "OK"

    @cached_property
    def boxes(self) -> tuple[DefectBox, ...]:
        """Defects in pixels of the picture (x, y, width, height, area) with their peak score, largest peak first.

        As on the line: none in a picture that is OK, and none before calibration.
        """
        size = (self.frame.shape[0], self.frame.shape[1])
        return () if self.is_anomalous is False else defect_boxes(self.pixel_scores, self.pixel_threshold, size)

    def heatmap(self) -> Frame:
        """The scores as colours, [H, W, 3] RGB of the picture's size: dark blue is normal, red the hottest."""
        return heat_map(self.pixel_scores, self.frame.shape[:2], self._scale)

    def overlay(self) -> Frame:
        """The picture with its hot spots tinted, boxes around defects and the decision on top, [H, W, 3] RGB."""
        drawn = blend_heat(self.frame, self.pixel_scores, self._scale)
        drawn = draw_boxes(drawn, scale_boxes(self.boxes, 1.0))
        return draw_banner(drawn, self.decision, score_text(self.image_score, self.threshold))

    def save(self, path: Path | str) -> Path:
        """Write the overlay to a .png or .jpg file, making its folder; return the path. DataError when it can't."""
        path = Path(path)
        if not path.suffix:
            raise DataError(f"{path} has no suffix that names a format", "use .png or .jpg")
        write_image(path, self.overlay())
        return path

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON; the maps are left out."""
        return {
            "source": self.source,
            "decision": self.decision,
            "is_anomalous": self.is_anomalous,
            "image_score": self.image_score,
            "threshold": self.threshold,
            "boxes": [asdict(box) for box in self.boxes],
        }

    def __repr__(self) -> str:
        count = len(self.boxes)
        boxes = f", {count} box{'es' * (count != 1)}" if count else ""
        source = f", {Path(self.source).name}" if self.source else ""
        return f"<Prediction {self.decision} {score_text(self.image_score, self.threshold)}{boxes}{source}>"

    def _repr_png_(self) -> bytes:
        return encode_image(shrink(self.overlay(), _NOTEBOOK_SIDE))

    def _repr_html_(self) -> str:
        picture = base64.b64encode(self._repr_png_()).decode()
        text = repr(self).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"<img src='data:image/png;base64,{picture}' alt=''><br><code>{text}</code>"

    @property
    def _scale(self) -> ScoreScale:
        return self.scale or score_scale(None, [self.pixel_scores])
