"""A document of headings, paragraphs, tables and charts, written as one HTML file and as PDF pages."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from fpdf import FPDF
from fpdf.fonts import FontFace

CHART_DPI = 130  # of the charts' PNG files
TABLE_START_MM = 25  # that must be left on a PDF page for a table to begin there
CELL_MM, LONGEST_WORD = 3.6, 32  # room beside a PDF table's text; letters after which a word may be broken


@dataclass(frozen=True)
class Block:
    """kind: title, heading, text, warning, list, table, chart or page (begins a new one in print).

    rows: a table's, the first its head, or a list's items. chart: PNG bytes, with `text` as its caption.
    """

    kind: str
    text: str = ""
    rows: Sequence[Sequence[str]] = ()
    chart: bytes = b""


@dataclass
class Document:
    """Blocks in reading order."""

    name: str
    blocks: list[Block] = field(default_factory=list)

    def add(self, kind: str, text: str = "", rows: Sequence[Sequence[Any]] = (), chart: bytes = b"") -> None:
        """Append a block; a table's cells become text."""
        self.blocks.append(Block(kind, text, [[str(cell) for cell in row] for row in rows], chart))

    def to_html(self) -> str:
        """The page; it refers to nothing outside of it."""
        body = "\n".join(_html(block) for block in self.blocks)
        return _PAGE.replace("{title}", html.escape(self.name)).replace("{body}", body)

    def to_pdf(self) -> bytes:
        """A4 pages with the same content."""
        pdf = _Pages(self.name)
        for block in self.blocks:
            pdf.block(block)
        return bytes(pdf.output())


def _html(block: Block) -> str:
    text = html.escape(block.text)
    if block.kind == "table":
        head, *rows = block.rows
        lines = "".join(f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>" for row in rows)
        top = "".join(f"<th>{html.escape(c)}</th>" for c in head)
        caption = f"<caption>{text}</caption>" if text else ""
        return f"<div class='wide'><table>{caption}<tr>{top}</tr>{lines}</table></div>"
    if block.kind == "list":
        return f"<ul>{''.join(f'<li>{html.escape(row[0])}</li>' for row in block.rows)}</ul>"
    if block.kind == "chart":
        data = base64.b64encode(block.chart).decode()
        return (
            f"<figure><img src='data:image/png;base64,{data}' alt='{text}'><figcaption>{text}</figcaption></figure>"
        )
    tags = {"title": "h1", "heading": "h2", "text": "p", "page": "hr"}
    if block.kind == "warning":
        return f"<p class='warning'>{text}</p>"
    tag = tags[block.kind]
    return "<hr>" if tag == "hr" else f"<{tag}>{text}</{tag}>"


class _Pages(FPDF):
    """A4 with a running foot; the font is matplotlib's, which has the signs of statistics."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        self.add_font("sans", "", fonts / "DejaVuSans.ttf")
        self.add_font("sans", "B", fonts / "DejaVuSans-Bold.ttf")
        self.set_auto_page_break(True, 18)
        self.set_title(name)
        self.add_page()

    def footer(self) -> None:
        """Name and page number."""
        self.set_y(-13)
        self.set_font("sans", "", 7)
        self.cell(0, 5, f"{self.name} - page {self.page_no()} of {{nb}}", align="C")

    def block(self, block: Block) -> None:
        """Write one block."""
        if block.kind == "page":
            self.add_page()
        elif block.kind == "chart":
            self._chart(block)
        elif block.kind == "table":
            self._table(block)
        elif block.kind == "list":
            for row in block.rows:
                self._lines(f"•  {row[0]}", "", 9)
        else:
            style, size = {"title": ("B", 17), "heading": ("B", 13), "warning": ("B", 9)}.get(block.kind, ("", 9))
            if block.kind == "heading":
                self.ln(3)
            if block.kind == "warning":
                self.set_text_color(176, 32, 42)
            self._lines(block.text, style, size)
            self.set_text_color(0)

    def _lines(self, text: str, style: str, size: float) -> None:
        self.set_font("sans", style, size)
        self.multi_cell(0, size * 0.5, text, new_x="LMARGIN", new_y="NEXT", align="L")
        self.ln(1.2)

    def _table(self, block: Block) -> None:
        if self.will_page_break(TABLE_START_MM):  # a title and a head without a row would stand alone
            self.add_page()
        if block.text:
            self._lines(block.text, "B", 8)
        self.set_font("sans", "", 7)
        widths = self._widths(block.rows)
        with self.table(
            borders_layout="HORIZONTAL_LINES", line_height=4, col_widths=tuple(widths),
            width=min(sum(widths), self.epw), align="LEFT", text_align="LEFT",
            headings_style=FontFace(emphasis="BOLD"), padding=0.6,
        ) as table:  # fmt: skip
            for row in block.rows:
                cells = table.row()
                for cell in row:
                    cells.cell(cell)
        self.ln(2)

    def _widths(self, rows: Sequence[Sequence[str]]) -> list[float]:
        """Millimetres of each column: what its cells want, or less where that is too much, but no word is broken."""
        self.set_font("sans", "B", 7)
        columns = list(zip(*rows, strict=True))
        wanted = [max(map(self.get_string_width, column)) + CELL_MM for column in columns]
        words = [max((word[:LONGEST_WORD] for cell in column for word in cell.split()), key=len, default="")
                 for column in columns]  # fmt: skip
        least = [min(self.get_string_width(word) + CELL_MM, want) for word, want in zip(words, wanted, strict=True)]
        self.set_font("sans", "", 7)
        share = (self.epw - sum(least)) / max(sum(wanted) - sum(least), 1e-9)
        if share < 0:  # too many columns
            return [self.epw * one / sum(least) for one in least]
        return [low + min(share, 1.0) * (want - low) for low, want in zip(least, wanted, strict=True)]

    def _chart(self, block: Block) -> None:
        width_px = int.from_bytes(block.chart[16:20], "big")  # of the PNG's header
        width_mm = min(self.epw, 165, width_px / CHART_DPI * 25.4)  # a chart of one panel isn't blown up
        self.image(io.BytesIO(block.chart), w=width_mm, keep_aspect_ratio=True, x="C")
        self._lines(block.text, "", 8)


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root{color-scheme:light dark;--page:#fff;--text:#222;--quiet:#444;--line:#e4e4e4;--warn:#fbeaea}
@media screen and (prefers-color-scheme:dark){:root{--page:#15181c;--text:#e6e6e6;--quiet:#b4b9c0;--line:#353b43;
--warn:#43212a}figure img{border-radius:4px}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--text);background:var(--page);max-width:1000px;margin:1.5em auto;
padding:0 1em}
h1,h2,li,p{overflow-wrap:anywhere}h2{border-bottom:2px solid var(--line);margin-top:2em}hr{border:0;margin:2em 0}
table{border-collapse:collapse;margin:.6em 0;font-size:14px}caption{text-align:left;font-weight:600;padding:.3em 0}
th,td{padding:.25em .7em;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
td:last-child{overflow-wrap:anywhere;min-width:8em}
.wide{overflow-x:auto}figure{margin:1em 0}figure img{max-width:100%}figcaption{font-size:14px;color:var(--quiet)}
.warning{border-left:5px solid #c5303a;background:var(--warn);padding:.5em 1em}
@media print{h2{break-after:avoid}figure,tr{break-inside:avoid}}
</style></head><body>
{body}
</body></html>
"""
