"""Why a part of the line got its score, from what the line kept of it."""

import cv2
import numpy as np
import pytest

from edge_ad.errors import DataError
from edge_ad.runtime.line.inspector import Inspector
from edge_ad.runtime.line.why import explain_verdict

VERDICT = {
    "part": "17", "decision": "NG", "score": 4.0, "threshold": 1.0, "artifact": "",
    "boxes": [{"x": 40, "y": 20, "width": 10, "height": 8, "area": 50, "peak": 5.0}],
}  # fmt: skip
CALIBRATION = {"pixel_threshold": 2.0, "score_quantiles": [0.2, 0.5, 0.9], "normals": 30}


@pytest.fixture
def station(run_settings, part_folder):
    inspector = Inspector(run_settings({"name": "top", "source": {"address": str(part_folder)}}))
    yield inspector.stations[0]
    inspector._close()


@pytest.fixture
def picture(tmp_path, product):
    path = tmp_path / "kept.jpg"
    cv2.imwrite(str(path), product[0](0)[..., ::-1])
    return path


def test_a_verdict_is_explained_by_its_boxes_where_no_map_was_kept(station, picture):
    found = explain_verdict(station, VERDICT, picture, CALIBRATION)
    assert (found.score, found.limit, found.decision, found.normals) == (4.0, 1.0, "NG", 30)
    assert (found.x, found.y, found.peak) == (45, 24, 5.0)
    assert found.hottest is None
    assert any("scores = true" in reason for reason in found.left_out)


def test_kept_scores_tell_the_hottest_pixels(station, picture):
    scores = np.zeros((256, 256), np.float32)
    scores[100:110, 50:60] = 4
    np.save(picture.with_suffix(".npy"), scores)
    found = explain_verdict(station, VERDICT, picture, CALIBRATION)
    assert (found.hottest.top_k, found.hottest.over) == (100, 100)
    assert found.peak == 4
    assert not any("scores = true" in reason for reason in found.left_out)
    other = explain_verdict(station, VERDICT | {"score": 9.0}, picture, CALIBRATION)
    assert other.hottest is None
    assert any("not the mean" in reason for reason in other.left_out)


def test_another_versions_verdict_is_said_to_be_one(station, picture):
    assert not any("version" in reason for reason in explain_verdict(station, VERDICT, picture, {}).left_out)
    own = VERDICT | {"artifact": station.engine.loaded.digest}
    assert not any("version" in reason for reason in explain_verdict(station, own, picture, {}).left_out)
    old = VERDICT | {"artifact": "0123456789abcdef"}
    assert any("Another version" in reason for reason in explain_verdict(station, old, picture, {}).left_out)


def test_without_a_picture_or_with_a_damaged_map_it_is_an_error(station, picture):
    with pytest.raises(DataError, match="no picture was kept"):
        explain_verdict(station, VERDICT, None, CALIBRATION)
    picture.with_suffix(".npy").write_bytes(b"not a map")
    with pytest.raises(DataError, match="damaged"):
        explain_verdict(station, VERDICT, picture, CALIBRATION)
