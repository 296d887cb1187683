"""Life as a systemd service: the unit file, readiness, and a watchdog that is fed only while the loops turn."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_ad.errors import BackendError

if TYPE_CHECKING:
    from edge_ad.runtime.line.inspector import Inspector

UNIT = "edgead.service"
WATCHDOG_S = 30


def notify(message: str) -> bool:
    """Tell systemd (READY=1, WATCHDOG=1, STOPPING=1, STATUS=...); False when it doesn't listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.connect(address)
            peer.sendall(message.encode())
    except OSError:
        return False
    return True


class Watchdog:
    """Beats towards systemd while the inspector is well.

    A lost camera is no reason to restart the process: capture reconnects by itself. A station thread that
    died, or a capture thread that hangs in its driver for two watchdog periods, is.
    """

    def __init__(self) -> None:
        period_us = os.environ.get("WATCHDOG_USEC", "")
        self.period_s = int(period_us) / 1e6 if period_us.isdigit() else float(WATCHDOG_S)
        self._last = 0.0

    def ready(self) -> None:
        """The artifact is loaded and sources are known."""
        notify("READY=1\nSTATUS=inspecting")

    def stopping(self) -> None:
        """The run drains."""
        notify("STOPPING=1")

    def beat(self, inspector: Inspector) -> bool:
        """Send a beat, at most three in a period; False when one was withheld."""
        now = time.monotonic()
        if now - self._last < self.period_s / 3:
            return True
        if any(station.failure is not None for station in inspector.stations):
            return False
        for station in inspector.stations:
            if station.capture.source.live and station.capture.hanging_s() > 2 * self.period_s:
                return False
        self._last = now
        notify("WATCHDOG=1")
        return True


def unit_text(arguments: Sequence[str], *, user: bool) -> str:
    """The unit file that runs `edgead run` with these arguments in this folder, since their paths may be relative."""
    command = " ".join(_quoted(word) for word in [*_edgead(), "run", *arguments, "--headless", "--keep-trying"])
    account = "" if user else f"User={getpass.getuser()}\nSupplementaryGroups=video\n"
    return f"""[Unit]
Description=EdgeAD inspector
After=network-online.target time-sync.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={str(Path.cwd()).replace("%", "%%")}
Environment=PYTHONUNBUFFERED=1
Restart=always
RestartSec=2
WatchdogSec={WATCHDOG_S}
TimeoutStartSec=900
TimeoutStopSec=60
KillSignal=SIGTERM
LogRateLimitIntervalSec=30
LogRateLimitBurst=1000
NoNewPrivileges=yes
{account}
[Install]
WantedBy={"default.target" if user else "multi-user.target"}
"""


def install(arguments: Sequence[str], *, user: bool) -> list[str]:
    """Write the unit, and enable and start it where systemd runs; returns what was done, in words.

    Logs go to the journal, which rotates them (`journalctl -u edgead`). BackendError: no right to write it.
    """
    folder = Path.home() / ".config/systemd/user" if user else Path("/etc/systemd/system")
    path = folder / UNIT
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(unit_text(arguments, user=user), encoding="utf-8")
    except OSError as error:
        raise BackendError(
            f"can't write {path}: {error.strerror}", "run it with sudo, or add --user for a service of this user"
        ) from error
    done = [f"wrote {path}"]
    systemctl = ["systemctl", *(["--user"] if user else [])]
    if not shutil.which("systemctl") or not Path("/run/systemd/system").is_dir():
        return [*done, f"systemd doesn't run here; elsewhere: {' '.join(systemctl)} enable --now {UNIT}"]
    for step in (["daemon-reload"], ["enable", "--now", UNIT]):
        result = subprocess.run([*systemctl, *step], capture_output=True, text=True, check=False, timeout=60)
        if result.returncode:
            raise BackendError(f"{' '.join([*systemctl, *step])}: {result.stderr.strip()}", "see `journalctl -xe`")
    return [*done, f"enabled and started; see `journalctl {'--user ' if user else ''}-u edgead -f`"]


def _edgead() -> list[str]:
    """The command of this very installation: services have no PATH of ours."""
    beside = Path(sys.executable).with_name("edgead")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "edge_ad"]


def _quoted(word: str) -> str:
    """A word of ExecStart: systemd expands % and $ and splits at blanks."""
    word = word.replace("%", "%%").replace("$", "$$")
    if any(letter in word for letter in " \"'\\;"):
        word = '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return word
