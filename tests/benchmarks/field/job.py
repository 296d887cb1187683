"""What every method gets and gives: photos and settings as JSON in, scores, maps and costs out. Standard library."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

MAP = 256  # rows and columns of every map that is compared
TIMED = 15  # pictures that a latency is measured on, after a few that warm up


@dataclass(frozen=True)
class Job:
    """One fit of one method.

    train: photos of good parts. tests: condition -> photos to score, in the order of the labels. seed: of the method.
    minutes: what a method that optimises may take. threads: of the CPU. weights: name -> file of pretrained weights.
    timed: whether milliseconds are measured. out: folder for what it gives.
    """

    method: str
    train: list[str]
    tests: dict[str, list[str]]
    seed: int
    minutes: float
    threads: int
    weights: dict[str, str]
    timed: bool
    out: str

    @classmethod
    def read(cls, path: Path | str) -> Job:
        """From the file that `write` wrote."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """As a JSON file."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def link_photos(job: Job, folder: Path) -> None:
    """The job's training photos as links in the folder; those that contaminate may have a good one's name."""
    folder.mkdir(parents=True)
    for number, path in enumerate(job.train):
        folder.joinpath(f"{number:04d}_{Path(path).name}").symlink_to(Path(path).resolve())


@dataclass
class Costs:
    """What a method cost and how it was run; None where it was not measured, with the reason in the note.

    fit_s: photos on disk to a detector that scores, weights loaded. peak_mb: resident memory of the process while it
    fitted and scored. size_mb: the file that is deployed. _ms: median of a network call on one picture.
    """

    fit_s: float | None = None
    peak_mb: float | None = None
    size_mb: float | None = None
    torch_ms: float | None = None
    onnxruntime_ms: float | None = None
    openvino_ms: float | None = None
    image_size: str = ""
    weights: str = ""
    versions: str = ""
    note: str = ""

    def write(self, job: Job) -> None:
        """Into the job's folder."""
        Path(job.out, "costs.json").write_text(json.dumps(asdict(self)), encoding="utf-8")


def peak_mb() -> float:
    """The most resident memory that this process had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def median_ms(call: Callable[[], object], count: int = TIMED) -> float:
    """Median milliseconds of a call, after three to warm up."""
    taken = []
    for number in range(count + 3):
        began = perf_counter()
        call()
        if number >= 3:
            taken.append(1000 * (perf_counter() - began))
    return sorted(taken)[len(taken) // 2]
