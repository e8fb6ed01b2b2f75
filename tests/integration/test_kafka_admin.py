"""The administration client on a real Kafka: every request that nothing else here sends, and how failures look."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaError, KafkaRefusedError, KafkaUnreachableError
from sluice.plan.observed import NewTopic, OffsetAndTime, TopicPartition
from tests.support.kafka import KafkaCluster, start_cluster


class Fenced(Exception):
    """We may not write."""


def settings(kafka: KafkaCluster) -> ConnectionSettings:
    return ConnectionSettings(tuple(kafka.bootstrap.split(",")))


@pytest.fixture
async def admin(kafka: KafkaCluster) -> AsyncIterator[KafkaAdmin]:
    made = KafkaAdmin(settings(kafka))
    yield made
    await made.close()


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def made_topic(admin: KafkaAdmin, name: str, partitions: int = 1) -> None:
    await admin.create_topics([NewTopic(name, partitions, 1, (("retention.ms", "-1"),))])

    async def led() -> bool:
        found = (await admin.describe_topics([name])).get(name)
        return found is not None and all(part.leader is not None for part in found.partitions)

    await eventually(led)


async def test_cluster_and_quorum_are_described(admin: KafkaAdmin, kafka: KafkaCluster) -> None:
    cluster = await admin.describe_cluster()
    assert cluster.cluster_id == kafka.cluster_id
    assert [broker.id for broker in cluster.active_brokers] == [0]
    quorum = await admin.describe_quorum()
    assert (quorum.leader_id, [voter.id for voter in quorum.voters]) == (0, [0])
    assert quorum.voters[0].directory_id == kafka.nodes[0].directory_id
    assert quorum.lag(quorum.voters[0]) == 0


async def test_dynamic_configuration_of_brokers(admin: KafkaAdmin) -> None:
    await admin.alter_broker_configs({"log.cleaner.threads": "2"})

    async def set_() -> bool:
        return (await admin.describe_broker_configs([0]))[0]["log.cleaner.threads"].value == "2"

    await eventually(set_)
    assert (await admin.describe_broker_defaults())["log.cleaner.threads"].overridden
    await admin.alter_broker_configs({"log.cleaner.threads": None})
    with pytest.raises(KafkaRefusedError, match="Cannot update these configs dynamically"):
        await admin.alter_broker_configs({"log.dirs": "/elsewhere"}, broker=0)


async def test_open_transactions_are_found(admin: KafkaAdmin, kafka: KafkaCluster) -> None:
    await made_topic(admin, "open")
    place = TopicPartition("open", 0)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": "open"})

    def begin() -> None:
        producer.init_transactions()
        producer.begin_transaction()
        for number in range(10):
            producer.produce("open", b"v", b"k", partition=0, timestamp=1_000_000 + number)
        producer.flush()

    await asyncio.to_thread(begin)
    (state,) = (await admin.describe_producers([place]))[place]
    assert state.transaction_start == 0
    assert "open" in {found.transactional_id for found in await admin.list_transactions(["Ongoing"])}
    assert (await admin.stable_offsets([place]), await admin.latest_offsets([place])) == ({place: 0}, {place: 10})
    await asyncio.to_thread(producer.commit_transaction)

    async def decided() -> bool:
        return await admin.stable_offsets([place]) == {place: 11}

    await eventually(decided)
    assert await admin.offsets_for_times({place: 1_000_005}) == {place: OffsetAndTime(5, 1_000_005)}
    assert await admin.offsets_for_times({place: 2_000_000_000_000}) == {place: OffsetAndTime(None, None)}
    batch = (await admin.batch_times({place: 3}))[place]
    assert (batch.first, batch.last, batch.timestamp_ms, batch.control) == (0, 9, 1_000_000, False)
    assert (await admin.batch_times({place: 10}))[place].control
    assert await admin.batch_times({place: 11}) == {}


async def test_offsets_of_groups_are_set_read_and_deleted(admin: KafkaAdmin) -> None:
    await made_topic(admin, "read", 2)
    first, second = TopicPartition("read", 0), TopicPartition("read", 1)
    await admin.alter_group_offsets("reader", {first: 0})
    assert await admin.list_group_offsets({"reader": None, "nobody": [first]}) == {"reader": {first: 0}, "nobody": {}}
    assert await admin.list_group_offsets({"reader": [first, second]}, require_stable=True) == {"reader": {first: 0}}
    described = await admin.describe_groups(["reader", "nobody"])
    assert (described["reader"].state, described["nobody"].state) == ("Empty", "Dead")
    assert described["reader"].empty
    assert await admin.delete_groups(["reader", "nobody"]) == {"reader": None, "nobody": None}
    assert await admin.list_group_offsets({"reader": None}) == {"reader": {}}


async def test_a_name_that_is_none_does_not_hide_the_others(admin: KafkaAdmin) -> None:
    await made_topic(admin, "named")
    answers = await admin.each_topic(["named", "not named", "unknown"])
    assert (list(answers.found), list(answers.errors)) == (["named"], ["not named"])


async def test_topics_are_deleted_by_id(admin: KafkaAdmin) -> None:
    await made_topic(admin, "kept")
    await made_topic(admin, "gone")
    found = await admin.describe_topics(["kept", "gone"])
    results = await admin.delete_topics({"kept": "AAAAAAAAAAAAAAAAAAAAAQ", "gone": found["gone"].id})
    assert results == {"kept": None, "gone": None}

    async def only_kept() -> bool:
        return list(await admin.describe_topics(["kept", "gone"])) == ["kept"]

    await eventually(only_kept)


async def test_disks_are_described(admin: KafkaAdmin) -> None:
    await made_topic(admin, "disk", 2)

    async def seen() -> bool:  # a broker makes its folders a moment after the topic has leaders
        found = [replica for replica in await admin.describe_log_dirs() if replica.topic == "disk"]
        return {(replica.partition, replica.broker, replica.offset_lag) for replica in found} == {(0, 0, 0), (1, 0, 0)}

    await eventually(seen)


async def test_many_topics_are_split_by_partitions_not_only_by_number(kafka: KafkaCluster) -> None:
    asked: Counter[str] = Counter()
    admin = KafkaAdmin(settings(kafka), on_request=lambda name: asked.update([name]))
    topics = [NewTopic(f"checked-{number}", 3000, 1) for number in range(3)]
    assert set((await admin.create_topics(topics, validate_only=True)).values()) == {None}
    assert asked["CreateTopics"] == 2
    await admin.close()


async def test_a_fenced_client_reads_but_does_not_write(kafka: KafkaCluster) -> None:
    def fence() -> None:
        raise Fenced

    admin = KafkaAdmin(settings(kafka), fence=fence)
    assert (await admin.describe_cluster()).brokers
    with pytest.raises(Fenced):
        await admin.create_topics([NewTopic("never", 1, 1)])
    assert await admin.describe_topics(["never"]) == {}
    await admin.close()


async def test_old_brokers_of_a_cluster_that_moved_are_forgotten(tmp_path: Path) -> None:
    with start_cluster(tmp_path / "three", brokers=3) as kafka:
        admin = KafkaAdmin(settings(kafka))
        assert len((await admin.describe_cluster()).active_brokers) == 3
        kafka.kill(1)

        async def two() -> bool:
            try:
                return len((await admin.describe_cluster()).active_brokers) == 2
            except KafkaUnreachableError:
                return False

        await eventually(two, 40)
        results = await admin.create_topics([NewTopic("still-works", 1, 2)])
        assert results == {"still-works": None}
        for node in kafka.nodes:
            kafka.kill(node)
        with pytest.raises(KafkaUnreachableError):
            await admin.describe_cluster()
        for node in kafka.nodes.values():
            node.launch()
        await asyncio.to_thread(kafka.wait_ready)

        async def three() -> bool:
            try:
                return len((await admin.describe_cluster()).active_brokers) == 3
            except KafkaError:
                return False

        await eventually(three, 60)
        await admin.close()


async def test_who_is_not_trusted_is_told_why(kafka_tls: KafkaCluster) -> None:
    assert kafka_tls.ca is not None
    where = tuple(kafka_tls.bootstrap_of("SCRAM").split(","))
    wrong = KafkaAdmin(
        ConnectionSettings(
            where,
            tls=True,
            ca_pem=kafka_tls.ca.ca_pem,
            sasl_mechanism="SCRAM-SHA-512",
            username="admin",
            password="wrong",
        )
    )
    with pytest.raises(KafkaError, match=r"credentials (are not|may not be) accepted"):
        await wrong.describe_cluster()
    await wrong.close()
    untrusting = KafkaAdmin(ConnectionSettings(where, tls=True))
    with pytest.raises(KafkaUnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        await untrusting.describe_cluster()
    await untrusting.close()
    right = KafkaAdmin(
        ConnectionSettings(
            where,
            tls=True,
            ca_pem=kafka_tls.ca.ca_pem,
            sasl_mechanism="SCRAM-SHA-512",
            username="admin",
            password="secret",
        )
    )
    assert (await right.describe_cluster()).brokers
    await right.close()
