"""Metrics of the probe, by broker."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LABELS: Final = ("namespace", "cluster", "broker")


class ProbeMetrics:
    """What the probe measures, in the registry of the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.produce = Histogram(
            "sluice_probe_produce_seconds",
            "Time until a record written through this broker is acknowledged by all in-sync replicas.",
            _LABELS,
            buckets=_BUCKETS,
            registry=registry,
        )
        self.commit = Histogram(
            "sluice_probe_commit_seconds",
            "Time until this broker, the coordinator of the probe's group, has committed offsets.",
            _LABELS,
            buckets=_BUCKETS,
            registry=registry,
        )
        self.end_to_end = Histogram(
            "sluice_probe_end_to_end_seconds",
            "Time from before a record is written through this broker until it has been read back.",
            _LABELS,
            buckets=_BUCKETS,
            registry=registry,
        )
        self.errors = Counter(
            "sluice_probe_errors_total",
            "Failures of the probe. Operations: topic (its topic can't be made or seen), leader (the broker doesn't"
            " lead its partition), produce, end_to_end, commit, internal (a fault of the probe itself).",
            [*_LABELS, "operation"],
            registry=registry,
        )

        self._all = (self.produce, self.commit, self.end_to_end, self.errors)

    def forget(self, namespace: str, cluster: str, broker: int | None = None) -> None:
        """Remove the series of a cluster, or of one of its brokers."""
        labels = {"namespace": namespace, "cluster": cluster}
        if broker is not None:
            labels["broker"] = str(broker)
        for metric in self._all:
            metric.remove_by_labels(labels)

    def clear(self) -> None:
        """Remove all series."""
        for metric in self._all:
            metric.clear()
