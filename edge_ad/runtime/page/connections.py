"""Connections of the operator page: how many there may be, and how long one may say nothing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_ad.runtime.clients import Clients, keep_alive

SILENT_S = 30.0  # without a whole request, while nothing is being answered


def limited_protocol(most: int) -> type[asyncio.Protocol]:
    """uvicorn's protocol for at most so many clients; one more makes the one that has been idle for longest leave.

    uvicorn's own limit answers 503 to everybody once it is reached, and it waits for a first request for ever.
    """
    clients = Clients("operator page", most)

    class Protocol(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            keep_alive(transport.get_extra_info("socket"))
            clients.add(self, self.client[0] if self.client else "", transport.abort)
            self._asked_at = time.monotonic()
            self._look = self.loop.call_later(SILENT_S / 3, self._hang_up_when_silent)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._asked_at = time.monotonic()
                clients.used(self)

        def connection_lost(self, exc: Exception | None) -> None:
            self._look.cancel()
            clients.remove(self)
            super().connection_lost(exc)

        def _hang_up_when_silent(self) -> None:
            answering = self.cycle is not None and not self.cycle.response_complete
            if not answering and time.monotonic() - self._asked_at > SILENT_S:
                self.transport.abort()
            else:
                self._look = self.loop.call_later(SILENT_S / 3, self._hang_up_when_silent)

    return Protocol
