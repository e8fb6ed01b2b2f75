"""How the parts of a replica are wired together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest

from sluice.api.objects import Key
from sluice.engine.settings import Settings
from sluice.handlers.startup import Operator
from sluice.observability.metrics import Metrics

GROUP = Key("ConsumerGroup", "ns", "g")
LABELS = ("ns", "demo", "g", "orders", "0")


class NoKube:
    """Stands for a client that nobody uses."""

    def fenced(self, _: Callable[[], None]) -> NoKube:
        return self


@pytest.fixture
def operator() -> Iterator[Operator]:
    """An operator, of which nothing runs."""
    nothing: Any = NoKube()
    made = Operator(Settings(namespace="sluice", identity="one", lease="my-operator"), nothing, Metrics())
    made.workers.equip(made.context, [])
    yield made
    made.certificate.remove()


def shown(operator: Operator) -> str:
    return generate_latest(operator.metrics.registry).decode()


def test_its_lease_is_named_by_the_settings(operator: Operator) -> None:
    assert operator.elector._name == "my-operator"


def test_who_loses_the_lead_shows_nothing_of_objects_any_more(operator: Operator) -> None:
    operator._lead(True)
    operator.metrics.replace(GROUP, operator.metrics.group_lag_records, {LABELS: 5.0})
    operator.prober._metrics.produce.labels("ns", "demo", "1").observe(0.1)
    assert "demo" in shown(operator)
    operator._lead(False)
    assert "demo" not in shown(operator)
    assert "sluice_leader 0.0" in shown(operator)
