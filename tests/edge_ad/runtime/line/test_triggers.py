"""Triggers against real peers on loopback: HTTP, a Mosquitto broker, a pymodbus server; GPIO against a stand-in."""

import asyncio
import contextlib
import json
import socket
import struct
import sys
import threading
import time
import types
import urllib.error
import urllib.request

import pytest

from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.line.triggers import GpioTrigger, HttpTrigger, ModbusTrigger, MqttTrigger, Signals, open_listener
from edge_ad.runtime.settings import TriggerSettings


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def waiting(signals):
    return [part for _, part in signals._waiting]


def test_a_signal_is_answered_by_the_first_frame_after_it(monkeypatch):
    before = 10**15
    monkeypatch.setattr(time, "monotonic_ns", lambda: before + 1)
    signals = Signals(TriggerSettings(kind="http", delay_ms=50, timeout_ms=100))
    assert signals.fire() == "1"
    assert signals.fire("A-7") == "A-7"
    assert signals.match(before) is None  # taken before the part was in place
    assert signals.match(before + 10_000_000) is None  # within the delay
    later = before + 60_000_000
    assert [signals.match(later)[0], signals.match(later)[0]] == ["1", "A-7"]  # one frame each
    assert signals.match(later) is None
    assert signals.answered.is_set()
    signals.fire("late")
    assert signals.timed_out() == []
    monkeypatch.setattr(time, "monotonic_ns", lambda: before + 160_000_000)
    assert [part for part, _ in signals.timed_out()] == ["late"]


def post(port, body=b"", path="/trigger", **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_http_trigger_takes_parts_and_refuses_the_rest():
    signals = Signals(TriggerSettings(kind="http"))
    listener = HttpTrigger(TriggerSettings(kind="http", port=-1, token="secret-word"), signals)
    listener.open()
    try:
        good = {"Authorization": "Bearer secret-word"}
        assert post(listener.port, b'{"part": "P-1"}', **good) == (202, {"part": "P-1"})
        assert post(listener.port, **good) == (202, {"part": "2"})
        assert post(listener.port, b'{"part": "P-1"}')[0] == 401
        assert post(listener.port, Origin="http://evil.example", **good)[0] == 403
        assert post(listener.port, b"[1, 2]", **good)[0] == 400
        assert post(listener.port, b'{"part": {}}', **good)[0] == 400
        assert post(listener.port, b"x" * 5000, **good)[0] == 413
        assert post(listener.port, path="/other", **good)[0] == 404
        assert waiting(signals) == ["P-1", "2"]
    finally:
        listener.close()
    with pytest.raises(ConfigError, match="without a token"):
        HttpTrigger(TriggerSettings(kind="http", host="0.0.0.0"), signals)


def test_a_client_that_goes_away_prints_nothing(capfd):
    listener = HttpTrigger(TriggerSettings(kind="http", port=-1), Signals(TriggerSettings(kind="http")))
    listener.open()
    try:
        client = socket.create_connection(("127.0.0.1", listener.port), 60)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close resets
        client.sendall(b"POST /trigger HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")
        time.sleep(0.2)
        client.close()
        assert post(listener.port)[0] == 202
        time.sleep(0.2)
    finally:
        listener.close()
    assert capfd.readouterr() == ("", "")


def test_mqtt_trigger_on_a_real_broker_that_restarts(broker, wait_for):
    client_module = pytest.importorskip("paho.mqtt.client")
    settings = TriggerSettings(kind="mqtt", port=broker.port)
    signals = Signals(settings)
    listener = MqttTrigger(settings, signals)
    listener.open()
    sender = client_module.Client(client_module.CallbackAPIVersion.VERSION2)
    sender.reconnect_delay_set(1, 1)
    sender.connect("127.0.0.1", broker.port)
    sender.loop_start()

    def send_until(text):
        def arrived():
            sender.publish("edge-ad/trigger", text, qos=1)
            time.sleep(0.1)
            return text in waiting(signals)

        wait_for(arrived)

    try:
        send_until("P-9")
        broker.kill()
        broker.start()
        send_until("P-10")
    finally:
        listener.close()
        sender.disconnect()
        sender.loop_stop()


class PlcCoils:
    """A real pymodbus server with 16 coils, in a thread."""

    def __init__(self, port):
        self.port = port
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    async def _serve(self):
        from pymodbus.server import ModbusTcpServer
        from pymodbus.simulator import DataType, SimData, SimDevice

        device = SimDevice(1, [SimData(0, values=[0] * 200, datatype=DataType.REGISTERS)])
        server = ModbusTcpServer(device, address=("127.0.0.1", self.port))
        self._loop, self._server = asyncio.get_running_loop(), server
        self._ready.set()
        with contextlib.suppress(asyncio.CancelledError):
            await server.serve_forever()

    def stop(self):
        asyncio.run_coroutine_threadsafe(self._server.shutdown(), self._loop).result(60)
        self._thread.join(60)


def test_modbus_trigger_and_its_acknowledge(wait_for, monkeypatch):
    pytest.importorskip("pymodbus.simulator", reason="this pymodbus has another server interface")
    from pymodbus.client import ModbusTcpClient

    plc = PlcCoils(free_port())
    settings = TriggerSettings(kind="modbus", port=plc.port, coil=3, acknowledge=4)
    signals = Signals(settings)
    trigger = ModbusTrigger(settings, signals)
    client = ModbusTcpClient("127.0.0.1", port=plc.port)
    wait_for(client.connect)
    reads, read = [], trigger._read
    monkeypatch.setattr(trigger, "_read", lambda client: reads.append(read(client)) or reads[-1])
    trigger.open()
    try:
        wait_for(lambda: reads)  # what is set before the first look is no edge
        for number in (1, 2):
            client.write_coil(3, True)
            wait_for(lambda: waiting(signals) != [])
            wait_for(lambda: client.read_coils(4, count=1).bits[0])  # seen
            client.write_coil(3, False)
            assert signals.match(time.monotonic_ns())[0] == str(number)  # the frame is taken
            wait_for(lambda: not client.read_coils(4, count=1).bits[0])  # the part may move
        seen = len(reads)
        wait_for(lambda: len(reads) > seen + 3)
        assert waiting(signals) == []
    finally:
        trigger.close()
        client.close()
        plc.stop()


def test_gpio_trigger_waits_for_edges(monkeypatch, wait_for):
    """The stand-in has libgpiod 2's names and shapes; a real line was not at hand."""
    edges, asked = [], {}

    class Request:
        def wait_edge_events(self, timeout):
            time.sleep(0.01)
            return bool(edges)

        def read_edge_events(self):
            taken, edges[:] = list(edges), []
            return taken

        def release(self):
            asked["released"] = True

    def request_lines(chip, consumer, config):
        if chip != "/dev/gpiochip0":
            raise FileNotFoundError(2, "No such file", chip)
        asked.update(config)
        return Request()

    line = types.SimpleNamespace(Edge=types.SimpleNamespace(RISING="rising", FALLING="falling"))
    fake = types.SimpleNamespace(line=line, LineSettings=lambda **v: v, request_lines=request_lines)
    monkeypatch.setitem(sys.modules, "gpiod", fake)
    settings = TriggerSettings(kind="gpio", line=18, edge="falling", debounce_ms=3)
    signals = Signals(settings)
    trigger = open_listener(settings, signals)
    assert isinstance(trigger, GpioTrigger)
    edges += ["edge", "edge"]
    wait_for(lambda: len(waiting(signals)) == 2)
    trigger.close()
    assert asked[18]["edge_detection"] == "falling"
    assert asked[18]["debounce_period"].total_seconds() == 0.003
    assert asked["released"]
    with pytest.raises(BackendError, match="can't use line"):
        open_listener(TriggerSettings(kind="gpio", chip="/dev/none"), signals)
    monkeypatch.setitem(sys.modules, "gpiod", None)
    with pytest.raises(BackendError, match="gpiod"):
        open_listener(settings, signals)


def test_frame_triggers_need_no_listener():
    signals = Signals(TriggerSettings())
    assert all(open_listener(TriggerSettings(kind=kind), signals) is None for kind in ("free", "interval", "motion"))
