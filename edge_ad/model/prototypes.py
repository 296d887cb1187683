"""Prototypes: a few features of normals that stand for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class PrototypeMemory(nn.Module):
    """A module with `prototypes` [P, width]: features of normals, as many of each product, chosen and not trained.

    per_product: how many of each.
    """

    prototypes: torch.Tensor

    def __init__(self, per_product: int, width: int) -> None:
        super().__init__()
        self.per_product = per_product
        self.register_buffer("prototypes", torch.zeros(per_product, width))

    @torch.no_grad()
    def set_prototypes(self, products: Sequence[torch.Tensor], generator: torch.Generator) -> None:
        """Take prototypes, as many of each product, from its features of normals [T, width].

        A product's share is its own: taken from all features at once, the product with the fewest photos, or the most
        uniform one, would be left with almost none.
        """
        self.prototypes = torch.cat([select_prototypes(tokens, self.per_product, generator) for tokens in products])

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        found = state.get(prefix + "prototypes")  # how many products there were is known from the weights alone
        if found is not None and found.ndim == 2 and found.shape[1] == self.prototypes.shape[1]:
            self.prototypes = self.prototypes.new_zeros(found.shape)
        super()._load_from_state_dict(state, prefix, *rest)


def select_prototypes(tokens: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` of the tokens [T, D] (repeated where there are fewer): a k-centre selection for one half, the other
    random.

    Far-out but normal tokens would otherwise be missing, and dense regions would be thin with k-centre alone.
    """
    order = torch.randperm(len(tokens), generator=generator)
    if len(tokens) <= count:
        return tokens[order.repeat(count // max(1, len(tokens)) + 1)[:count]]
    pool = tokens[order[: 16 * count]]
    chosen = k_centre(pool, count // 2)
    rest = torch.ones(len(pool), dtype=torch.bool)
    rest[chosen] = False
    return torch.cat([pool[chosen], pool[rest][: count - len(chosen)]])


def k_centre(points: torch.Tensor, count: int, projected: int = 64) -> torch.Tensor:
    """Indices [count] of points that cover the others: greedily, each the farthest from those chosen before.

    points: [T, D]; distances are Euclidean after a random projection to `projected` dimensions (as PatchCore
    does, Roth et al. 2022, section 3.2).
    """
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(points.shape[1], projected, generator=generator) / projected**0.5
    points = points @ basis.to(points)
    squared = points.square().sum(1)
    chosen = torch.empty(count, dtype=torch.long)
    nearest = torch.full((len(points),), float("inf"), device=points.device)
    index = 0
    for i in range(count):
        chosen[i] = index
        distance = squared - 2 * (points @ points[index]) + squared[index]
        nearest = torch.minimum(nearest, distance)
        index = int(nearest.argmax())
    return chosen
