"""OPC UA against asyncua's client over loopback."""

import asyncio
import json
import logging
import math
import time

import pytest

from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.sinks.handshake import Handshake
from edge_ad.runtime.sinks.opcua import NAMESPACE, OpcUaConfig, OpcUaSink
from edge_ad.runtime.verdict import Verdict, new_id

asyncua = pytest.importorskip("asyncua")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:asyncua"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # asyncua's own loops and sockets
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)


def verdict(part="1", decision="NG", score=0.75):
    return Verdict(new_id(), time.time_ns(), 1, "cam", 0, part, decision, score, 0.5, (), 7, "why", {"total": 12.5})


@pytest.fixture(scope="module")
def line():
    """One server for all tests: building OPC UA's standard nodes takes a second or two."""
    taken = []
    sink = OpcUaSink(OpcUaConfig(port=0, line="press 4", username="plc"), Handshake(taken.append))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEAD_OPCUA_PASSWORD", "correct horse")
        sink.open()
        yield sink, taken
        sink.close()


def client_of(sink, password="correct horse"):
    client = asyncua.Client(f"opc.tcp://127.0.0.1:{sink.port}/edgead/", timeout=60)
    if password:
        client.set_user("plc")
        client.set_password(password)
    return client


async def nodes(client, *paths):
    index = await client.get_namespace_index(NAMESPACE)
    return [client.get_node(f"ns={index};s=EdgeAD/press 4/{path}") for path in paths]


async def until(node, value):
    for _ in range(200):
        seen = await node.read_value()
        if seen == value:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{node} stays {seen!r}, not {value!r}")


def boolean(value):
    return asyncua.ua.DataValue(asyncua.ua.Variant(value, asyncua.ua.VariantType.Boolean))


def test_a_plc_runs_the_whole_handshake(line):
    sink, taken = line

    class Subscriber:
        def __init__(self):
            self.seen = []

        def datachange_notification(self, node, value, data):
            self.seen.append(value)

    async def plc():
        async with client_of(sink) as client:
            enable, trigger, part, ack = await nodes(
                client, "Control/TriggerEnable", "Control/Trigger", "Control/Part", "Control/ResultAck"
            )
            ready, acked, id, complete, valid = await nodes(
                client,
                *(
                    f"Status/{name}"
                    for name in ("TriggerReady", "TriggerAck", "AcquisitionId", "InspectionComplete", "ResultValid")
                ),
            )
            decision, score, text, count = await nodes(
                client, "Result/Decision", "Result/Score", "Result/Json", "Counts/NG"
            )
            subscriber = Subscriber()
            subscription = await client.create_subscription(20, subscriber)
            await subscription.subscribe_data_change(complete)
            await enable.write_value(boolean(True))
            await until(ready, True)
            await part.write_value(asyncua.ua.DataValue(asyncua.ua.Variant(4711, asyncua.ua.VariantType.UInt32)))
            await trigger.write_value(boolean(True))
            await until(acked, True)
            assert await id.read_value() == 1
            assert taken == ["4711"]
            await trigger.write_value(boolean(False))
            await until(acked, False)
            sent = verdict("4711")
            await asyncio.to_thread(sink.write, sent)
            assert await decision.read_value() == "NG"
            assert await score.read_value() == 0.75
            assert json.loads(await text.read_value())["id"] == sent.id
            assert await count.read_value() == 1
            assert await valid.read_value() is True
            await ack.write_value(boolean(True))
            await until(valid, False)
            await asyncio.to_thread(sink.write, verdict(score=None, decision="ERROR"))
            assert math.isnan(await score.read_value())
            for _ in range(3000):
                if subscriber.seen[-2:] == [True, False]:
                    break
                await asyncio.sleep(0.02)
            assert subscriber.seen[-2:] == [True, False]
            index = await client.get_namespace_index(NAMESPACE)
            control = client.get_node(f"ns={index};s=EdgeAD/press 4/Control")
            await trigger.write_value(boolean(True))
            await trigger.write_value(boolean(False))
            await trigger.write_value(boolean(True))
            await control.call_method(f"{index}:Reset")
            with pytest.raises(asyncua.ua.UaStatusCodeError):
                await complete.write_value(boolean(True))  # the status is the inspector's

    asyncio.run(plc())


def test_a_password_keeps_others_out(line):
    sink, _ = line

    async def enter(password):
        async with client_of(sink, password) as client:
            return await client.get_namespace_index(NAMESPACE)

    assert asyncio.run(enter("correct horse")) > 0
    for wrong in ("wrong", None):
        with pytest.raises(asyncua.ua.UaError):
            asyncio.run(enter(wrong))


def test_a_user_needs_a_password_and_a_certificate_its_key(monkeypatch):
    monkeypatch.delenv("EDGEAD_OPCUA_PASSWORD", raising=False)
    with pytest.raises(BackendError, match="no password"):
        OpcUaSink(OpcUaConfig(port=0, username="plc")).open()
    with pytest.raises(ConfigError, match="only one"):
        OpcUaConfig(certificate="a.der")


def test_it_comes_back_after_it_was_closed(line):
    sink, _ = line

    async def decision():
        async with client_of(sink) as client:
            [node] = await nodes(client, "Result/Decision")
            return await node.read_value()

    sink.write(verdict(decision="OK"))
    assert asyncio.run(decision()) == "OK"
    sink.close()
    with pytest.raises(BackendError, match="closed"):
        sink.write(verdict())
    sink.open()
    sink.write(verdict(decision="UNSURE"))
    assert asyncio.run(decision()) == "UNSURE"
