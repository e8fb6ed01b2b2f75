"""Metrics: series come and go with what they speak of."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from sluice.api.objects import Key
from sluice.observability.metrics import Metrics
from sluice.observability.probe import ProbeMetrics

GROUP = Key("ConsumerGroup", "ns", "g")
OTHER = Key("ConsumerGroup", "ns", "h")


def labels(partition: int, group: str = "g") -> tuple[str, ...]:
    return ("ns", "demo", group, "orders", str(partition))


def series(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Value by group and partition."""
    found = {}
    for metric in metrics.registry.collect():
        if metric.name == "sluice_consumer_group_lag_records":
            for sample in metric.samples:
                found[sample.labels["group"], sample.labels["partition"]] = sample.value
    return found


def test_series_that_are_not_set_again_disappear() -> None:
    metrics = Metrics()
    gauge = metrics.group_lag_records
    metrics.replace(GROUP, gauge, {labels(0): 5, labels(1): 6})
    metrics.replace(OTHER, gauge, {labels(0, "h"): 1})
    metrics.replace(GROUP, gauge, {labels(1): 7})
    assert series(metrics) == {("g", "1"): 7, ("h", "0"): 1}


def test_a_deleted_object_takes_its_series_along() -> None:
    metrics = Metrics()
    metrics.replace(GROUP, metrics.group_lag_records, {labels(0): 5})
    metrics.replace(GROUP, metrics.group_lag_seconds, {labels(0): 5})
    metrics.replace(OTHER, metrics.group_lag_records, {labels(0, "h"): 1})
    metrics.forget(GROUP)
    metrics.forget(GROUP)
    assert series(metrics) == {("h", "0"): 1}


def test_requests_are_counted() -> None:
    metrics = Metrics()
    metrics.count_kubernetes("GET", "Topic", "200")
    metrics.count_kafka("CreateTopics")
    value = metrics.registry.get_sample_value
    assert value("sluice_kubernetes_requests_total", {"verb": "GET", "kind": "Topic", "code": "200"}) == 1
    assert value("sluice_kafka_requests_total", {"type": "CreateTopics"}) == 1


def test_a_former_leader_says_nothing_of_objects_any_more() -> None:
    """Its numbers would stand beside the new leader's, and never change."""
    metrics = Metrics()
    metrics.lead(True)
    metrics.replace(GROUP, metrics.group_lag_records, {labels(0): 5})
    metrics.lead(False)
    assert series(metrics) == {}
    metrics.replace(GROUP, metrics.group_lag_records, {labels(0): 6})
    assert series(metrics) == {}, "a reconciliation that was under way"
    metrics.lead(True)
    metrics.replace(GROUP, metrics.group_lag_records, {labels(0): 7})
    assert series(metrics) == {("g", "0"): 7}


def test_memory_and_cpu_of_the_process_can_be_read() -> None:
    value = Metrics().registry.get_sample_value
    assert (value("process_resident_memory_bytes") or 0) > 1_000_000
    assert (value("process_cpu_seconds_total") or 0) > 0


def test_the_probes_series_go_with_the_lead() -> None:
    registry = CollectorRegistry()
    probe = ProbeMetrics(registry)
    probe.produce.labels("ns", "demo", "1").observe(0.1)
    probe.errors.labels("ns", "demo", "1", "produce").inc()
    probe.clear()
    assert b"demo" not in generate_latest(registry)
