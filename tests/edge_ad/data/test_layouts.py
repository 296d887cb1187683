"""Layouts of public data sets and of plants, built here file by file: each photo is what its authors say it is."""

from __future__ import annotations

import json
from collections import Counter

import cv2
import numpy as np
import pytest

from edge_ad.data.masks import read_mask
from edge_ad.data.samples import scan
from edge_ad.errors import DataError

BLACK = np.zeros((8, 12), np.uint8)
MARKED = BLACK.copy()
MARKED[2:4, 3:6] = 255
PHOTO = np.random.default_rng(0).integers(60, 200, (8, 12, 3), np.uint8)


def write(root, picture, *names):
    data = {suffix: cv2.imencode(suffix, picture)[1].tobytes() for suffix in (".png", ".jpg", ".bmp")}
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.get(path.suffix.lower(), data[".png"]))


def found(root):
    """Photos by (split, label, kind, whether they have a mask)."""
    return Counter((s.split, s.label, s.kind, s.mask_path is not None) for s in scan(root).samples)


def lines(root):
    return [use.line(root) for use in scan(root).folders()]


def numbered(folder, suffix, count, start=0):
    return [f"{folder}/{i:03}{suffix}" for i in range(start, start + count)]


def test_mvtec_ad_2(tmp_path):
    can = tmp_path / "mvtec_ad_2/can"
    write(can, PHOTO, *numbered("train/good", "_regular.png", 4), *numbered("validation/good", "_regular.png", 3))
    write(can, PHOTO, *numbered("test_public/good", "_regular.png", 2), *numbered("test_public/bad", "_shift.png", 2))
    write(can, MARKED, *numbered("test_public/ground_truth/bad", "_shift_mask.png", 2))
    write(can, PHOTO, *numbered("test_private", "_regular.png", 5), *numbered("test_private_mixed", "_mixed.png", 5))
    assert found(tmp_path) == {
        ("train", 0, "good", False): 4,
        ("validation", 0, "good", False): 3,
        ("test", 0, "good", False): 2,
        ("test", 1, "bad", True): 2,
    }
    data = scan(tmp_path)
    assert (len(data.train), len(data.test), len(data.normals)) == (4, 4, 9)
    said = lines(tmp_path)
    assert "mvtec_ad_2/can/validation/good: 3 good photo(s) set apart for calibration" in said
    assert "mvtec_ad_2/can/test_private: left out: 5 photo(s) without labels" in said
    assert "mvtec_ad_2/can/test_public/ground_truth/bad: 2 mask(s) of defects" in said


def test_mvtec_loco_has_a_folder_of_masks_for_each_photo(tmp_path):
    write(tmp_path, PHOTO, *numbered("train/good", ".png", 4), *numbered("validation/good", ".png", 2))
    write(tmp_path, PHOTO, "test/good/000.png", *numbered("test/logical_anomalies", ".png", 2))
    write(tmp_path, PHOTO, *numbered("test/structural_anomalies", ".png", 1))
    first, second = MARKED.copy(), np.roll(MARKED, 4, 1)
    write(tmp_path, first, "ground_truth/logical_anomalies/000/000.png", "ground_truth/logical_anomalies/001/000.png")
    write(tmp_path, second, "ground_truth/logical_anomalies/000/001.png")
    write(tmp_path, first, "ground_truth/structural_anomalies/000/000.png")
    data = scan(tmp_path)
    assert data.problems == ()
    masks = [sample.mask_path for sample in data.test if sample.label]
    assert [path.relative_to(tmp_path / "ground_truth").as_posix() for path in masks] == [
        "logical_anomalies/000", "logical_anomalies/001", "structural_anomalies/000",
    ]  # fmt: skip
    np.testing.assert_array_equal(read_mask(masks[0]), (first > 0) | (second > 0))


def test_btad(tmp_path):
    for product in ("01", "03"):
        root = tmp_path / product
        write(root, PHOTO, *numbered("train/ok", ".bmp", 4), *numbered("test/ok", ".bmp", 2))
        write(root, PHOTO, *numbered("test/ko", ".bmp", 2))
        write(root, MARKED, *numbered("ground_truth/ko", ".bmp" if product == "03" else ".png", 2))
    assert scan(tmp_path).categories == ("01", "03")
    assert found(tmp_path / "03") == {
        ("train", 0, "good", False): 4, ("test", 0, "good", False): 2, ("test", 1, "ko", True): 2,
    }  # fmt: skip


def test_kolektor_sdd(tmp_path):
    for part in range(10):
        write(tmp_path, PHOTO, *(f"kos{part:02}/Part{i}.jpg" for i in range(3)))
        write(tmp_path, BLACK, *(f"kos{part:02}/Part{i}_label.bmp" for i in range(3) if i != part))
        write(tmp_path, MARKED, *(f"kos{part:02}/Part{i}_label.bmp" for i in range(3) if i == part))
    assert found(tmp_path) == {
        ("train", 0, "good", False): 22, ("test", 0, "good", False): 5, ("test", 1, "defect", True): 3,
    }  # fmt: skip
    assert scan(tmp_path).problems == ()


def test_kolektor_sdd2(tmp_path):
    for split, start in (("train", 10000), ("test", 20000)):
        write(tmp_path, PHOTO, *(f"{split}/{start + i}.png" for i in range(5)))
        write(tmp_path, BLACK, *(f"{split}/{start + i}_GT.png" for i in range(4)))
        write(tmp_path, MARKED, f"{split}/{start + 4}_GT.png")
    assert found(tmp_path) == {
        ("train", 0, "good", False): 4, ("train", 1, "defect", True): 1,
        ("test", 0, "good", False): 4, ("test", 1, "defect", True): 1,
    }  # fmt: skip
    assert len(scan(tmp_path).train) == 4
    assert "train: 1 photo(s) of defects ('defect') not trained on, as its mask tells" in lines(tmp_path)


def test_dagm(tmp_path):
    write(tmp_path, PHOTO, *numbered("Class1/Train", ".PNG", 4), *numbered("Class1/Test", ".PNG", 3))
    write(tmp_path, MARKED, "Class1/Train/Label/003_label.PNG", "Class1/Test/Label/001_label.PNG")
    assert found(tmp_path) == {
        ("train", 0, "good", False): 3, ("train", 1, "defect", True): 1,
        ("test", 0, "good", False): 2, ("test", 1, "defect", True): 1,
    }  # fmt: skip


def real_iad(root):
    jack = root / "realiad_1024/audiojack"
    for i in range(1, 5):
        write(jack, PHOTO, *(f"OK/S{i:04}/audiojack_{i:04}_OK_C{c}_2023.jpg" for c in (1, 2)))
    for code in ("BX", "HS"):
        name = f"NG/{code}/S0007/audiojack_0007_NG_{code}_C"
        write(jack, PHOTO, f"{name}1_2023.jpg", f"{name}2_2023.jpg")
        write(jack, MARKED, f"{name}1_2023.png", f"{name}2_2023.png")
    return jack


def test_real_iad(tmp_path):
    real_iad(tmp_path)
    assert found(tmp_path) == {
        ("train", 0, "good", False): 7, ("test", 0, "good", False): 1, ("test", 1, "BX", True): 2,
        ("test", 1, "HS", True): 2,
    }  # fmt: skip


@pytest.mark.parametrize("place", ["realiad_jsons", "realiad_jsons/realiad_jsons", "realiad_1024"])
def test_real_iad_in_its_published_split(tmp_path, place):
    jack = real_iad(tmp_path)
    photos = sorted(path.relative_to(jack).as_posix() for path in jack.rglob("*.jpg"))
    rows = [{"image_path": photo, "anomaly_class": "OK", "mask_path": None} for photo in photos]
    good = [row for row in rows if row["image_path"].startswith("OK")]
    bad = [row for row in rows if row not in good]
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    file = tmp_path / place / "audiojack.json"
    file.write_text(json.dumps({"meta": {}, "train": good[:5], "test": good[5:] + bad}))
    assert found(tmp_path)["train", 0, "good", False] == 5
    assert found(tmp_path)["test", 0, "good", False] == 3
    file.write_text("{}")
    with pytest.raises(DataError, match="no split as Real-IAD publishes it"):
        scan(tmp_path)


@pytest.mark.parametrize("depth", ["", "a/", "plant/line/2026/08/"])
def test_a_product_is_found_at_any_depth(tmp_path, depth):
    write(
        tmp_path,
        PHOTO,
        *numbered(f"{depth}brick/train/good", ".png", 3),
        *numbered(f"{depth}brick/test/hole", ".png", 2),
    )
    write(tmp_path, MARKED, *numbered(f"{depth}brick/ground_truth/hole", "_mask.png", 2))
    assert found(tmp_path) == {("train", 0, "good", False): 3, ("test", 1, "hole", True): 2}


@pytest.mark.parametrize("name", ["bad_seal", "scrap metal", "good luck", "labels"])
def test_a_products_name_may_hold_any_word(tmp_path, name):
    write(tmp_path, PHOTO, *numbered(f"{name}/train/good", ".png", 3), *numbered("nut/train/good", ".png", 3))
    write(tmp_path, PHOTO, *numbered(f"{name}/test/dent", ".png", 2))
    data = scan(tmp_path)
    assert data.categories == tuple(sorted([name, "nut"]))
    assert (len(data.train), len(data.test)) == (6, 2)


@pytest.mark.parametrize(
    ("good", "bad"),
    [("gut", "schlecht"), ("良品", "不良品"), ("bonnes", "défauts"), ("OK-Teile", "n.i.O."), ("images", "abnormal"),
     ("photos", "rejects"), ("2024/gut", "2024/schlecht"), ("2024/good", "2024/old/not good")],
)  # fmt: skip
def test_defects_are_told_from_good_parts_by_their_folders_names(tmp_path, good, bad):
    write(tmp_path, PHOTO, *numbered(good, ".png", 10), *numbered(bad, ".png", 3, 50))
    data = scan(tmp_path)
    assert (len(data.train), len(data.normals), len(data.samples)) == (8, 10, 13)
    assert {sample.path.parent for sample in data.samples if sample.label} == {tmp_path / bad}


def test_masks_beside_normal_and_abnormal(tmp_path):
    write(tmp_path, PHOTO, *numbered("normal", ".jpg", 5), *numbered("abnormal", ".jpg", 3))
    write(tmp_path, MARKED, *numbered("mask", ".png", 3))
    assert found(tmp_path)["test", 1, "abnormal", True] == 3
    assert scan(tmp_path).problems == ()


BESIDE = {
    "folder of masks": ("images/{}.jpg", "masks/{}.png"),
    "folder of labels": ("images/{}.png", "labels/{}.png"),
    "name with label": ("{}.jpg", "{}_label.png"),
    "other suffix": ("{}.jpg", "{}.png"),
    "name with mask": ("{}.png", "mask_{}.png"),
    "folder and name": ("{}.jpg", "gt/{}_gt.png"),
    "folder inside": ("a/{}.png", "a/labels/{}.png"),
}


@pytest.mark.parametrize("names", BESIDE.values(), ids=BESIDE)
def test_where_only_masks_tell_they_do(tmp_path, names):
    photo, mask = names
    write(tmp_path, PHOTO, *(photo.format(f"{i:03}") for i in range(12)))
    write(tmp_path, BLACK, *(mask.format(f"{i:03}") for i in range(6)))
    write(tmp_path, MARKED, *(mask.format(f"{i:03}") for i in range(6, 8)))
    data = scan(tmp_path)
    assert sorted(sample.path.stem for sample in data.samples if sample.label) == ["006", "007"]
    assert all(sample.mask_path for sample in data.samples if sample.label)
    assert (len(data.normals), len(data.train)) == (10, 8)
    assert data.problems == ()


def test_a_mask_that_cannot_be_read_tells_nothing(tmp_path):
    write(tmp_path, PHOTO, *numbered("images", ".png", 4))
    write(tmp_path, MARKED, *numbered("masks", ".png", 4))
    (tmp_path / "masks/002.png").write_bytes(b"x")
    data = scan(tmp_path)
    assert [path.name for path, _ in data.left_out] == ["002.png"]
    assert "can't be read" in data.left_out[0].reason


def test_pictures_of_labels_are_photos(tmp_path):
    write(tmp_path, PHOTO, *numbered("labels", ".png", 4))
    assert found(tmp_path) == {("train", 0, "good", False): 4}


def test_a_photo_saved_twice_is_no_mask(tmp_path):
    write(tmp_path, PHOTO, *numbered(".", ".png", 4), *numbered(".", ".jpg", 4))
    assert found(tmp_path / "") == {("train", 0, "good", False): 8}


def test_file_names_tell_where_no_folder_does(tmp_path):
    write(tmp_path, PHOTO, *(f"OK_{i}.png" for i in range(5)), "NG_1.png", "NG_2.png")
    assert found(tmp_path) == {
        ("train", 0, "good", False): 4, ("test", 0, "good", False): 1, ("test", 1, "defect", False): 2,
    }  # fmt: skip
    assert ".: 2 photo(s) of defects ('defect') to measure with, as its name says" in lines(tmp_path)


def test_folders_whose_names_say_nothing_are_said_to_be_pooled(tmp_path):
    write(tmp_path, PHOTO, *numbered("monday", ".png", 2), *numbered("tuesday", ".png", 3))
    assert lines(tmp_path) == [
        "monday: 2 good photo(s) to train on, as no name says otherwise",
        "tuesday: 3 good photo(s) to train on, as no name says otherwise",
    ]


def test_many_folders_alike_are_one_row(tmp_path):
    write(tmp_path, PHOTO, *(f"part{i:03}/a.png" for i in range(30)))
    assert lines(tmp_path) == ["* (30 folders): 30 good photo(s) to train on, as no name says otherwise"]


def test_what_a_nas_keeps_is_left_out_and_said(tmp_path):
    write(tmp_path, PHOTO, *numbered(".", ".jpg", 4), "#recycle/bad.jpg", "$RECYCLE.BIN/S-1-5-21/$RA1.jpg")
    write(
        tmp_path,
        PHOTO,
        "@eaDir/000.jpg/SYNOPHOTO_THUMB_M.jpg",
        ".thumbnails/000.jpg",
        "sub/@eaDir/x.jpg",
        "._000.jpg",
    )
    data = scan(tmp_path)
    assert {path.parent for path in (sample.path for sample in data.samples)} == {tmp_path}
    left = {path.relative_to(tmp_path).as_posix(): reason for path, reason in data.left_out}
    assert left.keys() == {"#recycle", "$RECYCLE.BIN", "@eaDir", ".thumbnails", "sub/@eaDir", ".*"}
    assert left["@eaDir"] == "1 picture(s) in a hidden folder, a device's own, a detector's or a run's"


def test_files_of_kinds_that_are_not_read_are_counted(tmp_path):
    write(tmp_path, PHOTO, "a.jpg", "b.jfif", "c.JPE")
    for name in ("IMG_1.HEIC", "IMG_2.heic", "DSC.NEF", "film.mp4", "notes.txt", "photos.zip"):
        (tmp_path / name).write_bytes(b"x")
    data = scan(tmp_path)
    assert len(data.samples) == 3
    assert {path.name: reason.split(":")[0] for path, reason in data.problems} == {
        "*.heic": "2 file(s)", "*.nef": "1 file(s)", "*.mp4": "1 file(s)", "*.zip": "1 file(s)",
    }  # fmt: skip


def test_folders_beside_the_splits_are_named(tmp_path):
    write(tmp_path, PHOTO, *numbered("train/good", ".png", 3), "test/good/0.png", "test/dent/0.png", "spare/0.png")
    write(tmp_path, PHOTO, "train/bad/0.png", "train/bad/1.png")
    left = {path.relative_to(tmp_path).as_posix(): reason for path, reason in scan(tmp_path).left_out}
    assert left == {
        "spare": "1 photo(s): lie beside the splits, in none of them",
        "train/bad": "2 photo(s): 'bad' below train is not a folder of good photos",
    }
