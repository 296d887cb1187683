"""GPIO: a pulse for each rejected part, at the moment it passes the ejector.

The pulse starts `delay_ms` after the frame was taken, not after the verdict was made: inference may take its time
without moving the pulse. It is given by a thread that only waits for the next edge. A verdict that comes after its
moment would hit the wrong part: then there is no pulse, the sink says so, and `missed` counts it.

Needs the kernel's GPIO character device and libgpiod 2's Python package `gpiod`.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.optional import need
from edge_ad.runtime.sinks.base import Delivery, Frame, PixelScores, Sink
from edge_ad.runtime.verdict import DECISIONS, Verdict

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GpioConfig:
    """Which line, when, for how long."""

    chip: Annotated[str, "chip device"] = "/dev/gpiochip0"
    line: Annotated[str, "offset (18) or the line's name in the device tree (GPIO18, PQ.05)"] = ""
    delay_ms: Annotated[float, "from the picture to the ejector"] = 0.0
    width_ms: Annotated[float, "length of the pulse"] = 50.0
    tolerance_ms: Annotated[float, "later than this is missed"] = 10.0
    active_low: Annotated[bool, "the pulse is low, rest is high"] = False
    decisions: Annotated[tuple[str, ...], "which verdicts pulse; a part without one is not a good part"] = (
        "NG",
        "ERROR",
    )

    def __post_init__(self) -> None:
        if not self.line:
            raise ConfigError("[gpio] needs a line", 'line = "18"; `gpioinfo` lists them')
        if self.width_ms <= 0 or self.delay_ms < 0 or self.tolerance_ms < 0:
            raise ConfigError(
                f"[gpio] delay {self.delay_ms} ms, width {self.width_ms} ms, tolerance {self.tolerance_ms} ms",
                "give a width above 0 and no negative times",
            )
        if unknown := sorted(set(self.decisions) - set(DECISIONS)):
            raise ConfigError(f"[gpio] decisions has {', '.join(unknown)}", f"known: {', '.join(DECISIONS)}")


class GpiodLine:
    """A line of a GPIO chip through libgpiod 2, inactive until told otherwise."""

    def __init__(self, config: GpioConfig) -> None:
        gpiod: Any = need("gpiod", why="the GPIO output")
        self._values = gpiod.line.Value
        self._line: int | str = int(config.line) if config.line.isdigit() else config.line
        settings = gpiod.LineSettings(
            direction=gpiod.line.Direction.OUTPUT,
            active_low=config.active_low,
            output_value=self._values.INACTIVE,
        )
        try:
            self._request = gpiod.request_lines(config.chip, consumer="edgead", config={self._line: settings})
        except (OSError, ValueError) as error:
            raise BackendError(
                f"cannot take line {config.line} of {config.chip}: {error}",
                "check `gpioinfo`, that nobody else holds the line, and that the user may open the chip",
            ) from error

    def set(self, active: bool) -> None:
        """Drives the line."""
        self._request.set_value(self._line, self._values.ACTIVE if active else self._values.INACTIVE)

    def close(self) -> None:
        """Drives it inactive and lets it go."""
        self.set(False)
        self._request.release()


class GpioSink(Sink):
    """Pulses. Pulses that overlap become one long pulse."""

    delivery: Delivery = "now"

    def __init__(self, config: GpioConfig, line: Callable[[GpioConfig], GpiodLine] = GpiodLine) -> None:
        """line: opens the output; another one than libgpiod's where a board has its own way."""
        self.name = f"gpio-{config.line}"
        self.config, self._open_line = config, line
        self.pulses = self.missed = 0
        self.error = ""
        self._line: GpiodLine | None = None
        self._edges: list[tuple[int, int, int]] = []  # when (monotonic ns), order, +1 or -1
        self._order = itertools.count()
        self._ready = threading.Condition()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Takes the line. Raises BackendError where that fails."""
        self._line = self._open_line(self.config)
        self.error = ""
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def write(self, verdict: Verdict, frame: Frame | None = None, pixel_scores: PixelScores | None = None) -> None:
        """Plans the pulse of one verdict. Raises BackendError where it is too late or the line has failed."""
        if self.error:
            raise BackendError(f"GPIO line {self.config.line}: {self.error}", "check the wiring and `gpioinfo`")
        if verdict.decision not in self.config.decisions:
            return
        start = verdict.captured_ns + round(self.config.delay_ms * 1e6)
        late_ms = (time.monotonic_ns() - start) / 1e6
        if late_ms > self.config.tolerance_ms:
            # No exception: it would close the line, and with it the pulses that are still to come.
            self.missed += 1
            log.error("%s: verdict %s came %.1f ms too late for its pulse", self.name, verdict.id, late_ms)
            return
        with self._ready:
            heapq.heappush(self._edges, (start, next(self._order), 1))
            heapq.heappush(self._edges, (start + round(self.config.width_ms * 1e6), next(self._order), -1))
            self._ready.notify()

    def close(self) -> None:
        """Ends at the last planned edge, then lets the line go."""
        thread, self._thread = self._thread, None
        if thread is not None:
            with self._ready:
                self._ready.notify()
            thread.join()
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def _run(self) -> None:
        depth = 0
        line = self._line
        assert line is not None
        while True:
            with self._ready:
                while not self._edges and self._thread is not None:
                    self._ready.wait()
                if not self._edges:
                    return
                wait_s = (self._edges[0][0] - time.monotonic_ns()) / 1e9
                if wait_s > 0:
                    self._ready.wait(wait_s)
                    continue
                step = heapq.heappop(self._edges)[2]
            depth += step
            self.pulses += step > 0
            if (step > 0 and depth == 1) or depth == 0:
                try:
                    line.set(depth > 0)
                except OSError as error:
                    self.error = str(error)
