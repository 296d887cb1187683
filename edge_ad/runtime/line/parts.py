"""Which part a frame belongs to: by a trigger from outside, by time, or by what the picture shows."""

from __future__ import annotations

from edge_ad.runtime.line.job import Part
from edge_ad.runtime.line.policy import Votes
from edge_ad.runtime.line.presence import Motion, Presence, small_gray
from edge_ad.runtime.line.triggers import Signals
from edge_ad.runtime.settings import StationSettings
from edge_ad.runtime.sources.base import Picture


class PartAssembler:
    """Collects a station's frames into parts of `policy.frames` frames each; used by one thread.

    signals: triggers from outside; None where frames themselves say when a part is there.
    """

    def __init__(self, settings: StationSettings, signals: Signals | None) -> None:
        self.settings, self.signals = settings, signals
        self._presence = Presence(settings.presence)
        self._motion = Motion(settings.trigger.settle, settings.presence.level, settings.presence.share)
        self._looks = settings.presence.kind != "off" or settings.trigger.kind == "motion"
        self._part: Part | None = None
        self._missing = self._count = 0  # frames that the open part still lacks; parts so far
        self._last_interval_ns = -(1 << 62)

    def assign(self, picture: Picture) -> tuple[Part | None, Part | None]:
        """(the part that ended short of frames, the part this frame belongs to); None where there is none."""
        gray = small_gray(picture.frame) if self._looks else None
        present = gray is None or self._presence(gray)
        rested = gray is not None and self.settings.trigger.kind == "motion" and self._motion(gray)
        if self._part and self._missing and present:
            self._missing -= 1
            return None, self._part
        ended, name = self.close(), ""
        if self.signals:
            hit = self.signals.match(picture.captured_ns)
            if hit is None:
                return ended, None
            name = hit[0]
        elif not present or not self._is_time(picture, rested):
            return ended, None
        number = self.next_id()
        due = self.settings.policy.deadline_ms
        due_ns = picture.captured_ns + int(due * 1e6) if due else None
        self._part = Part(name or number, Votes(self.settings.policy), due_ns)
        self._missing = self.settings.policy.frames - 1
        return ended, self._part

    @property
    def is_first_frame(self) -> bool:
        """Whether the frame assigned last began its part."""
        return self._missing == self.settings.policy.frames - 1

    def next_id(self) -> str:
        """The running number of a new part."""
        self._count += 1
        return str(self._count)

    def close(self) -> Part | None:
        """The open part that will get no more frames, though it lacks some; None where there is none."""
        ended = self._part if self._missing else None
        self._part, self._missing = None, 0
        return ended

    def _is_time(self, picture: Picture, rested: bool) -> bool:
        trigger = self.settings.trigger
        if trigger.kind == "motion":
            return rested
        if trigger.kind == "interval":
            if picture.captured_ns - self._last_interval_ns < trigger.interval_ms * 1e6:
                return False
            self._last_interval_ns = picture.captured_ns
        return True
