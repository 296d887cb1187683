"""Even out channels before INT8: factors and constants moved between layers, so that the graph computes the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edge_ad.export.graph_tools import Graph, Node
from edge_ad.export.quantize import Layer, layers_of

Channels = npt.NDArray[np.float64]
_MOVES = ("Reshape", "Transpose")  # tokens to heads: channel j stays channel j of the layer


def activations_to_measure(model: bytes) -> list[str]:
    """Names of the tensors that `balance` needs ranges of: inputs of linear layers, and attention's keys."""
    graph = Graph(model)
    layers = layers_of(graph)
    names = {layer.activations[0] for layer in layers if layer.weight}
    return sorted(names | {_source_tensor(graph, layer.activations[1]) for layer in layers if not layer.weight})


def balance(
    model: bytes, channel_amax: Mapping[str, Channels], channel_mean: Mapping[str, Channels], strength: float
) -> bytes:
    """The graph with channels that suit one INT8 scale a tensor; amax and mean are of `activations_to_measure`.

    The spread of a LayerNormalization's channels is moved into the weights (SmoothQuant, Xiao et al. 2023, equation
    4): s_j = max|x_j|^strength / max|w_j|^(1 - strength); its scale and bias are divided by s and the next layers'
    weight rows multiplied. Done where it feeds nothing but linear layers.

    Keys lose their mean: the same vector off every key takes q.c off all of a query's similarities, which softmax
    does not see (SageAttention, Zhang et al. 2025, section 4.2, per picture; here it is a constant in the bias).
    """
    graph = Graph(model)
    consumers = graph.consumers()
    by_norm: dict[str, list[Layer]] = {}
    for layer in layers_of(graph):
        if layer.weight:
            by_norm.setdefault(layer.activations[0], []).append(layer)
        else:
            _centre_keys(graph, consumers, layer, channel_mean)
    for activation, layers in by_norm.items():
        norm = graph.producers.get(activation)
        if norm is None or norm.op_type != "LayerNormalization" or len(norm.input) < 3:
            continue
        if len(consumers[activation]) != len(layers) or activation not in channel_amax:
            continue
        weights = [graph.value(layer.weight).astype(np.float64) for layer in layers]
        if any(weight.ndim != 2 for weight in weights) or any(layer.axis != 1 for layer in layers):
            continue
        rows = np.maximum.reduce([np.abs(weight).max(1) for weight in weights])
        shift = np.maximum(channel_amax[activation], 1e-5) ** strength / np.maximum(rows, 1e-5) ** (1 - strength)
        shift /= np.exp(np.log(shift).mean())  # keep the tensors' overall size
        for i in (1, 2):
            divided = (graph.value(norm.input[i]) / shift).astype(np.float32)
            norm.input[i] = graph.add_constant(f"{activation}.balanced{i}", divided)
        for layer, weight in zip(layers, weights, strict=True):
            consumer = next(node for node in consumers[activation] if node.name == layer.name)
            scaled = (weight * shift[:, None]).astype(np.float32)
            consumer.input[1] = graph.add_constant(f"{layer.name}.balanced_weight", scaled)
    return graph.to_bytes(list(graph.graph.node))


def _centre_keys(
    graph: Graph, consumers: Mapping[str, list[Node]], layer: Layer, channel_mean: Mapping[str, Channels]
) -> None:
    """Take the keys' mean off the bias of the layer that makes them, where only a softmax reads their products."""
    product = next(node for node in graph.graph.node if node.name == layer.name)
    name = layer.activations[1]
    own_consumers = consumers.get(product.output[0], [])
    while len(own_consumers) == 1 and own_consumers[0].op_type in ("Mul", "Div"):  # attention's factor
        own_consumers = consumers.get(own_consumers[0].output[0], [])
    if len(own_consumers) != 1 or own_consumers[0].op_type != "Softmax":
        return
    while (node := graph.producers.get(name)) is not None and len(consumers[name]) == 1 and node.op_type in _MOVES:
        name = node.input[0]
    if node is None or node.op_type != "Add" or len(consumers[name]) != 1 or name not in channel_mean:
        return
    for i, own in enumerate(node.input):
        if own in graph.constants and graph.shape(own) == channel_mean[name].shape:
            centred = (graph.value(own) - channel_mean[name]).astype(np.float32)
            node.input[i] = graph.add_constant(f"{node.name}.centred", centred)
            return


def _source_tensor(graph: Graph, name: str) -> str:
    """The tensor that `name` is a reshaped or transposed copy of."""
    while (node := graph.producers.get(name)) is not None and node.op_type in _MOVES:
        name = node.input[0]
    return name
