# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disallow-untyped-calls=False
"""The whole score in one launch, for shapes so small that launching is most of the time.

Every program takes a ticket. The first ones make a piece of a difference map each; those after them wait until all
maps are there, then upsample and join a piece of an image each; whoever finishes an image last averages its Top-K.
Tickets are given in the order programs start, and no map waits for anything, so a program that waits never keeps
from running those that it waits for. Counting is an atomic add that releases and acquires on the whole GPU, with a
barrier of the program's threads on either side: what all of them stored before is seen by all that come after. The
last program of all puts the counters back to zero, when none is left that would look at them: a CUDA graph can replay
the launch, and a launch can follow another on one stream. Launches that run beside each other need counters of their
own; counters that are not zero at the start would let a launch wait for ever.

Tested under Triton's interpreter, which runs one program after another, and compiled ahead of time; it has not run
on a GPU, where waiting and memory order can first be put to the test.
"""

from __future__ import annotations

import triton
import triton.language as tl

from edge_ad.kernels.triton_kernels import _combine, _difference, _topk_mean

COUNTERS = 3  # beside one for each image: tickets, pieces of maps done, images done


@triton.jit
def _map_piece(T, S, MAP, piece, channels, h, w, eps, LAST: tl.constexpr, P: tl.constexpr, C: tl.constexpr):
    """Piece number `piece` of this layer's maps; features dense, channels first or LAST."""
    pixels = h * w
    pieces = tl.cdiv(pixels, P)
    image = (piece // pieces).to(tl.int64)
    p = piece % pieces * P + tl.arange(0, P)
    start = image * channels * pixels
    if LAST:
        value = _difference(T + start, S + start, p, channels, pixels, 1, channels, 1, channels, eps, P, C)
    else:
        value = _difference(T + start, S + start, p, channels, pixels, pixels, 1, pixels, 1, eps, P, C)
    tl.store(MAP + image * pixels + p, value, mask=p < pixels)


@triton.jit
def fused_score_kernel(
    TA, SA, TB, SB, TC, SC, TD, SD, A, B, C, D, SCORES, OUT, COUNTERS,
    batch, height, width, k, eps, ca, cb, cc, cd,
    ha, wa, hb, wb, hc, wc, hd, wd, ya, xa, yb, xb, yc, xc, yd, xd, weight_a, weight_b, weight_c, weight_d,
    LAYERS: tl.constexpr, PRODUCT: tl.constexpr, LAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Scores [batch, height, width] and their Top-K means of up to four layers; A to D are room for their maps."""
    ticket = tl.atomic_add(COUNTERS, 1)
    maps_b = batch * tl.cdiv(ha * wa, BLOCK_P)  # where the pieces of the second layer start
    maps_c = maps_b + (batch * tl.cdiv(hb * wb, BLOCK_P) if LAYERS > 1 else 0)
    maps_d = maps_c + (batch * tl.cdiv(hc * wc, BLOCK_P) if LAYERS > 2 else 0)
    maps = maps_d + (batch * tl.cdiv(hd * wd, BLOCK_P) if LAYERS > 3 else 0)
    if ticket < maps:
        if ticket < maps_b:
            _map_piece(TA, SA, A, ticket, ca, ha, wa, eps, LAST, BLOCK_P, BLOCK_C)
        elif ticket < maps_c:
            _map_piece(TB, SB, B, ticket - maps_b, cb, hb, wb, eps, LAST, BLOCK_P, BLOCK_C)
        elif ticket < maps_d:
            _map_piece(TC, SC, C, ticket - maps_c, cc, hc, wc, eps, LAST, BLOCK_P, BLOCK_C)
        else:
            _map_piece(TD, SD, D, ticket - maps_d, cd, hd, wd, eps, LAST, BLOCK_P, BLOCK_C)
        tl.debug_barrier()  # every thread has stored before one of them counts
        tl.atomic_add(COUNTERS + 1, 1)
    else:
        while tl.atomic_add(COUNTERS + 1, 0) < maps:
            pass
        tl.debug_barrier()
        pieces = tl.cdiv(height * width, BLOCK)
        image = ((ticket - maps) // pieces).to(tl.int64)
        scores = SCORES + image * height * width
        _combine(
            A, B, C, D, scores, image, (ticket - maps) % pieces, height, width,
            ha, wa, hb, wb, hc, wc, hd, wd, ya, xa, yb, xb, yc, xc, yd, xd, weight_a, weight_b, weight_c, weight_d,
            LAYERS, PRODUCT, BLOCK,
        )  # fmt: skip
        tl.debug_barrier()
        if tl.atomic_add(COUNTERS + 3 + image, 1) == pieces - 1:
            tl.debug_barrier()
            tl.store(OUT + image, _topk_mean(scores, height * width, k, BLOCK_K))
            tl.store(COUNTERS + 3 + image, 0)
            if tl.atomic_add(COUNTERS + 2, 1) == batch - 1:  # nobody else is left
                tl.store(COUNTERS, 0)
                tl.store(COUNTERS + 1, 0)
                tl.store(COUNTERS + 2, 0)
