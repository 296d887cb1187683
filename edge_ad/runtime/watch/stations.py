"""Drift on several stations: each has a monitor of its own, begun anew when another artifact scores its parts."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from edge_ad.errors import EdgeAdError
from edge_ad.runtime.engines.loaded import Engine, LoadedArtifact
from edge_ad.runtime.watch.drift import DriftConfig, DriftMonitor, DriftWarning, ImageStatistics

log = logging.getLogger(__name__)


class Station(Protocol):
    """What is needed of a station: its name, what scores its parts, and the calibration that holds there."""

    @property
    def name(self) -> str: ...

    @property
    def engine(self) -> Engine: ...

    def calibration(self, loaded: LoadedArtifact | None = None) -> dict[str, Any]: ...


class DriftWatch:
    """The monitors of a line's stations, kept in `folder` over restarts."""

    def __init__(self, config: DriftConfig, stations: Sequence[Station], folder: Path) -> None:
        self.config, self.folder = config, folder
        self._stations = {station.name: station for station in stations}
        self._scoring: dict[str, LoadedArtifact] = {}
        self.monitors = {name: self._begin(name) for name in self._stations}

    def update(self, station: str, score: float, statistics: ImageStatistics) -> DriftWarning | None:
        """Takes one accepted part of a station; returns a warning that has just risen."""
        if self._stations[station].engine.loaded is not self._scoring[station]:
            before, fresh = self.monitors[station], self._begin(station)
            if fresh.identity != before.identity:
                self.monitors[station] = fresh
                log.warning("drift on %s begins anew: the artifact was replaced", station)
        warning = self.monitors[station].update(score, statistics)
        if warning:
            log.warning("drift on %s: %s", station, warning.advice)
        return warning

    def report(self) -> dict[str, Any]:
        """The first station's report that has a warning, else the first one's; with several, the station is named."""
        reports = {name: monitor.report() for name, monitor in self.monitors.items()}
        name, shown = next(((n, r) for n, r in reports.items() if r["warnings"]), next(iter(reports.items())))
        if len(reports) > 1:
            shown["warnings"] = [row | {"advice": f"{name}: {row['advice']}"} for row in shown["warnings"]]
        return shown

    def acknowledge(self) -> None:
        """The warnings were seen to."""
        for monitor in self.monitors.values():
            if monitor.warnings:
                monitor.acknowledge()

    def restore(self) -> None:
        """Take up what an earlier run knew."""
        for name, monitor in self.monitors.items():
            if self._file(name).exists():
                try:
                    monitor.restore(self._file(name))
                except Exception as error:  # another artifact's, or damaged
                    log.warning("drift on %s begins anew: %s", name, error)

    def save(self) -> None:
        """Keep what is known for the next run."""
        for name, monitor in self.monitors.items():
            try:
                monitor.save(self._file(name))
            except EdgeAdError as error:
                log.warning("drift on %s could not be saved: %s", name, error)

    def _begin(self, name: str) -> DriftMonitor:
        station = self._stations[name]
        loaded = self._scoring[name] = station.engine.loaded
        calibration = station.calibration(loaded)
        return DriftMonitor(self.config, calibration or None, identity=identity_of(loaded, calibration))

    def _file(self, station: str) -> Path:
        safe = "".join(letter if letter.isalnum() else "-" for letter in station)
        return self.folder / f"drift-{safe}.json"


def identity_of(loaded: LoadedArtifact, calibration: dict[str, Any]) -> str:
    """The same for versions of an artifact that give the same scores: reports in the manifest don't count."""
    files = {name: record.sha256 for name, record in sorted(loaded.artifact.manifest.files.items())}
    return hashlib.sha256(json.dumps([files, calibration], sort_keys=True).encode()).hexdigest()[:16]
