"""The contact sheet of an evaluation: the extreme photos with truth, map and verdict, in one picture."""

from __future__ import annotations

from edge_ad.data.images import Frame
from edge_ad.evaluation import Evaluation
from edge_ad.report.gallery import ROWS, Calibrations, Gallery, GalleryPhoto
from edge_ad.runtime.boxes import defect_boxes
from edge_ad.runtime.overlay import ScoreScale, SheetRow, contact_sheet, score_scale, score_text


def draw_sheet(
    evaluation: Evaluation, gallery: Gallery, calibrations: Calibrations | None = None, shown: int = 3
) -> Frame:
    """The contact sheet: of each category the defects and good photos with the lowest and the highest scores.

    shown: photos of each sort; a photo appears once.
    """
    rows = []
    for category in evaluation.categories:
        calibration, threshold = (calibrations or {}).get(category, {}), evaluation.thresholds.get(category)
        several = len(evaluation.categories) > 1
        extremes = [one for row in ROWS for one in gallery.row(category, row)[:shown]]
        scale = score_scale(calibration, [one.pixel_scores for one in extremes])
        for one in {(one.kind, one.name): one for one in extremes}.values():
            caption = f"{category}/{one.kind}/{one.name}" if several else f"{one.kind}/{one.name}"
            rows.append(_sheet_row(one, caption, threshold, calibration.get("pixel_threshold"), scale))
    return contact_sheet(rows, title=f"{evaluation.about.get('artifact', 'detector')}: lowest and highest scores")


def _sheet_row(
    one: GalleryPhoto, caption: str, threshold: float | None, pixel_threshold: float | None, scale: ScoreScale
) -> SheetRow:
    found = defect_boxes(one.pixel_scores, pixel_threshold, one.frame.shape[:2])
    boxes = [(box.x, box.y, box.width, box.height) for box in found]
    rejected = threshold is not None and one.image_score > threshold
    decision = "" if threshold is None else "NG" if rejected else "OK"
    wrong = threshold is not None and rejected != (one.kind != "good")
    note = score_text(one.image_score, threshold)
    shown = boxes if rejected else ()
    return SheetRow(one.frame, one.pixel_scores, decision, caption, note, one.mask, shown, wrong, scale)
