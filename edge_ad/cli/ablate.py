"""`edgead ablate`: the paper's table 6 and the choices it leaves open, over seeds."""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from edge_ad.config import Config
    from edge_ad.data.samples import Dataset

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
FIGURES = ("i_auroc", "p_auroc", "aupro", "f1_max")
console = Console(stderr=True, highlight=False)


def command(
    data: Annotated[Path, typer.Argument(help="A category with test images.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs and the table; finished runs are kept.")],
    preset: Annotated[str, typer.Option(help="paper, edge or nano.")] = "paper",
    config: Annotated[Path | None, typer.Option(help="Settings as TOML, instead of a preset.")] = None,
    variants: Annotated[str, typer.Option(help="Comma-separated, or 'all'.")] = (
        "full,no-decoder,no-cosine,no-head,no-focal,no-l1"
    ),
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "0",
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each run.")] = None,
    source: Annotated[str | None, typer.Option(help="Sources of defects, instead of the preset's.")] = None,
    weights: Annotated[str | None, typer.Option(help="As for `edgead train`.")] = None,
    ddpm: Annotated[Path | None, typer.Option(help="As for `edgead train`; else one for all runs.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train every variant with every seed, measure each, and write a table of mean and deviation."""
    from edge_ad.artifact import write_atomically
    from edge_ad.cli.train import with_diffusion_model
    from edge_ad.config import Config
    from edge_ad.data.samples import scan
    from edge_ad.errors import DataError

    names = list(VARIANTS) if variants == "all" else [name.strip() for name in variants.split(",")]
    base = Config.from_toml(config) if config else Config.named(preset)
    base = base.override("training", steps=steps)
    if source is not None:
        base = base.override("synthesis", sources=tuple(source.split(",")))
    base = with_diffusion_model(base, ddpm)
    runs: dict[str, list[dict[str, float | None]]] = {}
    numbers = parse_seeds(seeds)
    chosen = {name: variant(base, name) for name in names}
    for folder in (out, *out.parents):
        if folder.is_file():
            raise DataError(f"--out {out}: {folder} is a file", "name a folder; it is made where it doesn't exist")
    dataset = scan(data)
    labels = {sample.label for sample in dataset.test}
    if labels != {0, 1}:
        lacking = "test photos" if not labels else "defective test photos" if 0 in labels else "good test photos"
        raise DataError(f"{data} has no {lacking} to measure the variants on", "see `edgead check`")
    for name, settings in chosen.items():
        for seed in numbers:
            seeded = settings.override("training", seed=seed)
            folder = out / f"{name}-{seed}"
            figures = _run(seeded, data, dataset, folder, weights, ddpm or out / "ddpm", device)
            console.print(f"{name}, seed {seed}: {_line(figures)}")
            runs.setdefault(name, []).append(figures)
    table = {name: summary(rows) for name, rows in runs.items()}
    about = {"preset": base.preset, "data": dataset.name, "seeds": numbers, "settings": base.to_dict()}
    write_atomically(
        out / "ablation.json", json.dumps({"table": table, "runs": runs, "about": about}, indent=1).encode()
    )
    Console(highlight=False, width=None if sys.stdout.isatty() else 110).print(_table(table))


def variant(base: Config, name: str) -> Config:
    """The settings of a variant; ConfigError for an unknown one."""
    from edge_ad.errors import ConfigError

    if name not in VARIANTS:
        raise ConfigError(f"unknown variant '{name}'", f"use some of: {', '.join(VARIANTS)}")
    for section, values in VARIANTS[name].items():
        base = base.override(section, **values)
    return base


def parse_seeds(text: str) -> list[int]:
    """Whole numbers from "0,1,2", each once; ConfigError for anything else."""
    from edge_ad.errors import ConfigError

    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise ConfigError(f"--seeds {text} are no whole numbers", "write them as 0,1,2") from error


def summary(rows: list[dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """Mean and sample deviation (None for one run) of each figure over the seeds."""
    result: dict[str, dict[str, float | None]] = {}
    for key in FIGURES:
        values = [value for row in rows if (value := row[key]) is not None]
        mean = statistics.fmean(values) if values else None
        result[key] = {"mean": mean, "deviation": statistics.stdev(values) if len(values) > 1 else None}
    return result


def _run(
    settings: Config, data: Path, dataset: Dataset, folder: Path, weights: str | None, ddpm: Path, device: str
) -> dict[str, float | None]:
    """Train and measure one run, or take the figures that an earlier one left, or go on with one interrupted."""
    from edge_ad.artifact import MANIFEST, Artifact, photo_key
    from edge_ad.cli.train import train_artifact
    from edge_ad.errors import ConfigError
    from edge_ad.evaluation import evaluate
    from edge_ad.runtime.engines.runner import open_runner
    from edge_ad.training.job import work_folder

    artifact = Artifact.open(folder) if (folder / MANIFEST).exists() else None
    if artifact is None:
        begun = (work_folder(folder) / "run.json").exists()
        artifact = train_artifact(settings, [data], folder, device=device, weights=weights, ddpm=ddpm, resume=begun)
    elif artifact.config != settings:
        raise ConfigError(f"{folder} holds a finished run with other settings", "choose another --out, or remove it")
    elif not (artifact.trained_on() or frozenset()) <= {photo_key(sample.path) for sample in dataset.train}:
        raise ConfigError(f"{folder} holds a finished run on other photos", "choose another --out, or remove it")
    elif _teacher_sha256(settings.model.teacher, weights) != artifact.manifest.teacher["sha256"]:
        raise ConfigError(
            f"{folder} holds a finished run of another teacher: {artifact.manifest.teacher['description']}",
            "give the same --weights, choose another --out, or remove it",
        )
    figures = artifact.manifest.reports.get("ablation")
    if figures is None:
        runner = open_runner(artifact, "onnxruntime", "fp32")
        try:
            result = evaluate(runner, dataset, artifact.manifest.preprocessing, native=False).mean()
        finally:
            runner.close()
        figures = {key: value for key, value in dataclasses.asdict(result).items() if key in FIGURES}
        artifact.update(reports={"ablation": figures})
    return {key: figures.get(key) for key in FIGURES}


@functools.cache  # the same for all finished runs of a teacher, and found by reading all of its weights
def _teacher_sha256(model: str, weights: str | None) -> str:
    """Hash of the weights that `edgead train` would take; "" for random ones, which the seed of a run tells apart."""
    from edge_ad.model.weights import find_weights

    return find_weights(model, weights)[1].sha256


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _line(figures: Mapping[str, float | None]) -> str:
    return "  ".join(f"{key} {_percent(figures[key])}" for key in FIGURES)


def _table(table: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> Table:
    shown = Table("variant", *FIGURES)
    for name, figures in table.items():
        cells = []
        for key in FIGURES:
            deviation = figures[key]["deviation"]
            spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
            cells.append(_percent(figures[key]["mean"]) + spread)
        shown.add_row(name, *cells)
    return shown
