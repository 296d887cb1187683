"""EdgeAD and its peers side by side: same photos, same pretrained weights, same metrics, one row at a time.

python tests/benchmarks/field/run.py CATEGORY [CATEGORY ...] [--methods "edgead quick" patchcore ...] [--shots 1 2 4]

CATEGORY: a folder in MVTec AD's layout. Each row that results/peers.csv lacks is measured in a process of its own and
added at once: stopped and started again, it goes on. `make bench` makes the peers' environment first.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from job import MAP, Costs, Job
from safetensors.torch import save_file
from weights import efficientnet_lite0

from edge_ad import metrics
from edge_ad.bench.rows import append_rows, device_name, revision
from edge_ad.config import cache_folder
from edge_ad.data.images import read_image, write_image
from edge_ad.data.masks import read_mask, resize_mask
from edge_ad.data.samples import Sample, scan
from edge_ad.model.weights import find_weights
from edge_ad.qualify.disturbances import DISTURBANCES

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "peers.csv"
PEERS_PYTHON = HERE.parents[2] / ".venv-bench" / "bin" / "python"
OURS = ("edgead quick", "edgead edge")
PEERS = ("patchcore", "patchcore cnn", "anomaly_dino", "anomaly_dino block 7", "supersimplenet", "dinomaly",
         "efficient_ad")  # fmt: skip
TEACHER = "vit_small_patch14_dinov2"
CHANGES = {  # condition -> what is done to the test photos: a disturbance of edge_ad.qualify, and its strength
    "20 % darker": ("darker light", -20),
    "20 % brighter": ("brighter light", 20),
    "blur": ("blur", 1.5),
    "3 degrees": ("rotation", 3),
    "JPEG 50": ("JPEG", 50),
}
CONTAMINATED = "0.5 % defects in training"
CONDITIONS = ("clean", *CHANGES, CONTAMINATED)
FIGURES = ("i_auroc", "p_auroc", "aupro", "f1_max")
KEY = ("category", "method", "shots", "seed", "condition")
COSTS = tuple(Costs.__dataclass_fields__)
FIELDS = ("date", "revision", "device", "load", "threads", *KEY, "train", "good", "defects", *FIGURES, *COSTS)

Mask = npt.NDArray[np.bool_]


class TestSet(NamedTuple):
    """files: photos to score; labels, masks [MAP, MAP] (None where a defect has none): in that order."""

    files: list[str]
    labels: list[int]
    masks: list[Mask | None]


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        weights = write_weights(Path(folder))
        worked = [
            try_method(category, method, shots, seed, weights, options)
            for category in options.categories
            for shots in options.shots
            for seed in options.seeds
            for method in options.methods
        ]
    if not all(worked):
        raise SystemExit(f"{worked.count(False)} measurements failed, see above; the same command tries them again")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("categories", nargs="+", type=Path)
    parser.add_argument("--methods", nargs="+", default=[*OURS, *PEERS], choices=[*OURS, *PEERS])
    parser.add_argument("--conditions", nargs="+", default=list(CONDITIONS), choices=CONDITIONS)
    parser.add_argument("--shots", nargs="+", type=int, default=[0], help="Photos to train on; 0: all.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=15.0, help="For methods that optimise.")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--times", action=argparse.BooleanOptionalAction, default=True, help="Milliseconds, too.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def try_method(
    category: Path, method: str, shots: int, seed: int, weights: dict[str, str], options: argparse.Namespace
) -> bool:
    """Measure what is missing: all conditions with clean training photos in one fit, contamination in another.

    False where the method failed, which is printed: the others go on.
    """
    done = {tuple(row[name] for name in KEY) for row in read(options.results)}
    missing = [
        condition
        for condition in options.conditions
        if (category.name, method, str(shots), str(seed), condition) not in done
    ]
    clean, spoilt = ([one for one in missing if (one == CONTAMINATED) == wanted] for wanted in (False, True))
    worked = True
    for group in (clean, [] if shots else spoilt):  # of a few photos 0.5 % is none
        if not group:
            continue
        print(f"{category.name}: {method}, {shots or 'all'} photos, seed {seed}: {', '.join(group)}", flush=True)
        try:
            with tempfile.TemporaryDirectory() as folder:
                rows = list(measure(category, method, shots, seed, group, weights, Path(folder), options))
        except RuntimeError as error:
            print(error, file=sys.stderr, flush=True)
            worked = False
            continue
        append_rows(options.results, rows, FIELDS)
        for row in rows:
            words = [f"{name} {row.get(name)}" for name in (*FIGURES, "fit_s", "note")]
            print("   ", row["condition"], *words, flush=True)
    return worked


def read(path: Path) -> list[dict[str, str]]:
    """All rows that there are."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def measure(
    category: Path, method: str, shots: int, seed: int, conditions: Sequence[str], weights: dict[str, str],
    folder: Path, options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A row for each of the conditions, from one fit."""
    train, test = choose_photos(category, shots, seed, contaminated=CONTAMINATED in conditions)
    sets = {condition: disturbed(test, condition, folder / "photos") for condition in conditions}
    tests = {condition: one.files for condition, one in sets.items()}
    job = Job(
        method, train, tests, seed, options.minutes, options.threads, weights, options.times, str(folder / "out")
    )
    load = os.getloadavg()[0]
    costs = run(job)
    for condition, one in sets.items():
        figures = figures_of(Path(job.out, f"{condition}.npz"), one)
        known = costs if condition in ("clean", CONTAMINATED) else {"note": costs["note"]}
        yield {
            "date": date.today().isoformat(), "revision": revision(), "device": device_name(), "load": f"{load:.1f}",
            "threads": options.threads, "category": category.name, "method": method, "shots": shots, "seed": seed,
            "condition": condition, "train": len(train), "good": one.labels.count(0),
            "defects": len(one.labels) - one.labels.count(0),
            **{name: None if value is None else f"{100 * value:.2f}" for name, value in figures.items()},
            **{name: f"{value:.1f}" if isinstance(value, float) else value for name, value in known.items()},
        }  # fmt: skip


def run(job: Job) -> dict[str, Any]:
    """The costs of a job, which is run in the environment of its method; RuntimeError with what it said."""
    Path(job.out).mkdir()
    file = Path(job.out, "job.json")
    job.write(file)
    ours = job.method in OURS
    python = sys.executable if ours else str(PEERS_PYTHON)
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(job.threads), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1",
    }  # fmt: skip
    script = str(HERE / ("ours.py" if ours else "peers.py"))
    done = subprocess.run(
        [python, script, str(file)], capture_output=True, text=True, check=False, env=environment, cwd=job.out
    )
    if done.returncode:
        raise RuntimeError(f"{job.method} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    costs: dict[str, Any] = json.loads(Path(job.out, "costs.json").read_text(encoding="utf-8"))
    return costs


def choose_photos(category: Path, shots: int, seed: int, *, contaminated: bool) -> tuple[list[str], list[Sample]]:
    """(photos to train on, photos to test on); those that contaminate the training are not tested."""
    found = scan(category)
    train = sorted(str(sample.path) for sample in found.train)
    rng = np.random.default_rng(seed)
    if shots:
        train = [train[i] for i in sorted(rng.choice(len(train), shots, replace=False))]
    test = sorted(found.test, key=lambda sample: str(sample.path))
    if contaminated:
        defects = [sample for sample in test if sample.label]
        chosen = rng.choice(len(defects), math.ceil(0.005 * len(train)), replace=False)
        spoilt = {str(defects[i].path) for i in chosen}
        train, test = train + sorted(spoilt), [sample for sample in test if str(sample.path) not in spoilt]
    return train, test


def disturbed(test: Sequence[Sample], condition: str, folder: Path) -> TestSet:
    """The test photos under a condition, written to the folder where it changes them, and their masks with them."""
    change = CHANGES.get(condition)
    files, masks = [], []
    rng = np.random.default_rng(0)
    for number, sample in enumerate(test):
        mask = mask_of(sample)
        if change is None:
            files.append(str(sample.path))
        else:
            what, strength = DISTURBANCES[change[0]].change, change[1]
            path = folder / condition / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, what(read_image(sample.path), strength, rng))
            files.append(str(path))
            if change[0] == "rotation" and mask is not None:
                mask = what(np.repeat(mask[..., None].astype(np.uint8) * 255, 3, 2), strength, rng)[..., 0] > 127
        masks.append(None if mask is None else resize_mask(mask, (MAP, MAP)))
    return TestSet(files, [int(sample.label) for sample in test], masks)


def mask_of(sample: Sample) -> Mask | None:
    """The photo's mask [H, W]: empty for a good part, None for a defect without one."""
    if sample.label and sample.mask_path is None:
        return None
    frame = read_image(sample.path)
    if not sample.label or sample.mask_path is None:
        return np.zeros(frame.shape[:2], bool)
    mask = read_mask(sample.mask_path)
    if mask.shape != frame.shape[:2]:
        mask = cv2.resize(mask.astype(np.uint8), frame.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0
    return mask


def figures_of(path: Path, test: TestSet) -> dict[str, float | None]:
    """The metrics, as fractions, from what a method wrote; None where it wrote nothing, or masks are missing."""
    if not path.exists():
        return dict.fromkeys(FIGURES)
    with np.load(path) as found:
        scores, maps = found["scores"], found["maps"]
    if not (np.isfinite(scores).all() and np.isfinite(maps).all()):
        raise RuntimeError(f"{path.stem}: scores that are no numbers")
    labels = np.array(test.labels)
    figures: dict[str, float | None] = dict.fromkeys(FIGURES)
    figures.update(i_auroc=metrics.image_auroc(scores, labels), f1_max=metrics.f1_max(scores, labels))
    masks = [mask for mask in test.masks if mask is not None]
    if len(masks) == len(test.masks):
        figures.update(p_auroc=metrics.pixel_auroc(list(maps), masks), aupro=metrics.aupro(list(maps), masks))
    return figures


def write_weights(folder: Path) -> dict[str, str]:
    """timm's name of a model -> safetensors file with its pretrained weights, as far as they can be had here."""
    files = {}
    state = find_weights(f"{TEACHER}.lvd142m")[0]
    files[TEACHER] = str(folder / f"{TEACHER}.safetensors")
    save_file({name: value.contiguous() for name, value in state.items()}, files[TEACHER])
    if (found := efficientnet_lite0(cache_folder() / "bench")) is not None:
        files["tf_efficientnet_lite0"] = str(folder / "tf_efficientnet_lite0.safetensors")
        save_file(found, files["tf_efficientnet_lite0"])
    return files


if __name__ == "__main__":
    main()
