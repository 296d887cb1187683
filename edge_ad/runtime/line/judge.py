"""From a frame's scores to its part's decision, in time: votes over the part's frames, and the deadline."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from edge_ad.runtime.engines.loaded import LoadedArtifact
from edge_ad.runtime.line.geometry import merge_tiles
from edge_ad.runtime.line.job import Job, Part
from edge_ad.runtime.line.policy import Judgement, Policy
from edge_ad.runtime.settings import PolicySettings


class PartJudge:
    """Decides each part once. `expect` may be called by another thread than the rest.

    calibration: the thresholds that hold for a version of the artifact. emit: gets the decision, with the frame
    that shows it. late: parts whose deadline passed before they were judged.
    """

    def __init__(
        self,
        settings: PolicySettings,
        calibration: Callable[[LoadedArtifact], dict[str, Any]],
        emit: Callable[[Job, Judgement], None],
    ) -> None:
        self.settings = settings
        self.late = 0
        self._calibration, self._emit = calibration, emit
        self._due: deque[Job] = deque()
        self._policy: tuple[LoadedArtifact, Policy] | None = None

    def expect(self, job: Job) -> None:
        """A part with a deadline began with this frame, which is shown where the deadline passes."""
        self._due.append(job)

    def until_due_s(self) -> float:
        """Seconds until the next deadline, or until it is worth looking again."""
        while self._due and self._due[0].part.answered:
            self._due.popleft()
        if not self._due:
            # a job may register while we wait: look again within its deadline
            deadline_ms = self.settings.deadline_ms
            return min(max(deadline_ms / 4000, 0.001), 0.5) if deadline_ms else 0.5
        due_ns = self._due[0].part.due_ns or 0
        return max((due_ns - time.monotonic_ns()) / 1e9, 0.0)

    def answer_overdue(self) -> None:
        """Give the parts whose deadline has passed the decision that the settings have for them."""
        now = time.monotonic_ns()
        while self._due and (self._due[0].part.answered or (self._due[0].part.due_ns or 0) <= now):
            job = self._due.popleft()
            if not job.part.answered:
                reason = f"no result within the deadline of {self.settings.deadline_ms:g} ms"
                self._decide(job, Judgement(self.settings.on_deadline, None, None, (), 0, reason))
                self.late += 1

    def judge(self, job: Job) -> None:
        """Count the frame; its part is decided when it failed, ended, or its votes are certain."""
        part = job.part
        if part.answered:
            return
        if job.error:
            self._decide(job, Judgement("ERROR", None, None, (), 0, job.error))
        elif job.closing:
            if part.jobs:
                self._decide_by_votes(part)
        elif job.outputs is not None and job.shown is not None and job.loaded is not None:
            size = (job.shown.shape[0], job.shown.shape[1])
            score, job.pixel_scores = merge_tiles(job.outputs, job.tiles, size)
            judgement = self._policy_of(job.loaded).judge(score, job.pixel_scores, size)
            part.jobs.append(job)
            if part.votes.add(judgement):
                self._decide_by_votes(part)

    def _policy_of(self, loaded: LoadedArtifact) -> Policy:
        if self._policy is None or self._policy[0] is not loaded:
            self._policy = (loaded, Policy(self.settings, self._calibration(loaded)))
        return self._policy[1]

    def _decide_by_votes(self, part: Part) -> None:
        judgement, worst = part.votes.result()
        self._decide(part.jobs[worst], judgement)
        part.jobs.clear()

    def _decide(self, job: Job, judgement: Judgement) -> None:
        job.part.answered = True
        self._emit(job, judgement)
