"""Preprocessing inside the graph, and the server's model repository."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest

from edge_ad.data.images import preprocess
from edge_ad.errors import ConfigError
from edge_ad.export.frames import frames_graph, resize_matrix
from edge_ad.export.triton_server import write_repository
from edge_ad.runtime.engines.opening import open_runner
from edge_ad.runtime.engines.runner import OUTPUTS


@pytest.mark.parametrize("size", [(64, 64), (100, 150), (48, 64), (64, 40), (37, 53), (480, 640)])
def test_frames_in_give_the_scores_of_preprocessed_images(size, small_artifact):
    how = small_artifact.manifest.preprocessing
    graph = frames_graph(small_artifact.file("model.onnx").read_bytes(), size, how)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, *size, 3), np.uint8)
    images = np.stack([preprocess(frame, how.image_size, how.mean, how.std) for frame in frames])
    expected = open_runner(small_artifact)(images)
    for name, array in zip(OUTPUTS, session.run(OUTPUTS, {"frames": frames}), strict=True):
        # some sums end at one half exactly and may round the other way: a grey level in one pixel
        np.testing.assert_allclose(
            array, getattr(expected, name), atol=0.02 if name == "head_logits" else 2e-3, err_msg=name
        )


@pytest.mark.parametrize(("size", "target"), [(100, 64), (640, 224), (37, 64), (1080, 392), (7, 3), (5, 5)])
def test_resize_matrix_is_pillows(size, target):
    from PIL import Image

    matrix = resize_matrix(size, target)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    row = np.random.default_rng(0).integers(0, 256, (1, size), np.uint8)
    theirs = np.asarray(Image.fromarray(row).resize((target, 1), Image.Resampling.BILINEAR))[0]
    np.testing.assert_array_equal(np.floor(matrix @ row[0].astype(float) + 0.5).clip(0, 255), theirs)


def test_repository_matches_the_graph(small_artifact, tmp_path):
    small_artifact.update(calibration={"image_threshold": 0.25, "pixel_threshold": 0.5})
    config, graph = write_repository(small_artifact, "fp32", tmp_path, max_batch=8)
    assert graph == tmp_path / "small_fp32" / "1" / "model.onnx"
    onnx.checker.check_model(onnx.load_model(graph), full_check=True)
    text = config.read_text()
    assert text.count("{") == text.count("}")
    assert text.count("[") == text.count("]")
    assert 'name: "images"\n    data_type: TYPE_FP32\n    dims: [ 3, 64, 64 ]' in text
    assert 'name: "image_score"\n    data_type: TYPE_FP32\n    dims: [ 1 ]\n    reshape: { shape: [ ] }' in text
    assert 'key: "image_threshold" value: { string_value: "0.25" }' in text
    assert "max_batch_size: 8" in text


def test_thresholds_of_another_precision_stay_behind(small_artifact, tmp_path):
    small_artifact.update(calibration={"image_threshold": 0.25, "precision": "int8"})
    config, _ = write_repository(small_artifact, "fp32", tmp_path)
    assert "image_threshold" not in config.read_text()


def test_repository_is_valid_by_the_servers_own_schema(small_artifact, tmp_path):
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", tmp_path, "tritonclient==2.73.0"]
    if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("tritonclient can't be downloaded here")
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extract("tritonclient/grpc/model_config_pb2.py", tmp_path)
    small_artifact.update(calibration={"image_threshold": 0.25, "pixel_threshold": 0.5})
    config, graph = write_repository(small_artifact, "fp32", tmp_path / "models", max_batch=8)
    read = (
        "import sys, model_config_pb2 as schema\n"
        "from google.protobuf import json_format, text_format\n"
        "config = text_format.Parse(open(sys.argv[1]).read(), schema.ModelConfig())\n"
        "print(json_format.MessageToJson(config, preserving_proto_field_name=True))\n"
    )
    environment = {"PYTHONPATH": str(tmp_path / "tritonclient" / "grpc")}
    done = subprocess.run(
        [sys.executable, "-c", read, config], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["name"] == config.parent.name
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for mine, theirs in ((found["input"], session.get_inputs()), (found["output"], session.get_outputs())):
        shapes = {one.name: [str(size) for size in one.shape[1:]] for one in theirs}
        assert {one["name"]: [] if "reshape" in one else one["dims"] for one in mine} == shapes


def test_fixed_batch_can_not_be_batched(small_artifact, tmp_path):
    model = onnx.load_model(small_artifact.file("model.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    small_artifact.add("model.onnx", model.SerializeToString())
    with pytest.raises(ConfigError, match="fixed batch"):
        write_repository(small_artifact, "fp32", tmp_path)
