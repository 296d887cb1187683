# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disallow-untyped-calls=False
"""The Triton kernels on maps and scores: upsampling and joining, and an exact Top-K mean over the whole GPU.

The Top-K takes two launches. The first keeps the largest score of every group of neighbours, on as many programs as
there are scores for (where maps are joined it costs no launch of its own). The k-th largest of these maxima is a
lower bound of the k-th largest score, and every score above the bound lies in one of fewer than k groups: one program
an image finds the bound, gathers these groups and selects among them. docs/gpu.md counts bytes, launches and rounds.
"""

from __future__ import annotations

import triton
import triton.language as tl

NAN, PADDING = tl.constexpr(0x7FC00000), tl.constexpr(-(2**31))  # keys: above +Inf, and below -Inf


@triton.jit
def _taps(i, length, scale):
    """Source pixels and the weight of the second, as torch's bilinear interpolation has them."""
    position = (i.to(tl.float32) + 0.5) * scale - 0.5
    position = tl.where(position < 0.0, 0.0, position)
    low = tl.minimum(position.to(tl.int32), length - 1)
    return low, tl.minimum(low + 1, length - 1), position - low.to(tl.float32)


@triton.jit
def _bilinear(MAP, image, y, x, mask, h, w, scale_y, scale_x):
    top, bottom, dy = _taps(y, h, scale_y)
    left, right, dx = _taps(x, w, scale_x)
    rows = MAP + image * h * w
    a = tl.load(rows + top * w + left, mask=mask, other=0.0)
    b = tl.load(rows + top * w + right, mask=mask, other=0.0)
    c = tl.load(rows + bottom * w + left, mask=mask, other=0.0)
    d = tl.load(rows + bottom * w + right, mask=mask, other=0.0)
    return (a * (1.0 - dx) + b * dx) * (1.0 - dy) + (c * (1.0 - dx) + d * dx) * dy


@triton.jit
def _join(total, value, weight, PRODUCT: tl.constexpr):
    if PRODUCT:
        power = tl.where(weight == 1.0, value, tl.exp2(tl.log2(value) * weight))
        return total * tl.where(weight == 0.0, 1.0, power)
    else:
        return total + value * weight


@triton.jit
def _key(x):
    """Whole numbers in the order of the scores, NaN above all."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(x != x, NAN, bits ^ ((bits >> 31) & 0x7FFFFFFF))


@triton.jit
def _score(key):
    """The score of a key."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _store_maxima(MAXIMA, x, count, groups, image, BLOCK: tl.constexpr, GROUP: tl.constexpr):
    """The largest key of every GROUP neighbours among this program's BLOCK scores."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = tl.where(i < count, _key(x), PADDING)
    group = tl.program_id(0) * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
    largest = tl.max(tl.reshape(key, [BLOCK // GROUP, GROUP]), 1)
    tl.store(MAXIMA + image * groups + group, largest, mask=group < groups)


@triton.jit
def combine_kernel(
    A, B, C, D, OUT, MAXIMA, height, width, groups,
    ha, wa, hb, wb, hc, wc, hd, wd, ya, xa, yb, xb, yc, xc, yd, xd, weight_a, weight_b, weight_c, weight_d,
    LAYERS: tl.constexpr, PRODUCT: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Scores [batch, height, width] of up to four maps, upsampled, weighted and joined; and their groups' maxima."""
    image = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < height * width
    y, x = i // width, i % width
    total = tl.full((BLOCK,), 1.0 if PRODUCT else 0.0, tl.float32)
    total = _join(total, _bilinear(A, image, y, x, mask, ha, wa, ya, xa), weight_a, PRODUCT)
    if LAYERS > 1:
        total = _join(total, _bilinear(B, image, y, x, mask, hb, wb, yb, xb), weight_b, PRODUCT)
    if LAYERS > 2:
        total = _join(total, _bilinear(C, image, y, x, mask, hc, wc, yc, xc), weight_c, PRODUCT)
    if LAYERS > 3:
        total = _join(total, _bilinear(D, image, y, x, mask, hd, wd, yd, xd), weight_d, PRODUCT)
    tl.store(OUT + image * height * width + i, total, mask=mask)
    _store_maxima(MAXIMA, total, height * width, groups, image, BLOCK, GROUP)


@triton.jit
def maxima_kernel(X, MAXIMA, count, groups, BLOCK: tl.constexpr, GROUP: tl.constexpr):
    """The largest key of every GROUP neighbouring scores."""
    image = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(X + image * count + i, mask=i < count, other=0.0).to(tl.float32)
    _store_maxima(MAXIMA, x, count, groups, image, BLOCK, GROUP)


@triton.jit
def _halve(key, low, high, above, k, enough):
    """Search for the k-th largest key by halving; ends early when low leaves k to `enough` keys.

    low: at least k keys reach it, `above` in number. high: fewer than k reach it. Both are returned, with `above`.
    """
    above = above.to(tl.int32)
    middle = (low & high) + ((low ^ high) >> 1)  # their mean without overflow
    while (above > enough) & (middle > low):
        reach = tl.sum((key >= middle).to(tl.int32))
        above = tl.where(reach >= k, reach, above)
        high = tl.where(reach >= k, high, middle)
        low = tl.where(reach >= k, middle, low)
        middle = (low & high) + ((low ^ high) >> 1)
    return low, high, above


@triton.jit
def topk_mean_kernel(
    X, MAXIMA, CHOSEN, OUT, count, groups, k, GROUP: tl.constexpr, GROUPS: tl.constexpr, SLOTS: tl.constexpr
):
    """Mean of the k largest scores of one image, from its groups' maxima; CHOSEN: room for SLOTS groups, at least k.

    There are at least k groups. GROUPS: a power of two, at least as many.
    """
    image = tl.program_id(0).to(tl.int64)
    X, CHOSEN = X + image * count, CHOSEN + image * SLOTS
    i = tl.arange(0, GROUPS)
    largest = tl.load(MAXIMA + image * groups + i, mask=i < groups, other=PADDING)
    ceiling = tl.max(largest, 0) + 1
    floor = tl.min(tl.where(i < groups, largest, ceiling), 0)
    low, high, above = _halve(largest, floor, ceiling, groups, k, SLOTS)
    # Where ties leave too many groups at the bound, those above it are fewer than k, and the rest are equal to it.
    chosen = largest >= tl.where(above <= SLOTS, low, high)
    tl.store(CHOSEN + tl.cumsum(chosen.to(tl.int32), 0) - 1, i, mask=chosen)
    tl.debug_barrier()  # every thread has stored before any looks
    slot = tl.arange(0, SLOTS)
    used = slot < tl.sum(chosen.to(tl.int32), 0)
    group = tl.load(CHOSEN + slot, mask=used, other=0)
    place = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    inside = used[:, None] & (place < count)
    x = tl.load(X + place, mask=inside, other=0.0).to(tl.float32)
    key = tl.where(
        inside, tl.maximum(_key(x), low), low
    )  # what is below the bound can't matter: it counts as the bound
    low, high, above = _halve(key, low, ceiling, tl.full((), SLOTS * GROUP, tl.int32), k, k)
    least = tl.where(above == k, low, high)
    rest = tl.where(above == k, 0, k - tl.sum((key >= least).to(tl.int32)))  # equal to the k-th largest
    total = tl.sum(tl.where(key >= least, _score(key), 0.0))
    tl.store(OUT + image, (total + tl.where(rest > 0, rest * _score(low), 0.0)) / k)
