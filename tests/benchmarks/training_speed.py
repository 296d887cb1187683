"""Images per second of the training loop against a plain PyTorch loop of the same model on the same batches.

python tests/benchmarks/training_speed.py DATA [--preset edge] [--steps 40] [--csv FILE]

The two take turns, a few steps each, so that both see the same machine. What the loop adds is Accelerate, reading
batches from the cache on disk, checks of the loss, progress and logs.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from edge_ad.config import Config
from edge_ad.data.loader import PhotoReader
from edge_ad.data.samples import scan
from edge_ad.model.detector import Detector
from edge_ad.model.teacher import fit_image_size
from edge_ad.model.weights import find_weights
from edge_ad.progress import NoProgress
from edge_ad.synthesis.dataset import NormalFrames
from edge_ad.training.features import extract_features
from edge_ad.training.fit import DetectorTrainer, LossModule
from edge_ad.training.losses import weighted_loss
from edge_ad.training.run import TrainingRun
from edge_ad.training.triplets import LONGEST_SIDE, DrawnTriplets

IMAGES = 16  # photos, and triplets where they are cached
TURN = 5  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="edge")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--weights", default="random")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = Config.named(options.preset).override("training", steps=10**6, triplets=IMAGES, precision="fp32")
    config = config.override("synthesis", sources=("procedural",))
    photos = scan(options.data).train[:IMAGES]
    size = fit_image_size(config.model, (384, 384))
    detector = Detector(config.model, size, find_weights(config.model.teacher, options.weights)[0])
    with tempfile.TemporaryDirectory() as folder:
        reader = PhotoReader()
        triplets = DrawnTriplets(config, NormalFrames([sample.path for sample in photos], LONGEST_SIDE, reader))
        run = TrainingRun(config, Path(folder) / "run", "", NoProgress(), device="cpu")
        trainer = DetectorTrainer(run, detector, extract_features(run, detector, photos, triplets, reader))
        network = LossModule(detector)
        parameters = [p for p in detector.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(parameters, config.training.learning_rate)
        batches = [trainer.batch(step) for step in range(TURN)]

        def plain(step: int) -> None:
            losses = network(batches[step % TURN], config.training.focal_gamma)
            weighted_loss(losses, config.training, 0.0).backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.training.gradient_clip)
            optimiser.step()
            optimiser.zero_grad()

        speeds: dict[str, list[float]] = {"plain": [], "edgead": []}
        turns = {"plain": plain, "edgead": trainer.train_step}
        for first in range(0, options.steps + TURN, TURN):
            for name, turn in turns.items():
                began = time.perf_counter()
                for step in range(first, first + TURN):
                    turn(step)
                if first:  # the first turn warms up
                    speeds[name].append(TURN * config.training.batch_size / (time.perf_counter() - began))
    rows = []
    for name, values in speeds.items():
        p20, p50, p80 = (
            statistics.quantiles(values, n=5)[0],
            statistics.median(values),
            statistics.quantiles(values, n=5)[3],
        )
        ratio = p50 / statistics.median(speeds["plain"])
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "device": f"CPU, {options.threads} thread(s)",
                "torch": torch.__version__,
                "preset": options.preset,
                "image_size": f"{size[0]}x{size[1]}",
                "batch": config.training.batch_size,
                "loop": name,
                "images_per_second_p20": round(p20, 2),
                "images_per_second_p50": round(p50, 2),
                "images_per_second_p80": round(p80, 2),
                "ratio_to_plain": round(ratio, 3),
            }
        )
    writer = csv.DictWriter(options.csv.open("a") if options.csv else sys.stdout, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    main()
