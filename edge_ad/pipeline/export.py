"""Export: an artifact and photos of good parts in, a graph or engine of another precision in the artifact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edge_ad.artifact import Artifact, check_folder
from edge_ad.data.held_out import training_photos
from edge_ad.data.samples import Sample
from edge_ad.export.job import FEWEST, ExportOptions, export_precision
from edge_ad.export.speed import build_fastest
from edge_ad.export.targets import TargetOptions, load_normals, load_samples, metrics_on, write_target
from edge_ad.runtime.engines.runner import GRAPHS, Array, Precision


def _silent(text: str) -> None:
    del text


class Exported(NamedTuple):
    """artifact: with the new files, of that precision. record: what the gate measured; None where the graph was there
    already. speed: what was timed, where the fastest engine was asked for."""

    artifact: Artifact
    precision: Precision
    record: dict[str, Any] | None
    files: list[Path]
    speed: dict[str, Any] | None = None


def export(
    artifact: Artifact | str | Path,
    precision: Precision | None = "fp32",
    *,
    normals: str | Path | None = None,
    data: str | Path | None = None,
    target: str = "onnx",
    images: int = 64,
    options: ExportOptions | None = None,
    target_options: TargetOptions | None = None,
    say: Callable[[str], None] = _silent,
    step: Callable[[str], None] = _silent,
) -> Exported:
    """The artifact with a graph of that precision, whose loss was measured, and the target's files made from it.

    precision: None, for the target "tensorrt", takes the fastest that passes the gate on this GPU. normals: folder of
    good parts to measure ranges and losses on; None takes the photos of training, and makes no graph where there is
    one and neither `data` nor `options.skip` asks for it. data: labelled photos, on which the gate then watches AUROC
    and AUPRO. images: how many normals at most. say: takes what a person should know; step: what is being done.
    Raises BackendError where the gate refuses, DataError for too few photos.
    """
    opened = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    options, target_options = options or ExportOptions(), target_options or TargetOptions()
    make = normals is not None or data is not None or bool(options.skip)
    make = make or precision is None or not opened.has(GRAPHS[precision])
    if make or target.startswith("tensorrt"):
        opened.check_writable(opened.manifest.files[GRAPHS["fp32"]].bytes if opened.has(GRAPHS["fp32"]) else 1 << 20)
    if target_options.out is not None:
        check_folder(target_options.out)
    good: list[Array] = []
    if make:
        good = _of_training(opened, images, say) if normals is None else load_normals(opened, Path(normals), images)
    metrics_of = None if data is None else metrics_on(opened, Path(data))
    if precision is None:
        engine = target_options.engine(target)
        chosen, path, speed = build_fastest(opened, good, metrics_of, options, engine, step)
        return Exported(opened, chosen, None, [path], speed)
    record = export_precision(opened, precision, good, metrics_of, options, step) if make else None
    step(f"writing {target}")
    return Exported(opened, precision, record, write_target(opened, target, precision, target_options, step))


def _of_training(artifact: Artifact, images: int, say: Callable[[str], None]) -> list[Array]:
    """Photos for `export_precision`, whose first half is for ranges and whose second is for the gate: the first of
    those that training saw, the second of those that it held out, as far as these go."""
    found = training_photos(artifact)
    held = spread(found.unseen, images // 2)
    half = max(len(held), FEWEST // 2)
    seen = spread(found.seen, 2 * half - len(held))
    where = ", ".join(map(str, found.folders))
    judged = f"{len(held)} that it held out" + (f" and {half - len(held)} that it saw" if len(held) < half else "")
    say(
        f"no --normals: ranges are measured on {half} photos in {where} that training saw, the loss on {judged}. "
        "What other days' parts lose, fresh photos (--normals DIR) or labelled ones (--data DIR) say"
    )
    return load_samples(artifact, [*seen, *held], where)


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Up to `count` of the samples, evenly spread, in order."""
    step = max(1.0, len(samples) / max(count, 1))
    return [samples[int(i * step)] for i in range(min(count, len(samples)))]
