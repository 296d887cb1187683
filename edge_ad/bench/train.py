"""Throughput of the training loop: images a second, time waiting for data, share of the device's matrix rate."""

from __future__ import annotations

import datetime
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from edge_ad.bench.rows import device_name, revision
from edge_ad.config import Config, DiffusionConfig
from edge_ad.errors import ConfigError
from edge_ad.progress import NoProgress
from edge_ad.training.diffusion import DiffusionTrainer
from edge_ad.training.features import extract_features
from edge_ad.training.fit import DetectorTrainer
from edge_ad.training.new_detector import new_detector
from edge_ad.training.photos import Photos
from edge_ad.training.run import TrainingRun
from edge_ad.training.triplets import LONGEST_SIDE, DrawnTriplets

FIELDS = (
    "date", "revision", "device", "torch", "threads", "what", "engine", "image_size", "batch", "precision",
    "processes", "images_per_second_p20", "images_per_second_p50", "images_per_second_p80", "waiting_for_data",
    "gflop_per_image", "matrix_tflops", "share_of_matrix_rate",
)  # fmt: skip
TURN = 5  # steps between two looks at the clock and at the losses
MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}


def measure_detector(
    photos: Photos, config: Config, *, device: str, steps: int, weights: str | None
) -> dict[str, Any]:
    """A row for the fit of a preset's detector, caches filled beforehand where it has any.

    photos: the normals. steps: to time, after one turn to warm up. weights: as `find_weights` takes them. Defects of
    the diffusion model are left out of the mixture: drawing them costs what drawing textures does. Raises ConfigError
    where nothing else is in it, and for too few steps.
    """
    if steps < TURN:
        raise ConfigError(f"{steps} steps are too few to time", f"take at least {TURN}")
    sources = tuple(own for own in config.synthesis.sources if not own.startswith("ddpm"))
    if not sources:
        raise ConfigError("only the diffusion model is named as a source of defects", "add texture or procedural")
    config = config.override("synthesis", sources=sources).override("training", steps=10**6)
    detector, _ = new_detector(config, photos.median_size(), weights)
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(config, Path(folder) / "run", "", NoProgress(), device=device)
        source = DrawnTriplets(config, photos.frames(LONGEST_SIDE))
        features = extract_features(run, detector, photos.samples, source, photos.reader)
        trainer = DetectorTrainer(run, detector, features)
        try:
            count = config.training.batch_size * config.training.gradient_accumulation
            row = _timed(trainer.train_step, trainer.read, count * run.accelerator.num_processes, steps, run)
            waited = trainer.waited_seconds
        finally:
            trainer.close()
    row |= {
        "what": config.preset,
        "engine": type(features).__name__,
        "image_size": f"{detector.image_size[0]}x{detector.image_size[1]}",
        "batch": config.training.batch_size,
        "precision": config.training.precision,
        "waiting_for_data": round(waited / row.pop("seconds"), 4),
    }
    return row


def measure_diffusion(photos: Photos, config: DiffusionConfig, *, device: str, steps: int) -> dict[str, Any]:
    """A row for the training of a diffusion model of that size."""
    with tempfile.TemporaryDirectory() as folder:
        frames = photos.frames(2 * config.resolution)
        trainer = DiffusionTrainer(frames, replace(config, steps=10**6), Path(folder), device=device)

        def step(number: int) -> dict[str, torch.Tensor]:
            return {"loss": trainer.train_step()}

        def read(losses: dict[str, torch.Tensor]) -> object:
            return losses["loss"].item()

        row = _timed(step, read, config.batch_size, steps, trainer)
    row.pop("seconds")
    return row | {
        "what": f"diffusion {config.resolution}",
        "engine": "DiffusionTrainer",
        "image_size": f"{config.resolution}x{config.resolution}",
        "batch": config.batch_size,
        "precision": config.precision,
        "waiting_for_data": 0.0,  # its images lie in memory
    }


def matrix_rate(device: torch.device, precision: str, seconds: float = 1.0) -> float:
    """FLOP/s of square matrix products on the device, in the type that the training computes in."""
    side = MATRIX_SIDE["cuda" if device.type == "cuda" else "cpu"]
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    first = torch.randn(side, side, device=device).to(kind)
    _finish(first @ first)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds or done < 3:
        product = first @ first
        done += 1
        if done % 8 == 0:
            _finish(product)
    _finish(product)
    return 2.0 * side**3 * done / (time.perf_counter() - began)


def _timed(step: Any, read: Any, images: int, steps: int, run: Any) -> dict[str, Any]:
    """Percentiles of images a second over turns, and shares of the device's rate; `seconds` of all turns timed."""
    number = 0

    def turn() -> float:
        nonlocal number
        began = time.perf_counter()
        for _ in range(TURN):
            losses = step(number)
            number += 1
        read(losses)
        return time.perf_counter() - began

    turn()
    with FlopCounterMode(display=False) as counter:
        read(step(number))
    number += 1
    taken = [turn() for _ in range(max(1, steps // TURN))]
    speeds = TURN * images / np.array(taken)
    device, processes = run.accelerator.device, run.accelerator.num_processes
    precision = {"no": "fp32"}.get(run.accelerator.mixed_precision, run.accelerator.mixed_precision)
    rate = matrix_rate(device, precision)
    flop = counter.get_total_flops() * processes / images
    p20, p50, p80 = (round(float(value), 2) for value in np.percentile(speeds, (20, 50, 80)))
    return {
        "date": datetime.date.today().isoformat(),
        "revision": revision(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device_name(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processes": processes,
        "images_per_second_p20": p20,
        "images_per_second_p50": p50,
        "images_per_second_p80": p80,
        "gflop_per_image": round(flop / 1e9, 2),
        "matrix_tflops": round(rate / 1e12, 3),
        "share_of_matrix_rate": round(p50 / processes * flop / rate, 4),
        "seconds": sum(taken),
    }


def _finish(tensor: torch.Tensor) -> None:
    """Wait until the tensor is computed."""
    float(tensor[0, 0])


def table(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Cells for people."""
    return [
        (
            row["what"],
            f"{row['images_per_second_p50']:.1f}",
            f"{row['images_per_second_p20']:.1f} to {row['images_per_second_p80']:.1f}",
            f"{100 * row['waiting_for_data']:.1f} %",
            f"{100 * row['share_of_matrix_rate']:.1f} % of {row['matrix_tflops']:.2f} TFLOP/s",
        )
        for row in rows
    ]
