"""`ablate`: every variant of the settings trained and measured with every seed, and a table of them."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_ad.artifact import MANIFEST, Artifact, check_folder, photo_key, write_atomically
from edge_ad.config import Config, ModelConfig
from edge_ad.data.samples import Dataset, scan
from edge_ad.errors import ConfigError, DataError
from edge_ad.evaluation import evaluate
from edge_ad.pipeline.train import train
from edge_ad.progress import NoProgress, Progress
from edge_ad.runtime.engines.opening import open_runner
from edge_ad.training.new_detector import encoder_weights
from edge_ad.training.photos import find_photos
from edge_ad.training.run import work_folder

# variant -> the settings it changes, by section. "full" is the preset as it is; the next five are table 6.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "full": {},
    "no-decoder": {"model": {"decoder": "none", "student": "separate"}},
    "no-cosine": {"training": {"cosine_weight": 0.0}},
    "no-head": {"model": {"head": False}},
    "no-focal": {"training": {"focal_weight": 0.0}},
    "no-l1": {"training": {"l1_weight": 0.0}},
    "shared-encoder": {"model": {"student": "shared", "decoder": "transformer"}},
    "separate-encoder": {"model": {"student": "separate", "decoder": "transformer"}},
    "head-on-product": {"model": {"head_input": "product"}},
    "head-on-map": {"model": {"head_input": "map"}},
    "head-on-both": {"model": {"head_input": "both"}},
    "two-phase": {"training": {"two_phase": True}},
    "p-procedural": {"synthesis": {"sources": ("procedural",)}},
    "p-texture": {"synthesis": {"sources": ("texture",)}},
    "p-ddpm": {"synthesis": {"sources": ("ddpm",)}},
}
log = logging.getLogger(__name__)
METRICS = ("i_auroc", "p_auroc", "aupro", "f1_max")


Metrics = Mapping[str, float | None]  # name -> fraction, None where it can't be computed
Table = dict[str, dict[str, dict[str, float | None]]]  # variant -> metric -> mean and deviation


def ablate(
    photos: str | Path,
    out: str | Path,
    base: Config,
    *,
    variants: Sequence[str] = ("full", "no-decoder", "no-cosine", "no-head", "no-focal", "no-l1"),
    seeds: Sequence[int] = (0,),
    weights: str | None = None,
    ddpm: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Table:
    """Mean and deviation of each variant's metrics over the seeds, also written to `out`/ablation.json.

    photos: a category with good and defective test photos. Finished runs in `out` are kept, interrupted ones go on.
    weights, ddpm: as `train` takes them; without ddpm all runs share one in `out`.
    Raises ConfigError for an unknown variant or a finished run of another kind, DataError for photos that can't be
    measured on.
    """
    progress, photos, out = progress or NoProgress(), Path(photos), Path(out)
    chosen = {name: variant(base, name) for name in variants}
    for folder in (out, *out.parents):
        if folder.is_file():
            raise DataError(f"--out {out}: {folder} is a file", "name a folder; it is made where it doesn't exist")
    check_folder(out)
    dataset = scan(photos)
    labels = {sample.label for sample in dataset.test}
    if labels != {0, 1}:
        lacking = "test photos" if not labels else "defective test photos" if 0 in labels else "good test photos"
        raise DataError(f"{photos} has no {lacking} to measure the variants on", "see `edgead check`")
    found = functools.cache(
        lambda: find_photos([dataset], lambda text: progress.say(text, "dim"))
    )  # decoded once, and only where a run is left to train
    runs: dict[str, list[Metrics]] = {}
    for name, settings in chosen.items():
        for seed in seeds:
            seeded, folder = settings.override("training", seed=seed), out / f"{name}-{seed}"
            artifact = _finished(seeded, dataset, folder, weights)
            if artifact is None:
                artifact = train(
                    found(),
                    folder,
                    seeded,
                    device=device,
                    weights=weights,
                    ddpm=ddpm or out / "ddpm",
                    resume=(work_folder(folder) / "run.json").exists(),
                    progress=progress,
                )
            metrics = _measure(artifact, dataset)
            shown = "  ".join(f"{key} {percent(value)}" for key, value in metrics.items())
            progress.say(f"{name}, seed {seed}: {shown}")
            runs.setdefault(name, []).append(metrics)
    table = {name: summary(rows) for name, rows in runs.items()}
    about = {"preset": base.preset, "data": dataset.name, "seeds": list(seeds), "settings": base.to_dict()}
    record = {"table": table, "runs": runs, "about": about}
    write_atomically(out / "ablation.json", json.dumps(record, indent=1).encode())
    return table


def percent(value: float | None) -> str:
    """A fraction as a percentage with two digits; "-" for None."""
    return "-" if value is None else f"{100 * value:.2f}"


def variant(base: Config, name: str) -> Config:
    """The settings of a variant; ConfigError for an unknown one."""
    if name not in VARIANTS:
        raise ConfigError(f"unknown variant '{name}'", f"use some of: {', '.join(VARIANTS)}")
    for section, values in VARIANTS[name].items():
        base = base.override(section, **values)
    return base


def summary(rows: Sequence[Metrics]) -> dict[str, dict[str, float | None]]:
    """Mean and sample deviation (None for one run) of each metric over the seeds."""
    result: dict[str, dict[str, float | None]] = {}
    for key in METRICS:
        values = [value for row in rows if (value := row[key]) is not None]
        mean = statistics.fmean(values) if values else None
        result[key] = {"mean": mean, "deviation": statistics.stdev(values) if len(values) > 1 else None}
    return result


def _finished(settings: Config, dataset: Dataset, folder: Path, weights: str | None) -> Artifact | None:
    """The artifact that an earlier run left in the folder; ConfigError when it is that of another run than this."""
    if not (folder / MANIFEST).exists():
        return None
    artifact = Artifact.open(folder)
    if artifact.config != settings:
        raise ConfigError(f"{folder} holds a finished run with other settings", "choose another --out, or remove it")
    if not (artifact.trained_on() or frozenset()) <= {photo_key(sample.path) for sample in dataset.train}:
        raise ConfigError(f"{folder} holds a finished run on other photos", "choose another --out, or remove it")
    if _encoders_sha256(settings.model, weights) != artifact.manifest.teacher["sha256"]:
        raise ConfigError(
            f"{folder} holds a finished run of another teacher: {artifact.manifest.teacher['description']}",
            "give the same --weights, choose another --out, or remove it",
        )
    return artifact


def _measure(artifact: Artifact, dataset: Dataset) -> dict[str, float | None]:
    """The artifact's metrics, kept in it from then on."""
    metrics = artifact.manifest.reports.get("ablation")
    if metrics is None:
        runner = open_runner(artifact, "onnxruntime", "fp32")
        try:
            result = evaluate(runner, dataset, artifact.manifest.preprocessing, native=False)
        finally:
            runner.close()
        for line in result.findings():
            log.warning("%s", line)
        metrics = {key: value for key, value in dataclasses.asdict(result.mean()).items() if key in METRICS}
        artifact.update(reports={"ablation": metrics})
    return {key: metrics.get(key) for key in METRICS}


@functools.cache  # the same for all finished runs of a teacher, and found by reading all of its weights
def _encoders_sha256(model: ModelConfig, weights: str | None) -> str:
    """Hash of the weights that `train` would take; "" for random ones, which the seed of a run tells apart."""
    return encoder_weights(model, weights, seed=0)[2].sha256
