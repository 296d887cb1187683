"""An evaluation as pictures for people: one HTML page that opens offline, and a contact sheet."""

from edge_ad.report.gallery import Calibrations, Gallery, GalleryPhoto
from edge_ad.report.page import write_report
from edge_ad.report.sheet import draw_sheet

__all__ = ["Calibrations", "Gallery", "GalleryPhoto", "draw_sheet", "write_report"]
