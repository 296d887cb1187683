"""What the steps of one training share: its processes, clock, work folder and progress."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate.utils import broadcast

from edge_ad import kernels
from edge_ad.config import Config
from edge_ad.data.samples import Sample
from edge_ad.errors import ConfigError, DataError
from edge_ad.progress import Progress
from edge_ad.training.acceleration import new_accelerator
from edge_ad.training.triplets import TripletSource

log = logging.getLogger("edge_ad.training")

FINISH_SECONDS = 40.0  # kept of --max-minutes for the last measurements and for writing the artifact


def work_folder(out: Path, part: str = "training") -> Path:
    """Where a run keeps caches, checkpoints and logs: beside the artifact, never inside it."""
    return out.with_name(f"{out.name}.{part}")


def run_key(config: Config, samples: Sequence[Sample], triplets: TripletSource, teacher_sha256: str) -> str:
    """What a resumed run must have in common with the first: settings (not the time or workers), photos, written
    triplets and the teacher's weights."""
    config = config.override("training", workers=0)
    photos = [(str(sample.path), sample.path.stat().st_size) for sample in samples]
    text = json.dumps([config.to_dict(), photos, triplets.key, teacher_sha256], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class TrainingRun:
    """One training in a work folder, in as many processes as were launched together.

    folder: for caches, checkpoints and logs; emptied, unless `resume` finds a run of the same key there.
    key: what a resumed run must have in common with the first, from `run_key`.
    Raises ConfigError for a run of another key, DataError when the folder can't be written.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        key: str,
        progress: Progress,
        *,
        device: str = "auto",
        max_minutes: float | None = None,
        resume: bool = False,
    ) -> None:
        self.config, self.folder, self.key, self.progress = config, folder, key, progress
        settings = config.training
        self.accelerator = new_accelerator(device, settings.precision, settings.gradient_accumulation)
        self.limit = math.inf if max_minutes is None else max(10.0, 60 * max_minutes - FINISH_SECONDS)
        kernels.set_threads(torch.get_num_threads())
        if self.is_main:
            self._open_folder(resume)
        self.accelerator.wait_for_everyone()
        self.elapsed_before = 0.0
        self._started = time.monotonic()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files."""
        return bool(self.accelerator.is_main_process)

    def elapsed(self) -> float:
        """Seconds spent, those before an interruption included."""
        return self.elapsed_before + time.monotonic() - self._started

    def time_used(self) -> float:
        """Share of the time that is over, by the main process's clock: all stop and slow down at the same step."""
        used = self.elapsed() / self.limit
        if self.accelerator.num_processes == 1 or math.isinf(self.limit):
            return used
        return float(broadcast(torch.tensor([used], device=self.accelerator.device)))

    def clean_up(self) -> None:
        """Remove caches and checkpoints; the logs stay."""
        if self.is_main:
            for name in ("cache", "checkpoint.pt"):
                _remove(self.folder / name)

    def _open_folder(self, resume: bool) -> None:
        note = self.folder / "run.json"
        found = _key_of(note)
        if resume and found and found != self.key:
            raise ConfigError(
                f"{self.folder} holds a run with other settings, photos or teacher's weights",
                "give the same ones, choose another --out, or leave out --resume to start over",
            )
        if resume and not found:
            log.warning("there is no run in %s to go on with: training starts at step 0", self.folder)
        try:
            if not (resume and found):
                _remove(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps({"key": self.key}), encoding="utf-8")
        except OSError as error:
            raise DataError(
                f"can't write to {self.folder}: {error.strerror}", "free some space, or choose another --out"
            ) from error


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
