"""Good photos that look like no other: the bad one among good ones is found, and good ones are left in peace."""

import json

import cv2
import numpy as np
import pytest

from edge_ad.cli import main
from edge_ad.data.images import read_image, write_image
from edge_ad.data.loader import PhotoReader
from edge_ad.errors import DataError
from edge_ad.pipeline.outliers import find_outliers, leave_one_out
from edge_ad.training.photos import find_photos


def features(frame):
    """Means and spreads of 8 x 8 patches: [6, h, w]."""
    height, width = (side // 8 * 8 for side in frame.shape[:2])
    cells = frame[:height, :width].astype(np.float32).reshape(height // 8, 8, width // 8, 8, 3)
    return np.concatenate([cells.mean((1, 3)), cells.std((1, 3))], axis=-1).transpose(2, 0, 1)


@pytest.fixture
def folder(tmp_path, write_photos):
    paths = write_photos(tmp_path / "photos" / "good", 24)
    frame = read_image(paths[7]).copy()
    cv2.circle(frame, (40, 30), 7, (250, 10, 10), -1)
    write_image(paths[7], frame)
    return tmp_path / "photos"


def test_the_bad_one_among_good_ones_is_found_and_no_other(folder):
    found = find_outliers(find_photos([folder]), features)
    assert [one.path.name for one in found] == ["007.png"]
    assert found[0].photos == 24
    assert found[0].distance > 3 * found[0].usual


def test_good_photos_are_left_in_peace(tmp_path, write_photos):
    write_photos(tmp_path / "good", 24, seed=3)
    assert len(find_outliers(find_photos([tmp_path]), features)) <= 1


def test_a_photos_own_patches_do_not_count(tmp_path, write_photos):
    paths = write_photos(tmp_path, 2)
    twin = leave_one_out([paths[0], paths[0]], PhotoReader(), features)
    assert twin == pytest.approx(0, abs=2e-3)  # half precision
    write_image(paths[1], 255 - read_image(paths[1]) // 2)
    assert leave_one_out(paths, PhotoReader(), features).min() > 5 * twin.max()
    with pytest.raises(DataError, match="no other"):
        leave_one_out(paths[:1], PhotoReader(), features)


def test_few_photos_of_a_product_tell_nothing(tmp_path, write_photos):
    write_photos(tmp_path / "good", 7)
    assert find_outliers(find_photos([tmp_path]), features) == []


def test_check_names_them(folder, capsys, monkeypatch):
    monkeypatch.setattr("edge_ad.model.frame_features.frame_features", lambda weights, size: features)
    with pytest.raises(SystemExit) as stop:
        main(["check", str(folder), "--unlike", "--json"])
    assert stop.value.code == 0
    assert [one["path"] for one in json.loads(capsys.readouterr().out)["unlike"]] == [
        str(folder / "good" / "007.png")
    ]
    with pytest.raises(SystemExit):
        main(["check", str(folder), "--unlike"])
    assert "good/007.png" in capsys.readouterr().out
