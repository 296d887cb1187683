"""MQTT against Mosquitto on loopback, killed and started again."""

import json
import socket
import threading
import time

import pytest

from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.sinks.hub import SinkHub
from edge_ad.runtime.sinks.mqtt import MqttConfig, MqttSink, topic_part
from edge_ad.runtime.sinks.store import Store
from edge_ad.runtime.verdict import Verdict, new_id

mqtt = pytest.importorskip("paho.mqtt.client")


class Listener:
    """A subscriber that keeps its session over the broker's restarts."""

    def __init__(self, port):
        self.got, self.subscribed = [], threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe("line/#", qos=1)
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = lambda client, data, message: self.got.append(message)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.subscribed.wait(60)

    def payloads(self, topic):
        return [message.payload.decode() for message in list(self.got) if message.topic == topic]

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def verdict(decision="NG", source="cam/1"):
    return Verdict(new_id(), time.time_ns(), time.monotonic_ns(), source, 0, "1", decision, 0.7, 0.5)


def test_verdicts_and_status_arrive(broker, wait_for):
    listener = Listener(broker.port)
    sink = MqttSink(MqttConfig(port=broker.port, prefix="line"))
    sink.open()
    sent = verdict()
    sink.write(sent)
    sink.close()
    wait_for(lambda: len(listener.payloads("line/status")) == 2)
    listener.close()
    assert listener.payloads("line/status") == ["online", "offline"]
    assert json.loads(listener.payloads("line/cam_1/verdict")[0]) == sent.to_dict()
    assert listener.payloads("line/cam_1/decision") == ["NG"]


def test_nothing_is_lost_while_the_broker_is_dead(broker, tmp_path, wait_for):
    listener = Listener(broker.port)
    sent = [verdict(source="cam") for _ in range(40)]
    sink = MqttSink(MqttConfig(port=broker.port, prefix="line", timeout_s=30))
    with Store(tmp_path / "store.sqlite", durable=False) as store:
        hub = SinkHub([sink], store, queue_size=4, retry_s=(0.05, 0.2))
        with hub:
            for one in sent[:10]:
                hub.submit(one)
            wait_for(lambda: len(listener.payloads("line/cam/verdict")) >= 5)
            broker.kill()
            for one in sent[10:30]:
                hub.submit(one)  # would last until the broker is back, if it held up the loop
            wait_for(lambda: hub.states()[0].state == "retrying")
            broker.start()
            for one in sent[30:]:
                hub.submit(one)

            def arrived():
                return {json.loads(text)["id"] for text in listener.payloads("line/cam/verdict")}

            wait_for(lambda: len(arrived()) == len(sent))
        assert arrived() == {one.id for one in sent}
        assert store.undelivered("mqtt") == []
    listener.close()


def test_the_broker_says_offline_when_the_inspector_vanishes(broker, wait_for):
    listener = Listener(broker.port)
    sink = MqttSink(MqttConfig(port=broker.port, prefix="line"))
    sink.open()
    sink._client.socket().shutdown(socket.SHUT_RDWR)  # no goodbye
    wait_for(lambda: listener.payloads("line/status") == ["online", "offline"])
    wait_for(sink._lost.is_set)
    with pytest.raises(BackendError, match="is gone"):
        sink.write(verdict())
    sink.close()
    listener.close()


def test_no_broker_is_an_error_with_a_hint():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(BackendError, match="no MQTT broker") as caught:
        MqttSink(MqttConfig(port=port)).open()
    assert "broker" in caught.value.hint


def test_a_port_that_does_not_speak_mqtt_times_out():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = MqttSink(MqttConfig(port=silent.getsockname()[1], timeout_s=0.2))
        with pytest.raises(BackendError, match="no answer"):
            sink.open()


@pytest.mark.parametrize("prefix", ["", "a/#", "+/b", "$SYS"])
def test_bad_prefixes_are_refused(prefix):
    with pytest.raises(ConfigError, match="prefix"):
        MqttConfig(prefix=prefix)


def test_sources_become_one_level():
    assert topic_part("rtsp://cam/1#x") == "rtsp:_cam_1_x"
    assert topic_part("+") == "source"
