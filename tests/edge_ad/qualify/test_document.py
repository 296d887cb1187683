"""One document, as a page that needs nothing else and as PDF pages."""

import re

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("fpdf")

from edge_ad.qualify.document import Block, Document, _Pages


@pytest.fixture
def document():
    made = Document("Report of <part> & co")
    made.add("title", made.name)
    made.add("warning", "a90 ≤ 5 px <b>")
    made.add("list", rows=[["first"], ["second"]])
    made.add("page")
    made.add("table", "sizes", rows=[["kind", "a90"], ["scratch", 3], ["<i>", "-"]])
    made.add("chart", "a chart", chart=cv2.imencode(".png", np.zeros((40, 60, 3), np.uint8))[1].tobytes())
    return made


def test_the_page_shows_text_as_text_and_asks_for_nothing_else(document):
    html = document.to_html()
    assert "<h1>Report of &lt;part&gt; &amp; co</h1>" in html
    assert "<p class='warning'>a90 ≤ 5 px &lt;b&gt;</p>" in html
    assert "<tr><td>scratch</td><td>3</td></tr><tr><td>&lt;i&gt;</td><td>-</td></tr>" in html
    assert "prefers-color-scheme:dark" in html
    assert re.findall(r"(?:src|href)='([^']{5})", html) == ["data:"]
    assert "http" not in html


def test_the_pdf_has_the_pages_that_were_begun(document):
    pdf = document.to_pdf()
    assert pdf.startswith(b"%PDF")
    assert re.findall(rb"/Type /Page\b", pdf) == [b"/Type /Page"] * 2


def test_no_word_of_a_table_is_broken_and_no_title_is_left_behind():
    pages = _Pages("report")
    words = ["kind", "contrast", "found", "detection breaks at", "a note that is longer than the others, by far " * 3]
    widths = pages._widths([words, ["hair scratch", "100", "34", "0.5", "-"]])
    assert sum(widths) <= pages.epw + 1e-6
    pages.set_font("sans", "B", 7)
    for word, width in zip(("scratch", "contrast", "found", "detection", "longer"), widths, strict=True):
        assert pages.get_string_width(word) < width
    assert len(pages._widths([["x" * 64] * 9])) == 9  # more than fits: all are narrowed
    pages.set_y(pages.h - 30)
    pages.block(Block("table", "title", [["a"], ["1"]]))
    assert pages.page_no() == 2
    pages.output()  # closes the fonts' files
