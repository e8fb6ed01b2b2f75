"""The probe goes on, whatever happens to one round of it; only the leader probes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from sluice.api.objects import Key
from sluice.engine import prober as module
from sluice.engine.errors import NotLeaderError
from sluice.engine.prober import Prober
from sluice.kafka.connection import ConnectionSettings
from sluice.observability.probe import ProbeMetrics
from sluice.plan.observed import PartitionDescription, TopicDescription
from tests.unit.engine.engine_fakes import until

CLUSTER = Key("MessagingCluster", "ns", "demo")
SETTINGS = ConnectionSettings(("k:9092",))


class Client:
    """Stands for a connection to one broker, on which everything works until it is told not to."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.asked = 0
        self.closed = False

    async def describe(self) -> TopicDescription:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return TopicDescription("sluice-probe", "id", (PartitionDescription(0, 0, 0, (0,), (0,)),))

    async def produce(self, *_: Any) -> int:
        return 7

    async def read_back(self, *_: Any) -> None:
        return None

    async def coordinator(self) -> int:
        return 0

    async def commit(self, _: Any) -> None:
        return None

    async def close(self) -> None:
        self.closed = True


class Rig:
    """A prober of one cluster, over that connection."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.client = Client()
        self.leads = True
        self.refused = 0
        self.prober = Prober(ProbeMetrics(self.registry), fence=self._fence)

    def update(self) -> None:
        self.prober.update(CLUSTER, SETTINGS, 0.0, (0,))

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, {"namespace": "ns", "cluster": "demo", **labels}) or 0.0

    @property
    def rounds(self) -> float:
        return self.value("sluice_probe_produce_seconds_count", broker="0")

    @property
    def faults(self) -> float:
        return self.value("sluice_probe_errors_total", broker="", operation="internal")

    def _fence(self) -> None:
        if not self.leads:
            self.refused += 1
            raise NotLeaderError("another one does")


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    rig = Rig()
    monkeypatch.setattr(module, "ProbeClient", lambda *_, **__: rig.client)
    rig.update()
    task = asyncio.create_task(rig.prober.run())
    try:
        yield rig
    finally:
        rig.prober.stop()
        await task


async def test_a_fault_of_our_own_is_counted_told_once_and_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(monkeypatch) as rig:
        rig.client.trouble = ValueError("nobody has foreseen this")
        await until(lambda: rig.faults >= 3)
        rig.client.trouble = None
        await until(lambda: rig.rounds >= 1)
        told = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(told) == 1
        assert told[0].exc_info is not None


async def test_a_replica_that_may_not_act_does_not_even_look(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as rig:
        rig.leads = False
        await until(lambda: rig.refused >= 3)
        assert rig.client.asked == 0
        rig.leads = True
        await until(lambda: rig.rounds >= 1)


async def test_without_the_lead_no_cluster_is_probed_and_with_it_again_when_it_is_looked_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(monkeypatch) as rig:
        await until(lambda: rig.rounds >= 1)
        rig.prober.clear()
        await until(lambda: rig.client.closed)
        assert b"demo" not in generate_latest(rig.registry)
        rig.update()
        await until(lambda: rig.rounds >= 1)
