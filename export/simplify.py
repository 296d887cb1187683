"""A copy of the detector for the graph: the same scores from fewer operations, in the shape that engines fuse."""

from __future__ import annotations

import copy
import math

import torch
from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block, LayerScale
from torch import nn

from edge_ad.model.detector import Detector
from edge_ad.model.student import MemoryDecoder, unit_tokens


def simplify(detector: Detector) -> Detector:
    """A copy whose constant factors are in its weights, and whose attention is plain matrix products.

    Attention's scale goes into the queries' weights, LayerScale into the layer before it. Blocks of another kind than
    timm's plain one stay as they are.
    """
    detector = copy.deepcopy(detector).eval().requires_grad_(False)
    for module in list(detector.modules()):
        for name, child in module.named_children():
            if type(child) is nn.GELU and child.approximate == "none":
                setattr(module, name, PlainGelu())
        if type(module) is Block and type(module.attn) is Attention and type(module.mlp) is Mlp:
            _simplify_block(module)
        elif type(module) is MemoryDecoder:
            module.__class__ = ScaledMemoryDecoder
            module.factor = float(module.sharpness / module.groups)
    return detector


class PlainAttention(nn.Module):
    """timm's attention with a layer each for queries, keys and values: no slices of one tensor, no factors.

    [B, N, C] in and out.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads = attention.num_heads
        weights = attention.qkv.weight.chunk(3)
        biases = [None] * 3 if attention.qkv.bias is None else attention.qkv.bias.chunk(3)
        factors = attention.scale, 1.0, 1.0
        self.query, self.key, self.value = (
            _linear(weight * factor, None if bias is None else bias * factor)
            for weight, bias, factor in zip(weights, biases, factors, strict=True)
        )
        self.project = attention.proj

    def forward(self, x: torch.Tensor, attn_mask: None = None, is_causal: bool = False) -> torch.Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        attention = (query @ key.transpose(-2, -1)).softmax(-1)
        return self.project((attention @ value).transpose(1, 2).flatten(2))


class PlainGelu(nn.Module):
    """GELU in the order of operations that ONNX Runtime takes for one (torch's exporter writes another)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (torch.erf(x / math.sqrt(2)) + 1) * 0.5


class ScaledMemoryDecoder(MemoryDecoder):
    """MemoryDecoder with the softmax's sharpness on the tokens, which are fewer than the similarities.

    Attention weights are divided by their token's largest before the product, and the result multiplied by it, so
    every token uses all of INT8's range, whether it resembles one prototype or a hundred.
    """

    factor: float

    def recall(self, features: torch.Tensor) -> torch.Tensor:
        attention = ((unit_tokens(features) * self.factor) @ self.prototypes.T).softmax(-1)
        largest = attention.amax(-1, keepdim=True)
        return (attention / largest) @ self.prototypes * largest


def _simplify_block(block: Block) -> None:
    for scale, part, name in (("ls1", block.attn, "proj"), ("ls2", block.mlp, "fc2")):
        gain, layer = getattr(block, scale), getattr(part, name)
        if type(gain) is LayerScale:
            bias = None if layer.bias is None else layer.bias * gain.gamma
            setattr(part, name, _linear(layer.weight * gain.gamma[:, None], bias))
            setattr(block, scale, nn.Identity())
    attention = block.attn
    extras = (attention.q_norm, attention.k_norm, attention.norm)
    if attention.gate is None and all(type(extra) is nn.Identity for extra in extras):
        block.attn = PlainAttention(attention)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None).requires_grad_(False)
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)
    return layer
