"""The training loop of the detector, on Hugging Face Accelerate: CPU, one GPU or many, the same code."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate.utils import broadcast

from edge_ad import kernels
from edge_ad.config import Config
from edge_ad.data.loader import PhotoReader
from edge_ad.errors import ConfigError, DataError, EdgeAdError
from edge_ad.model.detector import Detector
from edge_ad.synthesis.shards import WrittenTriplets
from edge_ad.training.acceleration import new_accelerator
from edge_ad.training.ahead import Ahead, default_workers
from edge_ad.training.bank import Batch, CachedBank, OnlineBank, TripletMaker
from edge_ad.training.interrupt import interrupt_between_steps
from edge_ad.training.logs import TrainingLog
from edge_ad.training.losses import cosine_loss, focal_loss, l1_loss, weighted_loss

log = logging.getLogger("edge_ad.training")

FINISH_SECONDS = 40.0  # kept of --max-minutes for the last measurements and for writing the artifact


class Progress(Protocol):
    """What the loop tells the outside: phases with a known length, and numbers of the running phase."""

    def phase(self, name: str, total: int, done: int = 0) -> None:
        """A new phase of `total` units begins, of which `done` are there already."""

    def advance(self, units: int, **numbers: float) -> None:
        """`units` more are done; numbers such as loss are shown and logged."""


@dataclass(frozen=True)
class TrainingResult:
    """What a run did: steps, seconds, throughput in images/s, and the last losses."""

    steps: int
    seconds: float
    images_per_second: float
    losses: dict[str, float]
    normals: int
    held_out: int
    triplets: int


class DetectorTrainer:
    """Trains a detector on normals.

    detector: fresh, with the teacher's weights. normals: readable photos. folder: where caches, checkpoints and
    logs go. triplets: makes one of a frame and a generator, or holds those written beforehand. With resume, a run
    that was interrupted in the same folder goes on where its last checkpoint was; otherwise the folder is emptied.
    categories: of each normal; of every one some are held out. reader: may hold photos that were read before.
    """

    def __init__(
        self,
        config: Config,
        detector: Detector,
        normals: Sequence[Path],
        folder: Path,
        triplets: TripletMaker | WrittenTriplets,
        progress: Progress,
        *,
        device: str = "auto",
        max_minutes: float | None = None,
        resume: bool = False,
        categories: Sequence[str] = (),
        reader: PhotoReader | None = None,
    ) -> None:
        self.config, self.detector, self.folder, self.progress = config, detector, folder, progress
        settings = config.training
        self.accelerator = new_accelerator(device, settings.precision, settings.gradient_accumulation)
        self.limit = math.inf if max_minutes is None else max(10.0, 60 * max_minutes - FINISH_SECONDS)
        self.category_of = dict(zip(normals, categories or [""] * len(normals), strict=True))
        self.fit, self.held = split_held_out(normals, settings.held_out, settings.seed, categories)
        cached = config.model.student == "shared" and settings.triplets > 0
        self.bank = (CachedBank if cached else OnlineBank)(
            self.fit, detector, config, triplets, reader or PhotoReader()
        )
        self.bank.device, self.bank.autocast = self.accelerator.device, self.accelerator.autocast
        workers = 0 if cached else settings.workers  # what is cached is only read
        if workers is None:
            workers = default_workers(self.accelerator.device.type, self.accelerator.num_processes)
        self.ahead = Ahead(lambda draw: self.bank.prepared(*self._drawn(draw)), workers)
        kernels.set_threads(torch.get_num_threads())
        self.key = _run_key(config, normals, triplets)
        if self.accelerator.is_main_process:
            self._open_folder(resume)
        self.accelerator.wait_for_everyone()
        self.elapsed_before = 0.0
        self.started = time.monotonic()
        self.triplets = 0

    def run(self) -> TrainingResult:
        """Train to the end of the schedule or of the time, then measure normal pixels on held-out normals."""
        self.prepare()
        try:
            steps, losses, speed = self._optimise()
        finally:
            self.ahead.close()
        self._measure_normals()
        return TrainingResult(steps, self.elapsed(), speed, losses, len(self.fit), len(self.held), self.triplets)

    def prepare(self) -> None:
        """Compute what is computed once, and set up network and optimiser: `train_step` may be called after it."""
        self.detector.to(self.accelerator.device)
        if isinstance(self.bank, CachedBank):
            self._fill(self.bank)
        settings = self.config.training
        self.parameters = [p for p in self.detector.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(self.parameters, settings.learning_rate, weight_decay=settings.weight_decay)
        self.network, self.optimiser = self.accelerator.prepare(TrainedPart(self.detector), optimiser)

    def elapsed(self) -> float:
        """Seconds spent, those before an interruption included."""
        return self.elapsed_before + time.monotonic() - self.started

    def finish(self) -> None:
        """Remove caches and checkpoints; the logs stay."""
        if self.accelerator.is_main_process:
            for name in ("cache", "checkpoint.pt"):
                _remove(self.folder / name)

    def _open_folder(self, resume: bool) -> None:
        note = self.folder / "run.json"
        found = _key_of(note)
        if resume and found and found != self.key:
            raise ConfigError(
                f"{self.folder} holds a run with other settings or photos",
                "give the same settings and photos, choose another --out, or leave out --resume to start over",
            )
        if resume and not found:
            log.warning("there is no run in %s to go on with: training starts at step 0", self.folder)
        try:
            if not (resume and found):
                _remove(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps({"key": self.key}))
        except OSError as error:
            raise DataError(
                f"can't write to {self.folder}: {error.strerror}", "free some space, or choose another --out"
            ) from error

    def _fill(self, bank: CachedBank) -> None:
        """Features of normals (at most 40 % of the time), prototypes, then triplets (up to 65 %)."""
        model = self.config.model
        wanted = self.config.training.triplets
        if isinstance(bank.source, WrittenTriplets):
            wanted = min(wanted, len(bank.source))
        if self.accelerator.is_main_process:
            bank.open(self.folder / "cache", wanted, self.key)
            self.progress.phase("teacher on normals", len(self.fit), bank.normals.done)
            done = bank.fill_normals(self.progress.advance, lambda: self.elapsed() > 0.4 * self.limit)
            if done < len(self.fit):
                log.warning("time allows %d of %d normals; give more minutes for the rest", done, len(self.fit))
            bank.paths = bank.paths[:done]
            bank.fill_memory(self.category_of)
            self.progress.phase("teacher on synthetic defects", wanted, bank.triplets.done)
            bank.fill_triplets(self.progress.advance, lambda: self.elapsed() > 0.65 * self.limit)
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            bank.open(self.folder / "cache", wanted, self.key)
            bank.paths = bank.paths[: bank.normals.done]
            bank.fill_memory(self.category_of)
        self.triplets = bank.triplets.done
        if model.head and not self.triplets:
            raise DataError("no time was left to make synthetic defects", "give more --max-minutes")

    def _optimise(self) -> tuple[int, dict[str, float], float]:
        settings = self.config.training
        step, losses, images, began = self._resume(), {}, 0, time.monotonic()
        saved = time.monotonic()
        self.progress.phase("training", settings.steps, step)
        logs = self.folder / "logs" if self.accelerator.is_main_process else None
        with TrainingLog(logs, step) as log_numbers, interrupt_between_steps() as interrupt:
            while step < settings.steps and (used := self._time_used()) < 1:
                losses = self.train_step(step, used)
                step += 1
                images += settings.batch_size * settings.gradient_accumulation * self.accelerator.num_processes
                speed = images / (time.monotonic() - began)
                try:
                    self.progress.advance(1, images_per_second=speed, **losses)
                    log_numbers.write(step, images_per_second=speed, **losses)
                    interrupt()
                except KeyboardInterrupt:
                    self._save(step)
                    log.warning("interrupted at step %d; the same command with --resume goes on from there", step)
                    raise
                if time.monotonic() - saved > settings.checkpoint_seconds:
                    self._save(step)
                    saved = time.monotonic()
        self._save(step)
        return step, losses, images / max(1e-9, time.monotonic() - began)

    def train_step(self, step: int, time_used: float = 0.0) -> dict[str, float]:
        """One step of the schedule, counted from 0; its losses. Raises EdgeAdError when the loss is no number.

        time_used: share of the time that is over, 0..1, the same in all processes.
        """
        settings = self.config.training
        # share of the schedule that is over, 0..1: by steps or by time, whichever is further
        done = min(1.0, max(step / settings.steps, time_used))
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * self._rate(step, done)
        self.network.train()
        # noise depends on seed and step alone, so that a resumed run goes on as if nothing had happened
        torch.manual_seed(settings.seed * 1_000_003 + step)
        total: dict[str, torch.Tensor] = {}
        for part in range(settings.gradient_accumulation):
            batch = self.batch(step * settings.gradient_accumulation + part)
            with self.accelerator.accumulate(self.network), self.accelerator.autocast():
                losses = self.network(batch, settings.focal_gamma)
                loss = weighted_loss(losses, settings, done)
                if not torch.isfinite(loss):
                    raise EdgeAdError(
                        f"the loss is {loss.item()} at step {step}",
                        f"lower training.learning_rate; the last good checkpoint is in {self.folder}",
                    )
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.parameters, settings.gradient_clip)
                self.optimiser.step()
                self.optimiser.zero_grad()
            total = {"loss": loss.detach(), **{name: value.detach() for name, value in losses.items()}}
        return {name: float(self.accelerator.reduce(value, "mean")) for name, value in total.items()}

    def batch(self, draw: int) -> Batch:
        """Batch number `draw` of this process; soonest in order, where workers have it ready."""
        return self.bank.batch(self.ahead.get(draw))

    def _drawn(self, draw: int) -> tuple[list[int], list[bool]]:
        """What batch number `draw` of this process is made of, and which of it are triplets: a slice of the whole
        batch, which the seed alone determines."""
        settings = self.config.training
        world, size = self.accelerator.num_processes, settings.batch_size
        rng = np.random.default_rng([settings.seed, 1, draw])
        whole = size * world
        # spread evenly, and alike however the batch is cut among processes
        defective = np.diff(np.floor(np.arange(whole + 1) * (1 - self.config.synthesis.normal_share))) > 0
        pool = self.triplets if isinstance(self.bank, CachedBank) else 2**31 - 1
        triplets = rng.integers(0, max(1, pool), whole)
        normals = rng.integers(0, len(self.bank.paths), whole)
        indices = np.where(defective, triplets, normals)
        mine = slice(self.accelerator.process_index * size, (self.accelerator.process_index + 1) * size)
        return indices[mine].tolist(), defective[mine].tolist()

    def _time_used(self) -> float:
        """Share of the time that is over, by the main process's clock: all stop and slow down at the same step."""
        used = self.elapsed() / self.limit
        if self.accelerator.num_processes == 1 or math.isinf(self.limit):
            return used
        return float(broadcast(torch.tensor([used], device=self.accelerator.device)))

    def _rate(self, step: int, done: float) -> float:
        settings = self.config.training
        warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
        if settings.schedule == "step":
            return warm * (0.1 if done >= 0.8 else 1.0)
        return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    def _save(self, step: int) -> None:
        if not self.accelerator.is_main_process:
            return
        trained = {n: p for n, p in self.detector.state_dict().items() if not n.startswith("teacher.")}
        state = {"step": step, "elapsed": self.elapsed(), "model": trained, "optimiser": self.optimiser.state_dict()}
        temporary = self.folder / "checkpoint.tmp"
        try:
            torch.save(state, temporary)
            temporary.replace(self.folder / "checkpoint.pt")
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            temporary.unlink(missing_ok=True)
            raise DataError(
                f"can't write the checkpoint in {self.folder}: {error}",
                "free some disk space, then go on with --resume",
            ) from error

    def _resume(self) -> int:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return 0
        try:
            state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
            self.detector.load_state_dict(state["model"], strict=False)
            self.optimiser.load_state_dict(state["optimiser"])
        except Exception as error:  # torch.load raises many kinds for a damaged file
            log.warning("the checkpoint %s is damaged (%s); training starts at step 0", path, error)
            return 0
        self.elapsed_before = state["elapsed"]
        return int(state["step"])

    @torch.inference_mode()
    def _measure_normals(self) -> None:
        """Middle and spread of maps and logits on held-out normals, so that both weigh alike in pixel_scores."""
        detector = self.detector.eval()
        detector.normal_range.copy_(torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        self.progress.phase("held-out normals", len(self.held))
        values: list[list[torch.Tensor]] = [[], []]
        for path in self.held[:64]:
            image = self.bank.read(path)
            features = self.bank.teach([image])
            images = torch.from_numpy(image)[None].to(self.accelerator.device)
            _, maps, logits = detector.difference(images, features)
            values[0].append((detector.map_y @ maps.mean(1) @ detector.map_x.T).flatten())
            if logits is not None:
                values[1].append((detector.head_y @ logits @ detector.head_x.T).flatten())
            self.progress.advance(1)
        for row, parts in enumerate(values):
            if parts:
                pixels = torch.cat(parts).float().cpu().numpy()
                middle, high = np.quantile(pixels, [0.5, 0.995])
                detector.normal_range[row] = torch.tensor([middle, max(float(high - middle), 1e-6)])


class TrainedPart(torch.nn.Module):
    """Student and head as one module that returns losses: what Accelerate wraps for several processes."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.student, self.head = detector.student, detector.head
        self._detector = [detector]  # in a list: the frozen teacher is no part of what is synchronised

    def forward(self, batch: Batch, gamma: float) -> dict[str, torch.Tensor]:
        """Unweighted losses by name: cosine, and with a head focal and l1."""
        detector = self._detector[0]
        student, _, logits = detector.difference(batch.images, batch.corrupt, batch.recalled)
        losses = {"cosine": cosine_loss(batch.clean, student)}
        if logits is not None:
            losses["focal"] = focal_loss(logits.float(), batch.masks, gamma)
            losses["l1"] = l1_loss(logits.float(), batch.masks)
        return losses


def split_held_out(
    normals: Sequence[Path], share: float, seed: int, categories: Sequence[str] = ()
) -> tuple[list[Path], list[Path]]:
    """Normals to train on, and those kept for the first threshold: of each category at least 4, at most half."""
    of = categories or [""] * len(normals)
    left: dict[str, int] = {}
    for name, count in Counter(of).items():
        if count < 2:
            what = f"{count} usable photo(s) of good parts" + (f" of {name}" if categories else "")
            raise DataError(what, "give at least 2, better 50 or more")
        left[name] = min(count // 2, max(4, round(share * count)))
    fit: list[Path] = []
    held: list[Path] = []
    for i in np.random.default_rng(seed).permutation(len(normals)):
        left[of[i]] -= 1
        (held if left[of[i]] >= 0 else fit).append(normals[i])
    return fit, held


def _run_key(config: Config, normals: Sequence[Path], triplets: TripletMaker | WrittenTriplets) -> str:
    """What a resumed run must share with the first: settings (not the time or workers), photos, written triplets."""
    config = config.override("training", workers=0)
    photos = [(str(path), path.stat().st_size) for path in normals]
    written = triplets.key if isinstance(triplets, WrittenTriplets) else ""
    text = json.dumps([config.to_dict(), photos, written], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _key_of(note: Path) -> str:
    """The key of the run that wrote the note; "" where there was none or its note is damaged."""
    try:
        return str(json.loads(note.read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
