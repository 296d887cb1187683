"""ONNX graphs with lookups: types and shapes of tensors, their producers and consumers, multiply-adds of nodes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from edge_ad.errors import ArtifactError

Node = Any
Model = Any
WEIGHTED = ("MatMul", "Gemm", "Conv", "ConvTranspose")


class Graph:
    """An ONNX model with its lookups. Constant nodes become initialisers; a symbolic dimension counts as 1."""

    def __init__(self, data: bytes | Model) -> None:
        try:
            model = onnx.load_model_from_string(data) if isinstance(data, bytes) else data
            self.model: Model = shape_inference.infer_shapes(model, data_prop=True)
        except Exception as error:  # protobuf's and onnx's own kinds
            raise ArtifactError(f"the graph can't be read: {error}", "export the artifact again") from error
        self.graph = self.model.graph
        self._lift_constants()
        self.constants: dict[str, Any] = {tensor.name: tensor for tensor in self.graph.initializer}
        self.producers: dict[str, Node] = {name: node for node in self.graph.node for name in node.output}
        self._types: dict[str, tuple[int, tuple[int, ...]]] = {}
        for info in [*self.graph.input, *self.graph.value_info, *self.graph.output]:
            kind = info.type.tensor_type
            self._types[info.name] = (kind.elem_type, tuple(d.dim_value or 1 for d in kind.shape.dim))
        for tensor in self.graph.initializer:
            self._types[tensor.name] = (tensor.data_type, tuple(tensor.dims))

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, () when unknown."""
        return self._types.get(name, (0, ()))[1]

    def is_float(self, name: str) -> bool:
        """Whether it holds float32."""
        return self._types.get(name, (0, ()))[0] == TensorProto.FLOAT

    def consumers(self) -> dict[str, list[Node]]:
        """Tensor name -> nodes that read it."""
        consumers: dict[str, list[Node]] = {}
        for node in self.graph.node:
            for name in node.input:
                consumers.setdefault(name, []).append(node)
        return consumers

    def value(self, name: str) -> npt.NDArray[Any]:
        """An initialiser's array."""
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def add_constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add an initialiser; return its name."""
        tensor = numpy_helper.from_array(np.array(value, order="C"), name)
        self.graph.initializer.append(tensor)
        self.constants[name] = tensor
        self._types[name] = (tensor.data_type, tuple(tensor.dims))
        return name

    def multiply_adds(self, node: Node) -> int:
        """Multiply-adds of a MatMul, Gemm or (transposed) convolution for one image, else 0."""
        if node.op_type not in WEIGHTED:
            return 0
        out, first, second = (self.shape(name) for name in (node.output[0], *node.input[:2]))
        if not out or not first or not second:
            return 0
        if node.op_type == "MatMul":
            return math.prod(out) * first[-1]
        if node.op_type == "Gemm":
            return math.prod(out) * first[0 if attribute(node, "transA", 0) else 1]
        if node.op_type == "Conv":
            return math.prod(out) * math.prod(second[1:])
        return math.prod(first) * math.prod(second[1:])

    def product_sides(self, node: Node) -> tuple[int, int]:
        """(K, N) of a MatMul, Gemm or convolution: how many numbers each result sums over, and how many results a row
        has. A side whose length is unknown counts as large."""
        second, unknown = self.shape(node.input[1]), 1 << 30
        if node.op_type == "Conv":
            return (math.prod(second[1:]), second[0]) if second else (unknown, unknown)
        turned = bool(node.op_type == "Gemm" and attribute(node, "transB", 0))
        if len(second) < 2:
            return unknown, unknown
        inner, outer = (second[-1], second[-2]) if turned else (second[-2], second[-1])
        return inner, outer

    def heavy_nodes(self, share: float = 0.004) -> list[Node]:
        """Nodes with more than that share of the graph's multiply-adds: the others don't pay for their conversions.

        What is computed from the graph's outputs (maps brought to size, scores) is never among them: it is the
        ranking itself.
        """
        scoring = {value.name for value in self.graph.output}
        found = []
        work = [self.multiply_adds(node) for node in self.graph.node]
        limit = max(1, share * sum(work))
        for node, own in zip(self.graph.node, work, strict=True):
            if any(name in scoring for name in node.input):
                scoring.update(node.output)
            elif own >= limit:
                found.append(node)
        return found

    def copy(self) -> Graph:
        """The same graph again, to be changed; types and shapes are not inferred anew."""
        new = object.__new__(Graph)
        new.model = type(self.model)()
        new.model.CopyFrom(self.model)
        new.graph = new.model.graph
        new.constants = {tensor.name: tensor for tensor in new.graph.initializer}
        new.producers = {name: node for node in new.graph.node for name in node.output}
        new._types = dict(self._types)
        return new

    def to_bytes(self, nodes: Iterable[Node], check: bool = True) -> bytes:
        """The model with these nodes in place of its own, unused initialisers dropped, checked, as bytes."""
        kept = list(nodes)
        del self.graph.node[:]
        self.graph.node.extend(kept)
        used = {name for node in kept for name in node.input} | {out.name for out in self.graph.output}
        tensors = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(tensors)
        del self.graph.value_info[:]  # the types of old tensors
        if check:
            onnx.checker.check_model(self.model, full_check=True)
        return bytes(self.model.SerializeToString())

    def _lift_constants(self) -> None:
        nodes = []
        for node in self.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                tensor = self.graph.initializer.add()
                tensor.CopyFrom(node.attribute[0].t)
                tensor.name = node.output[0]
            else:
                nodes.append(node)
        constants = {tensor.name: tensor for tensor in self.graph.initializer}
        for node in list(nodes):  # a transposed weight is a weight
            if node.op_type == "Transpose" and node.input[0] in constants:
                value = numpy_helper.to_array(constants[node.input[0]])
                turned = np.ascontiguousarray(value.transpose(attribute(node, "perm", None)))
                self.graph.initializer.append(numpy_helper.from_array(turned, node.output[0]))
                nodes.remove(node)
        del self.graph.node[:]
        self.graph.node.extend(nodes)


def graph_of(model: bytes | Graph) -> Graph:
    """A graph to be changed: of a model's bytes, or a copy."""
    return model.copy() if isinstance(model, Graph) else Graph(model)


def attribute(node: Node, name: str, default: Any) -> Any:
    """A node's attribute, or the default."""
    for own in node.attribute:
        if own.name == name:
            return helper.get_attribute_value(own)
    return default


def raise_opset(data: bytes, version: int) -> bytes:
    """The same graph under a newer operator set (float16 scales of QuantizeLinear need 19)."""
    model = onnx.load_model_from_string(data)
    if any(own.domain in ("", "ai.onnx") and own.version >= version for own in model.opset_import):
        return data
    return bytes(onnx.version_converter.convert_version(model, version).SerializeToString())


def with_metadata(data: bytes, **values: str) -> bytes:
    """The same graph with metadata_props added or replaced."""
    model = onnx.load_model_from_string(data)
    merged = {entry.key: entry.value for entry in model.metadata_props} | values
    helper.set_model_props(model, merged)
    return bytes(model.SerializeToString())


def with_batch(data: bytes, batch: int) -> bytes:
    """The same graph for exactly `batch` images, as DLA cores and some NPUs want it."""
    model = onnx.load_model_from_string(data)
    names = {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input} - {""}
    for value in [*model.graph.input, *model.graph.output]:
        first = value.type.tensor_type.shape.dim[0]
        if first.dim_param in names:
            first.dim_value = batch
        elif first.dim_value != batch:
            raise ArtifactError(f"the graph takes {first.dim_value} images at a time", "export the artifact again")
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
