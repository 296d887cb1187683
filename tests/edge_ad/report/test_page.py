"""The report as a file."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from edge_ad.data.samples import Problem
from edge_ad.report import Gallery, write_report


def test_it_is_one_file_that_needs_no_network(measured):
    page = write_report(*measured(("<stripes>",), {"<stripes>": 0.2}))
    assert not re.search(r"""(src|href)=['"](?!data:)|url\(|@import|https?:""", page)
    assert "<stripes>" not in page
    assert "&lt;stripes&gt;" in page
    assert page.count("<svg") == 6  # histogram, order, two curves over photos, two over pixels
    assert "pixel ROC" in page
    assert page.count("data:image/jpeg;base64,") == 2 * 4 * 6  # photo and map, four rows, six photos each
    assert page.count("<img ") == len(re.findall(r"<img [^>]*alt='(?:photo|heat map) of [^']+'", page))
    assert "At the calibrated threshold 0.2: 1 of 21 good photos raise an alarm, 1 of 11 defects are missed" in page
    assert not re.search(r"\bnan\b", re.sub("base64,[^']*", "", page))
    assert "1 files left out" in page


def test_the_worst_photos_come_first_and_the_wrong_ones_are_marked(measured):
    page = write_report(*measured(thresholds={"bottle": 0.2}))
    titles = re.findall(r"<h3>(.*?)</h3>", page)
    assert [title.split(" with")[0] for title in titles[:2]] == ["Defects", "Good photos"]
    assert page.index("missed first") < page.index("false alarms first") < page.index("The clearest photos")
    assert page.count(" <b class='bad'>wrong</b>") == 2  # one miss and one false alarm


@pytest.mark.parametrize("thresholds", [{"bottle": 0.2}, {}])
def test_the_scores_behind_the_threshold_are_whole(measured, thresholds):
    evaluation, gallery = measured(thresholds=thresholds)
    data = json.loads(
        re.search(r"<script type='application/json'>(.*?)</script>", write_report(evaluation, gallery))[1]
    )
    assert data["good"] == [one.image_score for one in evaluation.categories["bottle"].scored if not one.sample.label]
    assert list(data["kinds"]) == ["dent", "<scratch>"]  # the one with misses first
    assert data["calibrated"] == thresholds.get("bottle")
    if not thresholds:  # the best F1 there is: ten of eleven defects and one good photo lie above
        assert 0.19 < data["start"] < 0.3


def test_what_makes_the_figures_worthless_is_said(measured):
    evaluation, gallery = measured(teacher={"source": "random"})
    doubts = (Problem(Path("/d/mask.png"), "inverted?"),) * 6
    page = write_report(dataclasses.replace(evaluation, doubts=doubts), gallery)
    assert "these figures say nothing" in page
    assert "6 masks can hardly be right" in page
    assert "can hardly be right" not in write_report(*measured())


def test_without_defects_and_masks_there_is_still_a_report(measured):
    page = write_report(measured(scores={"good": [0.2, 0.1]}, masks=False)[0], Gallery())
    assert page.count("<svg") == 2
    assert "n/a" in page
