"""One picture, judged as a station judges it, outside of the station's threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge_ad.runtime.engines.runner import Array, Outputs
from edge_ad.runtime.line.geometry import Frame, FrameFixer, cut_tiles, merge_tiles
from edge_ad.runtime.line.policy import Judgement, Policy
from edge_ad.runtime.settings import StationSettings


def judge_picture(
    frame: Frame,
    station: StationSettings,
    calibration: Mapping[str, Any],
    prepare: Callable[[Frame], Array],
    infer: Callable[[Array], Outputs],
    *,
    straightened: bool = False,
) -> Judgement:
    """The judgement of a frame [H, W, 3] uint8 RGB: straightened, cut, tiled, with the station's regions and limits.

    prepare, infer: of the artifact. straightened: the line kept the frame, and had cut and turned it already.
    """
    fixer = FrameFixer(station.frame)
    shown = frame if straightened else fixer.apply(frame)
    size = (shown.shape[0], shown.shape[1])
    tiles = fixer.tiles(*size)
    score, scores = merge_tiles(infer(cut_tiles(shown, tiles, prepare)), tiles, size)
    return Policy(station.policy, calibration).judge(score, scores, size)
