"""What a person sees: the heat map on the photo, boxes, the verdict's banner, and sheets of many results.

Pictures are frames, [H, W, 3] uint8 RGB. Nothing here draws into a picture it was given.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.runtime.verdict import DefectBox, Verdict

Frame = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the frame
Colour = tuple[int, int, int]

# Told apart by brightness as well as by hue; the word is always written beside the colour.
COLOURS: Mapping[str, Colour] = {
    "OK": (24, 132, 72),
    "NG": (196, 30, 42),
    "UNSURE": (214, 140, 0),
    "ERROR": (96, 96, 104),
}
TRUTH_COLOUR: Colour = (0, 220, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_PAPER, _INK, _FAINT = (250, 250, 250), (30, 30, 34), (128, 128, 134)
_OPACITY = 0.65  # of the hottest spot


class ScoreScale(NamedTuple):
    """Scores from `low` (invisible) to `high` (hottest colour); one scale for all pictures makes them comparable."""

    low: float
    high: float

    def __call__(self, scores: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Scores as 0..1, clipped."""
        span = self.high - self.low
        return np.clip((np.asarray(scores, np.float32) - self.low) / (span if span > 0 else 1), 0, 1)


def score_scale(calibration: Mapping[str, Any] | None, maps: Sequence[npt.ArrayLike] = ()) -> ScoreScale:
    """The scale for an artifact's pictures.

    calibration: the manifest's; with it the pixel threshold lies in the middle of the scale and what the hottest
    spot of an ordinary good part reaches lies at its lower end. maps: without a calibration the scale runs from
    their median to their 99.9 % quantile.
    """
    threshold = (calibration or {}).get("pixel_threshold")
    quantiles = (calibration or {}).get("score_quantiles") or ()
    if threshold is not None and quantiles and quantiles[len(quantiles) // 2] < threshold:
        low = float(quantiles[len(quantiles) // 2])
        return ScoreScale(low, low + 2 * (float(threshold) - low))
    if not len(maps):
        return ScoreScale(0.0, 1.0)
    low, high = np.quantile(np.concatenate([np.ravel(one) for one in maps]), [0.5, 0.999])
    return ScoreScale(float(low), float(high))


def heat_map(pixel_scores: npt.ArrayLike, size: tuple[int, int], scale: ScoreScale) -> Frame:
    """The scores [h, w] as a coloured picture of size (H, W): dark blue at scale.low, red at scale.high."""
    levels = np.rint(_upsample(scale(pixel_scores), size) * 255).astype(np.uint8)
    return _pixels(cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB))


def blend_heat(frame: Frame, pixel_scores: npt.ArrayLike, scale: ScoreScale) -> Frame:
    """The frame with hot spots tinted; where scores are at scale.low or below, the photo stays as it is."""
    level = _upsample(scale(pixel_scores), frame.shape[:2])[:, :, None]
    heat = heat_map(pixel_scores, frame.shape[:2], scale)
    return np.rint(frame + (heat.astype(np.float32) - frame) * (level * _OPACITY)).astype(np.uint8)


def outline(frame: Frame, mask: npt.NDArray[np.bool_], colour: Colour = TRUTH_COLOUR) -> Frame:
    """The frame with the mask's regions outlined. mask: [H, W] of the frame's size."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return _pixels(cv2.drawContours(frame.copy(), contours, -1, colour, _stroke(frame)))


def draw_boxes(frame: Frame, boxes: Sequence[Box], colour: Colour = COLOURS["NG"]) -> Frame:
    """The frame with a rectangle just outside each box."""
    drawn, stroke = frame.copy(), _stroke(frame)
    for x, y, width, height in boxes:
        cv2.rectangle(
            drawn, (x - stroke, y - stroke), (x + width + stroke - 1, y + height + stroke - 1), colour, stroke
        )
    return drawn


def draw_banner(frame: Frame, decision: str, text: str = "") -> Frame:
    """The frame with a bar on top: the decision's colour, the decision, and `text` as far as it fits."""
    height = banner_height(frame)
    drawn = frame.copy()
    drawn[:height] = COLOURS.get(decision, COLOURS["ERROR"])
    size, margin = height * 0.75, height // 4
    used = draw_text(drawn, decision, (margin, height // 2), size, (255, 255, 255), bold=True)
    room = frame.shape[1] - used - 3 * margin
    if text and room > height:
        draw_text(drawn, text, (margin + used + margin, height // 2), size * 0.85, (255, 255, 255), room)
    return drawn


def banner_height(frame: Frame) -> int:
    """Pixels that the banner takes from the top of such a frame."""
    return max(1, min(frame.shape[0] // 6, max(18, frame.shape[0] // 16)))


def annotate(
    frame: Frame,
    verdict: Verdict,
    pixel_scores: npt.ArrayLike | None = None,
    scale: ScoreScale | None = None,
    height: int | None = None,
) -> Frame:
    """The frame as the line shows it: heat, boxes, decision, score against threshold, part, time needed.

    pixel_scores: [h, w] of any size, spread over the frame. scale: default: these scores' own range, which makes
    pictures incomparable. height: of the picture that comes out; default: the frame's.
    """
    factor = (height or frame.shape[0]) / frame.shape[0]
    drawn = resize_to(frame, (height or frame.shape[0], max(round(frame.shape[1] * factor), 1)))
    if pixel_scores is not None:
        drawn = blend_heat(drawn, pixel_scores, scale or score_scale(None, [pixel_scores]))
    words = [score_text(verdict.score, verdict.threshold), verdict.part]
    if "total" in verdict.latency_ms:
        words.append(f"{verdict.latency_ms['total']:.0f} ms")
    drawn = draw_boxes(drawn, scale_boxes(verdict.boxes, factor))
    return draw_banner(drawn, verdict.decision, "   ".join(word for word in words if word))


def scale_boxes(boxes: Iterable[DefectBox], factor: float) -> list[Box]:
    """Boxes for a picture that was scaled by `factor`, each at least a pixel."""
    return [
        (round(b.x * factor), round(b.y * factor), max(round(b.width * factor), 1), max(round(b.height * factor), 1))
        for b in boxes
    ]


def resize_to(frame: Frame, size: tuple[int, int]) -> Frame:
    """The frame at size (H, W)."""
    if frame.shape[:2] == size:
        return frame
    method = cv2.INTER_AREA if size[0] < frame.shape[0] else cv2.INTER_LINEAR
    return _pixels(cv2.resize(frame, size[::-1], interpolation=method))


def score_text(score: float | None, threshold: float | None) -> str:
    """`0.412 > 0.300`: the score against its threshold, as far as they are known."""
    if score is None:
        return ""
    if threshold is None:
        return f"{score:.3g}"
    return f"{score:.3g} {'>' if score > threshold else '<='} {threshold:.3g}"


@dataclass(frozen=True)
class SheetRow:
    """One result. truth: mask [H, W] of the frame's size, None where there is none. decision: "" without threshold.

    caption: file or kind. note: score and the like. wrong: whether the decision contradicts the label. scale: of its
    heat map; default: the sheet's.
    """

    frame: Frame
    pixel_scores: npt.NDArray[np.float32] | None
    decision: str
    caption: str = ""
    note: str = ""
    truth: npt.NDArray[np.bool_] | None = None
    boxes: Sequence[Box] = ()
    wrong: bool = False
    scale: ScoreScale | None = None


def contact_sheet(
    rows: Sequence[SheetRow], scale: ScoreScale | None = None, *, title: str = "", cell: tuple[int, int] = (192, 192)
) -> Frame:
    """One picture of many results, four columns: image, truth, map, verdict.

    scale: default: the range of all rows together. cell: (H, W) of each picture; photos keep their proportions.
    """
    maps = [row.pixel_scores for row in rows if row.pixel_scores is not None]
    scale = scale or score_scale(None, maps)
    width = 4 * (cell[1] + _GAP) + _GAP
    bands = [_title_band(title, width)] if title else []
    bands.append(_header_band(cell[1], width))
    bands += [_row_band(row, row.scale or scale, cell, width) for row in rows]
    return np.concatenate(bands)


_GAP = 6
_LINE = 22


def _title_band(title: str, width: int) -> Frame:
    band = np.full((_LINE + 14, width, 3), _PAPER, np.uint8)
    draw_text(band, title, (_GAP, band.shape[0] // 2), 17, _INK, width - 2 * _GAP, bold=True)
    return band


def _header_band(cell_width: int, width: int) -> Frame:
    band = np.full((_LINE, width, 3), _PAPER, np.uint8)
    for i, name in enumerate(("image", "truth", "map", "verdict")):
        draw_text(band, name, (_GAP + i * (cell_width + _GAP), _LINE // 2), 13, _FAINT, cell_width)
    return band


def _row_band(row: SheetRow, scale: ScoreScale, cell: tuple[int, int], width: int) -> Frame:
    frame, boxes, truth = _shrunk(row, cell)
    band = np.full((frame.shape[0] + _LINE + _GAP, width, 3), _PAPER, np.uint8)
    truth_picture = frame if truth is None else outline(frame, truth)
    heat, verdict = np.full_like(frame, 225), frame
    if row.pixel_scores is not None:
        heat = heat_map(row.pixel_scores, frame.shape[:2], scale)
        verdict = blend_heat(frame, row.pixel_scores, scale)
    verdict = draw_boxes(verdict, boxes)
    if row.decision:
        verdict = draw_banner(verdict, row.decision)
    for i, picture in enumerate((frame, truth_picture, heat, verdict)):
        left = _GAP + i * (cell[1] + _GAP) + (cell[1] - picture.shape[1]) // 2
        band[: picture.shape[0], left : left + picture.shape[1]] = picture
    middle = frame.shape[0] + _LINE // 2
    right = _GAP + 3 * (cell[1] + _GAP)
    draw_text(band, row.caption, (_GAP, middle), 13, _INK, right - 2 * _GAP)
    note = f"WRONG  {row.note}" if row.wrong else row.note
    draw_text(band, note, (right, middle), 13, COLOURS["NG"] if row.wrong else _INK, cell[1], bold=row.wrong)
    return band


def _shrunk(row: SheetRow, cell: tuple[int, int]) -> tuple[Frame, list[Box], npt.NDArray[np.bool_] | None]:
    """Frame, boxes and truth fitted into the cell; a region keeps at least a pixel."""
    height, width = row.frame.shape[:2]
    factor = min(cell[0] / height, cell[1] / width)
    size = (max(1, int(height * factor)), max(1, int(width * factor)))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    frame = _pixels(cv2.resize(row.frame, size[::-1], interpolation=method))
    boxes = [(int(x * factor), int(y * factor), int(w * factor) + 1, int(h * factor) + 1) for x, y, w, h in row.boxes]
    if row.truth is None:
        return frame, boxes, None
    truth = cv2.resize(row.truth.astype(np.float32), size[::-1], interpolation=method) > 0
    return frame, boxes, np.asarray(truth)


def _upsample(levels: npt.NDArray[np.float32], size: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if levels.shape == tuple(size):
        return levels
    return np.asarray(cv2.resize(levels, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.float32)


def _pixels(picture: Any) -> Frame:
    """What OpenCV returned, with its type said."""
    return np.asarray(picture, np.uint8)


def _stroke(frame: Frame) -> int:
    return max(1, round(min(frame.shape[:2]) / 240))


def draw_text(
    picture: Frame,
    text: str,
    at: tuple[int, int],
    size: float,
    colour: Colour,
    room: float = float("inf"),
    bold: bool = False,
) -> int:
    """Draw text into the picture, `size` pixels high, left end and middle at `at`, cut to `room`; pixels it took."""
    plain = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    text = "".join(plain).encode("ascii", "replace").decode()  # OpenCV's fonts have no more
    factor, stroke = size / 30, max(1, round(size / (10 if bold else 16)))
    (width, height), _ = cv2.getTextSize(text, _FONT, factor, stroke)
    while width > room and len(text) > 1:
        text = text[: max(1, int(len(text) * room / width) - 2)] + ".." if len(text) > 4 else text[:-1]
        (width, height), _ = cv2.getTextSize(text, _FONT, factor, stroke)
    if text:
        cv2.putText(picture, text, (at[0], at[1] + height // 2), _FONT, factor, colour, stroke, cv2.LINE_AA)
    return int(width)
