"""`edgead run` as a plant would have it, under faults for half an hour: what was seen, stored, lost, and how fast.

python tests/benchmarks/soak.py ARTIFACT PHOTOS [--minutes 30] [--json FILE] [--csv FILE]

Two cameras (motion JPEG with a login, RTSP), MQTT, a webhook, metrics, the operator page with somebody looking at
it, and a small disk. Every few seconds something fails, see `FAULTS`. Losses are counted by what others saw: gaps in
the numbers of a station's parts, verdicts printed, published and posted against verdicts stored. What a machine
lacks (mosquitto, GStreamer's RTSP server, the right to mount, a C compiler) is left out and named.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tomli_w
from soak_plant import Broker, Clock, Disk, Operator, Pictures, Receiver, ask, free_port, load, tampered

from edge_ad.artifact import Artifact
from edge_ad.runtime.sinks.store import Store

USER, PASSWORD = "camera", "not shown in any log"


class Soak:
    """The plant and the line in it; `run` lets things fail."""

    def __init__(self, artifact: Path, photos: Path, folder: Path, fps: int, seed: int) -> None:
        self.dice, self.folder, self.faults, self.absent = random.Random(seed), folder, Counter[str](), list[str]()
        self.artifact = shutil.copytree(artifact, folder / "artifact")
        self.disk = Disk(folder / "disk", 256)
        self.pictures, self.clock, self.receiver = Pictures(photos), Clock(folder), Receiver()
        self.mjpeg = load("cameras").MjpegServer(fps=fps, picture=self.pictures, login=(USER, PASSWORD))
        rtsp, stills = load("rtsp_server"), folder / "stills"
        stills.mkdir()
        for number, photo in enumerate(self.pictures.photos):
            even = photo[: photo.shape[0] // 2 * 2, : photo.shape[1] // 2 * 2, ::-1]
            cv2.imwrite(str(stills / f"{number:05}.jpg"), even)
        self.rtsp = rtsp.RtspServer(stills, fps=fps) if rtsp.python_with_gstreamer() else None
        self.broker = Broker(folder) if Broker.program() else None
        missing = {"RTSP": not self.rtsp, "MQTT": not self.broker, "small disk": not self.disk.small}
        self.absent += [name for name, gone in {**missing, "clock": not self.clock.environment}.items() if gone]
        self.operator = Operator(free_port())
        self.metrics = free_port()
        self.started = time.monotonic()

    def start(self) -> None:
        """The line, as the service would start it."""
        login = self.folder / "login"
        login.write_text(PASSWORD)
        healing = {"reconnect_s": [0.2, 2.0], "timeout_s": 2.0}
        top = {"address": self.mjpeg.url, "username": USER, "password_file": str(login), "frozen_s": 1.0, **healing}
        stations = [{"name": "top", "source": top}]
        sinks: dict[str, Any] = {"prometheus": {"port": self.metrics}, "webhook": {"url": self.receiver.url}}
        if self.rtsp:
            # the test photos come round again and again: half a second of the same is no fault here
            stations.append({"name": "side", "source": {"address": self.rtsp.url, **healing, "frozen_s": 0.0}})
        if self.broker:
            sinks["mqtt"] = {"port": self.broker.port, "prefix": "soak", "timeout_s": 2.0, "keepalive_s": 5}
        table = {
            "artifact": str(self.artifact), "out": str(self.disk.path / "run"), "engine": {"threads": 1},
            "station": stations, "sink": sinks, "page": {"port": self.operator.port}, "drift": {},
            "recalibration": {"size": 20}, "images": {"max_mb": 40.0},
        }  # fmt: skip
        settings = self.folder / "line.toml"
        settings.write_text(tomli_w.dumps(table))
        words = [sys.executable, "-m", "edge_ad", "run", "--settings", str(settings), "--headless", "--json"]
        self.printed, self.said = self.folder / "printed.jsonl", self.folder / "said.txt"
        with self.printed.open("w") as out, self.said.open("w") as err:
            self.line = subprocess.Popen(words, stdout=out, stderr=err, env=self._environment())
        while ask(f"http://127.0.0.1:{self.operator.port}/readyz") != "200":
            if self.line.poll() is not None or time.monotonic() - self.started > 60:
                raise SystemExit(f"the line did not start:\n{self.said.read_text()}")
            time.sleep(0.1)
        self.operator.start()

    def _environment(self) -> dict[str, str]:
        import os

        return {**os.environ, **self.clock.environment, "COLUMNS": "500", "PYTHONUNBUFFERED": "1"}

    def stop(self) -> float:
        """SIGTERM; how long the line took to drain, seconds. It must end with 0."""
        begun = time.monotonic()
        self.operator.stopped.set()
        self.line.send_signal(signal.SIGTERM)
        if self.line.wait(90):
            raise SystemExit(f"the line ended with {self.line.returncode}:\n{self.said.read_text()[-3000:]}")
        return time.monotonic() - begun

    def close(self) -> None:
        """Everything away."""
        self.mjpeg.stop()
        for part in (self.rtsp and self.rtsp.kill, self.broker and self.broker.close, self.disk.close):
            if part:
                part()

    def fail(self) -> None:
        """Something goes wrong for a while, and heals."""
        known = {name: fault for name, fault in FAULTS.items() if name.split(":")[0] not in self.absent}
        name = self.dice.choice(list(known))
        self.faults[name] += 1
        known[name](self, self.dice.uniform(0.3, 3.0))

    def memory_mb(self) -> float:
        """The line's resident memory, MiB."""
        text = Path(f"/proc/{self.line.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024


def _restart(stop: Callable[[], None], start: Callable[[], None], pause: float) -> None:
    stop()
    time.sleep(pause)
    start()


def _for_a_while(thing: Any, name: str, value: Any, pause: float) -> None:
    before = getattr(thing, name)
    setattr(thing, name, value)
    time.sleep(pause)
    setattr(thing, name, before)


def _full(soak: Soak, pause: float) -> None:
    soak.disk.fill()
    time.sleep(pause)
    soak.disk.clear()


def _suspended(soak: Soak, pause: float) -> None:
    soak.line.send_signal(signal.SIGSTOP)
    time.sleep(pause)
    soak.line.send_signal(signal.SIGCONT)


FAULTS: dict[str, Callable[[Any, float], None]] = {
    "camera restarted": lambda s, pause: _restart(s.mjpeg.stop, s.mjpeg.start, pause),
    "camera silent": lambda s, pause: _for_a_while(s.mjpeg, "silent", True, 1 + pause),
    "picture black": lambda s, pause: _for_a_while(s.pictures, "mode", "black", pause),
    "picture frozen": lambda s, pause: _for_a_while(s.pictures, "mode", "frozen", 1 + pause),
    "JPEGs broken": lambda s, pause: s.mjpeg.broken.update(range(s.mjpeg.number + 1, s.mjpeg.number + 4)),
    "RTSP: server killed": lambda s, pause: _restart(s.rtsp.kill, s.rtsp.start, pause),
    "MQTT: broker stopped": lambda s, pause: _restart(s.broker.stop, s.broker.start, pause),
    "MQTT: broker hangs": lambda s, pause: s.broker.hang(2 * pause),
    "receiver slow": lambda s, pause: _for_a_while(s.receiver, "mode", "slow", pause),
    "receiver refuses": lambda s, pause: _for_a_while(s.receiver, "mode", "refusing", pause),
    "receiver dead": lambda s, pause: _for_a_while(s.receiver, "mode", "dead", pause),
    "small disk: full": _full,
    "clock: jumps": lambda s, pause: s.clock.jump(s.dice.choice([-86400, -3600, -10, 0, 10, 3600, 86400])),
    "artifact updated": lambda s, pause: Artifact.open(s.artifact).update(reports={"soak": s.faults.total()}),
    "artifact tampered": lambda s, pause: tampered(s.artifact, lambda: time.sleep(1.5 + pause)),
    "reload asked": lambda s, pause: s.line.send_signal(signal.SIGHUP),
    "line suspended": _suspended,
}


def run(soak: Soak, minutes: float) -> dict[str, Any]:
    """Inspect under faults; the findings."""
    soak.start()
    cold_s, memory = time.monotonic() - soak.started, []
    end = time.monotonic() + minutes * 60
    time.sleep(min(10.0, minutes * 6))
    while time.monotonic() < end:
        memory.append((time.monotonic() - soak.started, soak.memory_mb()))
        soak.fail()
        time.sleep(soak.dice.uniform(0.5, 4.0))
    time.sleep(15)  # the last fault heals; the outputs catch up
    memory.append((time.monotonic() - soak.started, soak.memory_mb()))
    drained_s = soak.stop()
    time.sleep(2)  # the broker hands on what it has
    return {
        "minutes": minutes, "cold_start_s": round(cold_s, 2), "drained_s": round(drained_s, 2),
        "faults": dict(sorted(soak.faults.items())), "left_out": soak.absent,
        **summary_of(soak.said.read_text()), **losses(soak), **growth(memory),
        "page_answers": dict(soak.operator.answers),
    }  # fmt: skip


def summary_of(said: str) -> dict[str, Any]:
    """What the line itself reports at its end, and what its log counted."""
    found = re.search(
        r"verdicts: (?P<verdicts>.*?); stored (?P<stored>\d+)(?:, not stored (?P<unstored>\d+))?; (?P<seen>\d+) "
        r"frames seen, (?P<dropped>\d+) dropped, (?P<reconnects>\d+) reconnects",
        " ".join(said.split()),
    )
    if not found:
        raise SystemExit(f"the line printed no summary:\n{said[-3000:]}")
    numbers = {name: int(found[name] or 0) for name in ("seen", "dropped", "reconnects", "unstored")}
    counts = {word.split()[1]: int(word.split()[0]) for word in found["verdicts"].split(", ")}
    return {
        "frames_seen": numbers["seen"], "frames_dropped": numbers["dropped"], "reconnects": numbers["reconnects"],
        "verdicts": counts, "verdicts_made": sum(counts.values()), "not_stored": numbers["unstored"],
        "reloads": said.count("was loaded again"), "reloads_refused": said.count("was refused"),
        "password_in_log": PASSWORD in said,
    }  # fmt: skip


def losses(soak: Soak) -> dict[str, Any]:
    """Stored verdicts against the numbers of their parts, and against what others got."""
    with Store(soak.disk.path / "run" / "verdicts.sqlite") as store:
        problems = store.check()
        owed = {sink: {row.verdict.id for row in store.undelivered(sink, 10**9)} for sink in ("mqtt", "webhook")}
        rows = [row.verdict for row in store.recent(10**9)][::-1]
    ids, gaps, disorder = {row.id for row in rows}, 0, 0
    for source in {row.source for row in rows}:
        own = [row for row in rows if row.source == source]
        gaps += len(set(range(1, max(int(row.part) for row in own) + 1)) - {int(row.part) for row in own})
        disorder += sum(a.captured_ns > b.captured_ns for a, b in pairwise(own))
    printed = Counter(json.loads(line)["id"] for line in soak.printed.read_text().splitlines())
    posted = {row.id for row in rows if row.decision != "OK"} - owed["webhook"]
    latencies = {
        stage: {f"p{p:g}": round(float(np.percentile(values, p)), 2) for p in (50, 95, 99, 100)}
        for stage in ("wait", "prepare", "queue", "infer", "judge", "total")
        if (values := [row.latency_ms[stage] for row in rows if row.decision != "ERROR" and stage in row.latency_ms])
    }
    found = {
        "stored": len(rows), "parts_without_verdict": gaps, "integrity": problems or "ok", "out_of_order": disorder,
        "not_printed": len(ids - printed.keys()), "printed_twice": printed.total() - len(printed),
        "owed": {sink: len(left) for sink, left in owed.items()},
        "webhook_missed": len(posted - soak.receiver.got.keys()),
        "webhook_repeats": soak.receiver.got.total() - len(soak.receiver.got), "latency_ms": latencies,
    }  # fmt: skip
    if soak.broker:
        got = soak.broker.got
        found |= {"mqtt_missed": len(ids - owed["mqtt"] - got.keys()), "mqtt_repeats": got.total() - len(got)}
    return found


def growth(memory: list[tuple[float, float]]) -> dict[str, Any]:
    """Resident memory at the start, its highest, at the end, and the slope over the last two thirds."""
    at, used = np.array(memory).T
    late = at > at[-1] / 3
    slope = float(np.polyfit(at[late] / 3600, used[late], 1)[0]) if late.sum() > 2 else 0.0
    values = {"start": used[0], "highest": used.max(), "end": used[-1], "growth_an_hour": slope}
    return {"memory_mb": {name: round(float(value), 1) for name, value in values.items()}}


def lost(found: dict[str, Any]) -> int:
    """Verdicts that somebody should have and hasn't."""
    names = ("parts_without_verdict", "not_stored", "not_printed", "mqtt_missed", "webhook_missed")
    return sum(int(found.get(name, 0)) for name in names) + abs(found["verdicts_made"] - found["stored"])


def main() -> None:
    """Prints the findings as JSON; exit code 1 when a verdict was lost or the store damaged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("photos", type=Path, help="a folder of photos that the cameras show")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--fps", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the findings here, too")
    parser.add_argument("--csv", type=Path, help="append a row")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = Soak(wanted.artifact, wanted.photos, Path(folder), wanted.fps, wanted.seed)
        try:
            found = run(soak, wanted.minutes)
        finally:
            soak.close()
    found["lost"] = lost(found)
    text = json.dumps(found, indent=1)
    print(text)
    if wanted.json:
        wanted.json.write_text(text + "\n")
    if wanted.csv:
        append(wanted.csv, found)
    raise SystemExit(bool(found["lost"] or found["integrity"] != "ok" or found["password_in_log"]))


def append(path: Path, found: dict[str, Any]) -> None:
    """One row; what has parts is written as JSON."""
    row = {"date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(), "sqlite": sqlite3.sqlite_version}
    row |= {name: json.dumps(value) if isinstance(value, (dict, list)) else value for name, value in found.items()}
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
