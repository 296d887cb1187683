"""A small HTTP server in threads of its own, from the standard library: for probes, metrics and triggers."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edge_ad.errors import BackendError
from edge_ad.runtime.clients import Clients, keep_alive

log = logging.getLogger(__name__)
IDLE_S = 10.0  # a client that says nothing for this long, also in the middle of a request, is hung up on
MOST_CLIENTS = 32


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], name: str) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.clients = Clients(name, MOST_CLIENTS)
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection, with limits."""
        connection, address = super().get_request()
        connection.settimeout(IDLE_S)
        keep_alive(connection)

        def drop() -> None:
            with contextlib.suppress(OSError):  # it has gone by itself
                connection.shutdown(socket.SHUT_RDWR)

        self.clients.add(connection, str(address[0]), drop)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """Hang up."""
        self.clients.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, address: object) -> None:
        """A client that went away in the middle is no news; the standard server prints a traceback."""
        log.debug("request of %s", address, exc_info=True)


class JsonHandler(BaseHTTPRequestHandler):
    """Answers in JSON, and keeps its requests out of the log."""

    def do_HEAD(self) -> None:
        """As GET, without the body: load balancers probe like this."""
        get = getattr(self, "do_GET", None)
        if get is None:
            return self.answer(405, {"error": "not this method"})
        get()
        return None

    def answer(self, status: int, data: dict[str, Any]) -> None:
        """Send the whole answer; for HEAD, its headers."""
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *values: Any) -> None:
        """Probes every few seconds are no news."""
        log.debug(format, *values)


class HttpServer:
    """Answers from now on; `port` says where. BackendError, with `hint`: it can't listen there."""

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler], *, name: str, hint: str) -> None:
        """port: 0 picks a free one. name: of the thread, and for messages."""
        try:
            self._server = _Server((host, port), handler, name)
        except OSError as error:
            raise BackendError(f"the {name} can't listen on {host}:{port}: {error}", hint) from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
