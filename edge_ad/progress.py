"""What a long step tells the outside: phases of a known length, metrics of the running one, and words."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Where progress goes: a terminal, a log, a test."""

    def phase(self, name: str, total: int, done: int = 0) -> None:
        """A new phase of `total` units begins, of which `done` are there already."""

    def advance(self, units: int, **metrics: float) -> None:
        """`units` more are done; metrics such as loss are shown and logged."""

    def say(self, text: str, style: str = "") -> None:
        """A sentence for a person; style: a hint for terminals, such as "dim" or "yellow"."""


class NoProgress:
    """Progress that nobody follows."""

    def phase(self, name: str, total: int, done: int = 0) -> None: ...

    def advance(self, units: int, **metrics: float) -> None: ...

    def say(self, text: str, style: str = "") -> None: ...
