"""Random numbers by number: each depends on its item's seed, its stream and its place alone.

So an item is the same in whatever batch, on whichever device and in however many processes it is drawn, and a resumed
run draws what an uninterrupted one would have.

Source: Steele et al., "Fast splittable pseudorandom number generators" (splitmix64), 2014, by counter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as signed 64 bits
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_STREAM = 0xD1342543DE82EF95 - (1 << 64)


class Draws:
    """Random numbers of B items; a stream, a whole number, names what they are for.

    seeds: int64 [B], of the items; numbers that are near each other do.
    """

    def __init__(self, seeds: Tensor) -> None:
        self._seeds = _mixed(seeds + _GOLDEN)

    def __len__(self) -> int:
        return len(self._seeds)

    def split(self, *numbers: int) -> Draws:
        """Other numbers of the same items, for further attempts, say: B items for each of `numbers`, in order."""
        return Draws(torch.cat([self._seeds + _signed((number + 1) * _STREAM) for number in numbers]))

    def uniform(self, stream: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """float32 [B, *shape] in low..high, the upper bound left out."""
        counter = torch.arange(math.prod(shape), device=self._seeds.device)
        start = _mixed(self._seeds + _signed((stream + 1) * _STREAM))
        bits = (_mixed(start[:, None] + (counter + 1) * _GOLDEN) >> 40) & 0xFFFFFF
        return (bits.float() * ((high - low) / (1 << 24)) + low).reshape(len(self), *shape)

    def normal(self, stream: int, *shape: int) -> Tensor:
        """float32 [B, *shape], of mean 0 and standard deviation 1."""
        return torch.special.ndtri(self.uniform(stream, *shape) + 0.5 / (1 << 24))

    def whole(self, stream: int, low: int, high: Tensor | int, *shape: int) -> Tensor:
        """int64 [B, *shape] in low..high, the upper bound (an int, or int64 [B]) left out."""
        bound = high if isinstance(high, int) else high.reshape(-1, *[1] * len(shape))
        drawn = low + (self.uniform(stream, *shape) * (bound - low)).long()
        return drawn.clamp(max=bound - 1) if isinstance(bound, int) else torch.minimum(drawn, bound - 1)

    def choice(self, stream: int, weights: Sequence[float], *shape: int) -> Tensor:
        """int64 [B, *shape]: positions in `weights`, drawn by weight."""
        total = sum(weights)
        ends = constant(tuple(sum(weights[: i + 1]) / total for i in range(len(weights) - 1)), self._seeds.device)
        return torch.bucketize(self.uniform(stream, *shape), ends, right=True)


@functools.cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The numbers on the device, copied there once: each copy would wait for it."""
    return torch.tensor(values, device=device)


def item_seeds(seed: int, indices: Tensor) -> Tensor:
    """int64 seeds of items by number, for `Draws`: apart for different `seed`s."""
    return _mixed(torch.full_like(indices, _signed(seed * _STREAM + _GOLDEN))) ^ indices


def _signed(number: int) -> int:
    """The number modulo 2^64, as a signed one."""
    return ((number + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """x >> bits of an unsigned number: torch's shift copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
