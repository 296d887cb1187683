"""Training of the diffusion model on normal images; resumable, since a step depends on its number and seed alone."""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edge_ad.artifact import write_atomically
from edge_ad.config import DiffusionConfig, to_plain
from edge_ad.data.images import encode_image
from edge_ad.errors import ArtifactError, DataError, EdgeAdError
from edge_ad.synthesis.defects import Frames
from edge_ad.synthesis.diffusion import (
    SampleRequest,
    build_network,
    build_schedule,
    hash_images,
    resize_square,
    sample,
    save_model,
    to_frames,
    to_tensor,
    training_target,
)
from edge_ad.synthesis.draws import Draws, item_seeds
from edge_ad.synthesis.sheet import grid
from edge_ad.training.acceleration import new_accelerator
from edge_ad.training.interrupt import interrupt_between_steps
from edge_ad.training.logs import TrainingLog

LOSSES = "losses.jsonl"
READ_EVERY = 20  # steps, on a GPU
KEPT = 2  # checkpoints on disk

# settings that change neither the network nor a step of its training
SAMPLING = {"perturbation", "strength", "sample_steps", "start", "images", "steps", "checkpoint_steps", "sheet_steps"}


@dataclass(frozen=True)
class DiffusionResult:
    """How training ended."""

    step: int
    loss: float  # mean of the last 50 steps
    finished: bool  # False: stopped by max_minutes, to be resumed
    images_per_second: float
    sha256: str  # of the EMA weights written


class DiffusionTrainer:
    """Trains a diffusion model of normal frames in a folder of its own, one step at a time.

    Step k draws its images, times and noise from (seed, k) alone, and the optimiser's state is in the checkpoint:
    a resumed run has the same losses as one that was never stopped.

    Args:
        frames: normal frames, uint8 [H,W,3] of any size; resized to the model's square.
        config: the model and its training.
        folder: for checkpoints, weights, losses and sheets of samples.
        device: "auto", "cpu" or "cuda".
        say: is told of what a person should know.

    Raises:
        DataError: there are no frames.
        ArtifactError: the folder holds checkpoints of other settings.
    """

    def __init__(
        self,
        frames: Frames,
        config: DiffusionConfig,
        folder: Path,
        *,
        seed: int = 0,
        device: str = "auto",
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        if not len(frames):
            raise DataError("no normal images to train the diffusion model on", "check the folder of good parts")
        self.config, self.folder, self.seed, self._say = config, folder, seed, say
        self.accelerator = new_accelerator(device, config.precision)
        folder.mkdir(parents=True, exist_ok=True)
        self._images = to_tensor([resize_square(frames[number], config.resolution) for number in range(len(frames))])
        torch.manual_seed(seed)
        network = build_network(config)
        optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, fused=True)
        self._network, self._optimiser = self.accelerator.prepare(network, optimiser)
        self.average = build_network(config).to(self.accelerator.device).eval().requires_grad_(False)
        self.average.load_state_dict(self._unwrapped().state_dict())
        self._schedule = build_schedule(config)
        self._schedule.alphas_cumprod = self._schedule.alphas_cumprod.to(self.accelerator.device)
        self._inputs = self._images.to(self.accelerator.device)
        # steps between two looks at the losses: each look waits for the device
        self.read_every = 1 if self.accelerator.device.type == "cpu" else READ_EVERY
        self.step = 0
        self._losses: list[float] = []
        self._restore()

    def run(
        self, *, max_minutes: float | None = None, progress: Callable[[int, int, float, float], None] | None = None
    ) -> DiffusionResult:
        """Train to the configured step, or until the time is up; writes a checkpoint and the EMA weights.

        Args:
            progress: called each step with (step, steps, loss, images per second).

        Raises:
            EdgeAdError: the loss is no number any more; the last good checkpoint is kept.
            ArtifactError: the disk is full or not writable; what was written before is whole.
        """
        begun, first = time.monotonic(), self.step
        rate = 0.0
        logs = self.folder / "logs" if self.accelerator.is_main_process else None
        with TrainingLog(logs, first) as log, interrupt_between_steps() as interrupt:
            while self.step < self.config.steps and not self._time_is_up(begun, max_minutes):
                queued = [self.train_step()]
                while len(queued) < self.read_every and not self._is_due():
                    queued.append(self.train_step())
                losses = self._mean_over_processes(torch.stack(queued)).tolist()
                rate = (self.step - first) * self.config.batch_size / max(time.monotonic() - begun, 1e-9)
                for step, loss in enumerate(losses, self.step - len(losses) + 1):
                    self._check(loss, step)
                    self._losses.append(loss)
                    log.write(step, loss=loss, images_per_second=rate)
                    if progress is not None and self.accelerator.is_main_process:
                        progress(step, self.config.steps, loss, rate)
                try:
                    interrupt()
                except KeyboardInterrupt:
                    if self.accelerator.num_processes == 1:  # others may be at another step
                        self.save()
                    raise
                if self.step % self.config.checkpoint_steps == 0:
                    self.save()
                if self.step % self.config.sheet_steps == 0:
                    self._draw_sheet()
        digest = self._finish()
        recent = self._losses[-50:]
        mean = float(np.mean(recent)) if recent else math.nan
        return DiffusionResult(self.step, mean, self.step >= self.config.steps, rate, digest)

    def save(self) -> None:
        """Write a checkpoint of the present step; older ones but one go once it is whole."""
        if self.accelerator.is_main_process and self.step:
            buffer = io.BytesIO()
            torch.save(self._state(), buffer)
            data = buffer.getbuffer()
            write_atomically(self.folder / f"state-{self.step:08d}.pt", bytes(data))
            record = {"step": self.step, "sha256": hashlib.sha256(data).hexdigest(), "settings": self._settings()}
            write_atomically(self.folder / f"state-{self.step:08d}.json", json.dumps(record).encode())
            lines = "".join(json.dumps({"step": i + 1, "loss": loss}) + "\n" for i, loss in enumerate(self._losses))
            write_atomically(self.folder / LOSSES, lines.encode())
            for old in sorted(self.folder.glob("state-*.json"))[:-KEPT]:
                old.with_suffix(".pt").unlink(missing_ok=True)
                old.unlink()
        self.accelerator.wait_for_everyone()

    def train_step(self) -> Tensor:
        """Queue one step, without waiting for the device: tell noise from image in x_t; this process's loss."""
        config, device = self.config, self.accelerator.device
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        torch.manual_seed(_step_seed(self.seed, self.step))  # of dropout
        begin, end = (self.step * config.batch_size + (rank + i) * config.batch_size // ranks for i in (0, 1))
        draws = Draws(item_seeds(self.seed, torch.arange(begin, end, device=device)))
        x0, t = self._inputs[draws.whole(0, 0, len(self._inputs))], draws.whole(1, 0, config.timesteps)
        noise = draws.normal(2, *self._inputs.shape[1:])
        x_t = self._schedule.add_noise(x0, noise, t)
        self._network.train()
        with self.accelerator.autocast():
            answer = self._network(x_t, t).sample
        wanted = training_target(config, x0, noise, self._schedule.alphas_cumprod[t])
        loss = torch.nn.functional.mse_loss(answer.float(), wanted)
        self.accelerator.backward(loss)
        if self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(self._network.parameters(), 1.0)
        warm = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        for group in self._optimiser.param_groups:
            group["lr"] = config.learning_rate * warm
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._update_average()
        self.step += 1
        return loss.detach()

    def _is_due(self) -> bool:
        """Whether this step ends the run, or is to be saved or shown."""
        config, step = self.config, self.step
        return step >= config.steps or step % config.checkpoint_steps == 0 or step % config.sheet_steps == 0

    @torch.no_grad()
    def _update_average(self) -> None:
        """EMA: average <- d average + (1 - d) weights, with d growing to its value so that the start is forgotten."""
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self._unwrapped().parameters()), 1 - decay)

    def _check(self, loss: float, step: int) -> None:
        if math.isfinite(loss):
            return
        last = max((record["step"] for record in self._records()), default=0)
        kept = f"the checkpoint of step {last} is kept" if last else "there is no checkpoint yet"
        raise EdgeAdError(
            f"the loss of the diffusion model is {loss} at step {step}; {kept}",
            'lower learning_rate, or set precision = "fp32", and run again to resume',
        )

    def _time_is_up(self, begun: float, max_minutes: float | None) -> bool:
        """All processes stop at the same step: as soon as one's time is up."""
        if max_minutes is None:
            return False
        over = time.monotonic() - begun >= max_minutes * 60
        if self.accelerator.num_processes == 1:
            return over
        return bool(self._mean_over_processes(torch.tensor(float(over), device=self.accelerator.device)) > 0)

    def _mean_over_processes(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value, "mean") if self.accelerator.num_processes > 1 else value

    def _finish(self) -> str:
        if self.step % self.config.checkpoint_steps:
            self.save()
        digest = ""
        if self.accelerator.is_main_process:
            digest = save_model(self.average, self.config, self.folder, self.step, hash_images(self._images))
            self._draw_sheet()
        self.accelerator.wait_for_everyone()
        return digest

    def _draw_sheet(self) -> None:
        """Eight samples of the EMA weights, from fixed seeds so that sheets compare, undisturbed (s = 0)."""
        if not self.accelerator.is_main_process:
            return
        config = replace(self.config, start=1.0, perturbation="scale")
        frames = sample(self.average, config, [SampleRequest(seed, 0.0) for seed in range(8)])
        sheet = grid([to_frames(self._images[:8]), frames])
        (self.folder / "sheets").mkdir(exist_ok=True)
        write_atomically(self.folder / "sheets" / f"step-{self.step:08d}.png", encode_image(sheet))

    def _unwrapped(self) -> Any:
        return self.accelerator.unwrap_model(self._network)

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "network": self._unwrapped().state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "losses": self._losses,
        }

    def _settings(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be resumed."""
        config = {name: value for name, value in to_plain(self.config).items() if name not in SAMPLING}
        return {"seed": self.seed, "images": hash_images(self._images), **config}

    def _records(self) -> list[dict[str, Any]]:
        """What whole checkpoints say of themselves, newest first."""
        found = []
        for path in sorted(self.folder.glob("state-*.json"), reverse=True):
            try:
                found.append(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError):
                self._say(f"{path} can't be read and is passed over")
        return found

    def _restore(self) -> None:
        """Continue from the newest checkpoint that is whole; begin anew when there is none."""
        for record in self._records():
            path = self.folder / f"state-{record['step']:08d}.pt"
            if record["settings"] != self._settings():
                different = [k for k, v in self._settings().items() if record["settings"].get(k) != v]
                raise ArtifactError(
                    f"{self.folder} holds a model trained with other settings ({', '.join(different)})",
                    "choose another --out, or remove that folder to train anew",
                )
            try:
                data = path.read_bytes()
            except OSError:
                data = b""
            if hashlib.sha256(data).hexdigest() != record["sha256"]:
                self._say(f"the checkpoint {path} is damaged (its sha256 differs): the one before it is used")
                continue
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            self._unwrapped().load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self._optimiser.load_state_dict(state["optimiser"])
            if self.accelerator.scaler is not None and state["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            self._losses = state["losses"]
            self.step = int(record["step"])
            self._say(f"resuming the diffusion model at step {self.step}")
            return


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
