"""A line under faults: stream restarts, bad pictures, broken JPEGs, a failing sink, reloads, a full disk.

python tests/benchmarks/soak.py ARTIFACT [--minutes 30] [--fps 20]

A motion-JPEG server on loopback is the camera; faults come at random, about one in four seconds. At the end:
frames, verdicts, losses, reconnects, latency percentiles, memory at the start, middle and end.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.artifact import Artifact
from edge_ad.runtime.inspector import Inspector
from edge_ad.runtime.settings import settings_from
from edge_ad.runtime.sinks_files import ImageSink, JsonLinesSink
from edge_ad.runtime.stats import memory_mb
from edge_ad.runtime.store import Store

CAMERAS = Path(__file__).parents[1] / "edge_ad" / "runtime" / "cameras.py"


class Flaky:
    """A replayed sink that fails or sleeps when told; counts what it got."""

    name, delivery = "flaky", "replayed"

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.mode = ""

    def open(self) -> None:
        """Refuses while broken."""
        if self.mode == "broken":
            raise ConnectionRefusedError("broken on purpose")

    def write(self, verdict: Any, frame: Any, pixel_scores: Any) -> None:
        """Counts the verdict."""
        if self.mode == "broken":
            raise OSError("broken on purpose")
        if self.mode == "slow":
            time.sleep(0.3)
        self.seen[verdict.id] += 1

    def close(self) -> None:
        """Nothing is held."""


class Soak:
    """The server, the inspector, and the faults between them."""

    def __init__(self, artifact: str, out: Path, fps: float, seed: int) -> None:
        spec = importlib.util.spec_from_file_location("cameras", CAMERAS)
        assert spec is not None
        assert spec.loader is not None
        cameras = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(cameras)
        self.dice, self.faults, self.picture_mode = random.Random(seed), Counter[str](), ""
        self.cameras = cameras
        self.server = cameras.MjpegServer(fps=fps, picture=self.picture)
        source = {"address": self.server.url, "reconnect_s": [0.1, 1.0], "timeout_s": 1.5, "frozen_s": 1.0}
        self.settings = settings_from(
            {
                "artifact": artifact, "out": str(out), "station": [{"name": "line", "source": source}],
                "engine": {"threads": 1},
            }
        )  # fmt: skip
        self.flaky = Flaky()
        sinks = [JsonLinesSink(out / "verdicts.jsonl"), ImageSink(out / "images", self.settings.images), self.flaky]
        self.inspector = Inspector(self.settings, sinks)
        self._fail_store()

    def picture(self, number: int) -> np.ndarray:
        """What the camera sees now."""
        if self.picture_mode == "black":
            return np.zeros((240, 320, 3), np.uint8)
        return self.cameras.numbered(7 if self.picture_mode == "frozen" else number)

    def one_fault(self) -> None:
        """Something goes wrong for a while."""
        fault = self.dice.choice(
            ["restart", "silent", "black", "frozen", "broken jpeg", "sink", "slow sink", "disk", "reload"]
        )
        self.faults[fault] += 1
        pause = self.dice.uniform(0.3, 2.5)
        if fault == "restart":
            self.server.stop()
            time.sleep(pause)
            self.server.start()
        elif fault == "silent":
            self.server.silent = True
            time.sleep(pause)
            self.server.silent = False
        elif fault in ("black", "frozen"):
            self.picture_mode = fault
            time.sleep(pause)
            self.picture_mode = ""
        elif fault == "broken jpeg":
            self.server.broken |= {self.server.number + n for n in range(1, 4)}
        elif fault in ("sink", "slow sink"):
            self.flaky.mode = "broken" if fault == "sink" else "slow"
            time.sleep(pause)
            self.flaky.mode = ""
        elif fault == "disk":
            self.disk_full.set()
            time.sleep(pause)
            self.disk_full.clear()
        else:
            Artifact.open(self.settings.artifact).update(reports={"soak": self.faults.total()})

    def _fail_store(self) -> None:
        """While the event is set the store answers as on a full disk."""
        self.disk_full = threading.Event()
        add = self.inspector.store.add

        def add_or_fail(*values: Any) -> int:
            if self.disk_full.is_set():
                raise sqlite3.OperationalError("database or disk is full")
            return add(*values)

        self.inspector.store.add = add_or_fail  # type: ignore[method-assign]

    def run(self, minutes: float) -> dict[str, Any]:
        """Inspect under faults; the findings."""
        found: dict[str, Any] = {}
        result: list[Any] = []
        thread = threading.Thread(target=lambda: result.append(self.inspector.run()))
        thread.start()
        end, memory = time.monotonic() + minutes * 60, []
        time.sleep(3)
        while time.monotonic() < end:
            memory.append(memory_mb())
            self.one_fault()
            time.sleep(self.dice.uniform(1.0, 4.0))
        time.sleep(5)  # the last fault heals; sinks catch up
        memory.append(memory_mb())
        self.inspector.stop()
        thread.join(60)
        self.server.stop()
        summary = result[0]
        with Store(Path(self.settings.out) / "verdicts.sqlite") as store:
            stored = {row.verdict.id for row in store.recent(10**9)}
            found["integrity"] = store.check() or "ok"
            found["owed"] = len(store.owed("flaky", 10**9))
        printed = [
            json.loads(line)["id"] for line in (Path(self.settings.out) / "verdicts.jsonl").read_text().splitlines()
        ]
        found |= {
            "minutes": minutes, "faults": dict(self.faults),
            "frames seen": summary.seen, "inspected": summary.inspected,
            "dropped (newest frame wins)": summary.dropped, "reconnects": summary.reconnects,
            "verdicts": summary.decisions, "stored": len(stored),
            "lost": sum(summary.decisions.values()) - len(stored),
            "not printed": len(stored - set(printed)), "printed twice": len(printed) - len(set(printed)),
            "replayed sink missed": len(stored - self.flaky.seen.keys()) - found["owed"],
            "replayed sink repeats": sum(count - 1 for count in self.flaky.seen.values()),
            "reloads": sum(engine.reloads for engine in self.inspector.engines.values()),
            "total ms": summary.latency_ms["line"]["total"],
            "memory MiB": [round(memory[0]), round(memory[len(memory) // 2]), round(memory[-1])],
        }  # fmt: skip
        return found


def main() -> None:
    """Prints the findings as JSON; exit code 1 when a verdict was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--fps", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        found = Soak(wanted.artifact, Path(folder), wanted.fps, wanted.seed).run(wanted.minutes)
    print(json.dumps(found, indent=1))
    raise SystemExit(bool(found["lost"] or found["replayed sink missed"]))


if __name__ == "__main__":
    main()
