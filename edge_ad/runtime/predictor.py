"""From a picture to a verdict: preprocessing, graph, threshold."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from edge_ad.artifact import Artifact
from edge_ad.data.any_image import frame_of, is_array
from edge_ad.data.images import images_below, preprocess
from edge_ad.errors import BackendError, DataError
from edge_ad.runtime.engines.opening import choose_precision, open_runner
from edge_ad.runtime.engines.runner import Array, Outputs, Runner, log_once
from edge_ad.runtime.overlay import score_scale
from edge_ad.runtime.prediction import Prediction
from edge_ad.runtime.products import ALL, calibration_for

log = logging.getLogger(__name__)
_INHERITED: list[Runner] = []  # of the process that forked; freeing one here would wait for threads that are not


class Predictor:
    """An artifact with a runner. Close it, or use it in a `with` statement.

    One thread uses it at a time. One that `load` made may be pickled and survives a fork: the other process opens the
    graph anew, and refuses files that have changed since.
    """

    def __init__(
        self,
        artifact: Artifact,
        runner: Runner,
        product: str = ALL,
        reopen: Callable[[Artifact], Runner] | None = None,
    ) -> None:
        """product: whose threshold holds, see `edge_ad.runtime.products`. reopen: opens the graph elsewhere."""
        self.artifact = artifact
        self._runner: Runner | None = runner
        self._reopen, self._process = reopen, os.getpid()
        self.preprocessing = artifact.manifest.preprocessing
        calibration: dict[str, Any] = calibration_for(artifact.manifest, product)
        self.threshold: float | None = calibration.get("image_threshold")
        self.pixel_threshold: float | None = calibration.get("pixel_threshold")
        self.scale = None if self.pixel_threshold is None else score_scale(calibration)
        precision = calibration.get("precision", "fp32")
        if self.threshold is not None and not runner.name.endswith(precision):
            log_once(
                f"the threshold was calibrated in {precision} and runs in {runner.name}: calibrate again "
                "with that --precision, its false-alarm rate holds for the scores it was computed from"
            )

    @property
    def runner(self) -> Runner:
        """The runner of this process; BackendError where this predictor can't open one in another process."""
        if self._runner is None or self._process != os.getpid():
            if self._reopen is None:
                raise BackendError(
                    "this predictor was given a runner, which can't go to another process", "use `edge_ad.load` there"
                )
            if self._runner is not None:
                _INHERITED.append(self._runner)
            fresh = Artifact(self.artifact.path, self.artifact.manifest)  # whose files are checked again
            self._runner, self._process = self._reopen(fresh), os.getpid()
        return self._runner

    def prepare(self, frame: npt.NDArray[np.uint8]) -> Array:
        """The frame [H, W, 3] (uint8 RGB, any size) as float32 [3, h, w]. DataError: it is none."""
        how = self.preprocessing
        try:
            image: Array = preprocess(frame, how.image_size, how.mean, how.std)
        except ValueError as error:
            raise DataError(
                str(error), "give uint8 RGB or gray; drop an alpha channel, and scale other depths to 0..255"
            ) from error
        return image

    @overload
    def predict(
        self, picture: list[Any] | tuple[Any, ...] | Iterator[Any], *, bgr: bool = ...
    ) -> Iterator[Prediction]: ...

    @overload
    def predict(self, picture: Any, *, bgr: bool = ...) -> Prediction: ...

    def predict(self, picture: Any, *, bgr: bool = False) -> Prediction | Iterator[Prediction]:
        """The verdict on a picture; of a list, an iterator or a folder, an iterator of verdicts with a progress bar.

        picture: whatever `edge_ad.data.any_image.frame_of` takes: a path, the bytes of an image file, a PIL image, a
        NumPy array [H, W, C] (uint8, uint16 or float in 0..1) or a PyTorch tensor. bgr: arrays hold blue, green, red.
        Raises DataError for a picture that can't be used. In a folder such files are left out and logged.
        """
        if isinstance(picture, (str, os.PathLike)) and os.path.isdir(picture):
            return self._folder(Path(picture))
        if isinstance(picture, (list, tuple, Iterator)) and not is_array(picture):
            return self._each(picture, bgr)
        return self._one(picture, bgr, "the picture")

    def predict_batch(self, frames: Sequence[Any]) -> list[Prediction]:
        """Verdicts on several pictures, in one call of the runner."""
        if not frames:
            return []
        arrays = [frame_of(frame) for frame in frames]
        return self._score(arrays, [_source(frame) for frame in frames])

    def close(self) -> None:
        """Free the runner."""
        if self._runner is not None and self._process == os.getpid():
            self._runner.close()

    def _prediction(self, score: float, pixels: Array, frame: npt.NDArray[np.uint8], source: str = "") -> Prediction:
        anomalous = None if self.threshold is None else bool(score > self.threshold)
        return Prediction(score, pixels, self.threshold, anomalous, frame, source, self.pixel_threshold, self.scale)

    def _one(self, picture: Any, bgr: bool, name: str) -> Prediction:
        return self._score([frame_of(picture, bgr=bgr, name=name)], [_source(picture)])[0]

    def _score(self, frames: list[npt.NDArray[np.uint8]], sources: list[str]) -> list[Prediction]:
        outputs: Outputs = self.runner(np.stack([self.prepare(frame) for frame in frames]))
        scored = zip(outputs.image_score, outputs.pixel_scores, frames, sources, strict=True)
        return [self._prediction(float(score), pixels, frame, source) for score, pixels, frame, source in scored]

    def _each(self, pictures: Iterable[Any], bgr: bool) -> Iterator[Prediction]:
        total = len(pictures) if isinstance(pictures, Sized) else None
        for number, picture in enumerate(_watched(pictures, total)):
            yield self._one(picture, bgr, f"picture {number}")

    def _folder(self, folder: Path) -> Iterator[Prediction]:
        paths = images_below(folder)
        if not paths:
            raise DataError(f"{folder} has no image", "name a folder of JPEG, PNG, BMP, TIFF or WebP files")
        return self._files(folder, paths)

    def _files(self, folder: Path, paths: list[Path]) -> Iterator[Prediction]:
        broken = 0
        for path in _watched(paths, len(paths)):
            try:
                found = self._one(path, False, str(path))
            except DataError as error:
                broken += 1
                log.warning("left out: %s", error)
            else:
                yield found
        if broken:
            log.warning("%d of %d files in %s were left out", broken, len(paths), folder)

    def __getstate__(self) -> dict[str, Any]:
        artifact = Artifact(self.artifact.path.absolute(), self.artifact.manifest)
        return {**self.__dict__, "artifact": artifact, "_runner": None}

    def __repr__(self) -> str:
        name = "not open in this process" if self._runner is None else self._runner.name
        return f"<Predictor {self.artifact.manifest.name}, {name}, threshold {self.threshold}>"

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _source(picture: Any) -> str:
    return os.fsdecode(picture) if isinstance(picture, (str, os.PathLike)) else ""


def _watched(items: Iterable[Any], total: int | None) -> Iterator[Any]:
    """The items, with a bar on a terminal or in a notebook."""
    console = Console(stderr=True)
    shown = console.is_terminal or console.is_jupyter
    yield from track(items, "inspecting", total, console=console, transient=True, disable=not shown)


def load(
    path: Path | str,
    *,
    product: str = "",
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Predictor:
    """The trained detector in the folder `path`, ready for `.predict(picture)`. Needs no torch.

    product: whose threshold holds, for an artifact that was trained on several; "all" for their common one.
    backend, precision, threads: as `edge_ad.runtime.engines.opening.open_runner` takes them.
    """
    artifact = Artifact.open(path)
    calibration_for(artifact.manifest, product)  # refuse an ambiguous product before the graph is loaded
    reopen = partial(open_runner, backend=backend, precision=choose_precision(artifact, precision), threads=threads)
    return Predictor(artifact, reopen(artifact), product, reopen)
