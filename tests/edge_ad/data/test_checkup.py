"""What `edgead check` finds, each fault planted here; and that sound folders come out clean."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from edge_ad.cli import main
from edge_ad.data.checkup import check_up
from edge_ad.data.images import write_image
from edge_ad.data.samples import scan


def part(seed, size=(96, 128)):
    """A photo-like picture, different for each seed."""
    rng = np.random.default_rng(seed)
    waves = cv2.resize(rng.normal(0, 25, (12, 16, 3)), size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + waves + rng.normal(0, 3, (*size, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    for i in range(12):
        write_image(tmp_path / f"train/good/{i:02}.png", part(i))
    for i in range(3):
        write_image(tmp_path / f"test/good/{i}.png", part(100 + i))
        write_image(tmp_path / f"test/dent/{i}.png", part(200 + i))
        mask = np.zeros((96, 128), np.uint8)
        mask[20:40, 30:50] = 255
        write_image(tmp_path / f"ground_truth/dent/{i}_mask.png", mask)
    return tmp_path


def test_sound_folder(folder):
    found = check_up(scan(folder))
    assert found.trainable
    assert (found.broken, found.copies, found.near_copies, found.leaks, found.odd, found.masks) == ([],) * 6
    (report,) = found.categories
    assert (report.train, report.test_good, report.defects, report.with_mask) == (12, 3, {"dent": 3}, 3)
    assert report.sizes == {"96x128": 18}
    assert report.brightness[0] == pytest.approx(128, abs=5)


def test_every_fault_is_named(folder):
    (folder / "train/good/cut.png").write_bytes((folder / "train/good/00.png").read_bytes()[:500])
    (folder / "train/good/same.png").write_bytes((folder / "train/good/01.png").read_bytes())
    half = cv2.resize(part(2), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    write_image(folder / "test/good/leak.jpg", half)
    write_image(folder / "train/good/dark.png", part(3) // 3)
    write_image(folder / "train/good/blank.png", np.full((96, 128, 3), 80, np.uint8))
    write_image(folder / "train/good/wide.png", part(999, (64, 128)))
    (folder / "ground_truth/dent/0_mask.png").unlink()
    write_image(folder / "ground_truth/dent/1_mask.png", np.zeros((96, 128), np.uint8))
    write_image(folder / "ground_truth/dent/2_mask.png", np.full((200, 100), 255, np.uint8))
    found = check_up(scan(folder))
    assert [p.path.name for p in found.broken] == ["cut.png"]
    assert str(folder) not in found.broken[0].reason
    assert [[path.name for path in group] for group in found.copies] == [["01.png", "same.png"]]
    assert [{path.name for path in group} for group in found.near_copies] == [{"02.png", "leak.jpg"}]
    assert [path.name for path in found.leaks] == ["leak.jpg"]
    odd = {p.path.name: p.reason for p in found.odd}
    assert odd["dark.png"].startswith("brightness")
    assert odd["blank.png"] == "blank: all of it is gray level 80"
    assert "proportions" in odd["wide.png"]
    reasons = sorted((p.path.name, p.reason) for p in found.masks)
    assert [name for name, _ in reasons] == ["0.png", "1_mask.png", "2_mask.png"]
    assert "no mask" in reasons[0][1]
    assert "empty mask" in reasons[1][1]
    assert "another picture" not in reasons[2][1]
    assert "200x100" in reasons[2][1]
    assert found.trainable
    assert any("16 good photos to train on" in note for note in found.notes)


def test_bits_left_unused_are_noticed(tmp_path):
    for i in range(2):
        assert cv2.imwrite(str(tmp_path / f"{i}.png"), part(i)[:, :, 0].astype(np.uint16) * 16)
    notes = check_up(scan(tmp_path)).notes
    assert any("use only 12 bits" in note and "16 times too dark" in note for note in notes)


def test_command_prints_a_table(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check", str(folder)])
    assert stop.value.code == 0
    assert "can be trained on" in capsys.readouterr().out


def test_command_prints_json(folder, capsys):
    with pytest.raises(SystemExit):
        main(["check", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["trainable"] is True
    assert found["categories"][0]["train"] == 12


def test_hopeless_folder_exits_with_1(tmp_path, capsys):
    write_image(tmp_path / "good/0.png", part(0))
    (tmp_path / "good/1.png").write_text("no picture")
    with pytest.raises(SystemExit) as stop:
        main(["check", str(tmp_path)])
    words = capsys.readouterr()
    assert stop.value.code == 1
    assert "good/1.png" in words.out
    assert "can't be trained on" in words.err
    assert "hint:" in words.err


def test_every_folder_is_listed_with_what_it_was_taken_as(folder, capsys):
    write_image(folder / "validation/good/0.png", part(400))
    write_image(folder / "@eaDir/0.png", part(401))
    with pytest.raises(SystemExit):
        main(["check", str(folder)])
    said = capsys.readouterr().out
    for line in (
        "train/good: 12 good photo(s) to train on",
        "validation/good: 1 good photo(s) set apart for calibration",
        "test/good: 3 good photo(s) to measure with",
        "test/dent: 3 photo(s) of defects ('dent') to measure with",
        "ground_truth/dent: 3 mask(s) of defects",
        "@eaDir: left out: 1 picture(s)",
    ):
        assert line in said
    with pytest.raises(SystemExit):
        main(["check", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {"path": str(folder / "test/good"), "taken_as": "good photo(s) to measure with", "files": 3} in found[
        "folders"
    ]
    assert found["categories"][0]["set_apart"] == 1


def test_masks_that_were_guessed_or_are_doubtful_are_named(folder):
    mask = np.zeros((96, 128), np.uint8)
    mask[20:40, 30:50] = 255
    write_image(folder / "ground_truth/dent/0_mask.png", 255 - mask)
    (folder / "ground_truth/dent/1_mask.png").unlink()
    write_image(folder / "ground_truth/dent/1_mask.jpg", mask)
    reasons = {problem.path.name: problem.reason for problem in check_up(scan(folder)).masks}
    assert "marks 97% of the picture, most of it: inverted?" in reasons["0_mask.png"]
    assert "gray values" in reasons["1_mask.jpg"]


def test_a_good_photo_whose_name_says_defect_is_odd(folder):
    write_image(folder / "train/good/NG_7.png", part(500))
    odd = {problem.path.name: problem.reason for problem in check_up(scan(folder)).odd}
    assert odd == {"NG_7.png": "its name says defect, yet it counts as good"}
    write_image(folder / "ausschuss/0.png", part(501))
    assert "itself says defects" in check_up(scan(folder / "ausschuss")).notes[0]
