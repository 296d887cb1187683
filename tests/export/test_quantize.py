"""FP16 and INT8 graphs: what is converted, what is not, and how close the scores stay."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from edge_ad.calibrate.int8 import Ranges, measure_ranges
from edge_ad.errors import ArtifactError, DataError
from edge_ad.export.compare import compare
from edge_ad.export.graph_tools import Graph, raise_opset, with_metadata
from edge_ad.export.quantize import (
    balance,
    float_products,
    half_tensors,
    layers_of,
    overflowing,
    quantize_int8,
    to_fp16,
)
from edge_ad.export.sensitivity import layer_errors, search
from edge_ad.runtime.backends_onnxruntime import OnnxRuntimeRunner


@pytest.fixture(scope="module")
def model(_built_artifact):
    return (_built_artifact / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def images(parts):
    frames = np.stack([*parts[0][:12], *parts[1][:12]])
    return np.ascontiguousarray(((frames / 255 - 0.5) / 0.25).astype(np.float32).transpose(0, 3, 1, 2))


@pytest.fixture(scope="module")
def ranges(model, images):
    names = sorted({name for layer in layers_of(Graph(model)) for name in layer.activations})
    return measure_ranges(model, names, np.split(images, 6), threads=1)


def close(model, other, images, correlation, engine=OnnxRuntimeRunner):
    result = compare(OnnxRuntimeRunner(model), engine(other), np.split(images, 8))
    assert result.pixel_correlation > correlation
    assert result.rank_correlation > correlation - 0.01
    return result


def test_layers_are_the_heavy_linear_ones(model):
    kinds = {node.name: node for node in Graph(model).graph.node}
    layers = layers_of(Graph(model))
    weighted = [layer for layer in layers if layer.weight]
    assert len(weighted) == 8  # q, k, v, projection, two of the MLP, two of the student
    assert {kinds[layer.name].op_type for layer in layers} == {"MatMul"}
    assert all(layer.axis == 1 for layer in weighted)
    (scores,) = [kinds[layer.name] for layer in layers if not layer.weight]  # queries and keys, and no softmax
    readers = Graph(model).readers()
    (scaled,) = readers[scores.output[0]]
    assert [node.op_type for node in readers[scaled.output[0]]] == ["Softmax"]


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_int8_scores_stay_close(model, images, ranges, method):
    graph = quantize_int8(model, ranges.amax(method))
    close(model, graph, images, 0.99)
    kinds = [node.op_type for node in onnx.load_model_from_string(graph).graph.node]
    assert kinds.count("QuantizeLinear") == 8 + 2  # one for each layer, two for queries and keys
    assert kinds.count("DequantizeLinear") == 10 + 8


def test_onnxruntime_runs_every_quantized_layer_in_int8(model, ranges, tmp_path, monkeypatch):
    options = onnxruntime.SessionOptions

    def watched():
        own = options()
        own.optimized_model_filepath = str(tmp_path / "fused.onnx")
        return own

    monkeypatch.setattr(onnxruntime, "SessionOptions", watched)
    OnnxRuntimeRunner(quantize_int8(model, ranges.amax()), threads=1)
    kinds = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert "DequantizeLinear" not in kinds  # a pair that is not fused means a layer in float
    assert sum(kind in ("MatMulIntegerToFloat", "QLinearMatMul") for kind in kinds) == len(layers_of(Graph(model)))


def test_float_products_takes_attention_out_of_int8(model, images, ranges):
    graph = quantize_int8(model, ranges.amax())
    without = float_products(graph)
    products = {layer.name for layer in layers_of(Graph(model)) if not layer.weight}
    assert without == quantize_int8(model, ranges.amax(), skip=products)
    assert float_products(without) == without


def test_int8_recipe_is_what_tensorrt_takes(model, ranges):
    graph = onnx.load_model_from_string(quantize_int8(model, ranges.amax()))
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = tensors[node.input[2]]
        assert zero.data_type == TensorProto.INT8
        assert not np.frombuffer(zero.raw_data, np.int8).any()  # symmetric
        if node.input[0] in tensors:  # a weight: int8, one scale a channel, no int32 bias anywhere
            assert tensors[node.input[0]].data_type == TensorProto.INT8
            assert len(tensors[node.input[1]].dims) == 1
        else:
            assert tensors[node.input[1]].dims == []
    assert not {"DynamicQuantizeLinear", "MatMulInteger"} & {node.op_type for node in graph.graph.node}


def test_weights_round_to_the_nearest_of_255_levels(model, ranges):
    graph = Graph(quantize_int8(model, ranges.amax()))
    before = Graph(model)
    for layer in [layer for layer in layers_of(before) if layer.weight]:
        whole = graph.value(f"{layer.name}.weight_q").astype(np.float64)
        scale = graph.value(f"{layer.name}.weight_scale").astype(np.float64)
        weight = before.value(layer.weight)
        assert np.abs(whole).max() == 127
        assert (np.abs(whole * scale - weight) <= scale / 2 + 1e-7).all()


def test_skipped_layers_stay_in_float(model, images, ranges):
    names = [layer.name for layer in layers_of(Graph(model))]
    none = quantize_int8(model, ranges.amax(), skip=names)
    assert "QuantizeLinear" not in {node.op_type for node in onnx.load_model_from_string(none).graph.node}
    result = compare(OnnxRuntimeRunner(model), OnnxRuntimeRunner(none), [images])
    assert max(own[-1] for own in result.errors.values()) < 1e-5


def test_balanced_graph_computes_the_same(model, images, ranges):
    balanced = balance(model, ranges.channel_amax)
    assert balanced != model
    result = compare(OnnxRuntimeRunner(model), OnnxRuntimeRunner(balanced), [images])
    assert result.errors["pixel_scores"][-1] < 2e-4
    names = sorted({name for layer in layers_of(Graph(balanced)) for name in layer.activations})
    new = measure_ranges(balanced, names, [images], threads=1)
    close(model, quantize_int8(balanced, new.amax()), images, 0.99)


def test_fp16_scores_stay_close_and_io_stays_float(model, images):
    graph = to_fp16(model)
    close(model, graph, images, 0.999)
    loaded = onnx.load_model_from_string(graph)
    for value in [*loaded.graph.input, *loaded.graph.output]:
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    types = {info.name: info.type.tensor_type.elem_type for info in Graph(graph).model.graph.value_info}
    for node in loaded.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax", "ReduceL2", "TopK", "ReduceSum"):
            assert types.get(node.input[0], TensorProto.FLOAT) == TensorProto.FLOAT
    heavy = [node for node in Graph(model).heavy() if node.op_type == "MatMul"]
    assert all(types[node.output[0]] == TensorProto.FLOAT16 for node in heavy if node.output[0] in types)
    assert len(graph) < 0.75 * len(model)


def test_fp16_keeps_what_overflows(model, images):
    names = half_tensors(model)
    largest = measure_ranges(model, names, [images[:2]], threads=1).largest()
    assert overflowing(model, largest) == set()
    first = Graph(model).heavy()[0]
    largest[first.output[0]] = 60000.0
    assert overflowing(model, largest) == {first.name}
    kept = to_fp16(model, keep={first.name})
    types = {info.name: info.type.tensor_type.elem_type for info in Graph(kept).model.graph.value_info}
    assert types[first.output[0]] == TensorProto.FLOAT
    close(model, kept, images, 0.999)


def test_int8_with_the_rest_in_fp16(model, images, ranges):
    graph = to_fp16(raise_opset(quantize_int8(model, ranges.amax()), 19))
    close(model, graph, images, 0.98)
    kinds = {info.name: info.type.tensor_type.elem_type for info in Graph(graph).model.graph.value_info}
    assert kinds[f"{layers_of(Graph(model))[0].name}.weight_dq"] == TensorProto.FLOAT16


def test_openvino_runs_the_same_files(model, images, ranges):
    pytest.importorskip("openvino")
    from edge_ad.runtime.backends_openvino import OpenVinoRunner

    close(model, quantize_int8(model, ranges.amax()), images, 0.99, OpenVinoRunner)
    close(model, to_fp16(model), images, 0.999, OpenVinoRunner)


def test_search_leaves_out_the_layer_that_hurts(model, images, ranges):
    amax = ranges.amax("minmax")
    bad = layers_of(Graph(model))[4]
    amax[bad.activations[0]] *= 400  # as an outlier would: nearly everything rounds to 0
    errors = layer_errors(model, amax, images[:2], threads=1)
    assert errors[0][0] == bad.name
    found = search(model, amax, images[:4], budget=0.15, threads=1)
    assert bad.name in found.skipped
    assert len(found.skipped) <= 2
    assert found.error <= 0.15
    assert search(model, ranges.amax(), images[:4], budget=0.5, threads=1).skipped == ()


def test_ranges_by_hand():
    ranges = Ranges(["x"])
    with pytest.raises(DataError, match="no image"):
        ranges.amax()
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(10, 1000, 4)).astype(np.float32)
    for part in drawn:  # grows as larger values come
        ranges.see({"x": part})
        ranges.images += 1
    assert ranges.amax("minmax")["x"] == np.abs(drawn).max()
    exact = np.percentile(np.abs(drawn), 99)
    assert ranges.amax("percentile", 99)["x"] == pytest.approx(exact, rel=0.01)
    np.testing.assert_allclose(ranges.channel_amax["x"], np.abs(drawn).max((0, 1)))
    ranges.see({"x": np.full((1, 1), 100, np.float32)})  # an outlier is worth clipping
    assert ranges.amax("entropy")["x"] < 20


def test_metadata_and_damaged_graphs(model):
    loaded = onnx.load_model_from_string(with_metadata(with_metadata(model, a="1", b="2"), b="3"))
    assert {entry.key: entry.value for entry in loaded.metadata_props} == {"a": "1", "b": "3"}
    with pytest.raises(ArtifactError, match="can't be read"):
        Graph(b"junk")
