"""Prometheus: counts, latencies and states, on a port of their own and under /metrics of the operator page."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from edge_ad.runtime.http_server import HttpServer
from edge_ad.runtime.optional import need
from edge_ad.runtime.settings import need_port
from edge_ad.runtime.sinks.base import Delivery, Frame, PixelScores, Sink
from edge_ad.runtime.sinks.delivery import SinkState
from edge_ad.runtime.verdict import Verdict

LATENCY_BUCKETS_MS = (1, 2, 5, 10, 15, 20, 30, 50, 75, 100, 150, 250, 500, 1000, 2500)
METRICS = (
    ("edgead_verdicts_total", "counter", "source, decision", "verdicts made"),
    ("edgead_latency_ms", "histogram", "source, stage", "milliseconds a part spent in a stage; `total` from capture"),
    ("edgead_score", "gauge", "source", "score of the newest part"),
    ("edgead_threshold", "gauge", "source", "limit in force"),
    ("edgead_defects_total", "counter", "source", "defects found"),
    ("edgead_last_verdict_timestamp_seconds", "gauge", "source", "unix time of the newest verdict"),
    ("edgead_sink_up", "gauge", "sink", "1 while the output works"),
    ("edgead_sink_delivered_total", "counter", "sink", "verdicts delivered"),
    ("edgead_sink_dropped_total", "counter", "sink", "verdicts lost to this output"),
    (
        "edgead_drift_evidence",
        "gauge",
        "number, side",
        "log10 of the evidence over its limit; 0 and above is a warning",
    ),
)


@dataclass(frozen=True)
class PrometheusConfig:
    """Where Prometheus scrapes."""

    host: Annotated[str, "address to listen on; 0.0.0.0 for the plant's network"] = "127.0.0.1"
    port: Annotated[int, "0 picks a free one; -1: only under /metrics of the operator page"] = 9464

    def __post_init__(self) -> None:
        need_port("sink.prometheus", self.port, lowest=-1)


class PrometheusSink(Sink):
    """Counts verdicts.

    sinks, drift: asked at every scrape; leave out what the line has not got.
    """

    name = "prometheus"
    delivery: Delivery = "now"

    def __init__(
        self,
        config: PrometheusConfig | None = None,
        *,
        sinks: Callable[[], Iterable[SinkState]] = tuple,
        drift: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.config = config or PrometheusConfig()
        client: Any = need("prometheus_client", why="Prometheus metrics")
        self._client = client
        self.registry = client.CollectorRegistry(auto_describe=False)
        words = {name: (text, labels.split(", ")) for name, _, labels, text in METRICS}
        made = {"registry": self.registry}
        self._verdicts = client.Counter("edgead_verdicts", *words["edgead_verdicts_total"], **made)
        self._latency = client.Histogram(
            "edgead_latency_ms", *words["edgead_latency_ms"], buckets=LATENCY_BUCKETS_MS, **made
        )
        self._score = client.Gauge("edgead_score", *words["edgead_score"], **made)
        self._threshold = client.Gauge("edgead_threshold", *words["edgead_threshold"], **made)
        self._defects = client.Counter("edgead_defects", *words["edgead_defects_total"], **made)
        newest = "edgead_last_verdict_timestamp_seconds"
        self._newest = client.Gauge(newest, *words[newest], **made)
        self.registry.register(_States(need("prometheus_client.core", why="Prometheus metrics"), sinks, drift))
        self._server: HttpServer | None = None
        self.port = 0

    def open(self) -> None:
        """Listens. Raises BackendError where the port is taken."""
        if self.config.port < 0:
            return
        hint = "choose another port under [sink.prometheus]"
        handler = _handler(self._client.MetricsHandler.factory(self.registry))
        self._server = HttpServer(self.config.host, self.config.port, handler, name="Prometheus endpoint", hint=hint)
        self.port = self._server.port

    def write(self, verdict: Verdict, frame: Frame | None = None, pixel_scores: PixelScores | None = None) -> None:
        """Counts one verdict."""
        source = verdict.source
        self._verdicts.labels(source, verdict.decision).inc()
        self._defects.labels(source).inc(len(verdict.boxes))
        self._newest.labels(source).set(verdict.time_ns / 1e9)
        if verdict.score is not None:
            self._score.labels(source).set(verdict.score)
        if verdict.threshold is not None:
            self._threshold.labels(source).set(verdict.threshold)
        for stage, latency_ms in verdict.latency_ms.items():
            self._latency.labels(source, stage).observe(latency_ms)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return bytes(self._client.generate_latest(self.registry))

    def close(self) -> None:
        """Stops listening; the counts stay."""
        if self._server is not None:
            self._server.close()
            self._server = None


def _handler(metrics: Any) -> Any:
    """The client's own handler, which also answers HEAD: with what it would send, without sending it."""

    class Handler(metrics):
        wfile: Any

        def do_HEAD(self) -> None:
            sent, self.wfile = self.wfile, io.BytesIO()
            self.do_GET()
            sent.write(self.wfile.getvalue().partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            self.wfile = sent

    return Handler


class _States:
    """Metrics that are looked up when asked for."""

    def __init__(
        self, core: Any, sinks: Callable[[], Iterable[SinkState]], drift: Callable[[], dict[str, Any]] | None
    ) -> None:
        self._core, self._sinks, self._drift = core, sinks, drift

    def collect(self) -> Iterable[Any]:
        up = self._family("edgead_sink_up")
        delivered, dropped = self._family("edgead_sink_delivered_total"), self._family("edgead_sink_dropped_total")
        for state in self._sinks():
            up.add_metric([state.name], float(state.state == "up"))
            delivered.add_metric([state.name], state.delivered)
            dropped.add_metric([state.name], state.dropped)
        yield from (up, delivered, dropped)
        if self._drift is not None:
            evidence = self._family("edgead_drift_evidence")
            for name, row in self._drift()["statistics"].items():
                for side, value in zip(("higher", "lower"), row["evidence"], strict=True):
                    evidence.add_metric([name, side], float("-inf") if value is None else value)
            yield evidence

    def _family(self, name: str) -> Any:
        kind, labels, text = next(row[1:] for row in METRICS if row[0] == name)
        family = self._core.GaugeMetricFamily if kind == "gauge" else self._core.CounterMetricFamily
        return family(name, text, labels=labels.split(", "))
