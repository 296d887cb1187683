"""Is the inspector alive, and is it inspecting? For systemd, containers, load balancers and the operator page.

Alive: every loop that registered has beaten lately. Ready: alive, and every component says it works. A camera that
is away makes the inspector not ready; it does not make it dead, since a restart would not bring the camera back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge_ad.runtime.http_server import HttpServer, JsonHandler


@dataclass(frozen=True)
class HealthReport:
    """Whether it is alive, whether it is ready, and in words what is wrong."""

    live: bool
    ready: bool
    problems: tuple[str, ...] = ()


class Health:
    """Collects beats and component states from all threads."""

    def __init__(self, *, stall_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        """stall_s: a loop that has been silent for longer is stuck. clock: seconds that never jump."""
        self.stall_s, self._clock = stall_s, clock
        self._lock = threading.Lock()
        self._beats: dict[str, float] = {}
        self._components: dict[str, str] = {"inspector": "starting"}  # problem in words, "" when it works

    def beat(self, loop: str) -> None:
        """A loop's sign of life; the first one registers the loop."""
        with self._lock:
            self._beats[loop] = self._clock()

    def works(self, component: str) -> None:
        """This component works."""
        self.fails(component, "")

    def fails(self, component: str, problem: str) -> None:
        """This component does not work. problem: what is wrong, for people."""
        with self._lock:
            self._components[component] = problem

    def report(self) -> HealthReport:
        """The state now."""
        with self._lock:
            now = self._clock()
            silent_s = {name: now - at for name, at in self._beats.items()}
            stuck = [f"{name} has stalled for {s:.0f} s" for name, s in silent_s.items() if s > self.stall_s]
            broken = [f"{name}: {problem}" for name, problem in self._components.items() if problem]
        return HealthReport(not stuck, not stuck and not broken, tuple(stuck + broken))


class HealthServer(HttpServer):
    """/healthz and /readyz from the standard library, for lines that run without the operator page."""

    def __init__(self, health: Health, host: str = "127.0.0.1", port: int = 8081) -> None:
        """port: 0 picks a free one; `port` then says which."""

        class Handler(JsonHandler):
            def do_GET(self) -> None:
                self.answer(*answer(health, self.path))

        super().__init__(host, port, Handler, name="health endpoint", hint="choose another port under [health]")


def answer(health: Health, path: str) -> tuple[int, dict[str, Any]]:
    """Status and body for a probe: 200 or 503, with the problems; 404 for any other path."""
    report = health.report()
    good = {"/healthz": report.live, "/readyz": report.ready}.get(path.split("?")[0])
    if good is None:
        return 404, {"detail": "only /healthz and /readyz"}
    return (200 if good else 503), {"ok": good, "problems": report.problems}
