"""Sentences and tables say what the scores say."""

from __future__ import annotations

import html
import re

import pytest

from edge_ad.report import tables


def plain(page):
    return html.unescape(re.sub(r"<[^>]*>", "", page))


@pytest.mark.parametrize(
    ("thresholds", "said"),
    [
        ({"bottle": 0.2}, "misses 1 of 11 defects (9.1%) and rejects 1 of 21 good photos (4.8%)."),
        ({"bottle": 0.1}, "misses none of 11 defects and rejects 10 of 21 good photos (47.6%)."),
        ({}, "No threshold yet, so nothing is rejected or missed"),
    ],
)
def test_the_report_opens_with_misses_and_false_alarms(measured, thresholds, said):
    assert said in plain(tables.opening_sentence(measured(thresholds=thresholds)[0]))


def test_of_several_categories_those_without_a_threshold_are_said(measured):
    sentence = plain(tables.opening_sentence(measured(("a", "b", "c"), {"a": 0.2, "b": 0.5})[0]))
    assert sentence.startswith("At the thresholds of 2 categories this detector misses 6 of 22 defects")
    assert sentence.endswith("1 categories have no threshold yet.")


def test_without_defects_none_can_be_missed(measured):
    sentence = plain(tables.opening_sentence(measured(scores={"good": [0.1, 0.3]}, thresholds={"bottle": 0.2})[0]))
    assert "misses no defect, as there was none to test with" in sentence
    assert "rejects 1 of 2 good photos" in sentence


def test_the_summary_has_a_row_a_category_and_their_mean(measured):
    rows = re.findall(r"<tr>.*?</tr>", tables.summary_table(measured(("a", "b"), {"a": 0.2})[0]))
    assert [plain(re.match(r"<tr><th>(.*?)</th>", row)[1]) for row in rows] == ["category", "a", "b", "mean"]
    assert "<td>1 of 11</td><td>1 of 21</td>" in rows[1]
    assert "<td></td><td></td>" in rows[2]


def test_how_it_was_measured_is_folded_and_flat(measured):
    table = tables.about_table(measured(teacher={"name": "vit", "source": "<file>"}, seed=3)[0].about)
    assert table.startswith("<details><summary>How it was measured")
    for words in ("teacher.source</th><td>&lt;file&gt;", "image_size</th><td>64 x 64", "seed</th><td>3"):
        assert words in table
