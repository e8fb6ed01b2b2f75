"""Consumer groups of tests: topics with records, members that do nothing, and where a group is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, Producer

from sluice.plan.observed import NewTopic, TopicPartition
from tests.integration.support.world import World
from tests.support.kafka import KafkaCluster


async def topic(here: World, name: str, partitions: int = 2) -> None:
    """A topic that keeps old records, and that every broker knows."""
    await here.admin.create_topics([NewTopic(name, partitions, 1, (("retention.ms", "-1"),))])
    await visible(here, name, partitions)


async def visible(here: World, name: str, partitions: int) -> None:
    """Wait until a topic has its partitions, each with a leader."""
    end = time.monotonic() + 20
    while True:
        found = (await here.admin.describe_topics([name])).get(name)
        if found and len(found.partitions) == partitions and all(part.leader is not None for part in found.partitions):
            return
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


def produce(kafka: KafkaCluster, name: str, count: int, at_ms: int, partition: int = 0, **config: Any) -> None:
    """Records a millisecond apart, in one transaction if ``config`` says so."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 0, **config})
    if "transactional.id" in config:
        producer.init_transactions()
        producer.begin_transaction()
    for number in range(count):
        producer.produce(name, b"value", b"key", partition=partition, timestamp=at_ms + number)
        producer.flush(20)  # one batch each, so that times are exact
    if "transactional.id" in config:
        producer.commit_transaction()


async def committed(here: World, group: str) -> dict[TopicPartition, int]:
    """All that a group has committed."""
    return (await here.admin.list_group_offsets({group: None}))[group]


@contextmanager
def member(kafka: KafkaCluster, group: str, name: str, **config: Any) -> Iterator[Consumer]:
    """A member that consumes nothing and commits nothing."""
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": group, "enable.auto.commit": False, **config}
    )
    consumer.subscribe([name])
    end = time.monotonic() + 20
    while not consumer.assignment():
        consumer.poll(0.1)
        assert time.monotonic() < end
    try:
        yield consumer
    finally:
        consumer.close()
