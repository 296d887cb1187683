"""What the page's labels file with the artifact, and what they take back."""

import cv2
import pytest

from edge_ad.data.feedback import entries
from edge_ad.runtime.line.filing import file_label
from edge_ad.runtime.line.inspector import Inspector

ID = "0123456789abcdef01234567"


@pytest.fixture
def station(run_settings, part_folder):
    source = {"address": str(part_folder)}
    frame = {"roi": [0, 0, 120, 120], "tile": [64, 64]}
    inspector = Inspector(run_settings({"name": "top", "source": source, "frame": frame}))
    yield inspector.stations[0]
    inspector._close()


@pytest.fixture
def picture(tmp_path, product):
    """A good part as the line kept it, cut."""
    path = tmp_path / "kept.jpg"
    cv2.imwrite(str(path), product[0](0)[:120, :120, ::-1])
    return path


def test_a_defect_on_an_ok_part_is_a_confirmed_miss_with_the_lines_cut(station, picture):
    said = file_label(station, ID, "OK", "defect", picture)
    assert "must catch it" in said
    (miss,) = entries(station.engine.path, "bad")
    assert miss.known.straightened
    assert miss.known.verdict == ID
    assert miss.known.station["frame"]["tile"] == [64, 64]


def test_undo_takes_it_out_and_another_word_moves_it(station, picture):
    file_label(station, ID, "OK", "defect", picture)
    assert file_label(station, ID, "OK", None, picture) == ""
    assert entries(station.engine.path, "bad") == []


def test_a_good_part_that_was_rejected_is_for_the_next_training(station, picture):
    assert "next training" in file_label(station, ID, "NG", "good", picture)
    assert [one.known.verdict for one in entries(station.engine.path, "good")] == [ID]
    assert file_label(station, ID, "NG", "defect", picture) == ""  # the detector was right
    assert entries(station.engine.path, "good") == []


@pytest.mark.parametrize(("decision", "label"), [("OK", "good"), ("NG", "defect"), ("UNSURE", "good")])
def test_what_the_detector_judged_right_is_not_filed(station, picture, decision, label):
    assert file_label(station, ID, decision, label, picture) == ""


def test_without_a_picture_it_says_how_else(station):
    assert "--missed" in file_label(station, ID, "OK", "defect", None)
    assert entries(station.engine.path, "bad") == []


def test_a_folder_that_can_not_be_written_is_said(station, picture):
    (station.engine.path / "bad").write_text("a file where the folder should be")
    assert "Not filed" in file_label(station, ID, "OK", "defect", picture)
