"""Prometheus metrics as a scraper reads them."""

import urllib.request

import pytest

from edge_ad.errors import BackendError
from edge_ad.runtime.sinks.delivery import SinkState
from edge_ad.runtime.sinks.prometheus import METRICS, PrometheusConfig, PrometheusSink
from edge_ad.runtime.verdict import DefectBox, Verdict, new_id
from edge_ad.runtime.watch.drift import DriftMonitor

pytest.importorskip("prometheus_client")


def verdict(decision="OK", **values):
    return Verdict(new_id(), 5_000_000_000, 1, "cam", 0, "1", decision, 0.25, 0.5, **values)


@pytest.fixture
def sink():
    drift = DriftMonitor(seed=0)
    drift.update(0.3)
    sink = PrometheusSink(
        PrometheusConfig(port=0), sinks=lambda: [SinkState("mqtt", "retrying", 7, 2, 0, "gone")], drift=drift.report
    )
    sink.open()
    yield sink
    sink.close()


def scraped(sink):
    from prometheus_client.parser import text_string_to_metric_families

    text = urllib.request.urlopen(f"http://127.0.0.1:{sink.port}/metrics", timeout=5).read().decode()
    families = list(text_string_to_metric_families(text))
    samples = {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}
    return families, samples


def test_a_scraper_reads_what_was_counted(sink):
    for _ in range(3):
        sink.write(verdict(latency_ms={"total": 12.0, "inference": 9.0}))
    sink.write(verdict("NG", boxes=(DefectBox(0, 0, 1, 1, 1, 1.0),) * 2))
    _, samples = scraped(sink)
    assert samples["edgead_verdicts_total", ("decision", "OK"), ("source", "cam")] == 3
    assert samples["edgead_defects_total", ("source", "cam")] == 2
    assert samples["edgead_latency_ms_bucket", ("le", "15.0"), ("source", "cam"), ("stage", "total")] == 3
    assert samples["edgead_latency_ms_sum", ("source", "cam"), ("stage", "inference")] == 27
    assert samples["edgead_last_verdict_timestamp_seconds", ("source", "cam")] == 5
    assert samples["edgead_sink_up", ("sink", "mqtt")] == 0
    assert samples["edgead_sink_dropped_total", ("sink", "mqtt")] == 2


def test_the_table_of_metrics_is_the_truth(sink):
    sink.write(verdict(latency_ms={"total": 1.0}))
    families, samples = scraped(sink)
    families = [family for family in families if not family.name.endswith("_created")]
    kinds = {f.name + ("_total" if f.type == "counter" else ""): f.type for f in families}
    assert {name: kind for name, kind, _, _ in METRICS} == kinds
    for name, _, labels, _ in METRICS:
        shown = {frozenset(dict(key[1:])) - {"le"} for key in samples if key[0].startswith(name)}
        assert frozenset(labels.split(", ")) in shown


def test_a_taken_port_is_named(sink):
    with pytest.raises(BackendError, match=str(sink.port)):
        PrometheusSink(PrometheusConfig(port=sink.port)).open()


def test_a_probe_may_use_head():
    sink = PrometheusSink(PrometheusConfig(port=0))
    sink.open()
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{sink.port}/metrics", method="HEAD")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert (answer.status, answer.read()) == (200, b"")
            assert answer.headers["Content-Type"].startswith("text/plain")
    finally:
        sink.close()
