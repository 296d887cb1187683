"""MQTT: every verdict with quality of service 1, delivered once the broker has said so.

<prefix>/<source>/verdict     the verdict as JSON
<prefix>/<source>/decision    OK, NG, UNSURE or ERROR, retained, for gateways that read one word
<prefix>/status               online or offline, retained; the broker says offline for us when we vanish
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import Annotated, Any

from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.optional import need
from edge_ad.runtime.settings import need_port
from edge_ad.runtime.sinks.base import Delivery, Frame, PixelScores, Sink
from edge_ad.runtime.verdict import Verdict


@dataclass(frozen=True)
class MqttConfig:
    """The broker and what it is told."""

    host: Annotated[str, "the broker's name or address"] = "127.0.0.1"
    port: Annotated[int, "its port; 8883 is usual with tls"] = 1883
    prefix: Annotated[str, "first words of every topic"] = "edgead"
    client_id: Annotated[str, "empty: edgead-<host name>-<prefix>; two clients of one name throw each other out"] = ""
    username: Annotated[str, "empty: none is sent"] = ""
    password_env: Annotated[str, "name of the environment variable that holds it"] = "EDGEAD_MQTT_PASSWORD"
    tls: Annotated[bool, "encrypted, the broker's certificate checked"] = False
    ca_file: Annotated[str, "empty: the system's authorities"] = ""
    keepalive_s: Annotated[int, "seconds without a word after which the broker says offline for us"] = 15
    timeout_s: Annotated[float, "a verdict that isn't confirmed by then is sent again"] = 5.0

    def __post_init__(self) -> None:
        if not self.prefix or re.search(r"[+#\0]", self.prefix) or self.prefix.startswith("$"):
            raise ConfigError(
                f"[mqtt] prefix is {self.prefix!r}", "use words and slashes, without + # or a leading $"
            )
        need_port("sink.mqtt", self.port)


class MqttSink(Sink):
    """Publishes verdicts. What the broker has not confirmed is sent again, so receivers drop repeats by id."""

    name = "mqtt"
    delivery: Delivery = "replayed"

    def __init__(self, config: MqttConfig | None = None) -> None:
        self.config = config or MqttConfig()
        self._client: Any = None
        self._answered = threading.Event()
        self._lost = threading.Event()
        self._refusal = ""

    def open(self) -> None:
        """Connects and says online. Raises BackendError where the broker is not there or refuses."""
        mqtt = need("paho.mqtt.client", why="publishing over MQTT")
        config = self.config
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=config.client_id or f"edgead-{socket.gethostname()}-{config.prefix}",
            reconnect_on_failure=False,  # the hub opens again, with growing pauses
        )
        if config.username:
            client.username_pw_set(config.username, os.environ.get(config.password_env))
        if config.tls:
            client.tls_set_context(ssl.create_default_context(cafile=config.ca_file or None))
        client.will_set(f"{config.prefix}/status", "offline", qos=1, retain=True)
        client.connect_timeout = config.timeout_s
        self._answered.clear()
        self._lost.clear()
        self._refusal = ""
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        try:
            client.connect(config.host, config.port, keepalive=config.keepalive_s)
        except (OSError, ValueError) as error:
            raise BackendError(f"no MQTT broker at {config.host}:{config.port}: {error}", _HINT) from error
        client.loop_start()
        self._client = client
        if not self._answered.wait(config.timeout_s) or self._refusal:
            why = self._refusal or f"no answer in {config.timeout_s:g} s"
            self.close()
            raise BackendError(f"the MQTT broker at {config.host}:{config.port} refused: {why}", _HINT)
        self._publish("status", "online", retain=True)

    def write(self, verdict: Verdict, frame: Frame | None = None, pixel_scores: PixelScores | None = None) -> None:
        """Publishes one verdict; on return the broker has confirmed it. Raises BackendError otherwise."""
        source = topic_part(verdict.source)
        self._publish(f"{source}/verdict", verdict.to_json())
        self._publish(f"{source}/decision", verdict.decision, retain=True)

    def close(self) -> None:
        """Publish `offline` and disconnect."""
        client, self._client = self._client, None
        if client is None:
            return
        if client.is_connected():
            client.publish(f"{self.config.prefix}/status", "offline", qos=1, retain=True).wait_for_publish(1.0)
        client.disconnect()
        client.loop_stop()

    def _publish(self, topic: str, payload: str, *, retain: bool = False) -> None:
        if self._client is None or self._lost.is_set():
            raise BackendError(f"the MQTT broker at {self.config.host}:{self.config.port} is gone", _HINT)
        info = self._client.publish(f"{self.config.prefix}/{topic}", payload, qos=1, retain=retain)
        waited = 0.0
        while not info.is_published():
            if waited >= self.config.timeout_s or self._lost.is_set() or info.rc:
                raise BackendError(
                    f"the MQTT broker at {self.config.host}:{self.config.port} did not confirm {topic}", _HINT
                )
            info.wait_for_publish(0.25)
            waited += 0.25

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._refusal = str(reason) if reason.is_failure else ""
        self._answered.set()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._lost.set()
        self._answered.set()


_HINT = "check the broker, its address, user and password; verdicts are kept and sent later"


def topic_part(name: str) -> str:
    """A source's name as one level of a topic: without slashes, wildcards and control characters."""
    return re.sub(r"[/+#$\x00-\x1f\x7f]+", "_", name).strip("_") or "source"
