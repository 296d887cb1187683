"""Explain a photo: the nearest normal patch is the one that is there, and what can't be told is said."""

import cv2
import numpy as np
import pytest

from edge_ad.artifact import Artifact
from edge_ad.data.images import read_image
from edge_ad.errors import DataError
from edge_ad.pipeline.explain import explain
from edge_ad.pipeline.nearest import nearest_normal
from edge_ad.pipeline.quick import train_quick


@pytest.fixture(scope="module")
def trained(tiny_config, write_photos, tmp_path_factory):
    """(artifact, photos of good parts)."""
    folder = tmp_path_factory.mktemp("explain")
    photos = write_photos(folder / "data", 9)
    train_quick(folder / "data", folder / "part", tiny_config, device="cpu", weights="random")
    return Artifact.open(folder / "part"), photos


@pytest.fixture
def spoilt(trained, tmp_path):
    """A good photo with a black square in it, around x 70, y 30."""
    photo = cv2.imread(str(trained[1][0]))
    photo[20:40, 60:80] = 0
    cv2.imwrite(str(tmp_path / "spoilt.png"), photo)
    return tmp_path / "spoilt.png"


def test_the_defect_is_far_from_every_good_patch(trained, spoilt):
    artifact, _ = trained
    frame = read_image(spoilt)
    seen = [trained[1][i] for i in range(1, 9)]
    odd = nearest_normal(artifact, frame, (70, 30), seen, 8)
    plain = nearest_normal(artifact, frame, (10, 60), seen, 8)
    assert odd.times > 1.5 * plain.times
    assert plain.times < 1.5
    assert {(layer.blocks, layer.scale) for layer in odd.layers} == {(b, s) for b in ((1, 2), (3, 4)) for s in (1, 3)}
    assert odd.distance == pytest.approx(np.mean([one.distance for one in odd.layers if one.scale == 1]), abs=1e-5)
    assert all((one.difference is None) == (one.scale != 1) for one in odd.layers)


def test_the_nearest_patch_of_a_known_photo_is_itself(trained):
    artifact, photos = trained
    found = nearest_normal(artifact, read_image(photos[3]), (40, 30), photos, 9)
    assert found.name == photos[3].name
    assert found.distance == pytest.approx(0, abs=1e-5)
    patch = 96 / artifact.manifest.preprocessing.image_size[1] * 16
    assert abs(found.x - 40) <= patch
    assert abs(found.y - 30) <= patch
    assert found.usual > 0.001


def test_one_photo_says_nothing_of_what_is_usual(trained):
    artifact, photos = trained
    with pytest.raises(DataError, match="1 photos"):
        nearest_normal(artifact, read_image(photos[0]), (40, 30), photos[:1], 1)


def test_a_photo_is_explained_with_the_photos_of_training(trained, spoilt):
    artifact, _ = trained
    found = explain(artifact.path, spoilt, photos=4, threads=1)
    assert (found.nearest.photos, found.nearest.known) == (4, len(artifact.trained_on()))
    assert found.example is None
    assert found.left_out == ()
    assert found.shares.head is None
    assert found.score > 0


def test_a_photo_of_training_is_not_compared_with_itself(trained):
    artifact, photos = trained
    found = explain(artifact.path, photos[0], normals=photos[0].parent, threads=1)
    assert found.nearest.known == 8
    assert found.nearest.name != photos[0].name
    assert found.nearest.distance > 0.001


def test_without_torch_or_photos_the_rest_is_told(trained, spoilt, monkeypatch):
    artifact, _ = trained
    none = explain(artifact.path, spoilt, photos=0, threads=1)
    assert none.nearest is None
    assert none.example is not None
    assert none.left_out == ("Nearest patch of a good part: not searched, as asked.",)
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "torch", None)
        found = explain(artifact.path, spoilt, threads=1)
    assert "PyTorch" in found.left_out[0]
    assert found.score == none.score
    monkeypatch.setattr("edge_ad.data.held_out.photo_folders_of", _gone)
    assert "are gone. Name photos" in explain(artifact.path, spoilt, threads=1).left_out[0]


def _gone(artifact):
    raise DataError("the photos are gone")


def test_photos_that_were_named_must_be_there(trained, spoilt, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no usable image"):
        explain(trained[0].path, spoilt, normals=tmp_path / "empty", threads=1)
