"""Modbus TCP: the inspector as a server that the PLC polls (the usual way), or as a client that writes into a PLC.

The register map is in edge_ad.runtime.sinks.modbus_map and in docs/plant.md, the handshake in
edge_ad.runtime.sinks.handshake.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.optional import need
from edge_ad.runtime.settings import need_port
from edge_ad.runtime.sinks.base import Delivery, Frame, PixelScores, Sink
from edge_ad.runtime.sinks.handshake import Handshake
from edge_ad.runtime.sinks.modbus_map import (
    CONTROL,
    CONTROL_BITS,
    CONTROL_SIZE,
    MIRROR,
    STATUS,
    STATUS_BITS,
    STATUS_SIZE,
    decode,
    encode,
    status_values,
    unit_argument,
)
from edge_ad.runtime.sinks.modbus_server import ILLEGAL_ADDRESS, ModbusFault, ModbusServer
from edge_ad.runtime.verdict import Verdict


@dataclass(frozen=True)
class ModbusServerConfig:
    """Where the PLC finds the inspector."""

    host: Annotated[str, "0.0.0.0 for the plant's network: Modbus knows no passwords, so mind who is on it"] = (
        "127.0.0.1"
    )
    port: Annotated[int, "below 1024 needs a right (setcap cap_net_bind_service, or root)"] = 502

    def __post_init__(self) -> None:
        need_port("sink.modbus", self.port, lowest=0)


class ModbusServerSink(Sink):
    """Shows verdicts in registers, and takes triggers from the PLC."""

    delivery: Delivery = "now"

    def __init__(self, config: ModbusServerConfig | None = None, handshake: Handshake | None = None) -> None:
        """handshake: with its on_trigger, where the PLC triggers; several servers may share one."""
        self.name = "modbus"
        self.config = config or ModbusServerConfig()
        self.handshake = handshake or Handshake()
        self._server: ModbusServer | None = None
        self._began = time.monotonic()
        self._control = [0] * CONTROL_SIZE

    @property
    def port(self) -> int:
        """The port it listens on; 0 while closed."""
        return self._server.port if self._server else 0

    def open(self) -> None:
        """Listens."""
        self._server = ModbusServer(self, self.config.host, self.config.port)
        self.handshake.set_online(True)

    def write(self, verdict: Verdict, frame: Frame | None = None, pixel_scores: PixelScores | None = None) -> None:
        """Puts the verdict into the registers."""
        if self._server is None:
            raise BackendError("the Modbus server is closed", "open the sink first")
        self.handshake.complete(verdict)

    def close(self) -> None:
        """Stops listening."""
        self.handshake.set_online(False)
        if self._server is not None:
            self._server.close()
            self._server = None

    # What the server asks, in its thread.
    def read_registers(self, table: str, address: int, count: int) -> list[int]:
        """Input registers: the status. Holding registers: the control words, and the status again from MIRROR on."""
        if table == "holding" and address + count <= CONTROL_SIZE:
            return self._control[address : address + count]
        start = address - (MIRROR if table == "holding" else 0)
        if start < 0 or start + count > STATUS_SIZE:
            raise ModbusFault(ILLEGAL_ADDRESS)
        return self._status()[start : start + count]

    def read_bits(self, table: str, address: int, count: int) -> list[bool]:
        """Discrete inputs: the status bits. Coils: the control bits."""
        names = STATUS_BITS if table == "discrete" else CONTROL_BITS
        if address + count > len(names):
            raise ModbusFault(ILLEGAL_ADDRESS)
        word = self._status()[0] if table == "discrete" else self._control[0]
        return [bool(word >> place & 1) for place in range(address, address + count)]

    def write_bits(self, address: int, values: list[bool]) -> None:
        """Coils: the control bits."""
        if address + len(values) > len(CONTROL_BITS):
            raise ModbusFault(ILLEGAL_ADDRESS)
        word = self._control[0]
        for place, value in enumerate(values, address):
            word = word | 1 << place if value else word & ~(1 << place)
        self.write_registers(0, [word])

    def write_registers(self, address: int, values: list[int]) -> None:
        """The control words."""
        if address + len(values) > CONTROL_SIZE:
            raise ModbusFault(ILLEGAL_ADDRESS)
        self._control[address : address + len(values)] = values
        given = decode(CONTROL, self._control)
        word = int(given["control"])
        bits = {name: bool(word >> place & 1) for place, name in enumerate(CONTROL_BITS)}
        self.handshake.plc(
            enable=bits["trigger_enable"],
            trigger=bits["trigger"],
            buffer=bits["buffer_results"],
            ack=bits["result_ack"],
            reset=bits["reset"],
            part=int(given["part"]),
        )

    def _status(self) -> list[int]:
        heartbeat = int(time.monotonic() - self._began)
        return encode(STATUS, status_values(self.handshake.signals(), heartbeat))


@dataclass(frozen=True)
class ModbusClientConfig:
    """Where the inspector finds the PLC."""

    host: Annotated[str, "the PLC's name or address"] = ""
    port: Annotated[int, "its port"] = 502
    unit: Annotated[int, "its unit (device) number"] = 1
    address: Annotated[int, "first holding register of the status block"] = 0
    ack_address: Annotated[
        int | None, "holding register in which the PLC repeats the acquisition id; absent: no wait"
    ] = None
    timeout_s: Annotated[float, "no answer for this long is a failure"] = 1.0

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("[modbus_client] has no host", 'name the PLC: host = "192.168.0.10"')
        need_port("sink.modbus_client", self.port)


class ModbusClientSink(Sink):
    """Writes the status block of every verdict into a PLC's holding registers, the status word last.

    The status word carries `inspection_complete`, which changes with every result: a PLC that waits for the change
    sees a whole result. With `ack_address` the write is done once the PLC has repeated the result's id there.
    """

    delivery: Delivery = "now"

    def __init__(self, config: ModbusClientConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = f"modbus-client-{config.host}"
        self.config, self._clock = config, clock
        self.handshake = Handshake()
        self._began = clock()
        self._client: Any = None
        self._unit: dict[str, int] = {}
        self._lock = threading.Lock()

    def open(self) -> None:
        """Connects. Raises BackendError where the PLC does not answer."""
        module = need("pymodbus.client", why="writing into a PLC over Modbus")
        client = module.ModbusTcpClient(
            self.config.host, port=self.config.port, timeout=self.config.timeout_s, retries=0
        )
        self._unit = unit_argument(client, self.config.unit)
        if not client.connect():
            client.close()
            raise BackendError(
                f"no Modbus server at {self.config.host}:{self.config.port}",
                "check the PLC's address and its firewall",
            )
        self._client = client
        self.handshake.set_online(True)

    def write(self, verdict: Verdict, frame: Frame | None = None, pixel_scores: PixelScores | None = None) -> None:
        """Writes one verdict; on return the PLC has confirmed the registers (and repeated the id, where asked)."""
        id = self.handshake.complete(verdict)
        words = encode(STATUS, status_values(self.handshake.signals(), int(self._clock() - self._began)))
        self._ask("write_registers", self.config.address + 1, words[1:])
        self._ask("write_registers", self.config.address, words[:1])
        if self.config.ack_address is None:
            return
        until = self._clock() + self.config.timeout_s
        while self._ask("read_holding_registers", self.config.ack_address, count=1).registers[0] != id:
            if self._clock() > until:
                raise BackendError(
                    f"the PLC did not repeat result {id} in register {self.config.ack_address}", "check its program"
                )
            time.sleep(0.005)

    def close(self) -> None:
        """Disconnects."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        if self._client is None:
            raise BackendError("the Modbus client is closed", "open the sink first")
        exceptions = need("pymodbus.exceptions", why="writing into a PLC over Modbus")
        try:
            answer = getattr(self._client, method)(*arguments, **named, **self._unit)
        except (exceptions.ModbusException, OSError) as error:
            raise BackendError(f"Modbus to {self.config.host}: {error}", "check the PLC and the cable") from error
        if answer.isError():
            raise BackendError(
                f"the PLC at {self.config.host} refused {method} at {arguments[0]}: {answer}",
                "check that its registers cover the status block of docs/plant.md",
            )
        return answer
