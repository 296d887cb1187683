"""A Modbus TCP server of our own: eight function codes over asyncio, so that the line needs no package for it.

It answers from live state instead of a copied data block: a PLC never reads half of one result and half of the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable
from typing import Protocol

from edge_ad.errors import BackendError
from edge_ad.runtime.clients import Clients, keep_alive

log = logging.getLogger(__name__)
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE, DEVICE_FAILURE = 1, 2, 3, 4
MOST_CLIENTS = 16
REQUEST_S = 5.0  # the rest of a request that has begun; between requests a PLC may be silent


class ModbusFault(Exception):
    """A request that is answered with an exception code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"Modbus exception {code}")
        self.code = code


class ModbusDevice(Protocol):
    """What the server asks. Called from the server's thread, one request at a time."""

    def read_bits(self, table: str, address: int, count: int) -> list[bool]:
        """table: `coils` or `discrete`. Raises ModbusFault(2) outside the map."""

    def read_registers(self, table: str, address: int, count: int) -> list[int]:
        """table: `holding` or `input`. Raises ModbusFault(2) outside the map."""

    def write_bits(self, address: int, values: list[bool]) -> None:
        """Coils. Raises ModbusFault(2) outside the map."""

    def write_registers(self, address: int, values: list[int]) -> None:
        """Holding registers. Raises ModbusFault(2) outside the map."""


class ModbusServer:
    """Serves a device from a thread of its own; `port` holds once it is made. Any unit number is answered.

    One client more than MOST_CLIENTS makes the one that has been idle for longest leave: PLCs that were switched off
    say no goodbye, and those that run poll all the time.
    Raises BackendError where the port is taken.
    """

    def __init__(self, device: ModbusDevice, host: str = "127.0.0.1", port: int = 502) -> None:
        """port: 0 picks a free one. 502 needs the right to bind low ports (CAP_NET_BIND_SERVICE)."""
        self.device = device
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients = Clients("Modbus server", MOST_CLIENTS)
        try:
            self._listener = socket.create_server((host, port))
        except OSError as error:
            raise BackendError(
                f"the Modbus server cannot listen on {host}:{port}: {error}",
                "choose another [modbus] port; below 1024 the service needs CAP_NET_BIND_SERVICE",
            ) from error
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._loop.add_reader(self._listener, self._accept)
        self._thread = threading.Thread(target=self._loop.run_forever, name="modbus", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Closes all connections and stops listening."""

        async def stop() -> None:
            self._loop.remove_reader(self._listener)
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)  # closed transports let go of their sockets in the next round

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(5)
        self._listener.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _accept(self) -> None:
        # Not asyncio's own server: one that is closed while a client connects leaves that client's socket open.
        try:
            connection, address = self._listener.accept()
            keep_alive(connection)
        except OSError:  # the client has gone again
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        self._clients.add(task, address[0], task.cancel)

        def gone(_: object) -> None:
            self._tasks.discard(task)
            self._clients.remove(task)
            connection.close()

        task.add_done_callback(gone)

    async def _serve(self, connection: socket.socket) -> None:
        writer: asyncio.StreamWriter | None = None
        me = asyncio.current_task()
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
            while True:
                first = await reader.readexactly(1)
                transaction, unit, request = await asyncio.wait_for(_rest(first, reader), REQUEST_S)
                if not request:
                    break  # not Modbus
                reply = self._answer(request)
                writer.write(struct.pack(">HHHB", transaction, 0, len(reply) + 1, unit) + reply)
                await writer.drain()
                self._clients.used(me)
        except (asyncio.IncompleteReadError, asyncio.TimeoutError, OSError, asyncio.CancelledError):
            pass
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(writer.wait_closed(), 1)

    def _answer(self, request: bytes) -> bytes:
        code = request[0]
        try:
            handler = HANDLERS.get(code)
            if handler is None:
                raise ModbusFault(ILLEGAL_FUNCTION)
            return bytes([code]) + handler(self.device, request[1:])
        except ModbusFault as fault:
            return bytes([code | 0x80, fault.code])
        except struct.error:
            return bytes([code | 0x80, ILLEGAL_VALUE])
        except Exception:
            log.exception("Modbus request %s failed", request.hex())
            return bytes([code | 0x80, DEVICE_FAILURE])


async def _rest(first: bytes, reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    """Transaction, unit and body of a request whose first byte has come; no body where the length is not Modbus."""
    transaction, protocol, length, unit = struct.unpack(">HHHB", first + await reader.readexactly(6))
    body = await reader.readexactly(length - 1) if protocol == 0 and 2 <= length <= 254 else b""
    return transaction, unit, body


def _count(count: int, most: int) -> int:
    if not 1 <= count <= most:
        raise ModbusFault(ILLEGAL_VALUE)
    return count


def _read_bits(table: str) -> Callable[[ModbusDevice, bytes], bytes]:
    def handler(device: ModbusDevice, body: bytes) -> bytes:
        address, count = struct.unpack(">HH", body)
        bits = device.read_bits(table, address, _count(count, 2000))
        packed = bytearray((count + 7) // 8)
        for place, bit in enumerate(bits):
            packed[place // 8] |= bit << place % 8
        return bytes([len(packed)]) + packed

    return handler


def _read_registers(table: str) -> Callable[[ModbusDevice, bytes], bytes]:
    def handler(device: ModbusDevice, body: bytes) -> bytes:
        address, count = struct.unpack(">HH", body)
        words = device.read_registers(table, address, _count(count, 125))
        return bytes([2 * count]) + struct.pack(f">{count}H", *words)

    return handler


def _write_coil(device: ModbusDevice, body: bytes) -> bytes:
    address, value = struct.unpack(">HH", body)
    if value not in (0, 0xFF00):
        raise ModbusFault(ILLEGAL_VALUE)
    device.write_bits(address, [value == 0xFF00])
    return body


def _write_register(device: ModbusDevice, body: bytes) -> bytes:
    address, value = struct.unpack(">HH", body)
    device.write_registers(address, [value])
    return body


def _write_coils(device: ModbusDevice, body: bytes) -> bytes:
    address, count, size = struct.unpack(">HHB", body[:5])
    if size != (_count(count, 1968) + 7) // 8 or len(body) != 5 + size:
        raise ModbusFault(ILLEGAL_VALUE)
    device.write_bits(address, [bool(body[5 + i // 8] >> i % 8 & 1) for i in range(count)])
    return body[:4]


def _write_registers(device: ModbusDevice, body: bytes) -> bytes:
    address, count, size = struct.unpack(">HHB", body[:5])
    if size != 2 * _count(count, 123) or len(body) != 5 + size:
        raise ModbusFault(ILLEGAL_VALUE)
    device.write_registers(address, list(struct.unpack(f">{count}H", body[5:])))
    return body[:4]


HANDLERS: dict[int, Callable[[ModbusDevice, bytes], bytes]] = {
    1: _read_bits("coils"),
    2: _read_bits("discrete"),
    3: _read_registers("holding"),
    4: _read_registers("input"),
    5: _write_coil,
    6: _write_register,
    15: _write_coils,
    16: _write_registers,
}
