# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disallow-untyped-calls=False
"""The Triton kernels: what runs on the GPU. edge_ad.kernels.triton_ops launches them.

Features are read as [batch, channel, position] with a stride for each, so that channels first and channels last
are the same kernel. Everything is summed in float32, whatever the features are.
"""

from __future__ import annotations

import os
from typing import Any

import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton decides when it is imported

# Positions and channels a program holds at a time. Wide in positions suits channels first, wide in channels suits
# channels last; the tuner finds out. The interpreter pays for each operation, so it gets one large tile.
_TILES = [(512, 4, 8), (256, 4, 4), (128, 8, 4), (64, 16, 4), (32, 32, 4), (16, 64, 4), (8, 128, 4), (4, 256, 4)]
CONFIGS = [triton.Config({"BLOCK_P": p, "BLOCK_C": c}, num_warps=w) for p, c, w in _TILES]
if INTERPRETED:
    CONFIGS = [triton.Config({"BLOCK_P": 256, "BLOCK_C": 128}, num_warps=4)]

# A position's stride of 1 is channels first, a channel's is channels last: they are tuned apart.
tuned = triton.autotune(CONFIGS, key=["channels", "pixels", "t_c", "s_c"])


@triton.jit
def _pair(T, S, c, p, channels, pixels, t_c, t_p, s_c, s_p):
    """A tile [BLOCK_C, BLOCK_P] of both features in float32, zero outside."""
    mask = (c < channels)[:, None] & (p < pixels)[None, :]
    t = tl.load(T + c[:, None] * t_c + p[None, :] * t_p, mask=mask, other=0.0).to(tl.float32)
    s = tl.load(S + c[:, None] * s_c + p[None, :] * s_p, mask=mask, other=0.0).to(tl.float32)
    return t, s, mask


@triton.jit
def _sums(
    T, S, GRAD, p, channels, pixels, t_c, t_p, s_c, s_p, ft, fs,
    SCALED: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """|t|², |s|², |t - s|² and <t, s> of BLOCK_P positions; what a caller doesn't use is not computed.

    SCALED: t times ft and s times fs. WEIGHTED: every product of <t, s> times its GRAD.
    """
    tt = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    ss = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    dd = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    ts = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for start in range(0, channels, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        t, s, mask = _pair(T, S, c, p, channels, pixels, t_c, t_p, s_c, s_p)
        if SCALED:
            t, s = t * ft[None, :], s * fs[None, :]
        product = t * s
        if WEIGHTED:
            product *= tl.load(GRAD + c[:, None] * pixels + p[None, :], mask=mask, other=0.0).to(tl.float32)
        tt += t * t
        ss += s * s
        dd += (t - s) * (t - s)
        ts += product
    return tl.sum(tt, 0), tl.sum(ss, 0), tl.sum(dd, 0), tl.sum(ts, 0)


@triton.jit
def _factor(square, small):
    """Power of two that brings a vector of this squared length to where float32 holds squares; 1 for most."""
    return tl.where(square <= 1e37, tl.where(square < small, 1.2676506e30, 1.0), 8.2718061e-25)  # 2^100, 2^-80


@triton.jit
def _measure(
    T, S, GRAD, p, channels, pixels, t_c, t_p, s_c, s_p, eps,
    WEIGHTED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The sums, the factors ft and fs of the vectors in them, and their lengths, at least eps, times these factors.

    The factors are 1 unless squares overflow, or vanish where eps is so short that it matters: then the positions
    are summed once more.
    """
    small = tl.where(eps < 1e-14, 1e-30, 0.0)
    ones = tl.full((BLOCK_P,), 1.0, tl.float32)
    tt, ss, dd, ts = _sums(
        T, S, GRAD, p, channels, pixels, t_c, t_p, s_c, s_p, ones, ones, False, WEIGHTED, BLOCK_P, BLOCK_C
    )
    ft, fs = _factor(tt, small), _factor(ss, small)
    if tl.max(tl.where((ft != 1.0) | (fs != 1.0), 1, 0), 0) > 0:
        FEW: tl.constexpr = 4 if BLOCK_P >= 32 else 128 // BLOCK_P  # so that what rarely runs takes few registers
        tt, ss, dd, ts = _sums(
            T, S, GRAD, p, channels, pixels, t_c, t_p, s_c, s_p, ft, fs, True, WEIGHTED, BLOCK_P, FEW
        )
    t, s = tl.sqrt(tt), tl.sqrt(ss)
    nt = tl.where(t < eps * ft, eps * ft, t)  # NaN stays
    ns = tl.where(s < eps * fs, eps * fs, s)
    return t, s, dd, ts, ft, fs, nt, ns


@triton.jit
def _bad(length):
    """0, or NaN where a length is Inf: such a vector has no direction."""
    return length * 0.0


@triton.jit
def _difference(T, S, p, channels, pixels, t_c, t_p, s_c, s_p, eps, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """|t̂ - ŝ|² / 2 of BLOCK_P positions of one image; see `finish` in csrc/maps.cpp for the form."""
    t, s, dd, ts, ft, fs, nt, ns = _measure(
        T, S, T, p, channels, pixels, t_c, t_p, s_c, s_p, eps, False, BLOCK_P, BLOCK_C
    )
    near = (dd - (nt - ns) * (nt - ns)) / (2.0 * nt * ns)
    a, b = t / nt, s / ns
    plain = 0.5 * (a * a + b * b) - ts / nt / ns
    alike = (ft == fs) & (t >= eps * ft) & (s >= eps * fs) & (t <= 2.0 * s) & (s <= 2.0 * t)
    value = tl.where(alike, near, plain)
    return tl.where(value < 0.0, 0.0, value)


@tuned
@triton.jit
def cosine_map_kernel(
    T, S, MAP, channels, pixels, t_b, t_c, t_p, s_b, s_c, s_p, eps,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The difference map at BLOCK_P positions of one image, in one pass."""
    image = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    value = _difference(
        T + image * t_b, S + image * s_b, p, channels, pixels, t_c, t_p, s_c, s_p, eps, BLOCK_P, BLOCK_C
    )
    tl.store(MAP + image * pixels + p, value, mask=p < pixels)


@tuned
@triton.jit
def cosine_map_gradient_kernel(
    T, S, GRAD, OUT, channels, pixels, t_b, t_c, t_p, s_b, s_c, s_p, o_b, o_c, o_p, eps,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradient of the map in S: grad / |s| · (<t̂, ŝ> ŝ - t̂); below eps the length is constant and <t̂, ŝ> is 1."""
    image = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    T, S = T + image * t_b, S + image * s_b
    _, s_length, _, ts, ft, fs, nt, ns = _measure(
        T, S, T, p, channels, pixels, t_c, t_p, s_c, s_p, eps, False, BLOCK_P, BLOCK_C
    )
    cosine = tl.where(s_length < eps * fs, 1.0, ts / nt / ns)
    t_unit, s_unit = ft / nt, fs / ns
    grad = tl.load(GRAD + image * pixels + p, mask=p < pixels, other=0.0).to(tl.float32) * s_unit
    for start in range(0, channels, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        t, s, mask = _pair(T, S, c, p, channels, pixels, t_c, t_p, s_c, s_p)
        value = grad[None, :] * (s * (cosine * s_unit)[None, :] - t * t_unit[None, :])
        out = OUT + image * o_b + c[:, None] * o_c + p[None, :] * o_p
        tl.store(out, value.to(OUT.dtype.element_ty), mask=mask)


@tuned
@triton.jit
def head_input_kernel(
    T, S, OUT, channels, pixels, t_b, t_c, t_p, s_b, s_c, s_p, eps,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """C · t̂ · ŝ, channels first."""
    image = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    T, S = T + image * t_b, S + image * s_b
    _, _, _, _, ft, fs, nt, ns = _measure(
        T, S, T, p, channels, pixels, t_c, t_p, s_c, s_p, eps, False, BLOCK_P, BLOCK_C
    )
    t_unit, s_unit = channels * ft / nt + _bad(nt), fs / ns + _bad(ns)
    for start in range(0, channels, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        t, s, mask = _pair(T, S, c, p, channels, pixels, t_c, t_p, s_c, s_p)
        value = (t * t_unit[None, :]) * (s * s_unit[None, :])
        tl.store(OUT + (image * channels + c[:, None]) * pixels + p[None, :], value, mask=mask)


@tuned
@triton.jit
def head_input_gradient_kernel(
    T, S, GRAD, OUT, channels, pixels, t_b, t_c, t_p, s_b, s_c, s_p, o_b, o_c, o_p, eps,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradient of C · t̂ · ŝ in S: (v - <v, ŝ> ŝ) / |s| with v = C · grad · t̂; below eps the length is constant."""
    image = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    T, S, GRAD = T + image * t_b, S + image * s_b, GRAD + image * channels * pixels
    _, s_length, _, gts, ft, fs, nt, ns = _measure(
        T, S, GRAD, p, channels, pixels, t_c, t_p, s_c, s_p, eps, True, BLOCK_P, BLOCK_C
    )
    t_unit, s_unit = ft / nt, fs / ns
    along = tl.where(s_length < eps * fs, 0.0, gts / nt / ns) * s_unit
    for start in range(0, channels, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        t, s, mask = _pair(T, S, c, p, channels, pixels, t_c, t_p, s_c, s_p)
        g = tl.load(GRAD + c[:, None] * pixels + p[None, :], mask=mask, other=0.0).to(tl.float32)
        value = (g * (t * t_unit[None, :]) - along[None, :] * s) * (channels * s_unit)[None, :]
        out = OUT + image * o_b + c[:, None] * o_c + p[None, :] * o_p
        tl.store(out, value.to(OUT.dtype.element_ty), mask=mask)


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
def _combine(
    A, B, C, D, OUT, image, piece, height, width,
    ha, wa, hb, wb, hc, wc, hd, wd, ya, xa, yb, xb, yc, xc, yd, xd, weight_a, weight_b, weight_c, weight_d,
    LAYERS: tl.constexpr, PRODUCT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Up to four maps of one image, each upsampled, weighted and joined: piece number `piece` of BLOCK pixels."""
    i = piece * BLOCK + tl.arange(0, BLOCK)
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
    tl.store(OUT + i, total, mask=mask)


@triton.jit
def combine_kernel(
    A, B, C, D, OUT, height, width,
    ha, wa, hb, wb, hc, wc, hd, wd, ya, xa, yb, xb, yc, xc, yd, xd, weight_a, weight_b, weight_c, weight_d,
    LAYERS: tl.constexpr, PRODUCT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Scores [batch, height, width] of up to four maps: BLOCK pixels of one image."""
    image = tl.program_id(1).to(tl.int64)
    _combine(
        A, B, C, D, OUT + image * height * width, image, tl.program_id(0), height, width,
        ha, wa, hb, wb, hc, wc, hd, wd, ya, xa, yb, xb, yc, xc, yd, xd, weight_a, weight_b, weight_c, weight_d,
        LAYERS, PRODUCT, BLOCK,
    )  # fmt: skip


@triton.jit
def _keys(X, i, count):
    """Scores, and whole numbers in the same order, NaN above all."""
    x = tl.load(X + i, mask=i < count, other=0.0).to(tl.float32)
    bits = x.to(tl.uint32, bitcast=True)
    key = tl.where((bits >> 31) != 0, bits ^ 0xFFFFFFFF, bits | 0x80000000)
    return x, tl.where(x != x, tl.full(x.shape, 0xFFFFFFFF, tl.uint32), key)


@triton.jit
def _topk_mean(scores, count, k, BLOCK: tl.constexpr):
    """Mean of the k largest scores: the k-th found by four histograms of eight bits, exact."""
    bins = tl.arange(0, 512)  # 256 is for scores that are out already
    prefix = tl.zeros((), tl.uint32)
    want = k
    for step in tl.static_range(4):
        shift = 24 - 8 * step
        found = tl.zeros((512,), tl.int32)
        for start in range(0, count, BLOCK):
            i = start + tl.arange(0, BLOCK)
            _, key = _keys(scores, i, count)
            live = i < count
            if step > 0:
                live = live & ((key >> (shift + 8)) == (prefix >> (shift + 8)))
            digit = ((key >> shift) & 0xFF).to(tl.int32)
            found += tl.histogram(tl.where(live, digit, 256), 512)
        found = tl.where(bins < 256, found, 0)
        above = tl.sum(found, 0) - tl.cumsum(found, 0)
        here = (above < want) & (above + found >= want)
        digit_k = tl.sum(tl.where(here, bins, 0), 0)
        want = want - tl.sum(tl.where(here, above, 0), 0)
        prefix = prefix | (digit_k.to(tl.uint32) << shift)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x, key = _keys(scores, i, count)
        total += tl.where((key > prefix) & (i < count), x, 0.0)
    bits = tl.where((prefix >> 31) != 0, prefix & 0x7FFFFFFF, prefix ^ 0xFFFFFFFF)
    kth = bits.to(tl.float32, bitcast=True)
    return (tl.sum(total, 0) + want.to(tl.float32) * kth) / k


@triton.jit
def topk_mean_kernel(X, OUT, count, k, BLOCK: tl.constexpr):
    """Mean of the k largest of one image."""
    image = tl.program_id(0).to(tl.int64)
    tl.store(OUT + image, _topk_mean(X + image * count, count, k, BLOCK))


def plain(kernel: Any) -> Any:
    """The kernel itself, without its tuner."""
    return getattr(kernel, "fn", kernel) if isinstance(kernel, triton.runtime.Autotuner) else kernel
