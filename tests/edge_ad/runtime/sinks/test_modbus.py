"""Modbus TCP against pymodbus, a client and a server written by others, over loopback."""

import asyncio
import contextlib
import math
import socket
import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.sinks.handshake import Handshake
from edge_ad.runtime.sinks.modbus import ModbusClientConfig, ModbusClientSink, ModbusServerConfig, ModbusServerSink
from edge_ad.runtime.sinks.modbus_map import CONTROL, MIRROR, STATUS, STATUS_BITS, STATUS_SIZE, decode, encode
from edge_ad.runtime.sinks.modbus_server import ModbusServer
from edge_ad.runtime.verdict import DefectBox, Verdict, new_id

pymodbus_client = pytest.importorskip("pymodbus.client")

BOX = DefectBox(10, 20, 30, 40, 900, 1.5)


def verdict(part="1", decision="NG", score=0.75, boxes=(BOX,)):
    return Verdict(
        new_id(),
        1,
        1,
        "cam",
        0,
        part,
        decision,
        score,
        0.5,
        boxes,
        sum(box.area for box in boxes),
        "",
        {"total": 12.34},
    )


@contextlib.contextmanager
def plc(sink):
    sink.open()
    client = pymodbus_client.ModbusTcpClient("127.0.0.1", port=sink.port, timeout=60, retries=0)
    assert client.connect()
    try:
        yield client
    finally:
        client.close()
        sink.close()


def status(client):
    return decode(STATUS, client.read_input_registers(0, count=STATUS_SIZE).registers)


def bit(client, name):
    return client.read_discrete_inputs(STATUS_BITS.index(name), count=1).bits[0]


def test_a_plc_runs_the_whole_handshake():
    taken = []
    sink = ModbusServerSink(ModbusServerConfig(port=0), Handshake(taken.append))
    with plc(sink) as client:
        assert bit(client, "online")
        assert not bit(client, "trigger_ready")
        client.write_coil(0, True)  # trigger enable
        assert bit(client, "trigger_ready")
        client.write_registers(1, [1, 0x86A0])  # part 100000
        client.write_coil(1, True)  # trigger
        assert taken == ["100000"]
        assert bit(client, "trigger_ack")
        assert status(client)["acquisition_id"] == 1
        client.write_coil(1, False)
        assert not bit(client, "trigger_ack")
        complete = bit(client, "inspection_complete")
        sent = verdict("100000")
        sink.write(sent)
        assert bit(client, "inspection_complete") is not complete
        seen = status(client)
        assert (seen["result_id"], seen["decision"], seen["verdict"]) == (1, 2, sent.id)
        assert seen["score"] == pytest.approx(0.75)
        assert (seen["defects"], seen["area"], seen["latency"], seen["box_width"]) == (1, 900, 123, 30)
        client.write_register(0, 0b01001)  # trigger enable, result ack
        assert not bit(client, "result_valid")
        assert client.read_coils(0, count=5).bits[:5] == [True, False, False, True, False]
        mirrored = client.read_holding_registers(MIRROR, count=STATUS_SIZE).registers
        assert decode(STATUS, mirrored)["verdict"] == sent.id
        assert client.write_coils(0, [True, False, True, False, True]).isError() is False
        assert client.read_holding_registers(0, count=1).registers == [0b10101]


def test_what_is_outside_the_map_is_refused():
    with plc(ModbusServerSink(ModbusServerConfig(port=0))) as client:
        assert client.read_input_registers(STATUS_SIZE - 1, count=2).exception_code == 2
        assert client.read_holding_registers(50, count=1).exception_code == 2
        assert client.write_register(MIRROR, 1).exception_code == 2
        assert client.write_coil(9, True).exception_code == 2
        assert client.read_exception_status().exception_code == 1


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=0, max_size=40))
def test_no_request_breaks_the_server(server, body):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(struct.pack(">HHHB", 1, 0, len(body) + 1, 1) + body + b"\0" * 3)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1024):
            pass
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(struct.pack(">HHHBBHH", 7, 0, 6, 1, 4, 0, 1))
        assert connection.recv(64)[:2] == b"\0\7"


@pytest.fixture(scope="module")
def server():
    server = ModbusServer(ModbusServerSink(), port=0)
    yield server
    server.close()


def test_a_taken_port_is_named():
    sink = ModbusServerSink(ModbusServerConfig(port=0))
    with plc(sink), pytest.raises(BackendError, match=f":{sink.port}"):
        ModbusServerSink(ModbusServerConfig(port=sink.port)).open()


@settings(max_examples=50, deadline=None)
@given(st.floats(allow_nan=False), st.integers(-5, 2**40), st.text(max_size=40))
def test_every_value_fits_its_field(number, whole, text):
    seen = decode(STATUS, encode(STATUS, {"score": number, "area": whole, "latency": whole, "verdict": text}))
    assert seen["area"] == min(max(whole, 0), 2**32 - 1)
    assert seen["latency"] == min(max(whole, 0), 65535)
    assert seen["score"] == pytest.approx(number, rel=1e-6, abs=1e-37) or abs(number) > 3e38
    assert len(seen["verdict"]) <= 24


def test_maps_have_no_gaps_or_overlaps():
    for fields in (STATUS, CONTROL):
        assert [one.address for one in fields[1:]] == [one.address + one.size for one in fields[:-1]]


class Plc:
    """A PLC simulated by pymodbus's server; it can be killed and started again on the same port."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.start()

    def start(self):
        async def start():
            from pymodbus.server import ModbusTcpServer
            from pymodbus.simulator import DataType, SimData, SimDevice

            device = SimDevice(1, [SimData(0, values=[0] * 200, datatype=DataType.REGISTERS)])
            self.server = ModbusTcpServer(device, address=("127.0.0.1", self.port))
            await self.server.serve_forever(background=True)

        asyncio.run_coroutine_threadsafe(start(), self.loop).result(60)

    def kill(self):
        asyncio.run_coroutine_threadsafe(self.server.shutdown(), self.loop).result(60)

    def end(self):
        self.kill()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(60)
        self.loop.close()


@pytest.fixture
def other():
    pytest.importorskip("pymodbus.simulator", reason="this pymodbus has another server interface")
    plc = Plc()
    yield plc
    plc.end()


def test_the_inspector_writes_into_a_plc_and_finds_it_again(other):
    sink = ModbusClientSink(ModbusClientConfig(host="127.0.0.1", port=other.port, address=40, timeout_s=30))
    sink.open()
    first = verdict(score=None, decision="ERROR", boxes=())
    sink.write(first)
    reader = pymodbus_client.ModbusTcpClient("127.0.0.1", port=other.port)
    assert reader.connect()
    seen = decode(STATUS, reader.read_holding_registers(40, count=STATUS_SIZE, device_id=1).registers)
    reader.close()
    assert (seen["verdict"], seen["decision"], seen["result_id"]) == (first.id, 4, 1)
    assert math.isnan(seen["score"])
    other.kill()
    with pytest.raises(BackendError):
        sink.write(verdict())
    sink.close()
    with pytest.raises(BackendError, match="no Modbus server"):
        sink.open()
    other.start()
    sink.open()
    sink.write(verdict())
    sink.close()


def test_a_plc_that_does_not_repeat_the_result_is_reported(other):
    sink = ModbusClientSink(ModbusClientConfig(host="127.0.0.1", port=other.port, ack_address=150, timeout_s=1))
    sink.open()
    with pytest.raises(BackendError, match="did not repeat result 1"):
        sink.write(verdict())
    sink.close()
    with pytest.raises(ConfigError, match="host"):
        ModbusClientSink(ModbusClientConfig())
