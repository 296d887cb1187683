"""FP16 and INT8 graphs: what is converted, what is not, and how close the scores stay."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_ad.calibrate.int8 import ActivationRanges, measure_ranges
from edge_ad.errors import ArtifactError, DataError
from edge_ad.export.balance import activations_to_measure, balance
from edge_ad.export.compare import CachingRunner, compare
from edge_ad.export.graph_tools import Graph, raise_opset, with_metadata
from edge_ad.export.quantize import (
    float_products,
    fp16_tensors,
    layers_of,
    nodes_near_overflow,
    quantize_int8,
    to_fp16,
)
from edge_ad.export.sensitivity import Trial, layer_errors, search
from edge_ad.runtime.engines.onnxruntime import OnnxRuntimeRunner


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
    assert len(weighted) == 6  # q, k, v, projection, two of the MLP; the student's two have a side of 6
    assert min(min(Graph(model).product_sides(kinds[layer.name])) for layer in weighted) == 32
    assert {kinds[layer.name].op_type for layer in layers} == {"MatMul"}
    assert all(layer.axis == 1 for layer in weighted)
    (scores,) = [kinds[layer.name] for layer in layers if not layer.weight]  # queries and keys, and no softmax
    consumers = Graph(model).consumers()
    (scaled,) = consumers[scores.output[0]]
    assert [node.op_type for node in consumers[scaled.output[0]]] == ["Softmax"]


def product_graph(op, first, second, **attributes):
    """A graph of one Relu and one product with a constant."""
    weight = numpy_helper.from_array(np.zeros(second, np.float32), "weight")
    nodes = [
        helper.make_node("Relu", ["images"], ["x"], name="relu"),
        helper.make_node(op, ["x", "weight"], ["y"], name="product", **attributes),
        helper.make_node("Relu", ["y"], ["scores"], name="last"),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, first)]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "one", inputs, outputs, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


@pytest.mark.parametrize(
    ("op", "first", "second", "attributes", "sides"),
    [
        ("MatMul", [1, 8, 64], [64, 15], {}, (64, 15)),
        ("MatMul", [1, 8, 15], [15, 64], {}, (15, 64)),
        ("MatMul", [1, 2, 16], [16, 16], {}, (16, 16)),  # rows may be few: they are a tile's other side
        ("Gemm", [8, 64], [15, 64], {"transB": 1}, (64, 15)),
        ("Gemm", [8, 64], [64, 16], {}, (64, 16)),
        ("Conv", [1, 1, 8, 8], [32, 1, 3, 3], {}, (9, 32)),
        ("Conv", [1, 4, 8, 8], [8, 4, 3, 3], {}, (36, 8)),
        ("Conv", [1, 2, 8, 8], [16, 2, 3, 3], {}, (18, 16)),
    ],
)
def test_products_with_a_side_under_16_stay_in_float(op, first, second, attributes, sides):
    graph = Graph(product_graph(op, first, second, **attributes))
    assert graph.product_sides(graph.producers["y"]) == sides
    assert [layer.name for layer in layers_of(graph)] == (["product"] if min(sides) >= 16 else [])


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_int8_scores_stay_close(model, images, ranges, method):
    graph = quantize_int8(model, ranges.amax(method))
    close(model, graph, images, 0.99)
    kinds = [node.op_type for node in onnx.load_model_from_string(graph).graph.node]
    assert kinds.count("QuantizeLinear") == 6 + 2  # one for each layer, two for queries and keys
    assert kinds.count("DequantizeLinear") == 8 + 6


def test_onnxruntime_runs_every_quantized_layer_in_int8(model, ranges, tmp_path, monkeypatch):
    options = onnxruntime.SessionOptions

    def activations_to_measure():
        own = options()
        own.optimized_model_filepath = str(tmp_path / "fused.onnx")
        return own

    monkeypatch.setattr(onnxruntime, "SessionOptions", activations_to_measure)
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


def test_weights_round_to_the_nearest_of_129_levels(model, ranges):
    graph = Graph(quantize_int8(model, ranges.amax()))
    before = Graph(model)
    for layer in [layer for layer in layers_of(before) if layer.weight]:
        whole = graph.value(f"{layer.name}.weight_q").astype(np.float64)
        scale = graph.value(f"{layer.name}.weight_scale").astype(np.float64)
        weight = before.value(layer.weight)
        assert np.abs(whole).max() == 64
        assert (np.abs(whole * scale - weight) <= scale / 2 + 1e-7).all()


def test_no_pair_of_products_can_leave_16_bits(model, ranges):
    """As processors without VNNI add: activations shifted to 0..255, two products in one signed 16-bit number."""
    graph = Graph(quantize_int8(model, ranges.amax()))
    for layer in layers_of(Graph(model)):
        if layer.weight:
            largest = np.abs(graph.value(f"{layer.name}.weight_q").astype(int)).max()
        else:
            quantizers = [graph.producers[graph.producers[name].input[0]] for name in _node(graph, layer.name).input]
            clips = [graph.producers[quantizer.input[0]] for quantizer in quantizers]
            assert [clip.op_type for clip in clips] == ["Clip", "Clip"]
            ends = [[float(graph.value(name)) for name in clip.input[1:]] for clip in clips]
            scales = [float(graph.value(quantizer.input[1])) for quantizer in quantizers]
            largest = max(max(abs(end) for end in pair) / scale for pair, scale in zip(ends, scales, strict=True))
        assert 2 * 255 * largest < 2**15


def _node(graph, name):
    return next(node for node in graph.graph.node if node.name == name)


def test_skipped_layers_stay_in_float(model, images, ranges):
    names = [layer.name for layer in layers_of(Graph(model))]
    none = quantize_int8(model, ranges.amax(), skip=names)
    assert "QuantizeLinear" not in {node.op_type for node in onnx.load_model_from_string(none).graph.node}
    result = compare(OnnxRuntimeRunner(model), OnnxRuntimeRunner(none), [images])
    assert max(own[-1] for own in result.errors.values()) < 1e-5


def test_balanced_graph_computes_the_same(model, images, ranges):
    seen = measure_ranges(model, activations_to_measure(model), [images], threads=1)
    balanced = balance(model, seen.channel_amax, seen.channel_mean(), 0.75)
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
    heavy = [node for node in Graph(model).heavy_nodes() if node.op_type == "MatMul"]
    assert all(types[node.output[0]] == TensorProto.FLOAT16 for node in heavy if node.output[0] in types)
    assert len(graph) < 0.75 * len(model)


def test_fp16_keeps_what_overflows(model, images):
    names = fp16_tensors(model)
    largest = measure_ranges(model, names, [images[:2]], threads=1).abs_max()
    assert nodes_near_overflow(model, largest) == set()
    first = Graph(model).heavy_nodes()[0]
    largest[first.output[0]] = 60000.0
    assert nodes_near_overflow(model, largest) == {first.name}
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
    from edge_ad.runtime.engines.openvino import OpenVinoRunner

    close(model, quantize_int8(model, ranges.amax()), images, 0.99, OpenVinoRunner)
    close(model, to_fp16(model), images, 0.999, OpenVinoRunner)


def test_search_leaves_out_the_layer_that_hurts(model, images, ranges):
    amax = ranges.amax("minmax")
    bad = layers_of(Graph(model))[4]
    amax[bad.activations[0]] *= 400  # as an outlier would: nearly everything rounds to 0
    reference = OnnxRuntimeRunner(model, threads=1)
    few = list(images[:4])
    trial = Trial(Graph(model), amax, None, few, [reference(image[None]).pixel_scores[0] for image in few], 1)
    measured = []
    errors = layer_errors(trial, advance=measured.append)
    assert errors[0][0] == bad.name
    found = search(trial, budget=0.15)
    assert bad.name in found.skipped
    assert len(found.skipped) <= 2
    assert found.error <= 0.15
    assert search(trial._replace(amax=ranges.amax()), budget=0.5).skipped == ()
    onnx.checker.check_model(onnx.load_model_from_string(found.graph), full_check=True)


def test_groups_of_layers_that_do_not_matter_are_measured_once(model, images, ranges, monkeypatch):
    monkeypatch.setattr("edge_ad.export.sensitivity.GROUP", 3)
    amax = ranges.amax("minmax")
    layers = layers_of(Graph(model))
    amax[layers[4].activations[0]] *= 400
    reference = OnnxRuntimeRunner(model, threads=1)
    few = list(images[:2])
    trial = Trial(Graph(model), amax, None, few, [reference(image[None]).pixel_scores[0] for image in few], 1)
    measured = []
    errors = layer_errors(trial, advance=measured.append)
    assert errors[0][0] == layers[4].name
    assert len(measured) < 3 + len(layers)  # three groups, and not every layer after them


def test_a_remembering_runner_runs_each_image_once(model, images):
    class Counting:
        name, image_size, calls = "counting", (64, 64), 0

        def __init__(self):
            self.runner = OnnxRuntimeRunner(model, threads=1)

        def __call__(self, images):
            self.calls += 1
            return self.runner(images)

        def close(self):
            self.runner.close()

    counting = Counting()
    known = [image.copy() for image in images[:3]]
    runner = CachingRunner(counting, known)
    first = [runner(image[None]).pixel_scores for image in known]
    again = [runner(image[None]).pixel_scores for image in known]
    assert counting.calls == 3
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(runner(images[3:5]).pixel_scores, counting.runner(images[3:5]).pixel_scores)
    runner(images[3:4])
    runner(images[3:4])
    assert counting.calls == 3 + 1 + 2  # others are passed on


def test_what_one_channel_loses_beyond_the_range_is_added_in_float():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 50, 32)).astype(np.float32)
    x[0, 0, 5] = 40  # one channel of one token
    weight = rng.normal(size=(32, 16)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["images", "one"], ["x"], "x"),
            helper.make_node("MatMul", ["x", "w"], ["y"], "layer"),
        ],
        "layer",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 50, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 50, 16])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32(1), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    ranges = measure_ranges(model.SerializeToString(), ["x"], [x], threads=1)
    amax = {"x": 4.0}
    exact = x.astype(np.float64) @ weight

    def error(channel_amax):
        data = quantize_int8(model.SerializeToString(), amax, (), channel_amax)
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return np.abs(session.run(["y"], {"images": x})[0] - exact).max(), data

    clipped, _ = error(None)
    made_up_for, data = error(ranges.channel_amax)
    assert clipped > 10
    assert made_up_for < 0.3
    assert [node.op_type for node in onnx.load_model_from_string(data).graph.node].count("Gather") == 1
    many = {"x": np.full(32, 40.0)}  # then the range is wrong, and not a few channels
    assert "Gather" not in [node.op_type for node in onnx.load_model_from_string(error(many)[1]).graph.node]


def test_keys_lose_their_mean_and_scores_do_not_change():
    rng = np.random.default_rng(1)
    tensors = {
        "wq": rng.normal(size=(16, 16)), "wk": rng.normal(size=(16, 16)), "bq": rng.normal(size=16),
        "bk": 20 + rng.normal(size=16),
    }  # fmt: skip
    make = helper.make_node
    nodes = [
        make("Mul", ["images", "one"], ["x"], "x"),
        make("MatMul", ["x", "wq"], ["q0"], "query"), make("Add", ["q0", "bq"], ["q"], "query_bias"),
        make("MatMul", ["x", "wk"], ["k0"], "key"), make("Add", ["k0", "bk"], ["k"], "key_bias"),
        make("Transpose", ["k"], ["kt"], "turn", perm=[0, 2, 1]), make("MatMul", ["q", "kt"], ["s"], "products"),
        make("Mul", ["s", "half"], ["t"], "factor"), make("Softmax", ["t"], ["y"], "softmax", axis=-1),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "attention",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 50, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 50, 50])],
        [numpy_helper.from_array(np.float32(value), name)
         for name, value in {**tensors, "one": 1.0, "half": 0.5}.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    x = rng.normal(size=(1, 50, 16)).astype(np.float32)
    assert "k" in activations_to_measure(model)
    seen = measure_ranges(model, activations_to_measure(model), [x], threads=1)
    balanced = balance(model, seen.channel_amax, seen.channel_mean(), 0.75)
    before, after = (
        onnxruntime.InferenceSession(own, providers=["CPUExecutionProvider"]).run(["y"], {"images": x})[0]
        for own in (model, balanced)
    )
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert measure_ranges(balanced, ["k"], [x], threads=1).abs_max()["k"] < 0.7 * seen.abs_max()["k"]


def test_ranges_by_hand():
    ranges = ActivationRanges(["x"])
    with pytest.raises(DataError, match="no image"):
        ranges.amax()
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(10, 1000, 4)).astype(np.float32)
    for part in drawn:  # grows as larger values come
        ranges.update({"x": part})
    assert ranges.amax("minmax")["x"] == np.abs(drawn).max()
    exact = np.percentile(np.abs(drawn), 99)
    assert ranges.amax("percentile", 99)["x"] == pytest.approx(exact, rel=0.01)
    np.testing.assert_allclose(ranges.channel_amax["x"], np.abs(drawn).max((0, 1)))
    ranges.update({"x": np.full((1, 1), 100, np.float32)})  # an outlier is worth clipping
    assert ranges.amax("entropy")["x"] < 20


def test_metadata_and_damaged_graphs(model):
    loaded = onnx.load_model_from_string(with_metadata(with_metadata(model, a="1", b="2"), b="3"))
    assert {entry.key: entry.value for entry in loaded.metadata_props} == {"a": "1", "b": "3"}
    with pytest.raises(ArtifactError, match="can't be read"):
        Graph(b"junk")
