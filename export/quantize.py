"""FP16 and INT8 versions of a graph, as plain ONNX that ONNX Runtime, OpenVINO and TensorRT 10 and 11 all take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from edge_ad.export.graph_tools import Graph, Node, attribute, graph_of

LARGEST_HALF = 65504.0
LEAST_SCALE = 1e-6  # smaller ones vanish in FP16, and TensorRT takes no scale of 0
ACTIVATION_LEVEL = 127  # the whole number that an activation's amax becomes
# The largest whole number of a weight, and of either side of a product of two activations. Processors without VNNI
# add pairs of products in 16 bits, and what goes beyond 32767 is cut off without a word. They shift int8 activations
# to 0..255 first, so the largest pair is 2 * 255 * 64 = 32640: with 64 no pair can be cut off, on any machine.
SAFE_LEVEL = 64
# The least K and N of INT8 tensor cores: smaller products are filled up, and converted for nothing.
LEAST_SIDE = 16
OUTLIER, MOST_OUTLIERS = 2.0, 8  # channels that far beyond the range, and so few, are made up for in float
_ENDS = (("low", -1), ("high", 1))
# Nodes that stay in FP16 when everything they read is FP16 already.
_FOLLOW = frozenset(
    """Add Clip Concat Div Erf Expand Flatten Gelu Identity Mul Relu Reshape
    Sigmoid Slice Split Squeeze Sub Tanh Transpose Unsqueeze""".split()  # noqa: SIM905
)


class Layer(NamedTuple):
    """A node to quantise: reads `activations`, has the constant `weight` with output channels on `axis`.

    A product of two activations has no weight: its `weight` is "", its axis 0.
    """

    name: str
    activations: tuple[str, ...]
    weight: str
    axis: int


def layers_of(graph: Graph) -> list[Layer]:
    """Linear layers and convolutions that INT8 pays for, and attention's products of queries and keys.

    Left in float: attention's shares of values (most shares are near 0 and a few near 1: with one INT8 scale they
    lost 16 times as much as queries and keys on real photos), whatever is too small to pay for its own conversions
    (the segmentation head, the upsampling; products that sum over or give fewer than LEAST_SIDE numbers), depth-wise
    convolutions, layers that read the image itself, and products of which only the largest result counts: the detail
    memory's distances are what these lack of 1, a few hundredths.
    """
    consumers = graph.consumers()
    pixels = {value.name for value in graph.graph.input}
    layers = []
    for node in graph.heavy_nodes():
        if node.op_type == "ConvTranspose" or node.input[0] in pixels | graph.constants.keys():
            continue
        if min(graph.product_sides(node)) < LEAST_SIDE:
            continue
        if any(reader.op_type == "ReduceMax" for reader in consumers.get(node.output[0], ())):
            continue
        if node.input[1] not in graph.constants:
            if node.op_type == "MatMul" and graph.producers[node.input[0]].op_type != "Softmax":
                layers.append(Layer(node.name, (node.input[0], node.input[1]), "", 0))
            continue
        if node.op_type == "Conv" and attribute(node, "group", 1) > 1:
            continue
        if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
            axis = 0
        else:
            axis = graph.value(node.input[1]).ndim - 1
        layers.append(Layer(node.name, (node.input[0],), node.input[1], axis))
    return layers


def quantize_int8(
    model: bytes | Graph,
    ranges: Mapping[str, float],
    skip: Collection[str] = (),
    channel_amax: Mapping[str, npt.NDArray[np.float64]] | None = None,
    check: bool = True,
) -> bytes:
    """The graph with explicit Q/DQ around its heavy products.

    q = clip(round(x / scale), -128, 127) * scale, scale = amax / 127; symmetric, one scale a tensor for activations.
    Weights are stored as int8 with one scale an output channel, amax / 64 (SAFE_LEVEL), and so are both sides of a
    product of two activations, which are clipped to their range first: every engine then gives the same sums on
    every processor, with VNNI or without. Biases stay in float: TensorRT takes no int32
    bias. Every layer has Q/DQ pairs of its own: ONNX Runtime fuses no pair that two layers read. ranges: amax per
    activation, from edge_ad.calibrate.int8. skip: names of layers left in float. channel_amax: largest value per
    channel of activations, from there too: what single channels lose beyond amax is then added in float. check:
    whether to check the result, for graphs that are only tried out. A `Graph` given is left as it is.
    """
    graph = graph_of(model)
    chosen = {layer.name: layer for layer in layers_of(graph) if layer.name not in skip}
    nodes: list[Node] = []
    for node in graph.graph.node:
        layer = chosen.get(node.name)
        if layer is not None:
            for i, name in enumerate(layer.activations):
                node.input[i] = _quantize_dequantize(graph, nodes, layer, name, ranges[name])
            if layer.weight:
                node.input[1] = _int8_weight(graph, nodes, layer)
        nodes.append(node)
        if layer is not None and layer.weight and channel_amax is not None:
            _add_clipped_residual(graph, nodes, layer, ranges, channel_amax)
    return graph.to_bytes(nodes, check)


def float_products(model: bytes) -> bytes:
    """A quantised graph without the Q/DQ around products of two activations.

    GPUs have one fused kernel for all of attention in FP16, which Q/DQ at its entry would break up.
    """
    graph = Graph(model)
    producers = graph.producers
    unused: set[str] = set()
    for node in graph.graph.node:
        pairs = [
            producers[name]
            for name in node.input
            if name in producers and producers[name].op_type == "DequantizeLinear"
        ]
        if node.op_type == "MatMul" and len(pairs) == 2 and all(pair.input[0] in producers for pair in pairs):
            for i, pair in enumerate(pairs):
                quantizer = producers[pair.input[0]]
                clip = producers[quantizer.input[0]]
                node.input[i] = clip.input[0]
                unused |= {pair.name, quantizer.name, clip.name}
    return graph.to_bytes([node for node in graph.graph.node if node.name not in unused])


def to_fp16(model: bytes, keep: Collection[str] = ()) -> bytes:
    """The graph in mixed precision: heavy layers and what lies between them in FP16, the rest in FP32.

    FP32 keeps LayerNormalization, Softmax, the residual stream, the cosine map, the head and the scores (the sums
    of squares of eq. 4 overflow FP16 once features have a standard deviation of 1 on 192 channels or more), and the
    nodes named in `keep`. Inputs and outputs of the graph stay float32. A quantised graph may be given: its scales
    become FP16 where the layer is, which needs operator set 19.
    """
    graph = Graph(model)
    half = _fp16_nodes(graph, frozenset(keep))
    outputs = {value.name for value in graph.graph.output}
    made_half = {name for node in graph.graph.node if node.name in half for name in _float_outputs(node)}
    nodes: list[Node] = []
    casts: dict[tuple[str, int], str] = {}

    def cast(name: str, kind: int) -> str:
        if (name, kind) not in casts:
            suffix = "fp16" if kind == TensorProto.FLOAT16 else "fp32"
            casts[name, kind] = f"{name}.{suffix}"
            nodes.append(helper.make_node("Cast", [name], [casts[name, kind]], f"{name}.to_{suffix}", to=kind))
        return casts[name, kind]

    inner = {name: f"{name}.half" for name in outputs & made_half}
    for node in graph.graph.node:
        for i, name in enumerate(node.input):
            own = inner.get(name, name)
            if node.name in half and i in _float_inputs(graph, node, made_half):
                node.input[i] = _fp16_constant(graph, name) if name in graph.constants else own
                if name not in graph.constants and name not in made_half:
                    node.input[i] = cast(name, TensorProto.FLOAT16)
            elif name in made_half:
                node.input[i] = cast(own, TensorProto.FLOAT)
        written = list(node.output)
        for i, name in enumerate(written):
            node.output[i] = inner.get(name, name)
        nodes.append(node)
        nodes.extend(
            helper.make_node("Cast", [inner[name]], [name], f"{name}.to_fp32", to=TensorProto.FLOAT)
            for name in written
            if name in inner
        )
    return graph.to_bytes(nodes)


def fp16_tensors(model: bytes) -> list[str]:
    """Tensors that `to_fp16` would hold in FP16: measure them first, and `keep` what goes beyond its range."""
    graph = Graph(model)
    half = _fp16_nodes(graph, frozenset())
    return [node.output[0] for node in graph.graph.node if node.name in half and graph.is_float(node.output[0])]


def nodes_near_overflow(model: bytes, largest: Mapping[str, float], margin: float = 4.0) -> set[str]:
    """Names of nodes whose output came within `margin` of FP16's largest number."""
    limit = LARGEST_HALF / margin
    return {
        node.name for node in Graph(model).graph.node if any(largest.get(name, 0) > limit for name in node.output)
    }


def _fp16_nodes(graph: Graph, keep: frozenset[str]) -> set[str]:
    half = {node.name for node in graph.heavy_nodes()} - keep
    made: set[str] = set()
    for node in graph.graph.node:
        follows = node.op_type in _FOLLOW and any(name in made for name in node.input)
        if follows and node.name not in keep:
            needed = [name for name in node.input if graph.is_float(name) and name not in graph.constants]
            if all(name in made for name in needed):
                half.add(node.name)
        if node.name in half:
            made.update(_float_outputs(node))
    for node in reversed(graph.graph.node):  # the scales of a quantised layer take the layer's own type
        if node.op_type == "DequantizeLinear":
            consumers = [consumer for consumer in graph.graph.node if node.output[0] in consumer.input]
            if consumers and all(consumer.name in half for consumer in consumers):
                half.add(node.name)
    return half


def _float_outputs(node: Node) -> list[str]:
    return list(node.output[:1])


def _float_inputs(graph: Graph, node: Node, made_half: set[str]) -> list[int]:
    """Positions of the inputs that have the node's own float type."""
    return [i for i, name in enumerate(node.input) if name and (graph.is_float(name) or name in made_half)]


def _fp16_constant(graph: Graph, name: str) -> str:
    new = f"{name}.fp16"
    if new not in graph.constants:
        value = np.clip(graph.value(name), -LARGEST_HALF, LARGEST_HALF)
        graph.add_constant(new, value.astype(np.float16))
    return new


def _quantize_dequantize(graph: Graph, nodes: list[Node], layer: Layer, name: str, amax: float) -> str:
    prefix, level = f"{layer.name}.{name}", ACTIVATION_LEVEL if layer.weight else SAFE_LEVEL
    amax = max(amax, LEAST_SCALE * level)
    scale, zero = f"{name}.scale{level}", f"{name}.zero"
    if scale not in graph.constants:
        graph.add_constant(scale, np.float32(amax / level))
    if zero not in graph.constants:
        graph.add_constant(zero, np.int8(0))
    source = name
    if level == SAFE_LEVEL:  # int8 itself would go on to 127
        limits = [graph.add_constant(f"{prefix}.{end}", np.float32(sign * amax)) for end, sign in _ENDS]
        source = f"{prefix}.clip"
        nodes.append(helper.make_node("Clip", [name, *limits], [source], source))
    whole, out = f"{prefix}.q", f"{prefix}.dq"
    nodes.append(helper.make_node("QuantizeLinear", [source, scale, zero], [whole], f"{prefix}.quantize"))
    nodes.append(helper.make_node("DequantizeLinear", [whole, scale, zero], [out], f"{prefix}.dequantize"))
    return out


def _add_clipped_residual(
    graph: Graph,
    nodes: list[Node],
    layer: Layer,
    ranges: Mapping[str, float],
    channel_amax: Mapping[str, npt.NDArray[np.float64]],
) -> None:
    """y + (x_j - clip(x_j)) w_j for the few channels j that go far beyond the range.

    ViTs keep some numbers in single huge activations (Sun et al. 2024): one channel of one token, 7 times as large
    as all others. A range that holds it leaves the others no levels, one that doesn't clips what later layers need.
    """
    source, node = layer.activations[0], nodes[-1]
    amax = ranges[source]
    own = channel_amax.get(source)
    if own is None or node.op_type != "MatMul" or len(graph.shape(layer.weight)) != 2:
        return
    beyond = np.flatnonzero(own > OUTLIER * amax)
    if not 0 < len(beyond) <= MOST_OUTLIERS:
        return
    name, out = layer.name, node.output[0]
    node.output[0] = f"{out}.clipped"
    channels = graph.add_constant(f"{name}.channels", beyond.astype(np.int64))
    rows = graph.add_constant(f"{name}.rows", graph.value(layer.weight)[beyond])
    limits = [graph.add_constant(f"{name}.{end}", np.float32(sign * amax)) for end, sign in _ENDS]
    taken, clipped, rest, more = (f"{name}.{part}" for part in ("taken", "clip", "rest", "more"))
    nodes += [
        helper.make_node("Gather", [source, channels], [taken], taken, axis=-1),
        helper.make_node("Clip", [taken, *limits], [clipped], clipped),
        helper.make_node("Sub", [taken, clipped], [rest], rest),
        helper.make_node("MatMul", [rest, rows], [more], more),
        helper.make_node("Add", [node.output[0], more], [out], f"{name}.unclipped"),
    ]


def _int8_weight(graph: Graph, nodes: list[Node], layer: Layer) -> str:
    value, name = graph.value(layer.weight), layer.name
    others = tuple(axis for axis in range(value.ndim) if axis != layer.axis)
    scales = np.maximum(np.abs(value).max(others) / SAFE_LEVEL, LEAST_SCALE)
    shape = [-1 if axis == layer.axis else 1 for axis in range(value.ndim)]
    whole = np.clip(np.rint(value / scales.reshape(shape)), -SAFE_LEVEL, SAFE_LEVEL).astype(np.int8)
    inputs = [
        graph.add_constant(f"{name}.weight_q", whole),
        graph.add_constant(f"{name}.weight_scale", scales.astype(np.float32)),
        graph.add_constant(f"{name}.weight_zero", np.zeros(len(scales), np.int8)),
    ]
    out = f"{name}.weight_dq"
    nodes.append(helper.make_node("DequantizeLinear", inputs, [out], f"{name}.weight_dequantize", axis=layer.axis))
    return out
