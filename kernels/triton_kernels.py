# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disallow-untyped-calls=False
"""The Triton kernels on features. edge_ad.kernels.triton_ops launches them.

Features are read as [batch, channel, position] with a stride for each, so that channels first and channels last
are the same kernel. A program holds all channels of its positions in registers: every load is on its way before
the first sum, features are read once whatever is done with them after, and nothing is tuned. Everything is summed
in float32, whatever the features are.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _positions(BLOCK_P: tl.constexpr):
    """Positions of this program, and its image."""
    return tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P), tl.program_id(1).to(tl.int64)


@triton.jit
def _pair(T, S, p, channels, pixels, t_c, t_p, s_c, s_p, BLOCK_C: tl.constexpr):
    """All channels [BLOCK_C, BLOCK_P] of both features in float32, zero outside, and which are inside."""
    c = tl.arange(0, BLOCK_C)
    mask = (c < channels)[:, None] & (p < pixels)[None, :]
    t = tl.load(T + c[:, None] * t_c + p[None, :] * t_p, mask=mask, other=0.0)
    s = tl.load(S + c[:, None] * s_c + p[None, :] * s_p, mask=mask, other=0.0)
    return t.to(tl.float32), s.to(tl.float32), mask


@triton.jit
def _factor(square, small):
    """Power of two that brings a vector of this squared length to where float32 holds squares; 1 for most."""
    return tl.where(square <= 1e37, tl.where(square < small, 1.2676506e30, 1.0), 8.2718061e-25)  # 2^100, 2^-80


@triton.jit
def _measure(t, s, eps):
    """The features times factors ft and fs, which are 1 for most, then these, and lengths of what the factors gave.

    The factors are 1 unless squares overflow, or vanish where eps is so short that it matters. Lengths come twice:
    as they are, and at least eps.
    """
    tt, ss = tl.sum(t * t, 0), tl.sum(s * s, 0)
    small = tl.where(eps < 1e-14, 1e-30, 0.0)
    ft, fs = _factor(tt, small), _factor(ss, small)
    if tl.max(tl.where((ft != 1.0) | (fs != 1.0), 1, 0), 0) > 0:
        t, s = t * ft[None, :], s * fs[None, :]
        tt, ss = tl.sum(t * t, 0), tl.sum(s * s, 0)
    t_length, s_length = tl.sqrt(tt), tl.sqrt(ss)
    nt = tl.where(t_length < eps * ft, eps * ft, t_length)  # NaN stays
    ns = tl.where(s_length < eps * fs, eps * fs, s_length)
    return t, s, ft, fs, t_length, s_length, nt, ns


@triton.jit
def _bad(length):
    """0, or NaN where a length is Inf: such a vector has no direction."""
    return length * 0.0


@triton.jit
def _difference(T, S, p, channels, pixels, t_c, t_p, s_c, s_p, eps, BLOCK_C: tl.constexpr):
    """|t̂ - ŝ|² / 2 of BLOCK_P positions of one image; see `finish` in csrc/maps.cpp for the form."""
    t, s, _ = _pair(T, S, p, channels, pixels, t_c, t_p, s_c, s_p, BLOCK_C)
    t, s, ft, fs, t_length, s_length, nt, ns = _measure(t, s, eps)
    dd, ts = tl.sum((t - s) * (t - s), 0), tl.sum(t * s, 0)
    near = (dd - (nt - ns) * (nt - ns)) / (2.0 * nt * ns)
    a, b = t_length / nt, s_length / ns
    plain = 0.5 * (a * a + b * b) - ts / nt / ns
    long = (t_length >= eps * ft) & (s_length >= eps * fs)
    alike = (ft == fs) & long & (t_length <= 2.0 * s_length) & (s_length <= 2.0 * t_length)
    value = tl.where(alike, near, plain)
    return tl.where(value < 0.0, 0.0, value)


@triton.jit
def cosine_map_kernel(
    T, S, MAP, channels, pixels, t_b, t_c, t_p, s_b, s_c, s_p, eps, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """The difference map at BLOCK_P positions of one image."""
    p, image = _positions(BLOCK_P)
    value = _difference(T + image * t_b, S + image * s_b, p, channels, pixels, t_c, t_p, s_c, s_p, eps, BLOCK_C)
    tl.store(MAP + image * pixels + p, value, mask=p < pixels)


@triton.jit
def cosine_map_gradient_kernel(
    T, S, GRAD, OUT, channels, pixels, t_b, t_c, t_p, s_b, s_c, s_p, o_b, o_c, o_p, eps,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradient of the map in S: grad / |s| · (<t̂, ŝ> ŝ - t̂); below eps the length is constant and <t̂, ŝ> is 1."""
    p, image = _positions(BLOCK_P)
    grad = tl.load(GRAD + image * pixels + p, mask=p < pixels, other=0.0).to(tl.float32)
    t, s, mask = _pair(T + image * t_b, S + image * s_b, p, channels, pixels, t_c, t_p, s_c, s_p, BLOCK_C)
    t, s, _, fs, _, s_length, nt, ns = _measure(t, s, eps)
    cosine = tl.where(s_length < eps * fs, 1.0, tl.sum(t * s, 0) / nt / ns)
    value = (grad * (fs / ns))[None, :] * (s * (cosine / ns)[None, :] - t / nt[None, :])
    out = OUT + image * o_b + tl.arange(0, BLOCK_C)[:, None] * o_c + p[None, :] * o_p
    tl.store(out, value.to(OUT.dtype.element_ty), mask=mask)


@triton.jit
def head_input_kernel(
    T, S, OUT, channels, pixels, t_b, t_c, t_p, s_b, s_c, s_p, o_b, o_c, o_p, eps,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """C · t̂ · ŝ."""
    p, image = _positions(BLOCK_P)
    t, s, mask = _pair(T + image * t_b, S + image * s_b, p, channels, pixels, t_c, t_p, s_c, s_p, BLOCK_C)
    t, s, _, _, _, _, nt, ns = _measure(t, s, eps)
    value = (t * (channels / nt + _bad(nt))[None, :]) * (s * (1.0 / ns + _bad(ns))[None, :])
    out = OUT + image * o_b + tl.arange(0, BLOCK_C)[:, None] * o_c + p[None, :] * o_p
    tl.store(out, value, mask=mask)


@triton.jit
def head_input_gradient_kernel(
    T, S, GRAD, OUT, channels, pixels, t_b, t_c, t_p, s_b, s_c, s_p, g_b, g_c, g_p, o_b, o_c, o_p, eps,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradient of C · t̂ · ŝ in S: (v - <v, ŝ> ŝ) / |s| with v = C · grad · t̂; below eps the length is constant."""
    p, image = _positions(BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    t, s, mask = _pair(T + image * t_b, S + image * s_b, p, channels, pixels, t_c, t_p, s_c, s_p, BLOCK_C)
    g = tl.load(GRAD + image * g_b + c[:, None] * g_c + p[None, :] * g_p, mask=mask, other=0.0).to(tl.float32)
    t, s, _, fs, _, s_length, nt, ns = _measure(t, s, eps)
    v = g * t / nt[None, :]
    along = tl.where(s_length < eps * fs, 0.0, tl.sum(v * s, 0) / ns / ns)
    value = (v - along[None, :] * s) * (channels * fs / ns)[None, :]
    out = OUT + image * o_b + c[:, None] * o_c + p[None, :] * o_p
    tl.store(out, value.to(OUT.dtype.element_ty), mask=mask)


@triton.jit
def maps_kernel(
    TA, SA, TB, SB, TC, SC, TD, SD, A, B, C, D, channels, pixels, programs, eps,
    LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Difference maps A to D of up to four layers of one shape, `programs` to a layer.

    Features are dense, channels first or LAST.
    """
    layer, i = tl.program_id(0) // programs, tl.program_id(0) % programs
    T, S, MAP = TA, SA, A
    if layer == 1:
        T, S, MAP = TB, SB, B
    if layer == 2:
        T, S, MAP = TC, SC, C
    if layer == 3:
        T, S, MAP = TD, SD, D
    pieces = tl.cdiv(pixels, BLOCK_P)
    image = (i // pieces).to(tl.int64)
    p = i % pieces * BLOCK_P + tl.arange(0, BLOCK_P)
    start = image * channels * pixels
    if LAST:
        value = _difference(T + start, S + start, p, channels, pixels, 1, channels, 1, channels, eps, BLOCK_C)
    else:
        value = _difference(T + start, S + start, p, channels, pixels, pixels, 1, pixels, 1, eps, BLOCK_C)
    tl.store(MAP + image * pixels + p, value, mask=p < pixels)
