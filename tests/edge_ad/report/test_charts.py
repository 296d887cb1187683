"""Charts place what they show where it belongs."""

from __future__ import annotations

import re

import pytest

from edge_ad.report import charts


def test_the_bars_of_the_histogram_add_up_to_all_photos(measured):
    result = measured()[0].categories["bottle"]
    svg = charts.histogram(result, charts.score_range(result, 0.2), 0.2)
    for name, total in (("good photos", 21), ("defects", 11)):
        assert sum(int(count) for count in re.findall(rf"<title>(\d+) {name}", svg)) == total


def test_the_line_stands_at_the_threshold(measured):
    result = measured()[0].categories["bottle"]
    low, high = charts.score_range(result, 0.2)
    middle = (low + high) / 2
    across = re.search(r"<line x1='([\d.]+)' x2='([\d.]+)'[^>]*class='threshold'",
                       charts.histogram(result, (low, high), middle))  # fmt: skip
    assert float(across[1]) == float(across[2]) == charts.LEFT + charts.WIDTH / 2
    along = re.search(r"y1='([\d.]+)' y2='([\d.]+)' class='threshold'",
                      charts.scores_in_order(result, (low, high), middle))  # fmt: skip
    assert float(along[1]) == float(along[2]) == charts.TOP + charts.HEIGHT / 2


def test_photos_stand_in_the_order_of_their_names_good_ones_first(measured):
    result = measured()[0].categories["bottle"]
    svg = charts.scores_in_order(result, charts.score_range(result, None), 0.2)
    names = re.findall(r"<title>(.*?): ", svg)
    assert names[:3] == ["good/0.png", "good/1.png", "good/2.png"]  # and 10 after 9
    assert names[20:22] == ["good/20.png", "&lt;scratch&gt;/0.png"]
    assert names[-1] == "dent/6.png"
    across = [float(x) for x in re.findall(r"cx='([\d.]+)'", svg)]
    assert across == sorted(across)


def test_precision_and_recall_are_those_of_the_definition(measured):
    curve = charts.image_curves(measured()[0].categories["bottle"]).precision
    points = {(round(11 * recall), round(precision, 6)) for recall, precision in zip(*curve, strict=True)}
    # above 0.35 lie 9 of 11 defects and no good photo, above 0.3 that one, and 0.15 is a defect's and a good photo's
    for found, alarms in ((9, 0), (9, 1), (10, 1), (10, 5), (11, 6), (11, 21)):
        assert (found, round(found / (found + alarms), 6)) in points


@pytest.mark.parametrize(("ends", "first", "last"), [((-0.01, 0.58), "0", "0.5"), ((12.3, 19.7), "14", "18")])
def test_ticks_are_round_numbers(measured, ends, first, last):
    result = measured()[0].categories["bottle"]
    svg = charts.scores_in_order(result, ends, ends[0])
    ticks = re.findall(r"text-anchor='end'>([-\d.]+)<", svg)
    assert (ticks[0], ticks[-1]) == (first, last)


def test_a_category_with_one_score_only_can_be_drawn(measured):
    result = measured(scores={"good": [0.5]})[0].categories["bottle"]
    low, high = charts.score_range(result, 0.5)
    assert low < 0.5 < high
    assert len(charts.image_curves(result).roc[0]) == 0
    assert "<circle" in charts.scores_in_order(result, (low, high), 0.5)
