"""Drift: a warning before false alarms rise, with a stated rate of false warnings.

Every accepted part gives numbers: its score, and the picture's exposure, sharpness and position. As long as
the line is as it was, each new number is exchangeable with the earlier ones, so its rank among them is uniform:
the smoothed conformal p-value

    p_n = (#{i < n: x_i > x_n} + u_n (1 + #{i < n: x_i = x_n})) / n,   u_n uniform on (0, 1).

We bet against that. Each bet f integrates to one over p, so the Shiryaev-Roberts sum

    R_n = (1 + R_{n-1}) f(p_n)

grows by one a part on average and no faster, whatever the numbers' distribution. Optional stopping then says:
a warning at R >= c comes, on average, after at least c parts of a line that has not changed (Vovk, Gammerman and
Shafer, Algorithmic Learning in a Random World, 2nd ed., ch. 8). With S watched numbers, each warns at S * c, which
keeps "at most one false warning in c parts" for all of them together. Reference scores come from the calibration
and from the line itself until `reference` of them are held; then they are frozen, so that a slow drift is never
learnt as normal.

One score a part, please: neighbouring frames of one part are not exchangeable.
"""

from __future__ import annotations

import bisect
import json
import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np

from edge_ad.artifact import write_atomically
from edge_ad.errors import ConfigError, DataError

SIDES = ("higher", "lower")
ADVICE = {
    ("score", "higher"): "good parts look more anomalous: check light, lens and fixture, then re-calibrate",
    ("score", "lower"): "good parts look too good: check focus and that the camera still sees the part",
    ("exposure", "higher"): "the picture is brighter: check lamps, ambient light and exposure time",
    ("exposure", "lower"): "the picture is darker: check lamps, dirt on the lens and exposure time",
    ("sharpness", "higher"): "the picture is sharper or noisier: check gain and focus",
    ("sharpness", "lower"): "the picture is blurred: check focus, vibration and dirt on the lens",
    ("position_x", "higher"): "the part sits further right: check the fixture and the trigger's delay",
    ("position_x", "lower"): "the part sits further left: check the fixture and the trigger's delay",
    ("position_y", "higher"): "the part sits lower: check the fixture and the camera's mount",
    ("position_y", "lower"): "the part sits higher: check the fixture and the camera's mount",
}


@dataclass(frozen=True)
class DriftConfig:
    """What counts as drift."""

    parts_between_false_warnings: Annotated[int, "on an unchanged line, on average at least this many"] = 100_000
    reference: Annotated[int, "numbers kept as what the line was; then frozen"] = 5_000
    warm_up: Annotated[int, "parts before the first warning about a number that has no calibration"] = 50
    window: Annotated[int, 'parts in "now", for the size of the drift'] = 200
    exposure_tolerance: Annotated[float, "gray levels of 255 that nobody need care about"] = 6.0
    sharpness_tolerance: Annotated[float, "relative"] = 0.2
    position_tolerance: Annotated[float, "of the picture's width or height"] = 0.02

    def __post_init__(self) -> None:
        for name in ("parts_between_false_warnings", "reference", "warm_up", "window"):
            if getattr(self, name) < 2:
                raise ConfigError(
                    f"[drift] {name} is {getattr(self, name)}", "give a whole number of parts, at least 2"
                )


@dataclass(frozen=True)
class ImageStatistics:
    """Numbers of one picture that show a lamp, a lens or a fixture going astray."""

    exposure: float  # mean gray level, 0 to 255
    sharpness: float  # standard deviation of the Laplacian over that of the gray levels, centre of the picture
    position_x: float  # centroid of the edges, 0 (left) to 1 (right)
    position_y: float  # 0 (top) to 1 (bottom)


def image_statistics(frame: np.ndarray) -> ImageStatistics:
    """Exposure, sharpness and position of a picture.

    frame: [H, W, 3] or [H, W] uint8.
    """
    height, width = frame.shape[:2]
    side = min(height, width, 512)
    top, left = (height - side) // 2, (width - side) // 2
    centre = _gray(frame[top : top + side, left : left + side])
    step = max(1, min(height, width) // 256)
    small = _gray(np.ascontiguousarray(frame[::step, ::step]))
    spread = float(cv2.meanStdDev(centre)[1][0, 0])
    detail = float(cv2.meanStdDev(cv2.Laplacian(centre, cv2.CV_16S))[1][0, 0])
    sharpness = detail / spread if spread > 0 else 0.0
    edges = cv2.morphologyEx(cv2.GaussianBlur(small, (5, 5), 0), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    strong = cv2.subtract(edges, np.full_like(edges, min(255, 2 * int(cv2.mean(edges)[0]) + 4)))
    columns = cv2.reduce(strong, 0, cv2.REDUCE_SUM, dtype=cv2.CV_64F).ravel()
    rows = cv2.reduce(strong, 1, cv2.REDUCE_SUM, dtype=cv2.CV_64F).ravel()
    total = columns.sum()
    if total == 0:
        return ImageStatistics(float(small.mean()), sharpness, 0.5, 0.5)
    x = float(columns @ (np.arange(len(columns)) + 0.5) / total / len(columns))
    y = float(rows @ (np.arange(len(rows)) + 0.5) / total / len(rows))
    return ImageStatistics(float(small.mean()), sharpness, x, y)


def _gray(frame: np.ndarray) -> np.ndarray:
    return frame if frame.ndim == 2 else cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)


# Bets on small p, densities on (0, 1): a few much higher numbers, and all a little higher. Their mirror images
# bet on lower ones. p^-a alone would miss gentle shifts; the linear-like ones alone would be slow on big jumps.
POWERS = ((0.35, 1.0), (0.65, 1.0), (1.0, 1.6), (1.0, 2.5))  # Beta(a, b): a p^(a-1) or b (1-p)^(b-1)
_A, _B = (np.array(column) for column in zip(*POWERS, strict=True))


def _log_bets(p: float) -> np.ndarray:
    """[2, len(POWERS)]: log of what each bet pays at this p-value; row 0 bets on higher numbers, row 1 on lower."""
    p = min(max(p, 1e-12), 1 - 1e-12)
    logs = np.array([[math.log(p)], [math.log1p(-p)]])
    return np.asarray(np.log(_A * _B) + (_A - 1) * logs + (_B - 1) * logs[::-1])


class DriftStatistic:
    """The running test of one number: reference, bets, and how far the number has moved."""

    def __init__(self, name: str, config: DriftConfig, *, streams: int, reference: Sequence[float] = ()) -> None:
        """streams: numbers watched together; they share the stated rate. reference: what is normal, if known."""
        self.name, self.config = name, config
        self.limit = math.log(streams * config.parts_between_false_warnings)
        self.reference = sorted(float(x) for x in reference)
        self.calibrated = bool(self.reference)
        self.recent: deque[float] = deque(maxlen=config.window)
        self._log_sums = np.full((2, len(POWERS)), -np.inf)
        self.parts = 0

    def update(self, value: float, tie_break: float) -> None:
        """Takes one part's number. tie_break: a fresh uniform number."""
        left, right = bisect.bisect_left(self.reference, value), bisect.bisect_right(self.reference, value)
        count = len(self.reference)
        p = (count - right + tie_break * (1 + right - left)) / (count + 1)
        self._log_sums = np.logaddexp(0.0, self._log_sums) + _log_bets(p)
        if count < self.config.reference:
            self.reference.insert(right, value)
        self.recent.append(value)
        self.parts += 1

    @property
    def evidence(self) -> np.ndarray:
        """[2] log10 of the Shiryaev-Roberts sums for higher and lower over their limit; a warning is due at 0."""
        # Mean over both sides' bets: each side gets half of this number's share of the stated rate.
        mean = np.logaddexp.reduce(self._log_sums, axis=1) - math.log(self._log_sums.size)
        return np.asarray((mean - self.limit) / math.log(10))

    @property
    def median_shift(self) -> float:
        """Median of the window minus median of the reference, in the number's own unit."""
        if not self.recent or not self.reference:
            return 0.0
        return float(np.median(self.recent)) - self.reference[len(self.reference) // 2]

    def is_tolerated(self) -> bool:
        """True where the number has moved by too little for anyone to care."""
        middle = abs(self.reference[len(self.reference) // 2]) if self.reference else 0.0
        tolerance = {
            "exposure": self.config.exposure_tolerance,
            "sharpness": self.config.sharpness_tolerance * middle,
        }.get(self.name, self.config.position_tolerance if self.name.startswith("position") else 0.0)
        return abs(self.median_shift) <= tolerance

    def direction(self) -> str | None:
        """`higher`, `lower` or None."""
        if not self.calibrated and self.parts < self.config.warm_up:
            return None
        evidence = self.evidence
        side = int(np.argmax(evidence))
        return SIDES[side] if evidence[side] >= 0 and not self.is_tolerated() else None

    def restart(self) -> None:
        """Forgets the evidence, not the reference."""
        self._log_sums[:] = -np.inf


@dataclass(frozen=True)
class DriftWarning:
    """One number has left what it was."""

    name: str
    side: str
    reference: float  # median of what was normal
    now: float  # median of the last `window` parts
    parts: int  # parts seen when the warning rose
    advice: str
    expected_false_alarm_rate: float | None = None  # scores only: if nothing is done


@dataclass
class DriftMonitor:
    """Watches the accepted parts of one camera and artifact; a warning stays until `acknowledge`.

    calibration: the manifest's calibration section, or None for an artifact that has none (then the line's first
    parts are the reference). identity: of what gives the scores; a saved state of another one is refused.
    """

    config: DriftConfig = field(default_factory=DriftConfig)
    calibration: Mapping[str, Any] | None = None
    seed: int | None = None
    identity: str = ""
    warnings: dict[str, DriftWarning] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        names = ("score", "exposure", "sharpness", "position_x", "position_y")
        reference = accepted_reference(self.calibration or {}, self.config.reference)
        self.statistics = {
            name: DriftStatistic(
                name, self.config, streams=len(names), reference=reference if name == "score" else ()
            )
            for name in names
        }
        self._random = np.random.default_rng(self.seed)
        self._lock = threading.RLock()  # the page asks while the line goes on

    def update(self, score: float, statistics: ImageStatistics | None = None) -> DriftWarning | None:
        """Takes one accepted part; returns a warning that has just risen.

        score: the part's image score. statistics: of its picture; None where they weren't taken.
        """
        with self._lock:
            return self._update({"score": score, **(asdict(statistics) if statistics else {})})

    def _update(self, values: Mapping[str, float]) -> DriftWarning | None:
        risen = None
        for name, value in values.items():
            if not math.isfinite(value):
                continue
            statistic = self.statistics[name]
            statistic.update(value, float(self._random.random()))
            side = statistic.direction()
            if side and name not in self.warnings:
                risen = self.warnings[name] = self._warning(statistic, side)
        return risen

    def _warning(self, statistic: DriftStatistic, side: str) -> DriftWarning:
        reference = statistic.reference[len(statistic.reference) // 2]
        return DriftWarning(
            statistic.name,
            side,
            reference,
            reference + statistic.median_shift,
            statistic.parts,
            ADVICE[statistic.name, side],
            self.expected_false_alarm_rate() if statistic.name == "score" else None,
        )

    def expected_false_alarm_rate(self) -> float | None:
        """Share of the reference scores that would pass the threshold if all moved as the median did.

        None without a calibrated threshold. Never less than the rate that was calibrated while scores rise.
        """
        threshold = (self.calibration or {}).get("image_threshold")
        if threshold is None:
            return None
        quantiles = np.asarray((self.calibration or {}).get("score_quantiles") or (), np.float64)
        moved = self.statistics["score"].median_shift
        stated = float((self.calibration or {}).get("false_alarm_rate") or 0.0)
        if len(quantiles) < 2:
            return None
        above = 1.0 - float(np.interp(threshold - moved, quantiles, np.linspace(0, 1, len(quantiles))))
        return max(above, stated) if moved > 0 else above

    def acknowledge(self) -> None:
        """The engineer has seen to it: warnings go, the evidence starts anew, the reference stays."""
        with self._lock:
            self.warnings.clear()
            for statistic in self.statistics.values():
                statistic.restart()

    def report(self) -> dict[str, Any]:
        """For the page, the metrics and the log: each number's evidence (0 = warning), median then and now."""
        with self._lock:
            return {
                "parts_between_false_warnings": self.config.parts_between_false_warnings,
                "expected_false_alarm_rate": self.expected_false_alarm_rate(),
                "stated_false_alarm_rate": (self.calibration or {}).get("false_alarm_rate"),
                "warnings": [asdict(warning) for warning in self.warnings.values()],
                "statistics": {name: _row(statistic) for name, statistic in self.statistics.items()},
            }

    def save(self, path: Path) -> None:
        """Writes references and evidence, so that a restart forgets nothing."""
        with self._lock:
            state = {
                "version": 1,
                "identity": self.identity,
                "warnings": [asdict(warning) for warning in self.warnings.values()],
                "statistics": {
                    name: {
                        "reference": statistic.reference,
                        "recent": list(statistic.recent),
                        "parts": statistic.parts,
                        "log_sums": [[x if math.isfinite(x) else None for x in row] for row in statistic._log_sums],
                    }
                    for name, statistic in self.statistics.items()
                },
            }
        write_atomically(path, json.dumps(state).encode())

    def restore(self, path: Path) -> None:
        """Takes up a saved state. Raises DataError where the file is no such state."""
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            if state["version"] != 1:
                raise ValueError(f"version {state['version']}")
            if state.get("identity", "") != self.identity:
                raise ValueError("another artifact or calibration was in use")
            warnings = {row["name"]: DriftWarning(**row) for row in state["warnings"]}
            for name, saved in state["statistics"].items():
                statistic = self.statistics[name]
                sums = [[-np.inf if x is None else float(x) for x in row] for row in saved["log_sums"]]
                statistic._log_sums = np.array(sums, np.float64).reshape(2, len(POWERS))
                statistic.reference = sorted(map(float, saved["reference"]))
                statistic.recent.extend(map(float, saved["recent"]))
                statistic.parts = int(saved["parts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} is no drift state: {error}", "delete it; the reference is then learnt anew"
            ) from error
        self.warnings = warnings


def accepted_reference(calibration: Mapping[str, Any], limit: int) -> list[float]:
    """Scores that accepted parts should have: the calibration's normals up to the threshold.

    The manifest keeps 101 quantiles; as many points are read off them as there were normals, so that the test
    trusts the calibration as far as its size allows.
    """
    quantiles = [float(q) for q in calibration.get("score_quantiles") or ()]
    count = min(int(calibration.get("normals") or 0), limit)
    if len(quantiles) < 2 or count < 1:
        return []
    at = (np.arange(count) + 0.5) / count
    scores = np.interp(at, np.linspace(0, 1, len(quantiles)), quantiles)
    threshold = calibration.get("image_threshold")
    return [float(s) for s in scores if threshold is None or s <= threshold]


def _row(statistic: DriftStatistic) -> dict[str, Any]:
    evidence = statistic.evidence
    return {
        "parts": statistic.parts,
        "reference": statistic.reference[len(statistic.reference) // 2] if statistic.reference else None,
        "now": float(np.median(statistic.recent)) if statistic.recent else None,
        "evidence": [round(float(x), 3) if math.isfinite(x) else None for x in evidence],
        "tolerated": statistic.is_tolerated(),
    }
