"""`edgead eval` as a user calls it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from edge_ad.cli import main
from edge_ad.data.images import read_image, write_image


@pytest.fixture
def photos(tmp_path, parts):
    for i in range(4):
        write_image(tmp_path / f"stripes/train/good/{i}.png", parts[0][i])
        write_image(tmp_path / f"stripes/test/good/{i}.png", parts[0][10 + i])
        write_image(tmp_path / f"stripes/test/spot/{i}.png", parts[1][i])
        write_image(tmp_path / f"stripes/ground_truth/spot/{i}_mask.png", parts[2][i].astype(np.uint8) * 255)
    return tmp_path / "stripes"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["eval", *map(str, arguments)])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_table_json_and_report(capsys, small_artifact, photos, tmp_path):
    (photos / "test/good/broken\udcff.png").write_text("no image")  # a name in another encoding
    code, out, err = run(
        capsys, small_artifact.path, photos, "--json", tmp_path / "f.json", "--report", tmp_path / "r.html"
    )
    assert code == 0, err
    assert "I-AUROC" in out
    assert "broken" in err
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["i_auroc"] == figures["stripes"]["i_auroc"] > 0.8
    assert figures["about"]["image_size"] == [64, 64]
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_contact_sheet(capsys, small_artifact, photos, tmp_path):
    small_artifact.update(
        calibration={"image_threshold": 0.0, "pixel_threshold": 0.0, "score_quantiles": [-2.0, -1.0, 0.0]}
    )
    code, _, err = run(capsys, small_artifact.path, photos, "--sheet", tmp_path / "s.png", "--no-native")
    assert code == 0, err
    sheet = read_image(tmp_path / "s.png")
    assert sheet.shape[1] == 4 * (192 + 6) + 6
    assert sheet.shape[0] > 8 * 192  # all eight photos, each once


def test_each_product_has_heat_maps_of_its_own_scale(capsys, small_artifact, photos, tmp_path):
    """A product whose good parts score far lower would show nothing on a scale that another product sets."""
    common = {"image_threshold": 900.0, "pixel_threshold": 1000.0, "score_quantiles": [100.0, 500.0, 900.0]}
    own = {"image_threshold": 0.0, "pixel_threshold": 0.0, "score_quantiles": [-2.0, -1.0, 0.0]}
    pages = []
    for calibration in (own, common | {"per_class": {"stripes": own}}, common):
        small_artifact.update(calibration=calibration)
        code, _, err = run(
            capsys, small_artifact.path, photos, "--report", tmp_path / "r.html", "--sheet", tmp_path / "s.png"
        )
        assert code == 0, err
        pictures = re.findall("base64,[^']*", (tmp_path / "r.html").read_text(encoding="utf-8"))
        pages.append((pictures, (tmp_path / "s.png").read_bytes()))
    assert pages[0] == pages[1]
    assert pages[0][0] != pages[2][0]


def test_a_folder_that_is_no_product_of_the_artifact_is_named(capsys, small_artifact, photos):
    calibration = {"image_threshold": 0.5, "pixel_threshold": 0.5, "score_quantiles": [0.0, 0.1, 0.2]}
    for name, said in (("stripes", False), ("dots", True)):
        small_artifact.update(calibration=calibration | {"per_class": {name: calibration}})
        code, _, err = run(capsys, small_artifact.path, photos, "--no-native")
        assert code == 0
        assert ("no threshold of its own for stripes" in err) == said


def test_json_to_standard_output_is_only_json(capsys, small_artifact, photos):
    code, out, _ = run(capsys, small_artifact.path, photos, "--json", "-", "--no-native", "--batch", "3")
    assert code == 0
    assert json.loads(out)["good"] == 4
    code, out, _ = run(capsys, small_artifact.path, photos, "--json", "-", "--no-native", "--all")
    assert json.loads(out)["good"] == 8
    assert json.loads(out)["stripes"]["native"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--category", "zebra"], "no category 'zebra'"),
        (["--backend", "tflite"], "unknown backend 'tflite'"),
        (["--precision", "fp16"], "has no model.fp16.onnx"),
        (["--report", "/nowhere/at/all.html"], "does not exist"),
        (["--report", "/"], "/ is a folder"),
        (["--json", "/proc/figures.json"], "can't write /proc/figures.json"),
        (["--sheet", "sheet.xyz"], "can't encode a picture as '.xyz'"),
    ],
)
def test_wrong_wishes_are_errors_with_hints(capsys, small_artifact, photos, arguments, message):
    code, out, err = run(capsys, small_artifact.path, photos, *arguments)
    assert (code, out) == (1, "")
    error, hint = err.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("hint: ")
