"""The operator page: what a line engineer sees of the inspector, in any browser, without network or build step.

page = OperatorPage(view, PageConfig())   # http://127.0.0.1:8080, this machine only
page.start()
...
page.close()
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from dataclasses import dataclass
from typing import Annotated, Any

import edge_ad
from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.optional import need
from edge_ad.runtime.page.data import LineView
from edge_ad.runtime.page.guard import is_loopback
from edge_ad.runtime.settings import need_port

MOST_CLIENTS = 64


@dataclass(frozen=True)
class PageConfig:
    """Where the page listens and who may see it."""

    host: Annotated[str, "0.0.0.0 for the plant's network; then a token is asked for"] = "127.0.0.1"
    port: Annotated[int, "0 picks a free one"] = 8080
    token: Annotated[str, "at least 16 characters; empty: none on loopback, a fresh one elsewhere"] = ""
    allowed_hosts: Annotated[tuple[str, ...], "names that a proxy of yours calls the page by"] = ()

    def __post_init__(self) -> None:
        if self.token and len(self.token) < 16:
            raise ConfigError(
                f"[page] the token has {len(self.token)} characters",
                "use 16 or more, or leave it out to get one made",
            )
        need_port("page", self.port, lowest=0)


class OperatorPage:
    """The page of one line, served from a thread of its own.

    `address` and `token` (empty where none is asked for) hold once it is made.
    Raises BackendError where FastAPI or uvicorn is missing or the port is taken.
    """

    def __init__(self, view: LineView, config: PageConfig | None = None) -> None:
        config = config or PageConfig()
        need("fastapi", why="the operator page")
        uvicorn: Any = need("uvicorn", why="the operator page")
        self.token = config.token or ("" if is_loopback(config.host) else secrets.token_urlsafe(24))
        self.release_token = self.token or secrets.token_urlsafe(24)  # asked for again, whoever is logged in
        try:
            self._socket = socket.create_server(
                (config.host, config.port), family=socket.AF_INET6 if ":" in config.host else socket.AF_INET
            )
        except OSError as error:
            raise BackendError(
                f"the operator page cannot listen on {config.host}:{config.port}: {error}",
                "give an address of this machine and a free port under [page]; port = 0 takes any free one",
            ) from error
        self.port = int(self._socket.getsockname()[1])
        shown = f"[{config.host}]" if ":" in config.host else config.host
        self.address = f"http://{shown}:{self.port}"
        from edge_ad.runtime.page.app import create_app  # noqa: PLC0415  (imports FastAPI)
        from edge_ad.runtime.page.connections import limited_protocol  # noqa: PLC0415  (imports uvicorn)

        hosts = frozenset({"127.0.0.1", "localhost", "::1", config.host, *config.allowed_hosts})
        self.app = create_app(
            view, version=edge_ad.__version__, token=self.token, release_token=self.release_token, hosts=hosts,
            proxies=frozenset(config.allowed_hosts),
        )  # fmt: skip
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.app,
                http=limited_protocol(MOST_CLIENTS),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=1,
                limit_concurrency=2 * MOST_CLIENTS,
                h11_max_incomplete_event_size=16384,
            )
        )
        self._thread = threading.Thread(target=self._serve, name="operator-page", daemon=True)

    def start(self) -> None:
        """Serves from now on. Raises BackendError where the server does not come up within 10 s."""
        self._thread.start()
        until = time.monotonic() + 10
        while not self._server.started:
            if time.monotonic() > until or not self._thread.is_alive():
                raise BackendError(f"the operator page did not start at {self.address}", "see the log")
            time.sleep(0.01)

    def close(self) -> None:
        """Stops serving; open requests get a second to end."""
        if self._thread.is_alive():
            self._server.should_exit = True
            self._thread.join(5)
        self._socket.close()
        self.app.app.state.data.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])
