"""TensorBoard logs of a training run, where TensorBoard is installed."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType
from typing import Any

log = logging.getLogger("edge_ad.training")

EVERY = 10  # steps between two entries


class TrainingLog:
    """Writes a step's metrics as TensorBoard scalars, every tenth step; a context manager.

    folder: for the event files; None writes nothing, as on all processes but the main one. first: the step that the
    run begins or resumes at; what an interrupted run logged beyond it is dropped by TensorBoard.
    """

    def __init__(self, folder: Path | None, first: int = 0) -> None:
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (optional)
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder), purge_step=first or None)

    def write(self, step: int, **metrics: float) -> None:
        """The metrics of a step that is over, counted from 1."""
        if self._writer is None or step % EVERY:
            return
        try:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
        except OSError as error:  # a full disk: the curves are worth less than the training
            self._stop(error)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None:
            return
        try:
            self._writer.close()
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        log.warning("TensorBoard's logs can't be written (%s): the run goes on without them", error.strerror or error)
        self._writer = None
