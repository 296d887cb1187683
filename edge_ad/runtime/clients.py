"""Clients of a server of ours: a bound on their number, and sockets that notice when the other end is gone.

A PLC that is switched off says nothing: its connection stays half open. Without a bound that lets new clients in,
sixteen of them would lock everybody out.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Hashable

log = logging.getLogger(__name__)
SAY_AGAIN_S = 60.0


def keep_alive(connection: socket.socket) -> None:
    """Let the system ask a silent peer after 10 s whether it is there, and hang up after 25 s without an answer.

    On a listening socket it holds for all of its connections.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 25_000)):
        if hasattr(socket, name):  # Linux
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Clients:
    """Who is connected to a server; one more than `most` drops the one that has been idle for longest.

    May be used from any thread.
    """

    def __init__(self, server: str, most: int) -> None:
        """server: its name for the log."""
        self.server, self.most = server, most
        self._known: dict[Hashable, tuple[float, str, Callable[[], object]]] = {}  # since when idle, address, drop
        self._lock = threading.Lock()
        self._said, self._unsaid = -SAY_AGAIN_S, 0

    def __len__(self) -> int:
        return len(self._known)

    def add(self, client: Hashable, address: str, drop: Callable[[], object]) -> None:
        """A client has connected. drop: hangs up on it, soon and without waiting."""
        with self._lock:
            dropped = []
            while len(self._known) >= self.most:
                oldest = min(self._known, key=lambda known: self._known[known][0])
                dropped.append(self._known.pop(oldest))
            self._known[client] = (time.monotonic(), address, drop)
        for since, old, hang_up in dropped:
            hang_up()
            self._say(time.monotonic() - since, old, address)

    def used(self, client: Hashable) -> None:
        """The client has finished a request: it is idle from now on."""
        with self._lock:
            if client in self._known:
                self._known[client] = (time.monotonic(), *self._known[client][1:])

    def remove(self, client: Hashable) -> None:
        """The client is gone."""
        with self._lock:
            self._known.pop(client, None)

    def _say(self, idle_s: float, old: str, new: str) -> None:
        now = time.monotonic()
        if now - self._said < SAY_AGAIN_S:
            self._unsaid += 1
            return
        more = f"; {self._unsaid} more since the last such line" if self._unsaid else ""
        log.warning(
            "the %s has %d clients: %s, idle for %.0f s, makes room for %s%s",
            self.server, self.most, old, idle_s, new, more,
        )  # fmt: skip
        self._said, self._unsaid = now, 0
