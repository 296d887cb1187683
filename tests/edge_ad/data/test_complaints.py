"""Damage that a decoder only mutters about is told with the picture's name."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest

from edge_ad.cli import main
from edge_ad.data.checkup import check_up
from edge_ad.data.complaints import listen
from edge_ad.data.images import read_image
from edge_ad.data.samples import scan


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(8):
        picture = cv2.GaussianBlur(rng.integers(0, 255, (96, 128, 3), np.uint8), (0, 0), 2)
        assert cv2.imwrite(str(tmp_path / f"{i}.jpg"), picture)
    for i in (2, 5):
        data = bytearray((tmp_path / f"{i}.jpg").read_bytes())
        middle = len(data) // 2
        data[middle : middle + 600] = bytes(600)  # as a disk leaves a block that it lost
        (tmp_path / f"{i}.jpg").write_bytes(data)
    return tmp_path


def test_damage_inside_is_named_with_its_file(folder, capfd):
    found = check_up(scan(folder), threads=4)
    damaged = {problem.path.name: problem.reason for problem in found.odd if "damaged inside" in problem.reason}
    assert damaged.keys() == {"2.jpg", "5.jpg"}
    assert all("Corrupt JPEG data" in reason for reason in damaged.values())
    assert capfd.readouterr().err == ""
    with pytest.raises(SystemExit):
        main(["check", str(folder)])
    out, err = capfd.readouterr()
    assert "2.jpg: damaged inside" in out
    assert err == ""


def test_what_others_print_meanwhile_is_not_lost(folder, capfd):
    with listen() as listener:
        os.write(2, b"a library's warning\n")
        read_image(folder / "2.jpg")
        assert listener.complaint(0, lambda: read_image(folder / "0.jpg")) == ""
    assert capfd.readouterr().err == "a library's warning\n"
