"""The patch of a good part's photo that is nearest to a given one, in the teacher's features. Needs torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from edge_ad.artifact import Artifact
from edge_ad.data.images import Frame, preprocess, read_image
from edge_ad.errors import DataError
from edge_ad.model.detector import Detector
from edge_ad.runtime.explain.explanation import LayerDistance, NearestNormal

SCALES = (1, 3)  # patches on a side: the patch alone, and with its neighbours
WITNESSES = 8  # good patches, those most like the one in question, that say what is usual


class _Match(NamedTuple):
    """token: the nearest one's number in the bank. distance, usual: per group [G]."""

    token: int
    distance: torch.Tensor
    usual: torch.Tensor


def nearest_normal(
    artifact: Artifact,
    frame: Frame,
    at: tuple[int, int],
    photos: Sequence[Path],
    known: int,
    advance: Callable[[], None] = lambda: None,
) -> NearestNormal:
    """The nearest patch to the one at (x, y), in pixels of the frame [H, W, 3], in these photos of good parts.

    known: how many photos there are, of which `photos` were chosen. advance: called after each photo. Distances are
    1 - cosine of the teacher's features, each group of blocks for itself and their mean. Usual is the median, over
    the good patches that are most like the one in question, of their distance to the nearest patch in another photo.
    Raises DataError with fewer than two photos, or for one that can't be read.
    """
    if len(photos) < 2:
        raise DataError(f"{len(photos)} photos of good parts to compare with", "give two or more")
    detector = Detector.from_artifact(artifact)
    features = _features(detector, frame)
    row, column = (
        min(position * side // size, side - 1)
        for position, side, size in zip(at[::-1], detector.teacher.grid, frame.shape[:2], strict=True)
    )
    banks: list[list[torch.Tensor]] = [[] for _ in SCALES]
    for path in photos:
        good = _features(detector, read_image(path))
        for bank, scale in zip(banks, SCALES, strict=True):
            bank.append(_tokens(good, scale))
        advance()
    index = row * features.shape[-1] + column
    matches = [
        _match(_tokens(features, scale)[index], torch.stack(bank)) for scale, bank in zip(SCALES, banks, strict=True)
    ]
    maps = _difference(detector, features)
    difference = None if maps is None else maps[:, row, column]
    photo, token = divmod(matches[0].token, features.shape[-1] * features.shape[-2])
    shown = read_image(photos[photo])
    y, x = (
        int((place + 0.5) * size / side)
        for place, size, side in zip(
            divmod(token, features.shape[-1]), shown.shape[:2], features.shape[-2:], strict=True
        )
    )
    return NearestNormal(
        photos[photo].name, shown, x, y, (features.shape[-2], features.shape[-1]), len(photos), known,
        float(matches[0].distance.mean()), float(matches[0].usual.mean()),
        _layers(detector, matches, difference),
    )  # fmt: skip


@torch.inference_mode()
def _features(detector: Detector, frame: Frame) -> torch.Tensor:
    """The teacher's [1, G, C, h, w]."""
    config = detector.config
    image = preprocess(frame, detector.image_size, config.mean, config.std)
    return detector.teacher(torch.from_numpy(image)[None])


@torch.inference_mode()
def _difference(detector: Detector, features: torch.Tensor) -> torch.Tensor | None:
    """The detector's own difference maps [G, h, w]; None where its student needs the picture itself."""
    if detector.student.encoder is not None:
        return None
    maps: torch.Tensor = detector.compare(None, features)[1][0]
    return maps


def _tokens(features: torch.Tensor, scale: int) -> torch.Tensor:
    """Tokens [N, G, C] of features [1, G, C, h, w], each the unit-length mean of `scale` x `scale` unit tokens."""
    unit = F.normalize(features[0], dim=1)
    if scale > 1:
        unit = F.normalize(F.avg_pool2d(unit, scale, 1, scale // 2, count_include_pad=False), dim=1)
    return unit.flatten(2).permute(2, 0, 1)


def _match(token: torch.Tensor, bank: torch.Tensor) -> _Match:
    """The nearest of the bank's tokens [P, N, G, C] to the token [G, C]."""
    count = bank.shape[1]
    flat = bank.flatten(0, 1)
    alike = flat.flatten(1) @ token.flatten()
    index = int(alike.argmax())
    usual = []
    for witness in alike.topk(min(WITNESSES, len(alike))).indices.tolist():
        likeness = flat.flatten(1) @ flat[witness].flatten()
        own = witness // count * count
        likeness[own : own + count] = -torch.inf
        usual.append(1 - (flat[int(likeness.argmax())] * flat[witness]).sum(1))
    return _Match(index, 1 - (flat[index] * token).sum(1), torch.stack(usual).median(0).values)


def _layers(
    detector: Detector, matches: Sequence[_Match], difference: torch.Tensor | None
) -> tuple[LayerDistance, ...]:
    """A row for every scale and group of blocks."""
    taps, groups = detector.teacher.taps, detector.teacher.groups
    size = len(taps) // groups
    blocks = [(taps[group * size], taps[(group + 1) * size - 1]) for group in range(groups)]
    return tuple(
        LayerDistance(
            blocks[group], scale, float(match.distance[group]), float(match.usual[group]),
            float(difference[group]) if difference is not None and scale == 1 else None,
        )
        for scale, match in zip(SCALES, matches, strict=True)
        for group in range(groups)
    )  # fmt: skip
