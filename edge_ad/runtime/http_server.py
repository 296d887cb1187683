"""A small HTTP server in threads of its own, from the standard library: for probes and triggers."""

from __future__ import annotations

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edge_ad.errors import BackendError

log = logging.getLogger(__name__)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, address: object) -> None:
        """A client that went away in the middle is no news; the standard server prints a traceback."""
        log.debug("request of %s", address, exc_info=True)


class JsonHandler(BaseHTTPRequestHandler):
    """Answers in JSON, and keeps its requests out of the log."""

    def answer(self, status: int, data: dict[str, Any]) -> None:
        """Send the whole answer."""
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: Any) -> None:
        """Probes every few seconds are no news."""
        log.debug(format, *values)


class HttpServer:
    """Answers from now on; `port` says where. BackendError, with `hint`: it can't listen there."""

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler], *, name: str, hint: str) -> None:
        """port: 0 picks a free one. name: of the thread, and for messages."""
        try:
            self._server = _Server((host, port), handler)
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
