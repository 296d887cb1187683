"""Webhook against a real HTTP server that fails, stalls, dies and comes back."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.sinks.hub import SinkHub
from edge_ad.runtime.sinks.store import Store
from edge_ad.runtime.sinks.webhook import WebhookConfig, WebhookSink, sign
from edge_ad.runtime.verdict import Verdict, new_id


class Receiver:
    def __init__(self, port=0):
        receiver = self
        self.got, self.answers, self.headers = [], [], []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.answers.pop(0) if receiver.answers else 200
                if status == "stall":
                    time.sleep(0.6)
                    status = 200
                receiver.headers.append(self.headers)
                if status == 200:
                    receiver.got.append((json.loads(body)["id"], body))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:9/")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def kill(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.kill()


def verdict(decision="NG"):
    return Verdict(new_id(), time.time_ns(), time.monotonic_ns(), "cam", 0, "1", decision, 0.7, 0.5)


def sink(receiver, **values):
    return WebhookSink(WebhookConfig(url=f"http://127.0.0.1:{receiver.port}/hook", **values))


def test_a_signed_verdict_arrives(receiver, monkeypatch):
    monkeypatch.setenv("EDGEAD_WEBHOOK_SECRET", "s3cret")
    sent = verdict()
    sink(receiver, headers={"X-Line": "7"}).write(sent)
    [(id, body)] = receiver.got
    headers = receiver.headers[0]
    assert id == headers["Idempotency-Key"] == sent.id
    assert headers["X-Line"] == "7"
    at = int(headers["X-EdgeAD-Signature"].split(",")[0][2:])
    assert headers["X-EdgeAD-Signature"] == sign(b"s3cret", at, body)
    assert headers["X-EdgeAD-Signature"] != sign(b"other", at, body)


def test_only_the_wanted_decisions_are_posted(receiver):
    sink(receiver).write(verdict("OK"))
    assert receiver.got == []


@pytest.mark.parametrize("status", [500, 503, 429, 401, 404, 302])
def test_what_may_succeed_later_raises(receiver, status):
    receiver.answers = [status]
    with pytest.raises(BackendError, match=str(status)):
        sink(receiver).write(verdict())


def test_a_verdict_that_is_refused_for_good_does_not_block_the_others(receiver, caplog):
    receiver.answers = [422]
    one = sink(receiver)
    one.write(verdict())
    assert one.refused == 1
    assert "refused verdict" in caplog.text


def test_a_stalled_receiver_times_out(receiver):
    receiver.answers = ["stall"]
    with pytest.raises(BackendError, match="does not answer"):
        sink(receiver, timeout_s=0.1).write(verdict())


def test_nothing_is_lost_while_the_receiver_is_dead(tmp_path, wait_for):
    receiver = Receiver()
    sent = [verdict() for _ in range(40)]
    with Store(tmp_path / "store.sqlite", durable=False) as store:
        hub = SinkHub([sink(receiver, timeout_s=30)], store, queue_size=4, retry_s=(0.02, 0.1))
        with hub:
            for one in sent[:15]:
                hub.submit(one)
            receiver.kill()
            for one in sent[15:30]:
                hub.submit(one)  # would last until the receiver is back, if it held up the loop
            wait_for(lambda: hub.states()[0].state == "retrying")
            first, receiver = receiver, Receiver(receiver.port)
            for one in sent[30:]:
                hub.submit(one)

            def arrived():
                return {id for id, _ in first.got + receiver.got}

            wait_for(lambda: len(arrived()) == len(sent))
        assert arrived() == {one.id for one in sent}
        assert store.undelivered(f"webhook-{'127.0.0.1'}") == []
    receiver.kill()


@pytest.mark.parametrize("url", ["", "ftp://host/x", "file:///etc/passwd", "https://"])
def test_other_addresses_are_refused(url):
    with pytest.raises(ConfigError, match="url"):
        WebhookConfig(url=url)
    with pytest.raises(ConfigError, match="BAD"):
        WebhookConfig(url="http://host/", decisions=("BAD",))
