"""Two runners on the same images: how far apart are their outputs, and do they rank the images alike?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ad.artifact import Artifact
from edge_ad.runtime.engines.opening import open_runner
from edge_ad.runtime.engines.runner import OUTPUTS, Array, Outputs, Runner

QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)


@dataclass(frozen=True)
class Comparison:
    """What differs between two runners.

    errors: output name -> absolute differences at QUANTILES. rank_correlation: Spearman's, of image scores (nan
    with fewer than 3 images). pixel_correlation: Pearson's, of pixel scores. pixel_error: root mean square
    difference of pixel scores, in standard deviations of the first runner's.
    """

    first: str
    second: str
    images: int
    errors: dict[str, tuple[float, ...]]
    rank_correlation: float
    pixel_correlation: float
    pixel_error: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON: nan becomes None."""
        numbers = {
            key: None if np.isnan(value) else round(value, 6)
            for key, value in (
                ("rank_correlation", self.rank_correlation),
                ("pixel_correlation", self.pixel_correlation),
                ("pixel_error", self.pixel_error),
            )
        }
        errors = {name: dict(zip(map(str, QUANTILES), own, strict=True)) for name, own in self.errors.items()}
        return {"first": self.first, "second": self.second, "images": self.images, **numbers, "errors": errors}


class CachingRunner:
    """A runner that keeps the outputs of some images: many candidates are compared with one reference.

    images: [3, H, W] each, looked up when they come one at a time as [1, 3, H, W].
    """

    def __init__(self, runner: Runner, images: Iterable[Array]) -> None:
        self.name, self.image_size, self._runner = runner.name, runner.image_size, runner
        self._known: dict[int, Outputs | None] = {_address(image): None for image in images}
        self._images = images  # an address means something only while the array lives

    def __call__(self, images: Array) -> Outputs:
        key = _address(images[0]) if len(images) == 1 else -1
        found = self._known.get(key)
        if found is None:
            found = self._runner(images)
            if key in self._known:
                self._known[key] = found
        return found

    def close(self) -> None:
        self._known.clear()
        self._runner.close()


def open_any_runner(
    artifact: Artifact, backend: str, precision: str = "auto", threads: int | None = None, device: str | None = "cpu"
) -> Runner:
    """The runner of an engine, or with the backend `torch` of the trained weights in PyTorch on `device`."""
    if backend == "torch":
        from edge_ad.export.torch_runner import TorchRunner  # noqa: PLC0415  (PyTorch)

        return TorchRunner(artifact, threads, device)
    return open_runner(artifact, backend, precision, threads)


def _address(image: Array) -> int:
    return int(image.__array_interface__["data"][0])


def compare(first: Runner, second: Runner, batches: Iterable[Array]) -> Comparison:
    """Run both on each batch [B, 3, H, W]. Memory grows with the batches' outputs, one value in 4 of the maps."""
    differences: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in OUTPUTS}
    scores: list[tuple[Array, Array]] = []
    pixels: list[tuple[Array, Array]] = []
    for images in batches:
        ours, theirs = first(images), second(images)
        for name in OUTPUTS:
            a, b = getattr(ours, name), getattr(theirs, name)
            differences[name].append(np.abs(a - b).ravel())
        scores.append((ours.image_score, theirs.image_score))
        pixels.append((ours.pixel_scores[:, ::2, ::2].ravel(), theirs.pixel_scores[:, ::2, ::2].ravel()))
    if not scores:
        raise ValueError("no images to compare on")
    image_a, image_b = (np.concatenate(part).astype(np.float64) for part in zip(*scores, strict=True))
    pixel_a, pixel_b = (np.concatenate(part).astype(np.float64) for part in zip(*pixels, strict=True))
    errors = {
        name: tuple(float(value) for value in np.quantile(np.concatenate(parts), QUANTILES))
        for name, parts in differences.items()
    }
    spread = max(float(pixel_a.std()), 1e-12)
    return Comparison(
        first.name,
        second.name,
        len(image_a),
        errors,
        pearson(ranks(image_a), ranks(image_b)) if len(image_a) > 2 else float("nan"),
        pearson(pixel_a, pixel_b),
        float(np.sqrt(np.square(pixel_a - pixel_b).mean())) / spread,
    )


def ranks(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse.ravel()], np.float64)


def pearson(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """Pearson's correlation; 1 when both are constant, 0 when only one is."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    if size == 0:
        return float(not a.any() and not b.any())
    return float((a * b).sum() / size)
