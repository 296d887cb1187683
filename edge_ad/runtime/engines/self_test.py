"""The self-test of an opened graph: reference pictures in the artifact, and the scores that it must give them.

The artifact carries a few pictures with what each of its graphs scored them where it was exported. Whoever opens a
graph to judge parts runs them first: an engine, a driver or a processor that computes something else is found before
a part is judged, not by the parts that it lets through.
"""

from __future__ import annotations

import io
import math
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_ad.artifact import Artifact
from edge_ad.data.images import preprocess
from edge_ad.errors import ArtifactError, BackendError
from edge_ad.runtime.engines.runner import Array, Outputs, Precision, Runner

GOLDEN = "golden.npz"
CELLS = 32  # kept scores of a picture: pixel_scores averaged down to at most CELLS x CELLS
# The least tolerance: what engines that are right differ by, with room for processors that nobody measured on.
# ONNX Runtime against OpenVINO on a trained detector of bottles: FP32 0.000002, FP16 0.0005, INT8 0.014.
# Weights of 8 bits where INT8 sums saturate: 0.16.
FLOORS: dict[Precision, float] = {"fp32": 0.005, "fp16": 0.02, "int8": 0.05}
BF16_ALLOWANCE = 0.1  # on top where what is float is computed in bfloat16, as asked for
WIDEST = 0.3  # no export may allow more: from here on verdicts change


class SelfTestFailed(BackendError):
    """A graph that opens, runs, and scores the reference pictures wrong."""


@dataclass(frozen=True)
class Expected:
    """What one graph scored the reference pictures, and how far off other engines may be.

    image_score: float32 [N]. cells: float32 [N, h, w], averages of the pixel scores. tolerance: as `SelfTest` has it.
    """

    image_score: Array
    cells: Array
    tolerance: float


@dataclass(frozen=True)
class Golden:
    """The reference pictures, uint8 [N, H, W, 3] RGB, and each precision's expected scores."""

    frames: npt.NDArray[np.uint8]
    expected: dict[Precision, Expected]


@dataclass(frozen=True)
class SelfTest:
    """A self-test's outcome.

    deviation: as `deviation` says. milliseconds: of one picture, the fastest. of_score: the deviation is the image
    score's, else that of pixel scores.
    """

    deviation: float
    tolerance: float
    milliseconds: float
    of_score: bool = False

    @property
    def passed(self) -> bool:
        """Whether the graph computes here what it did where it was exported."""
        return self.deviation <= self.tolerance  # a NaN fails

    def __str__(self) -> str:
        """How far off it is, and how far it may be, for people."""
        what, unit = ("image", "times the score") if self.of_score else ("pixel", "standard deviations")
        return (
            f"{what} scores of the reference pictures are off by {self.deviation:.3g} {unit}, "
            f"{self.tolerance:.3g} are allowed"
        )


def read_golden(artifact: Artifact) -> Golden | None:
    """The artifact's reference pictures; None where an earlier version wrote it, without any.

    Raises ArtifactError when they are damaged.
    """
    if not artifact.has(GOLDEN):
        return None
    path = artifact.file(GOLDEN)
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        expected: dict[Precision, Expected] = {
            precision: Expected(
                arrays[f"{precision}.image_score"],
                arrays[f"{precision}.cells"],
                float(arrays[f"{precision}.tolerance"]),
            )
            for precision in FLOORS
            if f"{precision}.cells" in arrays
        }
        return Golden(arrays["frames"], expected)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} is damaged: {error}", "export or calibrate again") from error


def golden_bytes(golden: Golden) -> bytes:
    """The file that `read_golden` reads."""
    arrays: dict[str, npt.NDArray[np.generic]] = {"frames": golden.frames}
    for precision, expected in golden.expected.items():
        arrays[f"{precision}.image_score"] = expected.image_score
        arrays[f"{precision}.cells"] = expected.cells
        arrays[f"{precision}.tolerance"] = np.array(expected.tolerance)
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, **arrays)
    return out.getvalue()


def score_golden(runner: Runner, artifact: Artifact, frames: npt.NDArray[np.uint8]) -> tuple[Array, Array, float]:
    """image_score [N], cells [N, h, w], and the milliseconds of the fastest picture."""
    how = artifact.manifest.preprocessing
    images = [preprocess(frame, how.image_size, how.mean, how.std) for frame in frames]
    outputs, taken = [], []
    for image in images:
        start = time.perf_counter()
        outputs.append(runner(image[None]))
        taken.append(1000 * (time.perf_counter() - start))
    return np.concatenate([out.image_score for out in outputs]), _cells(outputs), min(taken)


def run_self_test(runner: Runner, artifact: Artifact, golden: Golden, precision: Precision) -> SelfTest | None:
    """The outcome on an opened runner; None where there are no expected scores of that precision."""
    expected = golden.expected.get(precision)
    if expected is None:
        return None
    scores, cells, milliseconds = score_golden(runner, artifact, golden.frames)
    allowance = BF16_ALLOWANCE if "bf16" in runner.name else 0.0
    pixels, score = deviations(scores, cells, expected)
    worst = float(np.max([pixels, score]))  # NaN where one is
    return SelfTest(worst, expected.tolerance + allowance, milliseconds, score > pixels)


def deviation(image_score: Array, cells: Array, expected: Expected) -> float:
    """How far scores are off: the larger of the two `deviations`, NaN where a score is."""
    return float(np.max(deviations(image_score, cells, expected)))


def deviations(image_score: Array, cells: Array, expected: Expected) -> tuple[float, float]:
    """How far pixel scores and image scores are off, each of the picture where it is most; infinite where shapes
    differ.

    The cells' root mean square error in standard deviations of that picture's cells, and the image score's error as
    a share of the score. Each picture counts by itself: on good parts, whose scores lie close together, wrong
    arithmetic shows ten times as clearly as beside a defect.
    """
    if cells.shape != expected.cells.shape:
        return math.inf, math.inf
    spread = np.maximum(expected.cells.std((1, 2), dtype=np.float64), 1e-6)
    errors = np.sqrt(np.mean((cells - expected.cells) ** 2, (1, 2), dtype=np.float64)) / spread
    shares = np.abs(image_score - expected.image_score) / np.maximum(np.abs(expected.image_score), spread)
    return float(errors.max()), float(shares.max())


def check_runner(runner: Runner, artifact: Artifact, precision: Precision) -> SelfTest | None:
    """Run the self-test on an opened runner; its outcome, None where the artifact has nothing to test with.

    Raises SelfTestFailed where the scores are further off than the tolerance allows.
    """
    golden = read_golden(artifact)
    outcome = None if golden is None else run_self_test(runner, artifact, golden, precision)
    if outcome is not None and not outcome.passed:
        raise SelfTestFailed(
            f"{runner.name} fails the self-test of {artifact.path}: {outcome}",
            f"{suspect(runner.name)}; use another --backend or --precision, or export here again",
        )
    return outcome


def suspect(name: str) -> str:
    """What most likely computes wrongly in a runner of that name."""
    if "tensorrt" in name:
        return "suspect the TensorRT version or an engine built for another GPU: build it here"
    if "cuda" in name:
        return "suspect the GPU's driver, CUDA or cuDNN"
    if "int8" in name:
        return "suspect INT8 instructions of this processor that saturate, or a graph of an older version"
    if "bf16" in name:
        return "suspect bfloat16 on this processor"
    return "suspect the graph, which isn't what was exported, or this version of the engine"


def _cells(outputs: Sequence[Outputs]) -> Array:
    """pixel_scores averaged over equal blocks, float32 [N, h, w]; edges that fill no block are left out."""
    scores = np.concatenate([out.pixel_scores for out in outputs])
    _, height, width = scores.shape
    rows, columns = max(1, height // CELLS), max(1, width // CELLS)
    kept = scores[:, : height // rows * rows, : width // columns * columns]
    blocks = kept.reshape(len(kept), height // rows, rows, width // columns, columns)
    return np.asarray(blocks.mean((2, 4)), np.float32)
