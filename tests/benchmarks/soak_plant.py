"""What stands around the line in the soak: cameras, broker, receiver, disk, clock, an operator; each can fail."""

from __future__ import annotations

import http.server
import importlib.util
import json
import mmap
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

TESTS = Path(__file__).parents[1] / "edge_ad" / "runtime" / "sources"
# The wall clock, moved by the seconds in a file; the monotonic clock stays. Loaded before libc's own.
CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long *moved;
__attribute__((constructor)) static void find(void) {
    int file = open(getenv("SOAK_CLOCK"), O_RDONLY);
    void *at = file < 0 ? MAP_FAILED : mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) moved = at;
}
int clock_gettime(clockid_t which, struct timespec *now) {
    int bad = syscall(SYS_clock_gettime, which, now);
    if (!bad && which == CLOCK_REALTIME && moved) now->tv_sec += *moved;
    return bad;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (at) *at = exact.tv_sec;
    return exact.tv_sec;
}
"""


def load(name: str) -> ModuleType:
    """A helper module of the sources' tests."""
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Pictures:
    """Photos of parts as a camera would see them: in turn, each with noise of its own."""

    def __init__(self, folder: Path) -> None:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg") and "mask" not in p.name)
        self.photos = [
            cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in files[:: len(files) // 40 + 1]
        ]
        self.mode = ""

    def __call__(self, number: int) -> np.ndarray:
        """Picture `number`; black or always the same when `mode` says so."""
        if self.mode == "black":
            return np.zeros_like(self.photos[0])
        if self.mode == "frozen":
            return self.photos[0]
        photo = self.photos[number % len(self.photos)]
        noise = np.random.default_rng(number).integers(0, 6, photo.shape, np.uint8)
        return np.where(photo < 250, photo + noise, photo).astype(np.uint8)


class Clock:
    """The line's wall clock. `moved_s` is None where no C compiler builds the shim."""

    def __init__(self, folder: Path) -> None:
        self.file, source, library = folder / "clock", folder / "clock.c", folder / "clock.so"
        self.file.write_bytes(struct.pack("@l", 0))
        source.write_text(CLOCK)
        compiler = shutil.which("cc") or shutil.which("gcc") or "false"
        words = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source)]
        good = subprocess.run(words, capture_output=True, check=False).returncode == 0
        self.environment = {"LD_PRELOAD": str(library), "SOAK_CLOCK": str(self.file)} if good else {}

    def jump(self, seconds: int) -> None:
        """Move it to so many seconds from the true time."""
        with self.file.open("r+b") as file, mmap.mmap(file.fileno(), 8) as at:
            at[:] = struct.pack("@l", seconds)


class Disk:
    """A folder on a tmpfs of its own, which can be filled up; `small` is False where mounting isn't allowed."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.path, self._ballast = folder, folder / "ballast"
        folder.mkdir(parents=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        self.small = bool(shutil.which("mount")) and subprocess.run(words, capture_output=True).returncode == 0

    def fill(self) -> None:
        """Not a byte is left."""
        with self._ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue

    def clear(self) -> None:
        """Room again."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount."""
        if self.small:
            subprocess.run(["umount", "-l", str(self.path)], check=False)


class Broker:
    """Mosquitto, and a subscriber whose session outlives the broker's restarts."""

    def __init__(self, folder: Path) -> None:
        from paho.mqtt import client as mqtt

        self.port, self.got = free_port(), Counter[str]()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {folder}/\n"
            "autosave_interval 1\nautosave_on_changes true\nmax_queued_messages 0\nuser root\n"
        )
        self.start()
        client = self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id="witness", clean_session=False
        )
        client.reconnect_delay_set(1, 1)
        client.on_connect = lambda c, *_: c.subscribe("soak/+/verdict", qos=1)
        client.on_message = lambda c, data, message: self.got.update([json.loads(message.payload)["id"]])
        client.connect("127.0.0.1", self.port)
        client.loop_start()

    @staticmethod
    def program() -> str | None:
        """Mosquitto's path, None where it isn't installed."""
        return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")

    def start(self) -> None:
        """Up, and answering."""
        words = [str(self.program()), "-c", str(self._config)]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                return socket.create_connection(("127.0.0.1", self.port), 0.2).close()
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("mosquitto did not start")

    def stop(self) -> None:
        """Ends in order, so that what it confirmed is on its disk."""
        self.process.terminate()
        self.process.wait()

    def hang(self, seconds: float) -> None:
        """Open connections, no answer."""
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Both away."""
        self._client.disconnect()
        self._client.loop_stop()
        self.stop()


class Receiver:
    """The webhook's other end. mode: "", slow (answers after 0.7 s), refusing (503), dead (hangs up)."""

    def __init__(self) -> None:
        receiver, self.mode, self.got = self, "", Counter[str]()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.mode == "dead":
                    self.close_connection = True
                    return self.connection.close()
                if receiver.mode == "slow":
                    time.sleep(0.7)
                good = receiver.mode != "refusing"
                if good:
                    receiver.got[json.loads(body)["id"]] += 1
                self.send_response(200 if good else 503)
                self.send_header("Content-Length", "0")
                return self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A line that hangs up is no error here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"


class Operator(threading.Thread):
    """Looks at the page once a second, as a browser would; counts answers by status."""

    PATHS = "/api/state", "/live.jpg?after=-1", "/api/verdicts?limit=100", "/api/series", "/api/threshold", "/readyz"

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.answers, self.stopped = port, Counter[str](), threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stopped.wait(1.0):
            path = self.PATHS[number % len(self.PATHS)]
            number += 1
            self.answers[ask(f"http://127.0.0.1:{self.port}{path}")] += 1


def ask(url: str) -> str:
    """The answer's status, or the kind of failure."""
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            reply.read()
            return str(reply.status)
    except urllib.error.HTTPError as error:
        error.close()
        return str(error.code)
    except OSError as error:
        return type(getattr(error, "reason", error)).__name__


def tampered(artifact: Path, during: Callable[[], None]) -> None:
    """The artifact's graph is cut short and its manifest touched, as by a broken copy; then put right."""
    graph, manifest = artifact / "model.onnx", artifact / "manifest.json"
    aside = graph.with_suffix(".aside")
    shutil.copyfile(graph, aside)
    half = graph.with_suffix(".half")
    half.write_bytes(aside.read_bytes()[: aside.stat().st_size // 2])
    half.replace(graph)
    os.utime(manifest)
    during()
    aside.replace(graph)
    os.utime(manifest)
