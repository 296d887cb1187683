"""The detector's graph: PyTorch's scores, operators that every engine has, FP16 and INT8 of the real thing."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save
from timm.models.vision_transformer import LayerScale

from edge_ad.artifact import Artifact, Manifest, Preprocessing
from edge_ad.calibrate.int8 import measure_ranges
from edge_ad.data.images import preprocess, read_image
from edge_ad.export.compare import compare, pearson, ranks
from edge_ad.export.engine import engine_graph
from edge_ad.export.graph_tools import Graph, with_batch
from edge_ad.export.job import ExportOptions, export_precision
from edge_ad.export.onnx_graph import export_onnx
from edge_ad.export.quantize import layers_of, quantize_int8, to_fp16
from edge_ad.export.simplify import PlainAttention, PlainGelu, ScaledMemoryDecoder, simplify
from edge_ad.model.detector import Detector
from edge_ad.model.student import unit_tokens
from edge_ad.runtime.engines.onnxruntime import OnnxRuntimeRunner

SIZE = (96, 128)
# no einsum, sort, loops, data-dependent shapes or resizes: TensorRT, OpenVINO and ONNX Runtime differ on those
SHUNNED = {"Einsum", "Elu", "Loop", "If", "NonZero", "Resize", "ScatterND", "Where", "GridSample", "Unique"}


@pytest.fixture(scope="module")
def exported(tiny_config, write_photos, tmp_path_factory):
    torch.manual_seed(0)
    detector = Detector(tiny_config.model, SIZE, None).eval()
    model = tiny_config.model
    paths = write_photos(tmp_path_factory.mktemp("photos"), 10)
    images = np.stack([preprocess(read_image(path), detector.image_size, model.mean, model.std) for path in paths])
    with torch.inference_mode():  # a memory to recall from, as training fills it
        tokens = unit_tokens(detector.teacher(torch.from_numpy(images))).flatten(0, 1)
        detector.student.decoder.set_prototypes([tokens], torch.Generator().manual_seed(0))
    return detector, export_onnx(detector, classes=("stripes",), preset="edge"), images


def test_scores_are_those_of_pytorch(exported):
    detector, graph, images = exported
    with torch.inference_mode():
        expected = detector(torch.from_numpy(images))
    runner = OnnxRuntimeRunner(graph, threads=1)
    found = runner(images)
    for name in expected._fields:
        ours, theirs = getattr(found, name), getattr(expected, name).numpy()
        spread = max(float(theirs.std()), 1e-3)
        assert np.abs(ours - theirs).max() < 1e-3 * spread + 1e-4, name
    assert pearson(ranks(found.image_score), ranks(expected.image_score.numpy())) > 0.99
    one = OnnxRuntimeRunner(with_batch(graph, 1), threads=1)
    np.testing.assert_allclose(one(images[:3]).image_score, found.image_score[:3], atol=1e-4)


def test_graph_is_self_contained_and_plain(exported):
    _, graph, _ = exported
    model = onnx.load_model_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import if opset.version} <= {"", "ai.onnx"}
    kinds = {node.op_type for node in model.graph.node}
    assert not SHUNNED & kinds
    assert "LayerNormalization" in kinds
    assert {"preset", "classes", "preprocessing"} <= {entry.key for entry in model.metadata_props}
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)


def test_lean_copy_scores_alike_and_leaves_the_detector_alone(exported):
    detector, _, images = exported
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    for block in detector.teacher.vit.blocks:  # an untrained gain of 1 would hide a missing one
        block.ls1 = LayerScale(detector.teacher.channels, init_values=0.3)
        block.ls2 = LayerScale(detector.teacher.channels, init_values=0.7)
    try:
        lighter = simplify(detector)
        with torch.inference_mode():
            expected, found = (model(torch.from_numpy(images)) for model in (detector, lighter))
    finally:
        for block in detector.teacher.vit.blocks:
            block.ls1 = block.ls2 = torch.nn.Identity()
    for name in expected._fields:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=2e-4, rtol=1e-3)
    kinds = {type(module) for module in lighter.modules()}
    assert {PlainAttention, PlainGelu, ScaledMemoryDecoder} <= kinds
    assert not {LayerScale, torch.nn.GELU} & kinds
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_onnxruntime_makes_one_operation_of_each_gelu(exported, tmp_path):
    detector, graph, _ = exported
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "fused.onnx"), 3
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert "Erf" not in kinds
    # QuickGelu is what it makes of the SiLU of the small CNN
    assert (
        sum("Gelu" in kind and kind != "QuickGelu" for kind in kinds)
        == len(detector.teacher.vit.blocks) + detector.config.decoder_depth
    )


def test_fp32_is_written_anew_and_held_against_pytorch(exported, tiny_config, tmp_path):
    detector, _, images = exported
    model = tiny_config.model
    manifest = Manifest(
        "stripes", tiny_config.to_dict(), Preprocessing(detector.image_size, model.mean, model.std), ("stripes",)
    )
    weights = save({name: value.contiguous() for name, value in detector.state_dict().items()})
    artifact = Artifact.create(tmp_path / "part", manifest, {"weights.safetensors": weights, "model.onnx": b"old"})
    record = export_precision(artifact, "fp32", list(images), options=ExportOptions(threads=1))
    assert record["normals"]["first"] == "torch-cpu fp32"
    assert record["normals"]["rank_correlation"] > 0.8  # of five photos that are very much alike
    assert record["normals"]["errors"]["image_score"]["1.0"] < 1e-3
    assert record == artifact.manifest.reports["export.fp32"]
    metadata = {entry.key: entry.value for entry in onnx.load(artifact.file("model.onnx")).metadata_props}
    assert (metadata["classes"], metadata["precision"]) == ('["stripes"]', "fp32")


def test_fp16_and_int8_of_the_real_architecture(exported):
    _, graph, images = exported
    layers = layers_of(Graph(graph))
    assert len(layers) >= 12  # four a block, and the decoder's
    ranges = measure_ranges(
        graph, sorted({name for layer in layers for name in layer.activations}), [images[:5]], threads=1
    )
    reference = OnnxRuntimeRunner(graph, threads=1)
    half = compare(reference, OnnxRuntimeRunner(to_fp16(graph), threads=1), [images[5:]])
    assert half.pixel_correlation > 0.999
    whole = quantize_int8(graph, ranges.amax())
    small = compare(reference, OnnxRuntimeRunner(whole, threads=1), [images[5:]])
    assert small.pixel_correlation > 0.97
    engine = Graph(engine_graph(whole))  # attention too is in FP16, though its shapes are computed in the graph
    heavy = {node.name for node in Graph(graph).heavy_nodes() if node.op_type == "MatMul"}
    assert [n.name for n in engine.graph.node if n.name in heavy and engine.is_float(n.output[0])] == []
