"""The layouts of data folders, built here file by file."""

from __future__ import annotations

import os
import shutil
from collections import Counter

import pytest

from edge_ad.data.samples import scan
from edge_ad.errors import DataError
from edge_ad.runtime.settings import SourceSettings
from edge_ad.runtime.sources.opening import open_source


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def mvtec(root):
    touch(root, *(f"train/good/{i:03}.png" for i in range(4)), "test/good/000.png")
    touch(root, "test/crack/000.png", "test/crack/001.png", "test/dent/000.png", "readme.txt")
    touch(
        root, "ground_truth/crack/000_mask.png", "ground_truth/crack/001_mask.png", "ground_truth/dent/000_mask.png"
    )


def test_mvtec(tmp_path):
    mvtec(tmp_path / "nut")
    data = scan(tmp_path / "nut")
    assert (data.name, data.layout, data.categories, data.problems) == ("nut", "mvtec", ("nut",), ())
    assert (len(data.train), len(data.test), len(data.normals)) == (4, 4, 5)
    crack = next(s for s in data.test if s.kind == "crack")
    assert (crack.label, crack.mask_path) == (1, tmp_path / "nut/ground_truth/crack/000_mask.png")
    assert [s.mask_path for s in data.normals] == [None] * 5


def test_missing_and_unused_masks_are_named(tmp_path):
    mvtec(tmp_path)
    (tmp_path / "ground_truth/crack/000_mask.png").rename(tmp_path / "ground_truth/crack/009_mask.png")
    touch(tmp_path, "ground_truth/good/000_mask.png", "train/bad/000.png", "test/stray.png")
    data = scan(tmp_path)
    reasons = {path.relative_to(tmp_path).as_posix(): reason for path, reason in data.problems}
    assert set(reasons) == {
        "test/crack/000.png",
        "ground_truth/crack/009_mask.png",
        "train/bad",
        "test/stray.png",
    }
    assert len(data.test) == 4
    assert len(data.train) == 4


@pytest.mark.parametrize("left", ["masks", "good", "both"])
def test_a_test_split_alone_is_never_taken_for_photos_to_train_on(tmp_path, left):
    mvtec(tmp_path)
    shutil.rmtree(tmp_path / "train")
    if left == "good":
        shutil.rmtree(tmp_path / "ground_truth")
    if left == "masks":
        shutil.rmtree(tmp_path / "test/good")
    data = scan(tmp_path)
    assert (len(data.train), {sample.label for sample in data.test} >= {1}) == (0, True)


def test_root_of_several_categories(tmp_path):
    mvtec(tmp_path / "maker/nut")
    mvtec(tmp_path / "bolt")
    data = scan(tmp_path)
    assert data.categories == ("bolt", "maker/nut")
    assert len(data.only("bolt").samples) == 8
    with pytest.raises(DataError, match="no category 'screw'"):
        data.only("screw")


def test_photos_outside_every_category_are_named(tmp_path):
    mvtec(tmp_path / "nut")
    touch(tmp_path, "spare/0.png", "spare/1.png", "sheet.png")
    data = scan(tmp_path)
    assert len(data.samples) == 8
    reasons = {path.name: reason for path, reason in data.problems}
    assert reasons == {
        "spare": "2 photo(s) not used: the folder is no category",
        tmp_path.name: "1 photo(s) not used: the folder is no category",
    }


def visa(root):
    touch(root, *(f"candle/Data/Images/Normal/{i:04}.JPG" for i in range(20)))
    touch(root, "candle/Data/Images/Anomaly/000.JPG", "candle/Data/Masks/Anomaly/000.png")
    touch(root, "candle/Data/Images/Anomaly/001.JPG", "candle/Data/Masks/Anomaly/001.png")
    (root / "candle/image_anno.csv").write_text(
        "image,label,mask\ncandle/Data/Images/Anomaly/000.JPG,chunk of wax missing,\n"
        'candle/Data/Images/Anomaly/001.JPG,"damage,other",\n'
    )


@pytest.mark.parametrize("inner", ["", "candle"])
def test_visa_as_published(tmp_path, inner):
    visa(tmp_path)
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text(
        "object,split,label,image,mask\n"
        "candle,train,normal,candle/Data/Images/Normal/0000.JPG,\n"
        "candle,test,normal,candle/Data/Images/Normal/0001.JPG,\n"
        "candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png\n"
        "candle,test,anomaly,candle/Data/Images/Anomaly/001.JPG,candle/Data/Masks/Anomaly/001.png\n"
        "pcb1,test,normal,pcb1/Data/Images/Normal/0001.JPG,\n"
    )
    data = scan(tmp_path / inner)
    assert (data.layout, data.problems, data.categories) == ("visa", (), ("candle",))
    assert [s.path.name for s in data.train] == ["0000.JPG"]
    assert Counter(s.kind for s in data.test) == {"good": 1, "chunk of wax missing": 1, "combined": 1}
    assert data.test[-1].mask_path == tmp_path / "candle/Data/Masks/Anomaly/001.png"


def test_visa_without_its_split(tmp_path):
    visa(tmp_path)
    data = scan(tmp_path / "candle")
    assert (len(data.train), Counter(s.label for s in data.test)) == (18, {0: 2, 1: 2})


def test_converted_visa(tmp_path):
    touch(tmp_path, "train/good/0.JPG", "test/good/1.JPG", "test/bad/000.JPG", "ground_truth/bad/000.png")
    data = scan(tmp_path)
    assert data.test[0].mask_path == tmp_path / "ground_truth/bad/000.png"
    assert data.problems == ()


def test_plain_folder_of_good_photos(tmp_path):
    touch(tmp_path, "b.png", "deep/er/a.JPG", "notes.txt", ".thumbs/c.png")
    data = scan(tmp_path)
    assert (data.layout, len(data.train), data.test) == ("plain", 2, ())


@pytest.mark.parametrize("good", ["", "good/", "OK/"])
def test_plain_with_bad(tmp_path, good):
    touch(
        tmp_path, *(f"{good}{i:02}.png" for i in range(10)), "bad/x.png", "bad/scratch/y.png", "masks/scratch/y.png"
    )
    data = scan(tmp_path)
    assert (len(data.train), len(data.test)) == (8, 4)
    assert (len(data.all_for_testing().test), data.all_for_testing().train) == (12, ())
    kinds = {s.path.name: (s.kind, s.mask_path and s.mask_path.name) for s in data.test if s.label}
    assert kinds == {"x.png": ("bad", None), "y.png": ("scratch", "y.png")}
    assert [p.path.name for p in data.problems] == ["x.png"]


def test_folders_beside_good_are_kinds_of_defects(tmp_path):
    touch(tmp_path, *(f"good/{i}.png" for i in range(5)), "bent/0.png", "torn/0.png", "stray.png")
    data = scan(tmp_path)
    assert Counter(s.kind for s in data.test) == {"good": 1, "bent": 1, "torn": 1}
    assert [s.path.parent.name for s in data.train] == ["good"] * 4
    assert [p.path.name for p in data.problems] == ["stray.png"]


def test_links_are_followed_but_not_for_ever(tmp_path):
    touch(tmp_path / "store", "a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked").symlink_to(tmp_path / "store")
    (tmp_path / "store/back").symlink_to(tmp_path / "data")
    assert [s.path.name for s in scan(tmp_path / "data").samples] == ["a.png"]


def test_a_folder_that_may_not_be_read_is_no_empty_one(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "one/two/three/four/b.png")
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("four"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"can't list .*four: Permission denied"):
        scan(tmp_path)
    source = open_source(SourceSettings(str(tmp_path)))
    with pytest.raises(DataError, match=r"can't list .*four: Permission denied"):
        source.open()


def test_hopeless_folders(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        scan(tmp_path / "absent")
    with pytest.raises(DataError, match="no usable image"):
        scan(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"no usable image \(1 problems\)"):
        scan(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        scan(tmp_path / "empty.png")
    touch(tmp_path, "full.png")
    assert [p.reason for p in scan(tmp_path).problems] == ["empty file (0 bytes)"]
