"""Triggers: which frame is a part's frame. Free running, every N ms, motion, and signals from outside."""

from __future__ import annotations

import hmac
import json
import logging
import threading
import time
from collections import deque
from datetime import timedelta
from typing import Any

from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.http_server import HttpServer, JsonHandler
from edge_ad.runtime.optional import need
from edge_ad.runtime.settings import TriggerSettings
from edge_ad.runtime.sinks.modbus_map import unit_argument

PORTS = {"http": 8770, "mqtt": 1883, "modbus": 502}
RETRY_S = 1.0
log = logging.getLogger(__name__)


class Signals:
    """Triggers that arrived and wait for their frame. `fire` may be called from any thread."""

    def __init__(self, settings: TriggerSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, str]] = deque()
        self._count = 0
        self.answered = threading.Event()  # set when nothing waits: the PLC's acknowledge falls

    def fire(self, part: str = "") -> str:
        """A part is in place now; returns its identity."""
        with self._lock:
            self._count += 1
            part = part or str(self._count)
            self._waiting.append((time.monotonic_ns(), part))
            self.answered.clear()
            return part

    def match(self, captured_ns: int) -> tuple[str, int] | None:
        """The oldest trigger that this frame answers, with its moment: taken `delay_ms` or more after it."""
        with self._lock:
            if self._waiting and self._waiting[0][0] + int(self.settings.delay_ms * 1e6) <= captured_ns:
                fired_ns, part = self._waiting.popleft()
                if not self._waiting:
                    self.answered.set()
                return part, fired_ns
        return None

    def timed_out(self) -> list[tuple[str, int]]:
        """Triggers that waited longer than `timeout_ms` for a frame."""
        limit = time.monotonic_ns() - int((self.settings.delay_ms + self.settings.timeout_ms) * 1e6)
        late = []
        with self._lock:
            while self._waiting and self._waiting[0][0] < limit:
                fired_ns, part = self._waiting.popleft()
                late.append((part, fired_ns))
            if not self._waiting:
                self.answered.set()
        return late


class Listener:
    """Waits for a signal from outside and calls `fire`. port: where it listens, if it does."""

    port = 0

    def __init__(self, settings: TriggerSettings, signals: Signals) -> None:
        self.settings, self.signals = settings, signals
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start listening. BackendError: it can't."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop, and wait for the thread."""
        self._stop.set()
        if self._thread:
            self._thread.join(3)


def open_listener(settings: TriggerSettings, signals: Signals) -> Listener | None:
    """The listener for a kind of signal, started; None for triggers that look at frames only."""
    kinds: dict[str, type[Listener]] = {
        "http": HttpTrigger,
        "mqtt": MqttTrigger,
        "modbus": ModbusTrigger,
        "gpio": GpioTrigger,
    }
    if settings.kind not in kinds:
        return None
    listener = kinds[settings.kind](settings, signals)
    listener.open()
    return listener


class HttpTrigger(Listener):
    """POST /trigger, optionally with {"part": "..."}; answers 202 with the part's identity."""

    def __init__(self, settings: TriggerSettings, signals: Signals) -> None:
        loopback = settings.host in ("127.0.0.1", "::1", "localhost")
        if not loopback and not settings.token:
            raise ConfigError(
                f"trigger.host = {settings.host!r} is open to the network without a token", "set trigger.token"
            )
        super().__init__(settings, signals)
        self._server: HttpServer | None = None

    def open(self) -> None:
        """Listen; `port` is then the one in use."""
        port = PORTS["http"] if self.settings.port == 0 else max(self.settings.port, 0)  # -1: any free one
        handler = self._handler()
        self._server = HttpServer(self.settings.host, port, handler, name="HTTP trigger", hint="set trigger.port")
        self.port = self._server.port

    def close(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.close()
            self._server = None

    def _handler(self) -> type[JsonHandler]:
        token, signals = self.settings.token, self.signals

        class Handler(JsonHandler):
            def do_POST(self) -> None:
                try:
                    length = int(self.headers.get("Content-Length") or 0)
                except ValueError:
                    return self.answer(400, {"error": "Content-Length is no number"})
                if not 0 <= length <= 4096:
                    return self.answer(413, {"error": "at most 4096 bytes"})
                body = self.rfile.read(length)
                given = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if token and not hmac.compare_digest(given.encode(), token.encode()):
                    return self.answer(401, {"error": "wrong or missing token"})
                if "Origin" in self.headers:  # a browser: a page somewhere must not be able to eject parts
                    return self.answer(403, {"error": "not from a web page"})
                if self.path != "/trigger":
                    return self.answer(404, {"error": "POST /trigger"})
                try:
                    data = json.loads(body) if body.strip() else {}
                    part = data.get("part", "")
                    if not isinstance(part, (str, int)):
                        raise ValueError
                except (ValueError, AttributeError, RecursionError):
                    return self.answer(400, {"error": 'the body is {"part": "..."} or empty'})
                return self.answer(202, {"part": signals.fire(str(part)[:200])})

        return Handler


class MqttTrigger(Listener):
    """Every message on `topic` is a trigger; its text becomes the part's identity."""

    _client: Any = None

    def open(self) -> None:
        """Connect in the background; the client reconnects by itself."""
        mqtt = need("paho.mqtt.client", why="the MQTT trigger")
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.on_connect = lambda c, *_: c.subscribe(self.settings.topic, qos=1)
        client.on_message = self._message
        client.reconnect_delay_set(1, 30)
        client.connect_async(self.settings.host, self.settings.port or PORTS["mqtt"], keepalive=15)
        client.loop_start()
        self._client = client

    def close(self) -> None:
        """Disconnect."""
        if self._client:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def _message(self, client: Any, userdata: Any, message: Any) -> None:
        if not message.retain:  # a retained message is old: no part is in place now
            self.signals.fire(message.payload.decode(errors="replace").strip()[:200])


class ModbusTrigger(Listener):
    """The rising edge of a coil; optionally a second coil says that it was seen, until the frame is taken.

    The PLC sets the trigger, waits for the acknowledge, takes the trigger back; the acknowledge falls once the
    frame is taken and the part may move.
    """

    def open(self) -> None:
        """Poll in a thread, which reconnects by itself."""
        port = self.settings.port or PORTS["modbus"]
        modbus = need("pymodbus.client", why="the Modbus trigger")
        client = modbus.ModbusTcpClient(self.settings.host, port=port, timeout=1, retries=0)
        self._thread = threading.Thread(target=self._poll, args=(client,), name="trigger-modbus", daemon=True)
        self._thread.start()

    def _poll(self, client: Any) -> None:
        before, acknowledged, broken = True, False, False  # a coil that is set at the start is no edge
        while not self._stop.wait(RETRY_S if broken else self.settings.poll_ms / 1000):
            try:
                if not client.connected and not client.connect():
                    raise ConnectionError("no connection")
                now = self._read(client)
                if now and not before:
                    self.signals.fire()
                    acknowledged = self._write(client, True)
                if acknowledged and self.signals.answered.is_set():
                    acknowledged = not self._write(client, False)
                before = now
                if broken:
                    log.warning("the Modbus trigger is back")
                broken = False
            except Exception as error:
                if not broken:
                    log.error("the Modbus trigger is lost: %s", error)
                broken, before = True, True
                client.close()
        client.close()

    def _read(self, client: Any) -> bool:
        reply = client.read_coils(self.settings.coil, count=1, **unit_argument(client, self.settings.unit))
        if reply.isError():
            raise ConnectionError(str(reply))
        return bool(reply.bits[0])

    def _write(self, client: Any, value: bool) -> bool:
        if self.settings.acknowledge < 0:
            return False
        unit = unit_argument(client, self.settings.unit)
        return not client.write_coil(self.settings.acknowledge, value, **unit).isError()


class GpioTrigger(Listener):
    """An edge on a GPIO line, through libgpiod 2 (`pip install gpiod`): Jetson, Raspberry Pi.

    Not run on a real line by this project's tests, which have none: they drive it with a stand-in for the driver.
    """

    _request: Any = None

    def open(self) -> None:
        """Take the line and wait for edges in a thread."""
        gpiod = need("gpiod", why="the GPIO trigger")
        edge = gpiod.line.Edge.RISING if self.settings.edge == "rising" else gpiod.line.Edge.FALLING
        debounce = timedelta(milliseconds=self.settings.debounce_ms)
        line = gpiod.LineSettings(edge_detection=edge, debounce_period=debounce)
        try:
            self._request = gpiod.request_lines(
                self.settings.chip, consumer="edge-ad", config={self.settings.line: line}
            )
        except OSError as error:
            raise BackendError(
                f"can't use line {self.settings.line} of {self.settings.chip}: {error}",
                "check `gpioinfo` and that the user is in the group 'gpio'",
            ) from error
        self._thread = threading.Thread(target=self._wait, name="trigger-gpio", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give the line back."""
        super().close()
        if self._request:
            self._request.release()

    def _wait(self) -> None:
        while not self._stop.is_set():
            if self._request.wait_edge_events(timedelta(milliseconds=200)):
                for _ in self._request.read_edge_events():
                    self.signals.fire()
