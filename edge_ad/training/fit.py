"""Fit: the optimisation of student and head, on Hugging Face Accelerate: CPU, one GPU or many, the same code."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from edge_ad.errors import DataError, EdgeAdError
from edge_ad.model.detector import Detector
from edge_ad.training.feature_source import Batch, FeatureSource
from edge_ad.training.interrupt import interrupt_between_steps
from edge_ad.training.logs import TrainingLog
from edge_ad.training.losses import cosine_loss, focal_loss, l1_loss, weighted_loss
from edge_ad.training.prefetcher import Prefetcher, default_workers
from edge_ad.training.run import TrainingRun

log = logging.getLogger("edge_ad.training")

READ_EVERY = 20  # steps, on a GPU
COMPILED_ON, COMPILER = ("cuda",), "inductor"


@dataclass(frozen=True)
class FitResult:
    """What a fit did: steps, the last losses by name, throughput in images/s, and (step, loss) on the way there."""

    steps: int
    losses: dict[str, float]
    images_per_second: float
    history: tuple[tuple[int, float], ...] = ()


def fit(run: TrainingRun, detector: Detector, features: FeatureSource) -> FitResult:
    """Optimise student and head to the end of the schedule or of the time, from the run's checkpoint if there is one.

    Raises EdgeAdError when the loss is no number any more, DataError when a checkpoint can't be written.
    """
    trainer = DetectorTrainer(run, detector, features)
    try:
        return trainer.optimise()
    finally:
        trainer.close()


class DetectorTrainer:
    """Optimiser, prefetcher and checkpoints of one fit; `train_step` may be called by itself."""

    def __init__(self, run: TrainingRun, detector: Detector, features: FeatureSource) -> None:
        self.run, self.detector, self.features = run, detector.to(run.accelerator.device), features
        self.settings, self.accelerator = run.config.training, run.accelerator
        workers = self.settings.workers if features.prefetch else 0
        if workers is None:
            workers = default_workers(self.accelerator.device.type, self.accelerator.num_processes)
        self._prefetcher = Prefetcher(lambda draw: features.assemble(*self._batch_indices(draw)), workers)
        self.parameters = [p for p in detector.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            self.parameters, self.settings.learning_rate, weight_decay=self.settings.weight_decay, fused=True
        )
        if self.accelerator.device.type == "cuda" and detector.head is not None:
            detector.head.to(memory_format=torch.channels_last)
        # steps between two looks at the losses: each look waits for the device
        self.read_every = 1 if self.accelerator.device.type == "cpu" else READ_EVERY
        self._history: list[tuple[int, float]] = []
        self._failed = torch.full((), -1, device=self.accelerator.device)  # the first step whose loss was no number
        module: torch.nn.Module = LossModule(detector)
        if self.settings.compile and self.accelerator.device.type in COMPILED_ON:
            module = torch.compile(module, dynamic=False, backend=COMPILER)
        self.network, self.optimiser = self.accelerator.prepare(module, optimiser)

    @property
    def waited_seconds(self) -> float:
        """How long steps have waited for the processor's part of their batches."""
        return self._prefetcher.waited_seconds

    def close(self) -> None:
        """Stop the prefetcher."""
        self._prefetcher.close()

    def optimise(self) -> FitResult:
        """All steps that are left of the schedule, or those that the time allows."""
        settings, progress = self.settings, self.run.progress
        step, losses, images, began = self._resume(), {}, 0, time.monotonic()
        saved = time.monotonic()
        progress.phase("training", settings.steps, step)
        logs = self.run.folder / "logs" if self.run.is_main else None
        with TrainingLog(logs, step) as training_log, interrupt_between_steps() as raise_if_interrupted:
            while step < settings.steps and (used := self.run.time_used()) < 1:
                first = step
                while step < min(settings.steps, first + self.read_every):
                    queued = self.train_step(step, used)
                    step += 1
                images += (step - first) * settings.batch_size * self._batches_a_step
                losses = self.read(queued)
                self._history.append((step, losses["loss"]))
                speed = images / (time.monotonic() - began)
                try:
                    progress.advance(step - first, images_per_second=speed, **losses)
                    training_log.write(step, images_per_second=speed, **losses)
                    raise_if_interrupted()
                except KeyboardInterrupt:
                    self._save(step)
                    log.warning("interrupted at step %d; the same command with --resume goes on from there", step)
                    raise
                if time.monotonic() - saved > settings.checkpoint_seconds:
                    self._save(step)
                    saved = time.monotonic()
        self._save(step)
        speed = images / max(1e-9, time.monotonic() - began)
        return FitResult(step, losses, speed, tuple(self._history))

    @property
    def _batches_a_step(self) -> int:
        return self.settings.gradient_accumulation * int(self.accelerator.num_processes)

    def read(self, losses: dict[str, torch.Tensor]) -> dict[str, float]:
        """The losses of a step as numbers, the mean of all processes'. Waits until the device has done the step.

        Raises EdgeAdError when the loss of this step or of one before was no number.
        """
        values = self.accelerator.reduce(torch.stack([value.float() for value in losses.values()]), "mean")
        *numbers, failed = torch.cat([values, self._failed[None].float()]).tolist()
        if failed >= 0:
            raise EdgeAdError(
                f"the loss is {numbers[0]} at step {int(failed)}",
                f"lower training.learning_rate; the last good checkpoint is in {self.run.folder}",
            )
        return dict(zip(losses, numbers, strict=True))

    def train_step(self, step: int, time_used: float = 0.0) -> dict[str, torch.Tensor]:
        """Queue one step of the schedule, counted from 0, without waiting for the device; its losses, for `read`.

        time_used: share of the time that is over, 0..1, the same in all processes.
        """
        settings = self.settings
        # share of the schedule that is over, 0..1: by steps or by time, whichever is further
        done = min(1.0, max(step / settings.steps, time_used))
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * self._learning_rate_factor(step, done)
        self.network.train()
        # noise depends on seed and step alone, so that a resumed run goes on as if nothing had happened
        torch.manual_seed(settings.seed * 1_000_003 + step)
        total: dict[str, torch.Tensor] = {}
        for part in range(settings.gradient_accumulation):
            batch = self.batch(step * settings.gradient_accumulation + part)
            with self.accelerator.accumulate(self.network), self.accelerator.autocast():
                losses = self.network(batch, settings.focal_gamma)
                loss = weighted_loss(losses, settings, done)
                first_failure = (self._failed < 0) & ~torch.isfinite(loss.detach())
                self._failed = torch.where(first_failure, step, self._failed)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.parameters, settings.gradient_clip)
                self.optimiser.step()
                self.optimiser.zero_grad()
            total = {"loss": loss.detach(), **{name: value.detach() for name, value in losses.items()}}
        return total

    def batch(self, draw: int) -> Batch:
        """Batch number `draw` of this process; soonest in order, where the prefetcher has it ready."""
        return self.features.batch(self._prefetcher.get(draw))

    def _batch_indices(self, draw: int) -> tuple[list[int], list[bool]]:
        """What batch number `draw` of this process consists of, and which of it are triplets: a slice of the whole
        batch, which the seed alone determines."""
        world, size = self.accelerator.num_processes, self.settings.batch_size
        rng = np.random.default_rng([self.settings.seed, 1, draw])
        whole = size * world
        # spread evenly, and alike however the batch is cut among processes
        normal_share = self.run.config.synthesis.normal_share
        defective = np.diff(np.floor(np.arange(whole + 1) * (1 - normal_share))) > 0
        triplets = rng.integers(0, max(1, self.features.triplet_count), whole)
        normals = rng.integers(0, len(self.features.samples), whole)
        indices = np.where(defective, triplets, normals)
        mine = slice(self.accelerator.process_index * size, (self.accelerator.process_index + 1) * size)
        return indices[mine].tolist(), defective[mine].tolist()

    def _learning_rate_factor(self, step: int, done: float) -> float:
        settings = self.settings
        warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
        if settings.schedule == "step":
            return warm * (0.1 if done >= 0.8 else 1.0)
        return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    def _save(self, step: int) -> None:
        if not self.run.is_main:
            return
        trained = {n: p for n, p in self.detector.state_dict().items() if not n.startswith("teacher.")}
        state = {
            "step": step, "elapsed": self.run.elapsed(), "model": trained, "optimiser": self.optimiser.state_dict(),
            "history": self._history,
        }  # fmt: skip
        temporary = self.run.folder / "checkpoint.tmp"
        try:
            torch.save(state, temporary)
            temporary.replace(self.run.folder / "checkpoint.pt")
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            temporary.unlink(missing_ok=True)
            raise DataError(
                f"can't write the checkpoint in {self.run.folder}: {error}",
                "free some disk space, then go on with --resume",
            ) from error

    def _resume(self) -> int:
        path = self.run.folder / "checkpoint.pt"
        if not path.exists():
            return 0
        try:
            state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
            self.detector.load_state_dict(state["model"], strict=False)
            self.optimiser.load_state_dict(state["optimiser"])
        except Exception as error:  # torch.load raises many kinds for a damaged file
            log.warning("the checkpoint %s is damaged (%s); training starts at step 0", path, error)
            return 0
        self.run.elapsed_before = state["elapsed"]
        self._history = [(int(at), float(loss)) for at, loss in state.get("history", ())]
        return int(state["step"])


class LossModule(torch.nn.Module):
    """Student and head as one module that returns losses: what Accelerate wraps for several processes."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.student, self.head = detector.student, detector.head
        self._detector = [detector]  # in a list: the frozen teacher is no part of what is synchronised

    def forward(self, batch: Batch, gamma: float) -> dict[str, torch.Tensor]:
        """Unweighted losses by name: cosine, and with a head focal and l1."""
        detector = self._detector[0]
        student, _, logits = detector.compare(batch.images, batch.corrupt, batch.recalled)
        losses = {"cosine": cosine_loss(batch.clean, student)}
        if logits is not None:
            losses["focal"] = focal_loss(logits.float(), batch.masks, gamma)
            losses["l1"] = l1_loss(logits.float(), batch.masks)
        return losses
