"""The preprocessing inside the graph: camera frames in, scores out, for programs that don't use this package."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from edge_ad.artifact import Preprocessing
from edge_ad.export.graph_tools import Graph

BITS = 22  # of Pillow's fixed-point weights: 32 - 8 - 2


def frames_graph(model: bytes, frame_size: tuple[int, int], preprocessing: Preprocessing) -> bytes:
    """The graph with preprocessing inside: input `frames` [B, H, W, 3] uint8 RGB of one size instead of `images`.

    The antialiased resize is two matrix products with a rounding after each, as in Pillow: engines have no
    antialiased Resize in common, and TensorRT has none. Sums are float32 where Pillow has 32-bit integers, so a
    value within 1e-5 of one half may round to the neighbouring grey level.
    """
    graph = Graph(model)
    (images,) = graph.graph.input
    batch = images.type.tensor_type.shape.dim[0]
    rows, columns = frame_size
    height, width = preprocessing.image_size
    nodes: list[Any] = []

    def node(kind: str, *inputs: str, out: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [out], f"frames/{out}", **attributes))
        return out

    def constant(name: str, value: Any) -> str:
        return graph.add_constant(f"frames/{name}", np.asarray(value, np.float32))

    def rounded(x: str, out: str) -> str:
        up = node("Floor", node("Add", x, constant(f"{out}.half", 0.5), out=f"{out}.up"), out=f"{out}.whole")
        return node("Clip", up, constant(f"{out}.low", 0), constant(f"{out}.high", 255), out=out)

    x = node("Cast", "frames", to=TensorProto.FLOAT, out="frames.float")
    x = node("Transpose", x, perm=[0, 3, 1, 2], out="frames.planes")
    if columns != width:
        matrix = constant("columns", resize_matrix(columns, width).T)
        x = rounded(node("MatMul", x, matrix, out="frames.narrow"), "frames.columns")
    if rows != height:
        x = rounded(node("MatMul", constant("rows", resize_matrix(rows, height)), x, out="frames.low"), "frames.rows")
    x = node("Div", x, constant("255", 255), out="frames.unit")
    x = node("Sub", x, constant("mean", np.reshape(preprocessing.mean, (3, 1, 1))), out="frames.centred")
    node("Div", x, constant("std", np.reshape(preprocessing.std, (3, 1, 1))), out="images")
    del graph.graph.input[:]
    size = batch.dim_param or batch.dim_value
    graph.graph.input.append(helper.make_tensor_value_info("frames", TensorProto.UINT8, [size, rows, columns, 3]))
    return graph.to_bytes([*nodes, *graph.graph.node])


def resize_matrix(size: int, target: int) -> npt.NDArray[np.float64]:
    """Weights [target, size] of Pillow's antialiased bilinear resize along one axis, on its 22-bit grid.

    w_ij = max(0, 1 - |j + 0.5 - c_i| / s), rows normalised to 1, c_i = (i + 0.5) size / target,
    s = max(1, size / target).
    """
    ratio = size / target
    scale = max(1.0, ratio)
    matrix = np.zeros((target, size))
    for i in range(target):
        centre = (i + 0.5) * ratio
        first, last = max(0, int(centre - scale + 0.5)), min(size, int(centre + scale + 0.5))
        weights = np.maximum(0.0, 1 - np.abs(np.arange(first, last) + 0.5 - centre) / scale)
        matrix[i, first:last] = np.floor(weights / weights.sum() * (1 << BITS) + 0.5) / (1 << BITS)
    return matrix
