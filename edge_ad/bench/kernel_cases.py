"""What `edgead bench kernels` runs: operations, shapes, inputs, every backend's call, and the check of its result."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from edge_ad import kernels
from edge_ad.errors import BackendError

SIZE, K = (256, 256), 100
LARGE = 200_000_000  # bytes of inputs of two bytes a number: four times the largest GPU cache
CHECKED = 8  # items of a large batch: the definition in float64 would take minutes for all
THRESHOLD = 0.6  # of find_defects: the inputs have some twenty regions above it
INPUT, MEAN, STD = (392, 392), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FEATURES = ("cosine_map", "cosine_map_last", "head_input", "fused_score")  # operations on pairs of features
TOLERANCE = {"preprocess": 1.01 / 255 / min(STD)}  # torch's own resize may differ by one level of 255
Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One operation: on features [B,C,h,w] of every layer, on maps [B,256,256] or on one frame [H,W,3]."""

    operation: str
    batch: int = 1
    layers: tuple[tuple[int, int], ...] = ()  # channels, side
    frame: tuple[int, int] = (0, 0)

    @property
    def large(self) -> bool:
        """Whether its inputs exceed any GPU's cache in whatever type: only then is memory what is measured."""
        numbers = sum(2 * channels * side * side for channels, side in self.layers) or SIZE[0] * SIZE[1]
        return not self.frame[0] and 2 * self.batch * numbers >= LARGE

    @property
    def checked(self) -> int:
        """How many items of the batch are held against the definition."""
        return min(self.batch, CHECKED) if self.large else self.batch

    @property
    def shape(self) -> str:
        if self.frame[0]:
            return f"{self.frame[0]}x{self.frame[1]} to {INPUT[0]}x{INPUT[1]}"
        if not self.layers:
            return f"B{self.batch} {SIZE[0]}x{SIZE[1]}"
        return f"B{self.batch} " + "+".join(f"{c}x{side}x{side}" for c, side in self.layers)


def cases(*, quick: bool) -> list[Case]:
    """Realistic shapes: three taps of a small ViT or a pyramid of a CNN, one image or many."""
    if quick:
        small = [Case("cosine_map", 1, ((192, 16),)), Case("fused_score", 1, ((192, 16),) * 3), Case("topk_mean")]
        return [*small, Case("preprocess", frame=(480, 640)), Case("find_defects")]
    same = [((192, 16),) * 3, ((384, 16),) * 3, ((192, 64),) * 3, ((384, 28),) * 3, ((768, 32),) * 3]
    pyramid = ((192, 64), (384, 32), (768, 16))
    result = [Case("fused_score", batch, layers) for batch in (1, 8) for layers in [*same, pyramid]]
    result += [Case("fused_score", 32, layers) for layers in (((384, 16),) * 3, ((384, 28),) * 3)]
    for operation in FEATURES[:3]:
        shapes = ((192, 16), (384, 28), (192, 64), (768, 32))
        result += [Case(operation, batch, (layer,)) for batch in (1, 8) for layer in shapes]
        result.append(Case(operation, 32, ((384, 28),)))
        result.append(Case(operation, 256, ((384, 28),)))
    result += [Case("fused_score", 128, ((384, 28),) * 3), Case("topk_mean", 2048)]
    result += [Case("topk_mean", batch) for batch in (1, 8, 32)]
    result += [Case("preprocess", frame=frame) for frame in ((480, 640), (1080, 1920), (2048, 2448))]
    return [*result, Case("find_defects")]


def runs_on(case: Case, device: str) -> bool:
    """Whether the case is timed on this device: frames and regions exist in NumPy alone, so not on a GPU, and what no
    cache holds is for GPUs."""
    return not case.large if device == "cpu" else case.operation not in ("preprocess", "find_defects")


def inputs(case: Case, device: str, dtype: str) -> list[torch.Tensor]:
    """Teacher and student features of every layer, or the maps, or the frame; with a fixed seed.

    Features are those of a good detector: the student is near the teacher.
    """
    make = torch.Generator().manual_seed(0)
    if case.frame[0]:
        return [torch.randint(0, 256, (*case.frame, 3), generator=make, dtype=torch.uint8)]
    if case.operation == "find_defects":
        coarse = torch.rand(1, 1, 24, 24, generator=make) ** 2
        return [F.interpolate(coarse, SIZE, mode="bicubic")[0, 0]]
    made = []
    for channels, side in case.layers or ((1, SIZE[0]),):
        shape = (case.batch, channels, side, side)
        if case.operation == "cosine_map_last":
            shape = (case.batch, side, side, channels)
        teacher = torch.randn(shape, generator=make)
        made.append(teacher.to(device, getattr(torch, dtype)))
        if case.layers:
            student = teacher + 0.5 * torch.randn(shape, generator=make)
            made.append(student.to(device, getattr(torch, dtype)))
    return made


def backends(case: Case, given: list[torch.Tensor], device: str) -> dict[str, Call]:
    """By backend's name, a call of the case on the same inputs; edge_ad.kernels first."""
    calls: dict[str, Call] = {}
    if device == "cuda":
        calls["triton"] = functools.partial(ours, case, given)
    else:
        arrays = [tensor.numpy() for tensor in given]
        available = kernels.available_backends()
        calls = {b: functools.partial(ours, case, arrays) for b in ("cpp", "numpy") if not available[b]}
        if case.operation == "find_defects":  # torch has nothing of the kind
            return calls | {"opencv": functools.partial(opencv_defects, arrays[0])}
    torch.compiler.reset()  # after eight shapes of one function torch.compile would run it as it is, silently
    mode = "max-autotune-no-cudagraphs" if device == "cuda" else None
    compiled = torch.compile(eager, dynamic=False, mode=mode)
    return calls | {
        "eager": functools.partial(eager, case.operation, given),
        "compile": functools.partial(compiled, case.operation, given),
    }


def ours(case: Case, given: list[Any]) -> Any:
    """The operation as edge_ad.kernels does it, on tensors or arrays."""
    match case.operation:
        case "cosine_map":
            return kernels.cosine_map(*given)
        case "cosine_map_last":
            return kernels.cosine_map(*given, channels_last=True)
        case "head_input":
            return kernels.head_input(*given)
        case "topk_mean":
            return kernels.topk_mean(given[0], K)
        case "preprocess":
            return kernels.preprocess(given[0], INPUT, MEAN, STD)
        case "find_defects":
            return kernels.find_defects(given[0], THRESHOLD)
        case _:
            return kernels.fused_score(given[0::2], given[1::2], size=SIZE, k=K)


def eager(operation: str, given: list[torch.Tensor]) -> Any:
    """The operation as one writes it in torch: three sums for the cosine, which torch runs faster than its own
    cosine_similarity, then interpolate and topk; its antialiased resize of bytes for frames."""
    if operation == "topk_mean":
        return given[0].float().flatten(1).topk(K, 1).values.mean(1)
    if operation == "preprocess":
        small = F.interpolate(given[0].permute(2, 0, 1)[None], INPUT, mode="bilinear", antialias=True)[0]
        mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (MEAN, STD))
        return (small.float() / 255 - mean) / std
    dim = -1 if operation == "cosine_map_last" else 1
    pairs = [(t.float(), s.float()) for t, s in zip(given[0::2], given[1::2], strict=True)]
    if operation == "head_input":
        t, s = pairs[0]
        lengths = (t * t).sum(dim, keepdim=True) * (s * s).sum(dim, keepdim=True)
        return t * s * (t.shape[dim] / lengths.clamp_min(1e-12).sqrt())
    maps = [1 - (t * s).sum(dim) / ((t * t).sum(dim) * (s * s).sum(dim)).clamp_min(1e-12).sqrt() for t, s in pairs]
    if operation != "fused_score":
        return maps[0]
    total = torch.zeros(())
    for index, one in enumerate(maps):
        large = F.interpolate(one[:, None], SIZE, mode="bilinear", align_corners=False)[:, 0]
        total = large if index == 0 else total + large
    pixel_scores = total / len(maps)
    return pixel_scores, pixel_scores.flatten(1).topk(K, 1).values.mean(1)


def opencv_defects(scores: np.ndarray[Any, Any]) -> list[kernels.Defect]:
    """find_defects as one writes it with OpenCV's labels."""
    above = (scores > THRESHOLD).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    peaks = np.full(count, -np.inf, np.float32)
    np.maximum.at(peaks, labels.ravel(), scores.ravel())
    boxes = (tuple(map(int, stats[i, :4])) for i in range(1, count))
    found = [
        kernels.Defect(box, int(stats[i, 4]), float(peaks[i]))  # type: ignore[arg-type]
        for i, box in enumerate(boxes, 1)
    ]
    return sorted(found, key=lambda d: (-d.peak, d.box[1], d.box[0], -d.area))


def check(name: str, case: Case, result: Any, exact: list[np.ndarray[Any, Any]]) -> None:
    """Raise BackendError unless the result is the definition's, to float32's rounding over a sum of channels."""
    for given, expected in zip(to_arrays(result), exact, strict=True):
        worst = float(np.max(np.abs(given - expected), initial=0.0)) if given.shape == expected.shape else np.inf
        scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
        if not worst <= TOLERANCE.get(case.operation, 1e-5 * scale):
            raise BackendError(
                f"{name} is wrong: {case.operation} {case.shape} is off by {worst:.2g}",
                hint="run the kernels' tests; nothing of this case was timed",
            )


def to_arrays(result: Any) -> list[np.ndarray[Any, Any]]:
    """Arrays of a result, whatever the backend."""
    if isinstance(result, list) and not all(isinstance(part, np.ndarray) for part in result):  # regions
        return [np.array([[*d.box, d.area, d.peak] for d in result], np.float64)]
    parts = result if isinstance(result, list | tuple) else (result,)
    return [p.detach().cpu().numpy() if isinstance(p, torch.Tensor) else p for p in parts]


def bytes_moved(case: Case, given: list[torch.Tensor], exact: list[np.ndarray[Any, Any]]) -> int:
    """Bytes that must be read and written: inputs, and results in float32. exact: of the items that are checked."""
    written = sum(4 * result.size for result in exact) * case.batch // case.checked
    return sum(x.numel() * x.element_size() for x in given) + written
