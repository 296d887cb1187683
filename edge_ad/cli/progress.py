"""Progress on the terminal: a live bar on stderr, or a line now and then where there is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from edge_ad.training.processes import is_first_process

LINE_SECONDS = 15.0  # between two lines where stderr is no terminal


class TerminalProgress:
    """A phase is a bar; its metrics (loss, images/s) stand behind it. Use it in a `with` statement."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=not is_first_process())
        self._bars = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._name, self._total, self._done, self._said = "", 0, 0, 0.0

    def __enter__(self) -> TerminalProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def phase(self, name: str, total: int, done: int = 0) -> None:
        """A new bar of `total` units, of which `done` are there already."""
        self._task = self._bars.add_task(name, total=total, completed=done, numbers="")
        self._name, self._total, self._done, self._said = name, total, done, time.monotonic()
        if not self.console.is_terminal:
            self.console.print(f"{name}: {total}")

    def advance(self, units: int, **metrics: float) -> None:
        """`units` more are done; show the metrics."""
        text = "  ".join(f"{name.replace('_per_second', '/s')} {value:.3g}" for name, value in metrics.items())
        if self._task is not None:
            self._bars.update(self._task, advance=units, numbers=text)
        self._done += units
        if not self.console.is_terminal and time.monotonic() - self._said > LINE_SECONDS:
            self.console.print(f"{self._name}: {self._done}/{self._total}  {text}")
            self._said = time.monotonic()

    def say(self, text: str, style: str = "") -> None:
        """A line above the bars."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)
