"""`edgead compare`: two runners by name, quantiles on stdout."""

import importlib.util
import json

import pytest

from edge_ad.cli import main
from edge_ad.data.images import write_image


@pytest.fixture
def photos(parts, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, frame in enumerate(parts[0][:12]):
        write_image(folder / f"{i:03}.png", frame)
    return folder


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main(["compare", *map(str, words), "--threads", "1"])
    return stop.value.code


def test_a_runner_against_itself(small_artifact, photos, capsys):
    assert run(small_artifact.path, photos, "--images", 8, "--second", "onnxruntime") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["first"], found["second"], found["images"]) == ("onnxruntime-cpu fp32", "onnxruntime-cpu fp32", 8)
    assert set(found["errors"]) == {"image_score", "pixel_scores", "anomaly_map", "head_logits"}
    assert all(set(errors) == {"0.5", "0.9", "0.99", "0.999", "1.0"} for errors in found["errors"].values())
    assert found["rank_correlation"] == found["pixel_correlation"] == 1
    assert "on 8 photos" in " ".join(err.split())


def test_a_broken_photo_is_left_out_and_named(small_artifact, photos, capsys, caplog):
    (photos / "011.png").write_bytes((photos / "011.png").read_bytes()[:300])
    assert run(small_artifact.path, photos, "--second", "onnxruntime") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 11
    assert "011.png: is cut short" in caplog.text


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_any_two_backends(small_artifact, photos, capsys):
    assert run(small_artifact.path, photos, "--second", "openvino:fp32") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["first"], found["second"]) == ("onnxruntime-cpu fp32", "openvino-cpu fp32")
    assert found["images"] == 12
    assert 0 < found["errors"]["pixel_scores"]["1.0"] < 1e-4
    assert found["pixel_correlation"] > 0.9999


@pytest.mark.parametrize(("name", "message"), [("tflite", "unknown backend 'tflite'"), ("openvino:int4", "'int4'")])
def test_unknown_names_are_refused(name, message, small_artifact, photos, capsys):
    assert run(small_artifact.path, photos, "--second", name) == 1
    assert message in capsys.readouterr().err
