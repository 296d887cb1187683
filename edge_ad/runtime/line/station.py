"""Station: one camera's way from frame to verdict, in threads that overlap.

capture -> prepare (trigger, straighten, cut, preprocess) -> infer (the shared engine) -> judge (policy, deadline)
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from edge_ad.errors import ConfigError
from edge_ad.runtime.engines.loaded import Engine, LoadedArtifact
from edge_ad.runtime.engines.runner import Outputs
from edge_ad.runtime.line.admission import Admission
from edge_ad.runtime.line.capture import Capture, Ended, Fault
from edge_ad.runtime.line.geometry import FrameFixer, cut_tiles
from edge_ad.runtime.line.golden import GoldenGate
from edge_ad.runtime.line.job import Job, Part
from edge_ad.runtime.line.judge import PartJudge
from edge_ad.runtime.line.parts import PartAssembler
from edge_ad.runtime.line.policy import Judgement, Votes
from edge_ad.runtime.line.triggers import Listener, Signals, open_listener
from edge_ad.runtime.products import calibration_for, check_tiles
from edge_ad.runtime.settings import StationSettings
from edge_ad.runtime.sinks.hub import SinkHub
from edge_ad.runtime.sources.base import Picture
from edge_ad.runtime.sources.opening import open_source
from edge_ad.runtime.stats import StageTimes
from edge_ad.runtime.verdict import Decision, Verdict, new_id, writable

MAX_FAILURES = 5  # inferences that fail one after the other before the run gives up
log = logging.getLogger(__name__)


class Station:
    """Threads of one camera. `start`, then `join`; `stop` lets what was captured finish.

    may_take: asked once a frame that would be inspected; False ends the station (for `--frames`).
    """

    def __init__(
        self,
        settings: StationSettings,
        engine: Engine,
        hub: SinkHub,
        *,
        may_take: Callable[[], bool] = lambda: True,
        keep_trying: bool = False,
    ) -> None:
        self.settings, self.engine, self.hub = settings, engine, hub
        check_tiles(settings, calibration_for(engine.loaded.artifact.manifest, settings.product))
        engine.checks.append(lambda artifact: calibration_for(artifact.manifest, settings.product))
        source = open_source(settings.source)
        self.name = writable(settings.name or source.name)
        self.times = StageTimes()
        self.counts: dict[Decision, int] = {"OK": 0, "NG": 0, "UNSURE": 0, "ERROR": 0}
        self.inspected = self._failures = 0
        self.failure: Exception | None = None
        signals = settings.trigger.kind in ("gpio", "http", "mqtt", "modbus", "plc")
        self.signals = Signals(settings.trigger) if signals else None
        keep, depth, looks_ahead = _buffering(settings, signals, source.live)
        self.capture = Capture(source, settings.source, keep=keep, depth=depth, keep_trying=keep_trying)
        self._may_take = may_take
        self._fixer = FrameFixer(settings.frame)
        self._parts = PartAssembler(settings, self.signals)
        self._admission = Admission() if keep == "newest" and not looks_ahead else None
        self._to_infer: queue.Queue[Job | None] = queue.Queue(settings.source.queue if signals else 1)
        self._to_judge: queue.Queue[Job | None] = queue.Queue(2)
        self.judge = PartJudge(settings.policy, self.calibration, self._emit)
        self._calibration: tuple[LoadedArtifact, dict[str, Any]] | None = None
        self.listener: Listener | None = None  # of a signal from outside
        self.gate: GoldenGate | None = None  # where golden parts are demanded
        loops = {"prepare": self._prepare_loop, "infer": self._infer_loop, "judge": self._judge_loop}
        self._threads = [
            threading.Thread(target=self._guard, args=(loop,), name=f"{name}-{self.name}", daemon=True)
            for name, loop in loops.items()
        ]

    def start(self) -> None:
        """Begin. BackendError: the trigger can't be used."""
        self.listener = open_listener(self.settings.trigger, self.signals) if self.signals else None
        self.capture.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Take no more frames; those already taken still get their verdicts."""
        if self.listener:
            self.listener.close()
            self.listener = None
        self.capture.stop()

    def calibration(self, loaded: LoadedArtifact | None = None) -> dict[str, Any]:
        """The calibration that holds for this station's product; default: of the newest artifact."""
        loaded = loaded or self.engine.loaded
        known = self._calibration
        if known is None or known[0] is not loaded:
            known = self._calibration = (loaded, calibration_for(loaded.artifact.manifest, self.settings.product))
        return known[1]

    @property
    def running(self) -> bool:
        """Whether verdicts may still come."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self, timeout_s: float) -> None:
        """Wait for the last verdict."""
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:  # another station's trigger may have refused before this one began
                thread.join(max(end - time.monotonic(), 0.01))

    def _guard(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Exception as error:
            self.failure = self.failure or error
            log.debug("%s failed", self.name, exc_info=True)
            self.capture.stop()

    # prepare

    def _prepare_loop(self) -> None:
        wait_s = 0.02 if self.signals else 0.5
        try:
            while self.failure is None:
                if self._admission and not self._admission.acquire(wait_s):
                    continue
                try:
                    item = self.capture.get(wait_s)
                except Ended:
                    break
                if self.signals:
                    self._answer_missed_signals(self.signals)
                before = self.inspected
                if isinstance(item, Fault):
                    self._fault(item)
                elif item is not None and not self._picture(item):
                    self.capture.stop()
                    break
                if self._admission and self.inspected == before:  # nothing goes to the engine
                    self._admission.release()
        finally:
            self._end_part(self._parts.close())
            self._put(None, self._to_infer)

    def _picture(self, picture: Picture) -> bool:
        """Take the frame when it is a part's; False when no more frames may be taken."""
        ended, part = self._parts.assign(picture)
        self._end_part(ended)
        if part is None:
            return True
        if not self._may_take():
            return False
        job = Job(part, picture.number, picture.time_ns, picture.captured_ns, picture.label)
        job.mark("wait")
        if part.due_ns is not None and self._parts.is_first_frame:
            self.judge.expect(job)
        self.inspected += 1
        job.loaded = self.engine.current()
        try:
            job.shown = self._fixer.apply(picture.frame)
            job.tiles = self._fixer.tiles(*job.shown.shape[:2])
            job.images = cut_tiles(job.shown, job.tiles, job.loaded.prepare)
        except ConfigError:
            job.loaded.release()
            raise
        except Exception as error:
            job.error = f"the frame could not be prepared: {error}"
        job.mark("prepare")
        job.admitted = True
        if self._admission:
            self._admission.add_prepare_time(job.marks[-1][1] - job.marks[-2][1])
        self._put(job, self._to_infer)
        return True

    def _end_part(self, part: Part | None) -> None:
        if part is not None:
            self._put(Job(part, -1, 0, 0, closing=True), self._to_infer)

    def _fault(self, fault: Fault) -> None:
        if fault.outage and self.signals:
            return  # no part asked; those that ask meanwhile get their ERROR
        self._error_job(self._parts.next_id(), fault.reason, fault.number, fault.time_ns, fault.captured_ns)

    def _answer_missed_signals(self, signals: Signals) -> None:
        for part, fired_ns in signals.timed_out():
            now = time.monotonic_ns()
            reason = f"no frame within {self.settings.trigger.timeout_ms:.0f} ms of the trigger"
            if self.capture.state != "up":
                reason += f" (camera {self.capture.state})"
            self._error_job(part, reason, self.capture.seen, time.time_ns() - (now - fired_ns), fired_ns)

    def _error_job(self, part: str, reason: str, number: int, time_ns: int, captured_ns: int) -> None:
        empty = Part(part, Votes(self.settings.policy), None)
        self._put(Job(empty, number, time_ns, captured_ns, error=reason), self._to_infer)

    def _put(self, job: Job | None, to: queue.Queue[Job | None]) -> None:
        while True:
            try:
                return to.put(job, timeout=0.5)
            except queue.Full:
                if self.failure is not None:
                    return None

    # infer

    def _infer_loop(self) -> None:
        try:
            while self.failure is None:
                try:
                    job = self._to_infer.get(timeout=0.5)
                except queue.Empty:
                    continue
                if job is None:
                    break
                admission = self._admission if job.admitted else None
                overlaps = admission is not None and admission.overlaps
                if admission and overlaps:
                    admission.release()
                if job.images is not None and not job.error and not job.part.answered:
                    self._infer(job)
                    if admission:
                        admission.add_inference_time(job.marks[-1][1] - job.marks[-2][1])
                if admission and not overlaps:
                    admission.release()
                self._put(job, self._to_judge)
        finally:
            self._put(None, self._to_judge)

    def _infer(self, job: Job) -> None:
        assert job.loaded is not None
        assert job.images is not None
        job.mark("queue")
        try:
            job.outputs = job.loaded.infer(job.images)
            self._failures = 0
        except Exception as error:
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                raise
            job.error = f"inference failed: {error}"
            log.error("%s", job.error)
        job.mark("infer")
        job.images = None

    # judge

    def _judge_loop(self) -> None:
        while True:
            try:
                job = self._to_judge.get(timeout=self.judge.until_due_s())
            except queue.Empty:
                self.judge.answer_overdue()
                if self.failure is not None and not self._threads[1].is_alive():
                    return
                continue
            self.judge.answer_overdue()
            if job is None:  # what ended the source is told once every frame before it has its verdict
                self.failure = self.failure or self.capture.failure
                return
            self.judge.judge(job)
            if job.loaded is not None:
                job.loaded.release()

    def _emit(self, job: Job, judgement: Judgement) -> None:
        job.mark("judge")
        judgement = self.gate.apply(job.part.id, judgement, job.loaded) if self.gate else judgement
        latency_ms = job.latency_ms()
        loaded = job.loaded or self.engine.loaded
        reason = judgement.reason + (f" [{job.label}]" if job.label else "")
        if judgement.decision != "OK" and job.outputs is not None:
            reason += _evidence(job.outputs)
        verdict = Verdict(
            new_id(job.time_ns), job.time_ns, job.captured_ns, self.name, job.number, job.part.id,
            judgement.decision, judgement.score, judgement.threshold, judgement.boxes, judgement.area, reason,
            latency_ms, loaded.digest, loaded.runner.name,
        )  # fmt: skip
        self.counts[judgement.decision] += 1
        self.times.add(latency_ms)
        if job.pixel_scores is not None:
            job.pixel_scores.setflags(write=False)
        wait_s = 0.0 if self.capture.source.live else 10.0
        self.hub.submit(verdict, job.shown, job.pixel_scores, wait_s=wait_s)


def _buffering(settings: StationSettings, signals: bool, live: bool) -> tuple[Literal["newest", "every"], int, bool]:
    """(which frames the capture keeps, how many, whether frames wait to be looked at before the engine is free)."""
    keep = settings.source.policy
    if keep == "auto":
        keep = "newest" if live else "every"
    # A signal's frame must not be pushed out by the next one before it was looked at.
    looks_ahead = signals or settings.trigger.kind == "motion" or (keep == "every" and live)
    return keep, settings.source.queue if looks_ahead else 1, looks_ahead


def _evidence(outputs: Outputs) -> str:
    """Which of the two maps speaks, in words: the distance of features, or the segmentation head."""
    distance, logit = float(outputs.anomaly_map.max()), float(outputs.head_logits.max())
    return f" (feature distance up to {distance:.3g}, head logit up to {logit:.3g})"
