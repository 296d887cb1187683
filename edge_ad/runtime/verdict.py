"""Verdict: what the inspector says of one part, and the only thing that sinks and the store know of it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal, get_args

Decision = Literal["OK", "NG", "UNSURE", "ERROR"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)


@dataclass(frozen=True)
class DefectBox:
    """A connected region above the pixel threshold.

    In pixels of the inspected picture: the camera's frame, unless the settings straighten or cut it.
    """

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


@dataclass(frozen=True)
class Verdict:
    """One part's decision with everything needed to explain and to trace it.

    id: 24 hexadecimal characters; later verdicts sort later as long as the clock doesn't jump
    time_ns: wall clock when the frame was taken, nanoseconds since 1970 (may jump with the clock)
    captured_ns: monotonic clock when the frame was taken, nanoseconds (for durations; never jumps)
    source: name of the camera or file the frame came from
    frame: number of the frame in its source, from 0
    part: identity of the part: the trigger's, or a counter
    decision: OK, NG, UNSURE (near the threshold, or votes disagree) or ERROR (no score could be made)
    score: image score, unbounded, higher is more anomalous; None for ERROR
    threshold: the image threshold in force; None where there is none
    boxes: defects found, largest peak first; area: their total area, in pixels of the inspected picture
    reason: one sentence for a person
    latency_ms: milliseconds by stage; `total` runs from capture to decision
    artifact: first 16 characters of the hash of the artifact's manifest
    engine: what computed the scores and passed the self-test, such as `openvino-cpu int8`; empty in old records
    """

    id: str
    time_ns: int
    captured_ns: int
    source: str
    frame: int
    part: str
    decision: Decision
    score: float | None
    threshold: float | None
    boxes: tuple[DefectBox, ...] = ()
    area: int = 0
    reason: str = ""
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    artifact: str = ""
    engine: str = ""

    def __post_init__(self) -> None:
        for name in ("source", "part", "reason"):
            object.__setattr__(self, name, writable(getattr(self, name)))

    @property
    def time(self) -> datetime:
        """When the frame was taken, in UTC."""
        return datetime.fromtimestamp(self.time_ns / 1e9, timezone.utc)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        return asdict(self) | {"boxes": [asdict(box) for box in self.boxes]}

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))


def writable(text: str) -> str:
    """The text as every store and protocol takes it: what UTF-8 has no bytes for is spelt out.

    A file name in another encoding, or a part's identity from JSON, may hold halves of surrogate pairs.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def new_id(time_ns: int | None = None) -> str:
    """24 hexadecimal characters: the time, then randomness, so that two writers never collide."""
    return f"{time.time_ns() if time_ns is None else time_ns:016x}{secrets.token_hex(4)}"
