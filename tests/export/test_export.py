"""`edgead export`, whole."""

import json

import onnx
import pytest

from edge_ad.artifact import Artifact
from edge_ad.cli import main
from edge_ad.data.images import write_image
from edge_ad.runtime.engines.opening import open_runner


@pytest.fixture
def data(parts, tmp_path):
    good, bad, masks = parts
    for folder, frames in (("train/good", good[:24]), ("test/good", good[24:]), ("test/spot", bad)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for i, frame in enumerate(frames):
            write_image(tmp_path / "data" / folder / f"{i:03}.png", frame)
    (tmp_path / "data/ground_truth/spot").mkdir(parents=True)
    for i, mask in enumerate(masks):
        write_image(tmp_path / "data/ground_truth/spot" / f"{i:03}_mask.png", mask.astype("uint8") * 255)
    return tmp_path / "data"


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_int8_with_labels_then_calibrate_and_load(small_artifact, data, capsys):
    path = small_artifact.path
    assert run("export", path, "--int8", "--normals", data / "train", "--data", data, "--threads", 1) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["passed"]
    assert set(record["delta_points"]) == {"i_auroc", "p_auroc", "aupro", "f1_max"}
    assert None not in record["delta_points"].values()
    assert "what the export lost" in err
    good = data / "test/good"
    assert run("calibrate", path, "--normals", good, "--false-alarms", 0.1, "--precision", "int8") == 0
    opened = Artifact.open(path)
    assert opened.manifest.calibration["precision"] == "int8"
    assert open_runner(opened).name.endswith("int8")


def test_targets_outside_the_artifact(small_artifact, tmp_path, capsys):
    pytest.importorskip("openvino")
    path = small_artifact.path
    assert run("export", path, "--target", "openvino", "--out", tmp_path / "ov") == 0
    assert (tmp_path / "ov" / "model.xml").exists()
    assert run("export", path, "--target", "triton-server", "--out", tmp_path / "ts", "--max-batch", 4) == 0
    assert (tmp_path / "ts" / "small_fp32" / "config.pbtxt").exists()
    small_artifact.update(name="left door")  # clients name the model in a URL
    assert run("export", path, "--target", "triton-server", "--out", tmp_path / "ts") == 0
    assert 'name: "left_door_fp32"' in (tmp_path / "ts" / "left_door_fp32" / "config.pbtxt").read_text()
    small_artifact.update(name="small")
    assert run("export", path, "--target", "frames", "--out", tmp_path / "f", "--frame-size", "48x80") == 0
    fixed = ["--frame-size", "48x80", "--batch", 2]
    assert run("export", path, "--target", "frames", "--out", tmp_path / "f", *fixed) == 0
    graph = onnx.load_model(tmp_path / "f" / "small.frames.fp32.onnx")
    assert [dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim] == [2, 48, 80, 3]
    assert {"graph_sha256", "artifact_sha256", "calibration"} <= {entry.key for entry in graph.metadata_props}
    for options, expected in ([], "batch"), (["--batch", 3], 3):
        assert run("export", path, "--out", tmp_path / "copy", *options) == 0
        graph = onnx.load_model(tmp_path / "copy" / "small.fp32.onnx")
        sizes = [dim.dim_param or dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim]
        assert sizes == [expected, 3, 64, 64]
        assert {"graph_sha256", "calibration"} <= {entry.key for entry in graph.metadata_props}
    assert json.loads(capsys.readouterr().out.splitlines()[0])["precision"] == "fp32"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--int8", "--fp16"], "more than one precision"),
        (["--int8"], "keeps no record of the folder of its training photos hint: name photos of good parts"),
        (["--data", "labelled"], "keeps no record of the folder of its training photos"),
        (["--max-loss", "0.1", "--skip", "/matmul_4"], "keeps no record of the folder of its training photos"),
        (["--target", "tflite"], "unknown target 'tflite'"),
        (["--target", "openvino"], "add --out"),
        (["--target", "frames", "--out", "x", "--frame-size", "big"], "no frame size"),
        (["--batch", "2"], "add --out"),
        (["--target", "openvino", "--out", "x", "--batch", "2"], "takes no --batch"),
    ],
)
def test_wrong_requests(options, words, small_artifact, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("export", small_artifact.path, *options) == 1
    assert words in " ".join(capsys.readouterr().err.split())
