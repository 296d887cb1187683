"""Open an artifact's graph in the engine that fits: by name, by the threshold, or the fastest one measured here."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

from edge_ad.artifact import Artifact
from edge_ad.errors import BackendError
from edge_ad.runtime.engines import choice
from edge_ad.runtime.engines.runner import GRAPHS, Precision, Runner, log_once
from edge_ad.runtime.engines.self_test import GOLDEN, SelfTest, SelfTestFailed, check_runner

BACKENDS = (
    "tensorrt", "openvino", "openvino-bf16", "onnxruntime", "onnxruntime-cpu", "onnxruntime-cuda",
    "onnxruntime-tensorrt",
)  # fmt: skip
GPU_FIRST = ("tensorrt", "onnxruntime-cuda", "openvino", "onnxruntime-cpu")  # engines that `auto` knows
WORTH_IT = 0.95  # of the time so far: less is noise, and no reason to take a graph that loses more

log = logging.getLogger(__name__)


class Opened(NamedTuple):
    """A graph ready to judge parts. test: its self-test, None where the artifact holds no reference pictures."""

    runner: Runner
    precision: Precision
    test: SelfTest | None


def open_runner(
    artifact: Artifact, backend: str = "auto", precision: str = "auto", threads: int | None = None
) -> Runner:
    """Load the artifact's graph, and hand it out once it passed the artifact's self-test.

    backend: `auto` takes the engine that computed the threshold, else an installed TensorRT with an engine in the
    artifact that fits this GPU, else ONNX Runtime on CUDA, else on the CPU. `onnxruntime` chooses between CUDA and
    CPU; other names are taken literally. precision: `auto` is the one the threshold was calibrated with, else FP32;
    where no engine runs it rightly here, FP32 is taken, with a warning. threads: CPU threads (default: the CPUs that
    this process may use).
    Raises BackendError when what was asked for by name can't run here or fails the self-test, ArtifactError when
    the graph is missing.
    """
    return open_checked(artifact, backend, precision, threads).runner


def open_checked(
    artifact: Artifact, backend: str = "auto", precision: str = "auto", threads: int | None = None
) -> Opened:
    """As `open_runner`, with the precision that was taken and the self-test's outcome."""
    chosen = choose_precision(artifact, precision)
    if backend != "auto" and backend not in BACKENDS:
        raise BackendError(f"unknown backend '{backend}'", f"use one of: auto, {', '.join(BACKENDS)}")
    tries = [(name, chosen) for name in _backends(artifact, backend, chosen)]
    if precision == "auto" and chosen != "fp32":
        tries += [(name, "fp32") for name in _backends(artifact, backend, "fp32")]
    failures: list[BackendError] = []
    for name, kind in tries:
        try:
            opened = open_backend(artifact, name, kind, threads)
        except BackendError as error:
            failures.append(error)
            continue
        _say_passed_over(artifact, failures, opened, chosen)
        return opened
    for failure in failures[:-1]:
        log.log(logging.WARNING if isinstance(failure, SelfTestFailed) else logging.INFO, "%s", failure)
    raise failures[-1]


def open_fastest(
    artifact: Artifact, backend: str = "auto", precision: str = "auto", threads: int | None = None
) -> Opened:
    """The graph and engine that are fastest on this machine among those that pass the self-test.

    All that the artifact and the machine have are opened and timed once; the choice is remembered for this artifact
    on this machine. As `open_checked` where a backend or precision is asked for by name, and without reference
    pictures, since nothing could be compared.
    """
    if backend != "auto" or precision != "auto" or not artifact.has(GOLDEN):
        return open_checked(artifact, backend, precision, threads)
    remembered = choice.load_choice(artifact, threads)
    if remembered is not None:
        try:
            return open_backend(artifact, *remembered, threads)
        except BackendError as error:  # a driver was changed since
            log.warning("measuring the engines again: %s", error)
    best: tuple[float, str, Precision] | None = None
    for name, precision in combinations(artifact):
        try:
            opened = open_backend(artifact, name, precision, threads)
        except BackendError as error:
            log_once(f"{name} {precision} is left out: {error}")
            continue
        opened.runner.close()
        if opened.test is not None and (best is None or opened.test.milliseconds < WORTH_IT * best[0]):
            best = (opened.test.milliseconds, name, precision)
    if best is None:
        return open_checked(artifact, threads=threads)
    choice.save_choice(artifact, threads, best[1], best[2])
    return open_backend(artifact, best[1], best[2], threads)


def combinations(artifact: Artifact) -> Iterator[tuple[str, Precision]]:
    """Every engine that is installed with every graph that the artifact has."""
    for name in GPU_FIRST:
        if name == "tensorrt" and not _has_engines(artifact):
            continue
        if name == "openvino" and importlib.util.find_spec("openvino") is None:
            continue
        for precision, file in GRAPHS.items():
            if artifact.has(file):
                yield name, precision


def open_backend(
    artifact: Artifact, backend: str, precision: Precision, threads: int | None = None, check: bool = True
) -> Opened:
    """This very engine and graph, self-tested unless `check` is off, as only those may who measure it.

    Raises BackendError when it can't run here, SelfTestFailed when it computes something else than where it was
    exported.
    """
    runner = _opener(backend)(artifact, precision, threads)
    try:
        test = check_runner(runner, artifact, precision) if check else None
    except BaseException:
        runner.close()
        raise
    return Opened(runner, precision, test)


def choose_precision(artifact: Artifact, precision: str) -> Precision:
    """`auto` resolved: a threshold holds only for the scores that it was computed from."""
    if precision == "auto":
        calibrated = (artifact.manifest.calibration or {}).get("precision", "fp32")
        return calibrated if calibrated in GRAPHS and artifact.has(GRAPHS[calibrated]) else "fp32"
    if precision not in GRAPHS:
        raise BackendError(f"unknown precision '{precision}'", f"use one of: auto, {', '.join(GRAPHS)}")
    return precision


def _backends(artifact: Artifact, backend: str, precision: Precision) -> list[str]:
    """The engines to try, in order."""
    if backend not in ("auto", "onnxruntime"):
        return [backend]
    names = ["onnxruntime-cuda", "onnxruntime-cpu"]
    if backend == "auto" and _has_engines(artifact):
        names.insert(0, "tensorrt")
    return _calibrated_with(artifact, precision) + names if backend == "auto" else names


def _has_engines(artifact: Artifact) -> bool:
    return any(name.startswith("engines/") for name in artifact.manifest.files)


def _calibrated_with(artifact: Artifact, precision: Precision) -> list[str]:
    """OpenVINO if it computed the threshold, which holds for its scores: the other engines would be taken anyway."""
    name, _, own = str((artifact.manifest.calibration or {}).get("backend", "")).partition(" ")
    if own != precision or not name.startswith("openvino"):
        return []
    return ["openvino-bf16" if name.endswith("-bf16") else "openvino"]


def _say_passed_over(artifact: Artifact, failures: list[BackendError], opened: Opened, wanted: Precision) -> None:
    """Log what `auto` tried before: an engine that isn't here in passing, what changes scores as a warning."""
    name = opened.runner.name
    for failure in failures:
        level = logging.WARNING if isinstance(failure, SelfTestFailed) else logging.INFO
        log_once(f"{name} is used instead: {failure}", level)
    if opened.precision != wanted or (failures and _calibrated_with(artifact, wanted)):
        log_once(
            f"{name} judges instead of {artifact.manifest.calibration and artifact.manifest.calibration['backend']}, "
            "which computed the threshold: its false-alarm rate holds only after `edgead calibrate` on this machine",
            logging.WARNING,
        )
    if opened.test is None:
        log_once(
            f"{opened.runner.name} judges without a self-test: the artifact has no reference pictures for it; "
            "`edgead calibrate` adds them"
        )


def _opener(backend: str) -> Callable[[Artifact, Precision, int | None], Runner]:
    """The function that opens a backend, imported only now: most devices have just one of the packages."""
    package = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt"}[backend.split("-")[0]]
    # an engine may be TensorRT-RTX's, which is another package: its own module looks
    if package != "tensorrt" and importlib.util.find_spec(package) is None:
        raise BackendError(
            f"backend '{backend}' needs the package '{package}', which is not installed",
            "pip install onnxruntime" if package == "onnxruntime" else f"pip install 'edge-ad[{package}]'",
        )
    module = importlib.import_module(f"edge_ad.runtime.engines.{package}")

    def open_it(artifact: Artifact, precision: Precision, threads: int | None) -> Runner:
        runner: Runner = module.open_artifact(artifact, precision, threads, backend)
        return runner

    return open_it
