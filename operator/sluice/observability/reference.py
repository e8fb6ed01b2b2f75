"""Reference page of the operator's metrics, made from the registry that it serves them from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client.metrics import MetricWrapperBase

from sluice.observability.metrics import Metrics
from sluice.observability.probe import ProbeMetrics

PAGE: Final = "metrics.md"
PROCESS: Final = (
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
)
"""What the client library tells of the process, on Linux only: by name, so that the page is the same everywhere."""
_OF_OBJECTS: Final = "namespace"
"""Label of what is told of objects, by the leader only."""

Metric = tuple[str, MetricWrapperBase]
"""Name as it is scraped, and the metric."""


def pages() -> dict[str, str]:
    """The page by its file name."""
    return {PAGE: page()}


def page() -> str:
    """Every metric: name, type, labels, and its own help."""
    found = metrics()
    lines = [
        "# Metrics",
        "",
        "What each replica of the operator serves at `/metrics`, port 8080. How to scrape it, what brokers serve,",
        "and what to alert on: [monitoring](../guides/monitoring.md).",
        "",
        "A histogram's series are `<name>_bucket` (with the label `le`), `<name>_sum` and `<name>_count`.",
        "",
        "## Of objects, and of what they stand for",
        "",
        "The replica that leads has them, and no other. Series of what is gone (an object, a broker) disappear.",
        "",
        *_table(one for one in found if _OF_OBJECTS in _labels(one)),
        "",
        "## Of the operator itself",
        "",
        *_table(one for one in found if _OF_OBJECTS not in _labels(one)),
        "",
        "And of its process, in the words of Prometheus' own client library:",
        f"{', '.join(f'`{name}`' for name in PROCESS)}.",
        "",
    ]
    return "\n".join(lines)


def metrics() -> list[Metric]:
    """All metrics of an operator, in the order of their names."""
    made = Metrics()
    probe = ProbeMetrics(made.registry)
    found = [one for owner in (made, probe) for one in vars(owner).values() if isinstance(one, MetricWrapperBase)]
    # The library has no other way to a metric's name and labels while it has no series.
    return sorted((f"{one._name}_total" if one._type == "counter" else str(one._name), one) for one in found)


def _labels(metric: Metric) -> tuple[str, ...]:
    return tuple(metric[1]._labelnames)


def _table(found: Iterable[Metric]) -> list[str]:
    rows = [
        f"| `{metric[0]}` | {metric[1]._type} | {', '.join(f'`{label}`' for label in _labels(metric))} |"
        f" {metric[1]._documentation} |"
        for metric in found
    ]
    return ["| name | type | labels | is |", "|---|---|---|---|", *rows]
