"""OPC UA: the inspector as a server with the handshake of edge_ad.runtime.sinks.handshake and the newest result.

    Objects/EdgeAD/<line>/Status/...     Online, TriggerReady, TriggerAck, AcquisitionId, AcquisitionError, ErrorCode,
                                         ResultValid, InspectionComplete, Overrun
    Objects/EdgeAD/<line>/Control/...    TriggerEnable, BufferResults, ResultAck, Trigger, Part (writable), Reset()
    Objects/EdgeAD/<line>/Result/...     AcquisitionId, Decision, Score, Threshold, Defects, Area, LatencyMs, Part,
                                         Verdict, Reason, Time, Json
    Objects/EdgeAD/<line>/Counts/...     OK, NG, UNSURE, ERROR

Clients subscribe; a result is written field by field and `InspectionComplete` last.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hmac
import logging
import os
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.clients import keep_alive
from edge_ad.runtime.optional import need
from edge_ad.runtime.settings import need_port
from edge_ad.runtime.sinks.base import Delivery, Frame, PixelScores, Sink
from edge_ad.runtime.sinks.handshake import Handshake, Signals
from edge_ad.runtime.verdict import DECISIONS, Verdict

T = TypeVar("T")
NAMESPACE = "urn:edgead:inspector"
# Browse name, OPC UA type, attribute of Signals. InspectionComplete comes last, as the result is whole by then.
STATUS = (
    ("Online", "Boolean", "online"),
    ("TriggerReady", "Boolean", "trigger_ready"),
    ("TriggerAck", "Boolean", "trigger_ack"),
    ("AcquisitionId", "UInt16", "acquisition_id"),
    ("AcquisitionError", "Boolean", "acquisition_error"),
    ("ErrorCode", "UInt16", "error_code"),
    ("Overrun", "Boolean", "overrun"),
    ("OkBlocked", "Boolean", "ok_blocked"),
    ("ResultValid", "Boolean", "result_valid"),
    ("InspectionComplete", "Boolean", "inspection_complete"),
)
CONTROL = (
    ("TriggerEnable", "Boolean", "enable"),
    ("BufferResults", "Boolean", "buffer"),
    ("ResultAck", "Boolean", "ack"),
    ("Trigger", "Boolean", "trigger"),
    ("Part", "UInt32", "part"),
)
RESULT = (
    ("AcquisitionId", "UInt16", 0),
    ("Decision", "String", ""),
    ("Score", "Double", float("nan")),
    ("Threshold", "Double", float("nan")),
    ("Defects", "UInt16", 0),
    ("Area", "UInt32", 0),
    ("LatencyMs", "Double", float("nan")),
    ("Part", "String", ""),
    ("Verdict", "String", ""),
    ("Reason", "String", ""),
    ("Time", "DateTime", datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)),
    ("Json", "String", ""),
)


@dataclass(frozen=True)
class OpcUaConfig:
    """Where OPC UA clients find the inspector and who may write."""

    host: Annotated[str, "address to listen on; 0.0.0.0 for the plant's network"] = "127.0.0.1"
    port: Annotated[int, "port to listen on"] = 4840
    line: Annotated[str, "name of the line in the node ids"] = "line"
    username: Annotated[str, "empty: anyone who reaches the port"] = ""
    password_env: Annotated[str, "name of the environment variable that holds it"] = "EDGEAD_OPCUA_PASSWORD"
    certificate: Annotated[str, "DER or PEM; with private_key: only signed and encrypted sessions"] = ""
    private_key: Annotated[str, "file that belongs to the certificate"] = ""

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.private_key):
            raise ConfigError("[opcua] has only one of certificate and private_key", "give both or neither")
        need_port("sink.opcua", self.port, lowest=0)


class OpcUaSink(Sink):
    """Shows verdicts as nodes, and takes triggers from the PLC. Runs its server in a thread of its own."""

    name = "opcua"
    delivery: Delivery = "now"

    def __init__(self, config: OpcUaConfig | None = None, handshake: Handshake | None = None) -> None:
        """handshake: with its on_trigger, where the PLC triggers; not shared with another sink."""
        self.config = config or OpcUaConfig()
        self.handshake = handshake or Handshake()
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Any = None
        self._nodes: dict[str, Any] = {}
        self._shown: dict[str, Any] = {}
        self._changed: asyncio.Event | None = None
        self._thread: threading.Thread

    def open(self) -> None:
        """Starts the server. Raises BackendError where asyncua is missing or the port is taken."""
        self._asyncua = need("asyncua", why="the OPC UA server")
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # failures come as exceptions, and are said once
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="opcua", daemon=True)
        self._thread.start()
        try:
            self._run(self._start(), 60)  # a slow board builds the standard nodes in many seconds
        except Exception as error:
            self.close()
            raise BackendError(
                f"the OPC UA server cannot start on {self.config.host}:{self.config.port}: {error}",
                "choose another [opcua] port, or check the certificate",
            ) from error
        self.handshake.changed = self._notice
        self.handshake.set_online(True)

    def write(self, verdict: Verdict, frame: Frame | None = None, pixel_scores: PixelScores | None = None) -> None:
        """Shows one verdict; on return subscribers are being told."""
        if self._server is None:
            raise BackendError("the OPC UA server is closed", "open the sink first")
        self.handshake.complete(verdict)
        self._run(self._show(), 5)

    def close(self) -> None:
        """Stops the server."""
        self.handshake.changed = lambda: None
        self.handshake.set_online(False)
        loop, self._loop = self._loop, None
        if loop is None:
            return
        server, self._server = self._server, None

        async def stop() -> None:
            self._changed = None
            if server is not None:
                self._ticker.cancel()
                await server.stop()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            loop.close()

    def _run(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    async def _start(self) -> None:
        ua = self._asyncua.ua
        server = self._asyncua.Server(user_manager=self._users())
        await server.init()
        server.set_endpoint(f"opc.tcp://{self.config.host}:{self.config.port}/edgead/")
        server.set_server_name(f"EdgeAD {self.config.line}")
        if self.config.certificate:
            await server.load_certificate(self.config.certificate)
            await server.load_private_key(self.config.private_key)
            server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
        else:
            server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        if self.config.username:
            server.set_identity_tokens([ua.UserNameIdentityToken])
        await self._build(server)
        await server.start()
        for listener in getattr(getattr(server.bserver, "_server", None), "sockets", ()):
            keep_alive(listener)  # a client that was switched off says nothing
        self._server = server
        self.port = server.bserver.port
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._ticker = asyncio.get_running_loop().create_task(self._tick())
        await (await server.create_subscription(10, self)).subscribe_data_change(
            [self._nodes[f"Control/{name}"] for name, _, _ in CONTROL]
        )

    def _users(self) -> Any:
        if not self.config.username:
            return None
        rules = need("asyncua.crypto.permission_rules", why="the OPC UA server")
        password = os.environ.get(self.config.password_env, "")
        if not password:
            raise ConfigError(
                f"[opcua] user {self.config.username!r} has no password", f"set {self.config.password_env}"
            )
        return _Users(self.config.username, password, rules.User(role=rules.UserRole.User))

    async def _build(self, server: Any) -> None:
        ua = self._asyncua.ua
        index = await server.register_namespace(NAMESPACE)
        root = await server.nodes.objects.add_object(ua.NodeId("EdgeAD", index), f"{index}:EdgeAD")
        line = await root.add_object(ua.NodeId(f"EdgeAD/{self.config.line}", index), f"{index}:{self.config.line}")
        groups: dict[str, list[tuple[str, str, Any]]] = {
            "Status": [(name, kind, _zero(kind)) for name, kind, _ in STATUS],
            "Control": [(name, kind, _zero(kind)) for name, kind, _ in CONTROL],
            "Result": list(RESULT),
            "Counts": [(name, "UInt32", 0) for name in DECISIONS],
        }
        for group, variables in groups.items():
            path = f"EdgeAD/{self.config.line}/{group}"
            folder = await line.add_object(ua.NodeId(path, index), f"{index}:{group}")
            for name, kind, value in variables:
                variant = ua.Variant(value, getattr(ua.VariantType, kind))
                node = await folder.add_variable(ua.NodeId(f"{path}/{name}", index), f"{index}:{name}", variant)
                if group == "Control":
                    await node.set_writable()
                self._nodes[f"{group}/{name}"] = node
            if group == "Control":
                await folder.add_method(ua.NodeId(f"{path}/Reset", index), f"{index}:Reset", self._reset, [], [])

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        """A PLC has written a control node."""
        names = {self._nodes[f"Control/{name}"].nodeid: (name, field) for name, _, field in CONTROL}
        name, field = names[node.nodeid]
        self._shown[f"Control/{name}"] = value
        if field == "trigger":
            self.handshake.plc(trigger=bool(value), part=int(self._shown.get("Control/Part", 0)))
        elif field != "part":
            self.handshake.plc(**{field: bool(value)})

    def _reset(self, parent: Any, *arguments: Any) -> list[Any]:
        self.handshake.plc(reset=True)
        return []

    def _notice(self) -> None:
        loop, changed = self._loop, self._changed
        if loop is not None and changed is not None:
            loop.call_soon_threadsafe(changed.set)

    async def _tick(self) -> None:
        """Shows changes as they come, and looks for triggers that got no result."""
        assert self._changed is not None
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), 0.5)
            self._changed.clear()
            await self._show()

    async def _show(self) -> None:
        if self._server is None:  # closing
            return
        async with self._lock:
            signals = self.handshake.signals()
            wanted = _result(signals) | {f"Counts/{name}": signals.counts.get(name, 0) for name in DECISIONS}
            wanted |= {f"Status/{name}": getattr(signals, field) for name, _, field in STATUS}
            for path, value in wanted.items():
                if path not in self._shown or not _same(self._shown[path], value):
                    kind = KINDS[path]
                    variant = self._asyncua.ua.Variant(value, getattr(self._asyncua.ua.VariantType, kind))
                    await self._server.write_attribute_value(
                        self._nodes[path].nodeid, self._asyncua.ua.DataValue(variant)
                    )
                    self._shown[path] = value


class _Users:
    """The one user who may come in; compared in constant time."""

    def __init__(self, name: str, password: str, user: Any) -> None:
        self._name, self._password, self._user = name.encode(), password.encode(), user

    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        same = hmac.compare_digest(str(username or "").encode(), self._name)
        known = hmac.compare_digest(str(password or "").encode(), self._password)
        return self._user if same and known else None


KINDS = {
    **{f"Status/{name}": kind for name, kind, _ in STATUS},
    **{f"Result/{name}": kind for name, kind, _ in RESULT},
    **{f"Counts/{name}": "UInt32" for name in DECISIONS},
}


def _zero(kind: str) -> bool | int:
    return False if kind == "Boolean" else 0


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or (one != one and other != other)  # NaN is NaN


def _result(signals: Signals) -> dict[str, Any]:
    verdict = signals.result
    if verdict is None:
        return {}
    nan = float("nan")
    values = {
        "AcquisitionId": signals.result_id,
        "Decision": verdict.decision,
        "Score": nan if verdict.score is None else float(verdict.score),
        "Threshold": nan if verdict.threshold is None else float(verdict.threshold),
        "Defects": min(len(verdict.boxes), 65535),
        "Area": min(verdict.area, 2**32 - 1),
        "LatencyMs": float(verdict.latency_ms.get("total", nan)),
        "Part": verdict.part,
        "Verdict": verdict.id,
        "Reason": verdict.reason,
        "Time": verdict.time,
        "Json": verdict.to_json(),
    }
    return {f"Result/{name}": value for name, value in values.items()}
