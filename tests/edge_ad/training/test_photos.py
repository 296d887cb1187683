from pathlib import Path

import pytest

from edge_ad.data.samples import Sample, scan
from edge_ad.errors import DataError
from edge_ad.training.photos import find_photos, split_held_out


def samples_of(**counts: int) -> list[Sample]:
    paths = [(Path(f"{name}{i}"), name) for name, count in counts.items() for i in range(count)]
    return [Sample(path, "train", 0, "good", None, name) for path, name in paths]


def test_held_out_normals_are_apart_and_seeded():
    samples = samples_of(part=40)
    fit, held = split_held_out(samples, 0.1, 0)
    assert len(held) == 4
    assert sorted(str(sample.path) for sample in [*fit, *held]) == sorted(str(sample.path) for sample in samples)
    assert split_held_out(samples, 0.1, 0) == (fit, held)
    assert split_held_out(samples, 0.1, 1) != (fit, held)
    with pytest.raises(DataError, match="1 usable"):
        split_held_out(samples[:1], 0.1, 0)


def test_every_category_keeps_some_normals_out():
    samples = samples_of(a=90, b=6)
    fit, held = split_held_out(samples, 0.1, 0)
    assert len(fit) + len(held) == len({sample.path for sample in [*fit, *held]}) == 96
    assert {name: sum(sample.category == name for sample in held) for name in "ab"} == {"a": 9, "b": 3}
    with pytest.raises(DataError, match=r"1 usable .* of b"):
        split_held_out(samples[:91], 0.1, 0)


def test_a_photo_counts_once_and_broken_ones_are_named(write_photos, tmp_path, caplog):
    write_photos(tmp_path / "data" / "train" / "good", 6)
    (tmp_path / "data" / "train" / "good" / "zz.png").write_bytes(b"\x89PNG broken")
    photos = find_photos([tmp_path / "data", scan(tmp_path / "data")])
    assert [sample.path.name for sample in photos.samples] == [f"{i:03d}.png" for i in range(6)]
    assert {problem.path.name for problem in photos.skipped} == {"zz.png"}
    assert photos.median_size() == (72, 96)
    assert photos.categories == ("data",)
    assert "zz.png" in caplog.text
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="empty has no usable image"):
        find_photos([tmp_path / "data", tmp_path / "empty"])
    write_photos(tmp_path / "tests" / "test" / "good", 2)
    with pytest.raises(DataError, match=r"no usable photos of good parts in .*tests"):
        find_photos([tmp_path / "tests"])


def test_every_folder_is_said_and_a_product_without_photos_to_train_on_too(write_photos, tmp_path, caplog):
    write_photos(tmp_path / "a/train/good", 3)
    write_photos(tmp_path / "a/test/dent", 2)
    write_photos(tmp_path / "b/test/good", 2)
    (tmp_path / "a/IMG_1.HEIC").write_bytes(b"x")
    lines = []
    find_photos([tmp_path], lines.append)
    assert lines == [
        "a/*.heic: left out: 1 file(s): HEIC is not read: save as JPEG",
        "a/test/dent: 2 photo(s) of defects ('dent') to measure with",
        "a/train/good: 3 good photo(s) to train on",
        "b/test/good: 2 good photo(s) to measure with",
    ]
    assert "no usable photos of good parts of b: not trained on" in caplog.text
