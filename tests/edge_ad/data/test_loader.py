import numpy as np
import pytest

from edge_ad.data import loader
from edge_ad.data.images import read_image, write_image
from edge_ad.data.loader import PhotoReader, read_each
from edge_ad.data.samples import scan
from edge_ad.errors import DataError


@pytest.fixture
def decoded(monkeypatch):
    """Paths in the order in which they were decoded."""
    seen = []

    def read(path):
        seen.append(path)
        return read_image(path)

    monkeypatch.setattr(loader, "read_image", read)
    return seen


def test_a_photo_is_decoded_once_for_all_sizes(tmp_path, write_photos, decoded):
    photos = write_photos(tmp_path, 3)
    reader = PhotoReader()
    usable, problems = reader.decodable(scan(tmp_path).train)
    assert [one.size for one in usable] == [(72, 96)] * 3
    assert not problems
    for path in photos:
        np.testing.assert_array_equal(reader.read(path), read_image(path))
        assert reader.read(path, 96) is reader.read(path)  # small enough: no copy of it
        assert reader.read(path, 48).shape == (36, 48, 3)
        assert reader.read(path, 48) is reader.read(path, 48)
    assert sorted(decoded) == photos


def test_what_the_budget_does_not_hold_is_decoded_again(tmp_path, write_photos, decoded):
    photos = write_photos(tmp_path, 3)
    reader = PhotoReader(budget=72 * 96 * 3)
    for _ in range(2):
        for path in photos:
            assert reader.read(path).shape == (72, 96, 3)
    assert decoded == [*photos, *photos[1:]]


def test_a_broken_photo_is_named_and_left_out(tmp_path, write_photos, caplog):
    write_photos(tmp_path, 12)
    (tmp_path / "003.png").write_bytes(b"no image")
    usable, (problem,) = PhotoReader().decodable(scan(tmp_path).train)
    assert [one.sample.path.stem for one in usable] == [f"{i:03d}" for i in range(12) if i != 3]
    assert problem.path.name == "003.png"
    assert "003.png" in caplog.text
    with pytest.raises(DataError, match=r"003\.png"):
        PhotoReader().read(tmp_path / "003.png")


def test_other_errors_than_of_data_are_raised(tmp_path, write_photos):
    write_photos(tmp_path, 2)

    def fail(sample):
        raise KeyError(sample.path.name)

    with pytest.raises(KeyError):
        list(read_each(scan(tmp_path).train, fail, []))


def test_reading_goes_on_when_gray_and_deep_pictures_are_mixed(tmp_path, write_photos):
    write_photos(tmp_path, 1)
    write_image(tmp_path / "gray.png", np.full((40, 60), 90, np.uint8))
    usable, _ = PhotoReader().decodable(scan(tmp_path).train)
    assert {one.size for one in usable} == {(72, 96), (40, 60)}
