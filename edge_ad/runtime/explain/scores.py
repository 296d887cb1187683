"""From one call of an artifact's graph to an explanation: hottest pixels, and the shares of map, detail and head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ad.artifact import Artifact
from edge_ad.errors import ArtifactError
from edge_ad.runtime.engines.runner import Array, Outputs
from edge_ad.runtime.engines.self_test import read_golden
from edge_ad.runtime.explain.explanation import Explanation, HottestPixels, Shares
from edge_ad.runtime.overlay import Frame
from edge_ad.runtime.prediction import Prediction
from edge_ad.runtime.predictor import Predictor
from edge_ad.runtime.products import calibration_for

WEIGHTS = "weights.safetensors"
SMOOTHING = 4.0  # as edge_ad.model.detector has it, which needs torch; `shares_of` notices when they part
CLOSE = 0.02  # how far, of the score, a sum may lie from it: half precision and INT8 round


def explain_frame(predictor: Predictor, frame: Frame, source: str, product: str = "") -> Explanation:
    """Why the predictor gives this frame [H, W, 3] its score, without the nearest normal patch.

    product: whose good parts the score is held against, as `edge_ad.load` takes it.
    """
    artifact = predictor.artifact
    outputs = predictor.runner(predictor.prepare(frame)[None])
    score, pixels = float(outputs.image_score[0]), outputs.pixel_scores[0]
    anomalous = None if predictor.threshold is None else score > predictor.threshold
    found = Prediction(
        score, pixels, predictor.threshold, anomalous, frame, source, predictor.pixel_threshold, predictor.scale
    )
    x, y, peak = hottest_pixel(pixels, frame)
    calibration = calibration_for(artifact.manifest, product)
    hottest, unlike = hottest_pixels(pixels, score, artifact.config.model.top_k, found.pixel_threshold)
    shares, unknown = shares_of(artifact, outputs)
    return Explanation(
        source=source, frame=frame, decision=found.decision, score=score, limit=found.threshold,
        pixel_limit=found.pixel_threshold, x=x, y=y, peak=peak, boxes=found.boxes, **good_parts(calibration),
        hottest=hottest, shares=shares, example=example_of(artifact), pixel_scores=pixels, scale=found.scale,
        left_out=tuple(reason for reason in (unlike, unknown) if reason),
    )  # fmt: skip


def hottest_pixel(pixel_scores: Array, frame: Frame) -> tuple[int, int, float]:
    """(x, y) of the largest of the scores [h, w], in pixels of the frame that they cover, and its score."""
    row, column = np.unravel_index(int(np.nanargmax(pixel_scores)), pixel_scores.shape)
    scale_y, scale_x = frame.shape[0] / pixel_scores.shape[0], frame.shape[1] / pixel_scores.shape[1]
    return int((column + 0.5) * scale_x), int((row + 0.5) * scale_y), float(pixel_scores[row, column])


def hottest_pixels(
    pixel_scores: Array, score: float, top_k: int, pixel_limit: float | None
) -> tuple[HottestPixels | None, str]:
    """What the K hottest pixels say, and "", or None and why they can't explain the score."""
    values = pixel_scores[np.isfinite(pixel_scores)]
    top_k = min(top_k, values.size)
    top = np.partition(values, -top_k)[-top_k:] if top_k else values
    if not top_k or abs(float(top.mean(dtype=np.float64)) - score) > CLOSE * max(1.0, abs(score)):
        return None, (
            f"Hottest pixels: this score is not the mean of the {top_k} hottest pixels of the kept map (the line "
            "judged in tiles or regions, or by votes)."
        )
    over = in_score = None
    if pixel_limit is not None:
        over, in_score = int((values > pixel_limit).sum()), int((top > pixel_limit).sum())
    return HottestPixels(top_k, values.size, over, in_score, float(top.min())), ""


def good_parts(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an Explanation that a calibration knows: scores of good parts, and how many those were."""
    return {
        "good_scores": tuple(calibration.get("score_quantiles") or ()),
        "normals": int(calibration.get("normals") or 0),
    }


def example_of(artifact: Artifact) -> Frame | None:
    """A good part's picture [H, W, 3], as the graph takes it, from the artifact's self-test; None without one."""
    golden = read_golden(artifact)
    return None if golden is None or not len(golden.frames) else golden.frames[0]


def shares_of(artifact: Artifact, outputs: Outputs) -> tuple[Shares | None, str]:
    """The shares of map, detail and head in a picture's score, and "", or None and why they can't be told.

    outputs: of one picture. The graph adds map, detail and head up by their weights before it takes the mean of the K
    hottest pixels. Here the map's and the head's parts are computed anew, from their size in features; of the detail
    the graph gives no map, so its part is the rest.
    """
    model, pixels = artifact.config.model, outputs.pixel_scores[0]
    top = np.argpartition(pixels, -model.top_k, axis=None)[-model.top_k :]
    peak = int(pixels.argmax())

    def at(part: Array) -> tuple[float, float]:
        return float(part.ravel()[top].mean()), float(part.ravel()[peak])

    if not model.head and not model.detail:
        return Shares(*at(pixels)), ""
    try:
        ranges = read_tensor(artifact.file(WEIGHTS), "normal_range")
    except ArtifactError as error:
        return None, f"Map and head: {error.message}."

    def part(weight: float, coarse: Array, middle: float, spread: float) -> Array:
        return np.asarray(weight * (_smoothed(coarse[0], pixels.shape) - middle) / spread, np.float32)

    of_head = model.head_weight if model.head else 0.0
    of_detail = model.detail_weight * (1 - of_head) if model.detail else 0.0
    maps = part(1 - of_head - of_detail, outputs.anomaly_map, *ranges[0])
    heads = part(of_head, outputs.head_logits, *ranges[1]) if model.head else None
    rest = pixels - maps if heads is None else pixels - maps - heads
    if of_detail:
        distances = rest / of_detail * ranges[2, 1] + ranges[2, 0]  # cosine distances, if all is right
        off = float(np.maximum(-distances, distances - 2).max() / ranges[2, 1] * of_detail)
    else:
        off = float(np.abs(rest).max())
    if off > CLOSE * max(1.0, float(np.abs(pixels).max())):
        return None, f"Map and head: this graph weighs them in another way (their sum is {off:.2g} off)."
    none = (None, None)
    return Shares(*at(maps), *(none if heads is None else at(heads)), *(at(rest) if of_detail else none)), ""


def read_tensor(path: Path, name: str) -> npt.NDArray[np.float32]:
    """One float32 tensor of a safetensors file, without that package, which a device need not have.

    Raises ArtifactError where the file is damaged or has no such tensor.
    """
    try:
        with path.open("rb") as source:
            length = int.from_bytes(source.read(8), "little")
            entry = json.loads(source.read(length))[name]
            begin, end = entry["data_offsets"]
            source.seek(8 + length + begin)
            data = np.frombuffer(source.read(end - begin), "<f4")
        if entry["dtype"] != "F32":
            raise ValueError(f"{name} is {entry['dtype']}")
        return data.reshape(entry["shape"])
    except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
        raise ArtifactError(f"{path} has no readable '{name}': {error}", "restore it or train again") from error


def _smoothed(coarse: Array, size: tuple[int, ...]) -> Array:
    """The map [h, w] at `size`, bilinear and smoothed, as the graph has it."""
    rows, columns = (_upsampling(side, target) for side, target in zip(coarse.shape, size, strict=True))
    return np.asarray(rows @ coarse @ columns.T, np.float32)


def _upsampling(side: int, target: int) -> npt.NDArray[np.float64]:
    """Matrix [target, side] of one axis: bilinear (half-pixel centres), then Gaussian, with repeated ends."""
    at = (np.arange(target) + 0.5) * side / target - 0.5
    bilinear = np.array([np.interp(at, np.arange(side), row) for row in np.eye(side)]).T
    radius = int(4 * SMOOTHING + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / SMOOTHING) ** 2)
    padded = np.pad(bilinear, ((radius, radius), (0, 0)), mode="edge")
    return np.array([(kernel / kernel.sum()) @ padded[i : i + len(kernel)] for i in range(target)])
