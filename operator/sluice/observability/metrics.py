"""Metrics: what is counted and measured, and the removal of series whose object is gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

from sluice.api.objects import Key

_BUCKETS: Final = (0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 20.0, 60.0, 300.0)

Labels = tuple[str, ...]

# A second series for each counter, that says when it was made, is of no use here.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics of one process, in their own registry.

    Gauges that speak of an object, or of something that an object stands for, are set by :meth:`replace`, under
    the object's key: series that aren't set again, and those of a deleted object, disappear. So do all of them when
    this replica no longer leads: they would stay as they are, beside those of the new leader.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        ProcessCollector(registry=registry)  # memory, CPU time and file descriptors of the operator itself
        self.queue_depth = Gauge("sluice_queue_depth", "Objects waiting to be reconciled.", ["kind"], registry=registry)
        self.reconcile_seconds = Histogram(
            "sluice_reconcile_duration_seconds",
            "Duration of a reconciliation (of a batch).",
            ["kind"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.reconciles = Counter(
            "sluice_reconciles_total",
            "Objects reconciled, by outcome: success, waiting, user_error, error, not_leader.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.last_success = Gauge(
            "sluice_last_successful_reconcile_timestamp_seconds",
            "When an object was last reconciled well.",
            ["kind", "namespace", "name"],
            registry=registry,
        )
        self.kubernetes_requests = Counter(
            "sluice_kubernetes_requests_total",
            "Requests to the Kubernetes API; code 0: no answer.",
            ["verb", "kind", "code"],
            registry=registry,
        )
        self.kafka_requests = Counter(
            "sluice_kafka_requests_total", "Requests to Kafka, by type.", ["type"], registry=registry
        )
        self.leader = Gauge("sluice_leader", "1 in the replica that acts.", registry=registry)
        self.group_lag_records = Gauge(
            "sluice_consumer_group_lag_records",
            "Records between the committed offset and the end of the partition.",
            ["namespace", "cluster", "group", "topic", "partition"],
            registry=registry,
        )
        self.group_lag_seconds = Gauge(
            "sluice_consumer_group_lag_seconds",
            "Age of the oldest record that isn't consumed.",
            ["namespace", "cluster", "group", "topic", "partition"],
            registry=registry,
        )
        self.follower_lag = Gauge(
            "sluice_replication_lag_records",
            "Records by which a broker's follower replicas of a topic are behind, at most over its partitions.",
            ["namespace", "cluster", "broker", "topic"],
            registry=registry,
        )
        self.replay_offsets = Gauge(
            "sluice_replay_offsets", "Offsets in the range of a replay.", ["namespace", "name"], registry=registry
        )
        self.replay_offsets_done = Gauge(
            "sluice_replay_offsets_done", "Offsets that a replay has passed.", ["namespace", "name"], registry=registry
        )
        self.replay_records = Gauge(
            "sluice_replay_records", "Records that a replay has written.", ["namespace", "name"], registry=registry
        )
        self.replay_bytes = Gauge(
            "sluice_replay_bytes",
            "Bytes of record batches that a replay has written.",
            ["namespace", "name"],
            registry=registry,
        )
        self.replay_positions_moved = Gauge(
            "sluice_replay_positions_moved",
            "Positions of a group that a Rewind has moved; 0 once it is undone.",
            ["namespace", "name"],
            registry=registry,
        )
        self._owned: dict[Key, dict[Gauge, set[Labels]]] = {}
        self._speaks = True

    def count_kubernetes(self, verb: str, kind: str, code: str) -> None:
        """Count one request to the Kubernetes API."""
        self.kubernetes_requests.labels(verb, kind, code).inc()

    def count_kafka(self, request_type: str) -> None:
        """Count one request to Kafka."""
        self.kafka_requests.labels(request_type).inc()

    def lead(self, leads: bool) -> None:
        """This replica has become, or is no longer, the leader: who isn't says nothing of objects."""
        self.leader.set(1 if leads else 0)
        self._speaks = leads
        if not leads:
            for owner in list(self._owned):
                self.forget(owner)

    def replace(self, owner: Key, gauge: Gauge, values: Mapping[Labels, float]) -> None:
        """Set the series of ``gauge`` that belong to ``owner``: label values → value. Its other series disappear."""
        if not self._speaks:  # what was under way when the lead was lost
            return
        owned = self._owned.setdefault(owner, {})
        for labels, value in values.items():
            gauge.labels(*labels).set(value)
        for labels in owned.get(gauge, set()) - set(values):
            gauge.remove(*labels)
        if values:
            owned[gauge] = set(values)
        else:
            owned.pop(gauge, None)

    def forget(self, owner: Key) -> None:
        """Remove all series of an object that is gone."""
        for gauge, series in self._owned.pop(owner, {}).items():
            for labels in series:
                gauge.remove(*labels)
