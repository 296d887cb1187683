"""An explanation in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_ad.runtime.explain.explanation import Explanation, LayerDistance, NearestNormal

USUAL = 1.25  # a patch that is at most so many times as far as usual is nothing special
_DECISIONS = {"OK": "passes", "NG": "is rejected", "UNSURE": "is left undecided", "ERROR": "could not be judged"}


def sentences(explanation: Explanation) -> list[str]:
    """What the explanation knows, a sentence or two a line; what was left out comes last."""
    one = explanation
    lines = [f"{Path(one.source).name or 'The part'} {_DECISIONS[one.decision]}: {_against_limit(one)}."]
    if one.good_scores:
        lines.append(_good_parts(one))
    lines += [*_hottest(one), *_where(one), *_shares(one)]
    if one.nearest:
        lines += nearest_sentences(one.nearest)
    return [*lines, *(f"Not told. {reason}" for reason in one.left_out)]


def _against_limit(one: Explanation) -> str:
    if one.score is None:
        return "it has no score"
    if one.limit is None:
        return f"its score is {one.score:.2f}, and there is no limit yet (`edgead calibrate` sets one)"
    return f"its score is {one.score:.2f}, the limit is {one.limit:.2f}"


def _good_parts(one: Explanation) -> str:
    below = sum(score < (one.score or 0.0) for score in one.good_scores) / len(one.good_scores)
    count = f"the {one.normals} good parts" if one.normals else "the good parts"
    highest = f"the highest had {one.good_scores[-1]:.2f}"
    if one.score is not None and below == 1:
        return f"None of {count} behind the limit scored as high: {highest}."
    return f"Of {count} behind the limit about {100 * below:.0f} % scored lower; {highest}."


def _hottest(one: Explanation) -> list[str]:
    top = one.hottest
    if top is None:
        return []
    line = f"The score is the mean of the {top.top_k} hottest of {top.pixels:,} map pixels"
    if top.over is None or top.in_score is None:
        return [f"{line}."]
    if not top.over:
        return [f"{line}; no pixel is over the limit of a defect's pixel, {one.pixel_limit:.2f}."]
    part = f"all {top.top_k}" if top.in_score == top.top_k else f"{top.in_score}"
    return [
        f"{line}: {part} of them are over the limit of a defect's pixel, {one.pixel_limit:.2f}.",
        f"Over that limit are {top.over:,} pixels in all, {100 * top.over / top.pixels:.2g} % of the picture"
        + (f", in {len(one.boxes)} place{'s' * (len(one.boxes) != 1)}." if one.boxes else "."),
    ]


def _where(one: Explanation) -> list[str]:
    if one.x is None or one.y is None or one.peak is None:
        return []
    return [f"It is hottest at x {one.x}, y {one.y} ({one.peak:.2f}), {_place(one)}."]


def _place(one: Explanation) -> str:
    height, width = one.frame.shape[:2]
    row = ("top", "middle", "bottom")[min(3 * (one.y or 0) // height, 2)]
    column = ("left", "centre", "right")[min(3 * (one.x or 0) // width, 2)]
    return "in the centre" if (row, column) == ("middle", "centre") else f"{row} {column}"


def _shares(one: Explanation) -> list[str]:
    if one.shares is None:
        return []
    if one.shares.head is None and one.shares.detail is None:
        return ["All of it comes from comparing patches with good parts; this detector has no head."]
    parts = [
        f"{one.shares.map:.2f} of the score comes from the map (how far each patch is from what a good part shows)"
    ]
    if one.shares.detail is not None:
        parts.append(f"{one.shares.detail:.2f} from the detail (fine structure unlike that of all good parts)")
    if one.shares.head is not None:
        parts.append(f"{one.shares.head:.2f} from the head (what looks like the defects it was trained on)")
    return [", ".join(parts) + "."]


def nearest_sentences(nearest: NearestNormal) -> list[str]:
    """What the nearest normal patch says: how far it is, and which blocks and scale see the difference most."""
    of = f"{nearest.photos}" if nearest.photos == nearest.known else f"{nearest.photos} of {nearest.known}"
    lines = [
        f"In {of} photos of good parts the patch most like it is in {nearest.name} at x {nearest.x}, y {nearest.y}. "
        f"It differs by {nearest.distance:.2f}; good patches like that differ by {nearest.usual:.2f}: "
        f"{_times(nearest.times)}."
    ]
    if nearest.layers:
        most = max(nearest.layers, key=lambda layer: layer.times)
        lines.append(f"It stands out most in {_layer(most, nearest.layers)}: {_times(most.times)}.")
    return lines


def _times(times: float) -> str:
    return "no more than usual" if times < USUAL else f"{times:.1f} times the usual"


def _layer(layer: LayerDistance, layers: Sequence[LayerDistance]) -> str:
    """`blocks 2 to 4 (texture and edges), looking at the patch alone`."""
    first, last = layer.blocks
    blocks = f"block {first}" if first == last else f"blocks {first} to {last}"
    lowest, highest = min(one.blocks for one in layers), max(one.blocks for one in layers)
    if lowest != highest and layer.blocks in (lowest, highest):
        blocks += " (texture and edges)" if layer.blocks == lowest else " (shape and place)"
    alone = f"at it with its neighbours ({layer.scale} x {layer.scale} patches)"
    return f"{blocks}, looking {'at the patch alone' if layer.scale == 1 else alone}"
