"""The reference page of the metrics has what an operator really serves."""

from __future__ import annotations

import sys

import pytest
from prometheus_client import CollectorRegistry

from sluice.observability.metrics import Metrics
from sluice.observability.probe import ProbeMetrics
from sluice.observability.reference import PROCESS, metrics, page


@pytest.fixture
def registry() -> CollectorRegistry:
    """That of an operator."""
    found = Metrics().registry
    ProbeMetrics(found)
    return found


def served(registry: CollectorRegistry) -> set[str]:
    """Names as they are scraped."""
    return {f"{one.name}_total" if one.type == "counter" else one.name for one in registry.collect()}


def test_every_metric_of_an_operator_has_its_row(registry: CollectorRegistry) -> None:
    listed = [name for name, _ in metrics()]
    assert set(listed) == {name for name in served(registry) if name.startswith("sluice_")}
    rows = [line.split("`")[1] for line in page().splitlines() if line.startswith("| `")]
    assert sorted(rows) == listed


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the client library tells nothing of the process")
def test_what_is_told_of_the_process_is_what_is_served(registry: CollectorRegistry) -> None:
    assert set(PROCESS) == {name for name in served(registry) if not name.startswith("sluice_")}


def test_a_row_tells_type_labels_and_help() -> None:
    row = next(line for line in page().splitlines() if line.startswith("| `sluice_reconciles_total`"))
    assert row.startswith("| `sluice_reconciles_total` | counter | `kind`, `outcome` | Objects reconciled")


def test_what_is_told_of_objects_stands_apart_since_only_the_leader_tells_it() -> None:
    of_objects, _, of_itself = page().partition("## Of the operator itself")
    assert "sluice_probe_errors_total" in of_objects
    assert "sluice_replay_records" in of_objects
    assert "sluice_leader" in of_itself
    assert "`namespace`" not in of_itself
