"""Servers of ours among silent, half-open and slow clients."""

import http.client
import logging
import socket
import struct

import pytest

from edge_ad.runtime import http_server
from edge_ad.runtime.clients import Clients
from edge_ad.runtime.http_server import HttpServer, JsonHandler
from edge_ad.runtime.sinks import modbus_server
from edge_ad.runtime.sinks.modbus import ModbusServerSink
from edge_ad.runtime.sinks.modbus_server import ModbusServer


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def ends(connection):
    """Whether the server hangs up within the connection's timeout."""
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


def test_the_one_idle_for_longest_makes_room(caplog):
    clients, dropped = Clients("test server", 2), []
    for name in "ab":
        clients.add(name, name, lambda name=name: dropped.append(name))
    clients.used("a")
    for name in "cd":
        clients.add(name, name, lambda name=name: dropped.append(name))
    assert dropped == ["b", "a"]
    assert caplog.text.count("makes room") == 1, "at most one line a minute"
    clients.remove("c")
    clients.add("e", "e", lambda: dropped.append("e"))
    assert (len(dropped), len(clients)) == (2, 2)


def ask_modbus(connection):
    connection.sendall(struct.pack(">HHHBBHH", 7, 0, 6, 1, 4, 0, 1))
    return connection.recv(64)[:2] == b"\0\7"


def test_silent_modbus_clients_lock_nobody_out(caplog):
    server = ModbusServer(ModbusServerSink(), port=0)
    try:
        with connect(server.port) as plc:
            assert ask_modbus(plc)
            silent = [connect(server.port) for _ in range(modbus_server.MOST_CLIENTS - 1)]
            assert ask_modbus(plc), "one that asks is not idle"
            for _ in range(3):
                with connect(server.port) as other:
                    assert ask_modbus(other)
            assert ask_modbus(plc)
            assert ends(silent[0])
            assert "Modbus server has 16 clients: 127.0.0.1, idle for" in caplog.text
        for one in silent:
            one.close()
    finally:
        server.close()


def test_half_a_modbus_request_ends_its_connection(monkeypatch):
    monkeypatch.setattr(modbus_server, "REQUEST_S", 0.2)
    server = ModbusServer(ModbusServerSink(), port=0)
    try:
        with connect(server.port) as peer:
            peer.sendall(b"\0\7\0")
            assert ends(peer)
    finally:
        server.close()


class Hello(JsonHandler):
    """Answers GET."""

    def do_GET(self):
        self.answer(200, {"ok": True})


@pytest.fixture
def hello():
    server = HttpServer("127.0.0.1", 0, Hello, name="test server", hint="")
    yield server
    server.close()


def ask_http(port, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, "/")
    answer = connection.getresponse()
    found = answer.status, answer.read(), int(answer.headers["Content-Length"])
    connection.close()
    return found


def test_silent_http_clients_lock_nobody_out(hello, caplog):
    silent = [connect(hello.port) for _ in range(http_server.MOST_CLIENTS + 5)]
    assert ask_http(hello.port)[0] == 200
    assert ends(silent[0])
    assert "makes room" in caplog.text
    for one in silent:
        one.close()


def test_a_request_that_stops_halfway_ends(monkeypatch):
    monkeypatch.setattr(http_server, "IDLE_S", 0.2)
    server = HttpServer("127.0.0.1", 0, Hello, name="test server", hint="")
    try:
        for said in (b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\n"):
            with connect(server.port) as peer:
                peer.sendall(said)
                assert ends(peer)
    finally:
        server.close()


def test_head_is_get_without_the_body(hello):
    assert ask_http(hello.port, "HEAD") == (200, b"", len(b'{"ok": true}'))


def test_silent_clients_of_the_operator_page_leave(monkeypatch, caplog):
    pytest.importorskip("uvicorn")
    import threading

    import uvicorn

    from edge_ad.runtime.page import connections

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    monkeypatch.setattr(connections, "SILENT_S", 0.3)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(app, http=connections.limited_protocol(4), log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        silent = [connect(port) for _ in range(6)]
        assert ask_http(port)[0] == 200
        assert all(ends(one) for one in silent)
        assert "the operator page has 4 clients" in caplog.text
        with connect(port) as half:
            half.sendall(b"GET / HTTP/1.1\r\nHo")
            assert ends(half)
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
    for one in silent:
        one.close()
