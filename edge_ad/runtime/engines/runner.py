"""Run a graph: one `Runner` interface for all engines, with what they share."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edge_ad.errors import BackendError

Array = npt.NDArray[np.float32]
Precision = Literal["fp32", "fp16", "int8"]

GRAPHS: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
OUTPUTS = ("image_score", "pixel_scores", "anomaly_map", "head_logits")

log = logging.getLogger(__name__)
_said: set[str] = set()


class Outputs(NamedTuple):
    """image_score [B], pixel_scores [B, H, W], anomaly_map [B, h, w], head_logits [B, h', w']; all float32."""

    image_score: Array
    pixel_scores: Array
    anomaly_map: Array
    head_logits: Array


class Runner(Protocol):
    """A loaded graph. One thread uses it at a time; `close` frees the device and may be called twice.

    name: engine, device and precision, as `onnxruntime-cpu fp32`. image_size: (H, W) in pixels.
    """

    name: str
    image_size: tuple[int, int]

    def __call__(self, images: Array) -> Outputs:
        """Scores of float32 images [B, 3, H, W], preprocessed as the artifact's manifest says.

        Raises BackendError when the engine fails or a score comes out as NaN or infinity.
        """
        ...

    def close(self) -> None:
        """Free the engine and its memory."""
        ...


class GraphRunner:
    """A Runner around one call of an engine: checked images in, in batches that it takes, checked outputs out.

    infer: arrays in the order of OUTPUTS for float32 images [B, 3, H, W]. batch: the only B it takes, None for any.
    """

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int],
        batch: int | None,
        infer: Callable[[Array], Sequence[npt.ArrayLike]],
    ) -> None:
        self.name, self.image_size, self._batch = name, image_size, batch
        self._infer: Callable[[Array], Sequence[npt.ArrayLike]] | None = infer

    def __call__(self, images: Array) -> Outputs:
        return check_outputs(run_in_batches(check_images(images, self.image_size), self._batch, self._run), self.name)

    def close(self) -> None:
        self._infer = None

    def _run(self, images: Array) -> Outputs:
        if self._infer is None:
            raise BackendError(f"{self.name} was closed", "open a new runner")
        try:
            arrays = self._infer(images)
        except Exception as error:  # the engines' exceptions share no base class
            raise BackendError(f"{self.name} failed: {first_line(error)}", "see `edgead doctor`") from error
        return Outputs(*(np.array(array, np.float32) for array in arrays))  # copies: engines reuse their buffers


def first_line(error: Exception) -> str:
    """The first line of an engine's message, or the error's kind."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def default_threads(threads: int | None) -> int:
    """CPU threads to use: as asked, else one for every CPU that this process may run on."""
    if threads is not None:
        if threads < 1:
            raise BackendError(f"threads is {threads}", "use 1 or more")
        return threads
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def log_once(message: str, level: int = logging.INFO) -> None:
    """Log it, the first time only."""
    if message not in _said:
        _said.add(message)
        log.log(level, message)


def check_images(images: Array, image_size: tuple[int, int]) -> Array:
    """C-contiguous float32 images; ValueError when the shape is not [B, 3, H, W] of the graph's size."""
    images = np.ascontiguousarray(images, np.float32)
    if images.ndim != 4 or images.shape[1:] != (3, *image_size) or not len(images):
        height, width = image_size
        raise ValueError(f"images have shape {images.shape}, the graph takes [B, 3, {height}, {width}], B >= 1")
    return images


def check_outputs(outputs: Outputs, name: str) -> Outputs:
    """The same outputs; BackendError when an image score is NaN or infinite: such a verdict means nothing."""
    if not np.isfinite(outputs.image_score).all():
        raise BackendError(
            f"{name} returned an image score of {outputs.image_score.tolist()}",
            "use precision fp32, and run `edgead export` again to see which layers overflow",
        )
    return outputs


def run_in_batches(images: Array, batch: int | None, run: Callable[[Array], Outputs]) -> Outputs:
    """Run images through a graph of a fixed batch size: in chunks, the last one filled up by repeating its end."""
    if batch is None or len(images) == batch:
        return run(images)
    parts = [run(chunk) for chunk in _chunks(images, batch)]
    joined = [np.concatenate(arrays)[: len(images)] for arrays in zip(*parts, strict=True)]
    return Outputs(*joined)


def _chunks(images: Array, batch: int) -> Iterator[Array]:
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        missing = batch - len(chunk)
        yield np.concatenate([chunk, np.repeat(chunk[-1:], missing, 0)]) if missing else chunk
