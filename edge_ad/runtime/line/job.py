"""Part and Job: what travels through a station's threads."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge_ad.runtime.engines.loaded import LoadedArtifact
from edge_ad.runtime.engines.runner import Outputs
from edge_ad.runtime.line.geometry import Tile
from edge_ad.runtime.line.policy import Votes


@dataclass
class Part:
    """A part under inspection: the frames judged so far, and when its verdict is due."""

    id: str
    votes: Votes
    due_ns: int | None
    answered: bool = False
    jobs: list[Job] = field(default_factory=list)


@dataclass
class Job:
    """One frame on its way.

    error: why it can't be judged. closing: no frame, only the end of its part. admitted: it holds its station's
    Admission until the engine has it.
    """

    part: Part
    number: int
    time_ns: int
    captured_ns: int
    label: str = ""
    error: str = ""
    closing: bool = False
    admitted: bool = False
    shown: npt.NDArray[np.uint8] | None = None
    tiles: list[Tile] = field(default_factory=list)
    images: npt.NDArray[np.float32] | None = None
    loaded: LoadedArtifact | None = None
    outputs: Outputs | None = None
    pixel_scores: npt.NDArray[np.float32] | None = None
    marks: list[tuple[str, int]] = field(default_factory=list)

    def mark(self, stage: str) -> None:
        """The stage ended now."""
        self.marks.append((stage, time.monotonic_ns()))

    def latency_ms(self) -> dict[str, float]:
        """Milliseconds by stage, and `total` since the frame was taken."""
        stages, last = {}, self.captured_ns
        for stage, when in self.marks:
            stages[stage] = round(max(when - last, 0) / 1e6, 4)
            last = when
        stages["total"] = round(max(last - self.captured_ns, 0) / 1e6, 4)
        return stages
