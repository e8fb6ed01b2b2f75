"""Consumer groups on a real Kafka and a real API server: where they start, and how far they are behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as ConfluentPartition

from sluice.api.base import Reason
from sluice.engine.errors import UserError
from sluice.kube.errors import KubeError
from sluice.plan.observed import TopicPartition
from tests.integration.support.groups import committed, member, produce, topic, visible
from tests.integration.support.world import World, eventually, world
from tests.support.kafka import KafkaCluster

HOUR_MS = 3_600_000


@pytest.fixture
async def here(kubeconfig: Path, kafka: KafkaCluster) -> AsyncIterator[World]:
    """A namespace with a Kafka of one broker."""
    async with world(kubeconfig, kafka) as made:
        yield made


def metric(here: World, name: str, topic: str, partition: int) -> float | None:
    for family in here.metrics.registry.collect():
        for sample in family.samples:
            if (
                sample.name == name
                and sample.labels["topic"] == topic
                and sample.labels["partition"] == str(partition)
                and sample.labels["namespace"] == here.namespace
            ):
                return sample.value
    return None


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ({"from": "Earliest"}, {0: 0, 1: 0}),
        ({"from": "Latest"}, {0: 5, 1: 0}),
        ({"from": "Time", "time": "2013-01-01T01:00:00.002Z"}, {0: 2, 1: 0}),
        ({"from": "Time", "time": "2020-01-01T00:00:00Z"}, {0: 5, 1: 0}),
    ],
)
async def test_the_start_is_committed_before_the_first_member(
    here: World, kafka: KafkaCluster, start: dict[str, str], expected: dict[int, int]
) -> None:
    name = f"start-{start['from'].lower()}-{start.get('time', '')[:4]}-{here.namespace}"
    await topic(here, name)
    await asyncio.to_thread(produce, kafka, name, 5, 1357002000000)  # 2013-01-01T01:00:00Z
    key = await here.apply("ConsumerGroup", name, {"topics": [name], "startPosition": start})
    await here.settle(key)
    assert await committed(here, name) == {TopicPartition(name, part): at for part, at in expected.items()}
    status = await here.status(key)
    assert status["initializedTopics"] == [name]
    before = here.writes()
    here.restart()
    await here.settle(key)
    assert here.writes() == before


async def test_partitions_added_later_start_at_their_beginning(here: World, kafka: KafkaCluster) -> None:
    name = f"later-{here.namespace}"
    await topic(here, name, 1)
    key = await here.apply("ConsumerGroup", name, {"topics": [name], "startPosition": {"from": "Latest"}})
    await here.settle(key)
    await here.admin.create_partitions({name: 2})
    await visible(here, name, 2)
    await asyncio.to_thread(produce, kafka, name, 3, 1357002000000, 1)
    await here.settle(key)
    assert (await committed(here, name))[TopicPartition(name, 1)] == 0
    assert metric(here, "sluice_consumer_group_lag_records", name, 1) == 3


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_a_group_with_members_is_left_to_them(here: World, kafka: KafkaCluster, protocol: str) -> None:
    name = f"busy-{protocol}-{here.namespace}"
    await topic(here, name)
    with member(kafka, name, name, **{"group.protocol": protocol}):
        described = (await here.admin.describe_groups([name]))[name]
        assert (described.protocol_type, described.empty) == ("consumer", False)
        key = await here.apply("ConsumerGroup", name, {"topics": [name]})
        await here.settle(key)
        assert await committed(here, name) == {}
        assert (await here.status(key)).get("initializedTopics", []) == []
    await here.settle(key)
    assert len(await committed(here, name)) == 2


async def test_committed_offsets_are_never_moved(here: World, kafka: KafkaCluster) -> None:
    name = f"kept-{here.namespace}"
    await topic(here, name)
    await asyncio.to_thread(produce, kafka, name, 5, 1357002000000)
    await here.admin.alter_group_offsets(name, {TopicPartition(name, 0): 3})
    key = await here.apply("ConsumerGroup", name, {"topics": [name]})
    await here.settle(key)
    assert await committed(here, name) == {TopicPartition(name, 0): 3, TopicPartition(name, 1): 0}


async def test_lag_is_records_and_the_age_of_the_oldest_unread_one(here: World, kafka: KafkaCluster) -> None:
    name = f"lag-{here.namespace}"
    await topic(here, name)
    now_ms = int(here.now.timestamp() * 1000)
    await asyncio.to_thread(produce, kafka, name, 2, now_ms - 2 * HOUR_MS)
    await asyncio.to_thread(produce, kafka, name, 3, now_ms - HOUR_MS)
    key = await here.apply(
        "ConsumerGroup", name, {"topics": [name], "lagObjective": {"maxSeconds": 5400, "maxRecords": 100}}
    )
    await here.settle(key)
    assert metric(here, "sluice_consumer_group_lag_records", name, 0) == 5
    assert metric(here, "sluice_consumer_group_lag_seconds", name, 0) == pytest.approx(7200, abs=1)
    assert metric(here, "sluice_consumer_group_lag_records", name, 1) == 0
    assert await here.condition(key, "LagWithinObjective") == ("False", "Lagging")
    version = (await here.body(key))["metadata"]["resourceVersion"]
    here.kafka_requests.clear()
    await here.settle(key)
    assert "Fetch" not in here.kafka_requests  # it stands where it stood
    assert (await here.body(key))["metadata"]["resourceVersion"] == version
    await here.admin.alter_group_offsets(name, {TopicPartition(name, 0): 2})
    await here.settle(key)
    assert metric(here, "sluice_consumer_group_lag_seconds", name, 0) == pytest.approx(3600, abs=1)
    assert await here.condition(key, "LagWithinObjective") == ("True", "WithinObjective")
    assert await here.condition(key) == ("True", "Ready")


async def test_a_position_that_the_topic_does_not_have_is_told(here: World, kafka: KafkaCluster) -> None:
    name = f"astray-{here.namespace}"
    await topic(here, name, 1)
    await asyncio.to_thread(produce, kafka, name, 2, int(here.now.timestamp() * 1000))
    await here.admin.alter_group_offsets(name, {TopicPartition(name, 0): 100})
    key = await here.apply("ConsumerGroup", name, {"topics": [name], "lagObjective": {"maxRecords": 5}})
    await here.settle(key)
    assert await here.condition(key, "LagWithinObjective") == ("Unknown", "PositionOutOfRange")
    assert metric(here, "sluice_consumer_group_lag_records", name, 0) is None


async def test_a_group_that_stands_before_the_mark_of_a_transaction_is_as_old_as_what_follows(
    here: World, kafka: KafkaCluster
) -> None:
    name = f"mark-{here.namespace}"
    await topic(here, name, 1)
    now_ms = int(here.now.timestamp() * 1000)
    place = TopicPartition(name, 0)
    await asyncio.to_thread(produce, kafka, name, 2, now_ms - 2 * HOUR_MS, 0, **{"transactional.id": name})

    async def marked() -> bool:  # the mark comes a moment after the commit
        return (await here.admin.latest_offsets([place]))[place] == 3

    await eventually(marked)
    await asyncio.to_thread(produce, kafka, name, 1, now_ms - HOUR_MS)
    await here.admin.alter_group_offsets(name, {place: 2})
    key = await here.apply("ConsumerGroup", name, {"topics": [name]})
    await here.settle(key)
    assert metric(here, "sluice_consumer_group_lag_records", name, 0) == 1
    assert metric(here, "sluice_consumer_group_lag_seconds", name, 0) == pytest.approx(3600, abs=1)


async def test_a_group_of_what_can_not_be_a_topic_is_refused(here: World) -> None:
    with pytest.raises(KubeError, match="the name of a topic has a character"):
        await here.apply("ConsumerGroup", "wrong", {"topics": ["fine", "not fine"]})


async def test_the_mark_at_the_end_of_a_transaction_is_no_lag(here: World, kafka: KafkaCluster) -> None:
    name = f"txn-{here.namespace}"
    await topic(here, name, 1)
    await asyncio.to_thread(produce, kafka, name, 4, 1357002000000, 0, **{"transactional.id": name})

    def read_all() -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "group.id": name,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        consumer.commit(offsets=[ConfluentPartition(name, 0, 4)], asynchronous=False)
        consumer.close()

    await asyncio.to_thread(read_all)
    key = await here.apply("ConsumerGroup", name, {"topics": [name]})
    await here.settle(key)
    assert metric(here, "sluice_consumer_group_lag_records", name, 0) == 0
    assert metric(here, "sluice_consumer_group_lag_seconds", name, 0) == 0


async def test_a_missing_topic_is_waited_for(here: World) -> None:
    name = f"missing-{here.namespace}"
    key = await here.apply("ConsumerGroup", name, {"topics": [name]})
    await here.settle(key)
    assert await here.condition(key) == ("False", "TopicNotFound")
    await topic(here, name)
    await here.settle(key)
    assert await here.condition(key) == ("True", "Ready")


async def test_one_group_has_one_object(here: World) -> None:
    name = f"twice-{here.namespace}"
    await topic(here, name)
    first = await here.apply("ConsumerGroup", "a", {"groupId": name, "topics": [name]})
    await asyncio.sleep(1.1)  # creation times have whole seconds
    second = await here.apply("ConsumerGroup", "b", {"groupId": name, "topics": [name]})
    result = (await here.reconcile(first, second))[second]
    assert isinstance(result, UserError)
    assert result.reason is Reason.CONFLICT


async def test_fifty_groups_take_a_handful_of_requests(here: World) -> None:
    name = f"many-{here.namespace}"
    await topic(here, name, 4)
    keys = [await here.apply("ConsumerGroup", f"{name}-{i}", {"topics": [name]}) for i in range(50)]
    await here.settle(*keys)
    here.kafka_requests.clear()
    started = time.process_time()
    await here.settle(*keys)
    print(f"50 groups: {dict(here.kafka_requests)}, {(time.process_time() - started) * 1000:.0f} ms CPU")
    assert sum(here.kafka_requests.values()) <= 4
