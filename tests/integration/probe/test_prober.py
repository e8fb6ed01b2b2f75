"""The probe against real Kafka: each broker is measured, and a dead one doesn't hide the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from sluice.api.objects import Key
from sluice.engine.errors import NotLeaderError
from sluice.engine.prober import Prober
from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.probe import PROBE_TOPIC, ProbeClient
from sluice.observability.probe import ProbeMetrics
from tests.support.kafka import KafkaCluster, start_cluster

CLUSTER = Key("MessagingCluster", "ns", "demo")
BROKERS = (0, 1, 2)


class Measured:
    """The metrics as a test reads them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = ProbeMetrics(self.registry)

    def value(self, name: str, **labels: str) -> float:
        labels = {"namespace": "ns", "cluster": "demo", **labels}
        return self.registry.get_sample_value(name, labels) or 0.0

    def rounds(self, broker: int) -> float:
        return self.value("sluice_probe_end_to_end_seconds_count", broker=str(broker))

    def errors(self, broker: int) -> float:
        operations = ("leader", "produce", "end_to_end", "commit")
        return sum(
            self.value("sluice_probe_errors_total", broker=str(broker), operation=operation) for operation in operations
        )

    def commits(self) -> float:
        return sum(self.value("sluice_probe_commit_seconds_count", broker=str(broker)) for broker in BROKERS)


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what is waited for is a metric
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running(prober: Prober) -> AsyncIterator[None]:
    task = asyncio.create_task(prober.run())
    try:
        yield
    finally:
        prober.stop()
        await asyncio.wait_for(task, 20)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    with start_cluster(tmp_path_factory.mktemp("probe") / "kafka", brokers=3) as cluster:
        yield cluster


async def placements(client: ProbeClient) -> list[tuple[int, ...]]:
    topic = await client.describe()
    return [partition.replicas for partition in topic.partitions] if topic else []


def settings(cluster: KafkaCluster) -> ConnectionSettings:
    return ConnectionSettings(tuple(cluster.bootstrap.split(",")))


async def test_every_broker_is_measured_and_a_dead_one_only_for_itself(three: KafkaCluster) -> None:
    measured = Measured()
    prober = Prober(measured.metrics)
    async with running(prober):
        prober.update(CLUSTER, settings(three), 0.2, BROKERS)
        await until(lambda: all(measured.rounds(broker) >= 3 for broker in BROKERS) and measured.commits() >= 3)
        assert measured.value("sluice_probe_produce_seconds_count", broker="2") >= 3

        three.kill(1)
        await until(lambda: measured.errors(1) > 0)
        before = measured.rounds(0)
        await until(lambda: measured.rounds(0) >= before + 3)

        await asyncio.to_thread(three.start, 1)
        before = measured.rounds(1)
        await until(lambda: measured.rounds(1) >= before + 3)

        prober.update(CLUSTER, None, 0.2, ())
        await until(lambda: not measured.rounds(0))
        assert b"demo" not in _text(measured.registry)


async def test_brokers_that_are_added_are_measured_too(three: KafkaCluster) -> None:
    measured = Measured()
    prober = Prober(measured.metrics)
    client = ProbeClient(settings(three))
    await client.delete_topics([PROBE_TOPIC])
    async with running(prober):
        prober.update(CLUSTER, settings(three), 0.2, (0,))
        await until(lambda: measured.rounds(0) >= 1)
        prober.update(CLUSTER, settings(three), 0.2, BROKERS)
        await until(lambda: all(measured.rounds(broker) >= 1 for broker in BROKERS))
        async with asyncio.timeout(30):
            while await placements(client) != [(0, 1, 2), (1, 2, 0), (2, 0, 1)]:  # noqa: ASYNC110  # moves run
                await asyncio.sleep(0.1)
    await client.close()


async def test_a_cluster_that_is_out_of_reach_is_counted_and_another_is_measured_all_the_same(
    kafka: KafkaCluster,
) -> None:
    measured = Measured()
    prober = Prober(measured.metrics)
    prober.update(Key("MessagingCluster", "ns", "gone"), ConnectionSettings(("127.0.0.1:1",)), 0.2, (0,))
    prober.update(CLUSTER, settings(kafka), 0.2, (0,))
    async with running(prober):
        await until(lambda: measured.rounds(0) >= 3)
        await until(
            lambda: measured.value("sluice_probe_errors_total", cluster="gone", broker="", operation="topic") > 0
        )


async def test_a_replica_that_may_not_act_writes_nothing(kafka: KafkaCluster) -> None:
    leading = False

    def fence() -> None:
        if not leading:
            raise NotLeaderError("not us")

    measured = Measured()
    prober = Prober(measured.metrics, fence=fence)
    prober.update(CLUSTER, settings(kafka), 0.1, (0,))
    async with running(prober):
        await asyncio.sleep(0.5)
        assert measured.rounds(0) == 0
        leading = True
        await until(lambda: measured.rounds(0) >= 1)


def _text(registry: CollectorRegistry) -> bytes:
    return generate_latest(registry)
