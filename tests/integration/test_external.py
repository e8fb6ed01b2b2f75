"""A Kafka that Sluice doesn't run, reached as its MessagingCluster says: over TLS, with a password from a Secret."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from sluice.api.base import Reason
from sluice.api.objects import Key
from sluice.engine.errors import ClusterNotReadyError, UserError, WaitingError
from sluice.engine.reconciler import Outcome
from sluice.plan.observed import TopicPartition
from tests.integration.support.world import CLUSTER, World, eventually, failed, world
from tests.support.kafka import KafkaCluster

LOGIN = {"username": "admin", "password": "secret"}
"""The user that the fixture ``kafka_tls`` makes."""


def external(kafka: KafkaCluster) -> dict[str, Any]:
    """Spec of a cluster that is reached by the Secrets ``trust`` and ``login``."""
    return {
        "external": {
            "bootstrapServers": kafka.bootstrap_of("SCRAM").split(","),
            "tls": {"caSecretRef": {"name": "trust", "key": "ca.crt"}},
            "authentication": {"type": "SCRAM-SHA-512", "secretName": "login"},
        }
    }


@pytest.fixture
async def bare(kubeconfig: Path, kafka_tls: KafkaCluster) -> AsyncIterator[World]:
    """A namespace with an external cluster, and none of the Secrets that it names."""
    async with world(kubeconfig, kafka_tls, external(kafka_tls), connects=True) as made:
        yield made


@pytest.fixture
async def here(bare: World, kafka_tls: KafkaCluster) -> World:
    """As ``bare``, with the Secrets."""
    assert kafka_tls.ca is not None
    await bare.make_secret("trust", {"ca.crt": kafka_tls.ca.ca_pem})
    await bare.make_secret("login", LOGIN)
    return bare


def cluster_of(here: World) -> Key:
    return Key("MessagingCluster", here.namespace, CLUSTER)


async def test_an_external_cluster_is_reported_on_once(here: World, kafka_tls: KafkaCluster) -> None:
    key = cluster_of(here)
    await here.settle(key)
    status = await here.status(key)
    assert (status["clusterId"], status["brokers"]) == (kafka_tls.cluster_id, 1)
    assert await here.condition(key) == ("True", "Ready")
    before, version = here.writes(), (await here.body(key))["metadata"]["resourceVersion"]
    for _ in range(2):
        assert await here.reconcile(key) == {key: Outcome(requeue_after=60.0)}
        here.restart()
    assert here.writes() == before
    assert (await here.body(key))["metadata"]["resourceVersion"] == version
    assert await here.kube.list("apps/v1", "StatefulSet", here.namespace) == [], "it isn't ours to run"


async def test_credentials_that_are_not_there_or_not_accepted_are_named_and_waited_for(
    bare: World, kafka_tls: KafkaCluster
) -> None:
    key = cluster_of(bare)
    with pytest.raises(ClusterNotReadyError, match="Secret trust doesn't exist"):
        await bare.reconcile(key)
    assert kafka_tls.ca is not None
    await bare.make_secret("trust", {"ca.crt": kafka_tls.ca.ca_pem})
    await bare.make_secret("login", {"username": "admin"})
    with pytest.raises(ClusterNotReadyError, match="Secret login has no password"):
        await bare.reconcile(key)
    await _login(bare, LOGIN | {"password": "mistyped"})
    # (Often Kafka hangs up on who comes with a wrong password before what it says can be read.)
    with pytest.raises(WaitingError, match=r"credentials (may not be|are not) accepted") as refused:
        await bare.reconcile(key)
    assert refused.value.reason is Reason.KAFKA_UNREACHABLE
    assert "mistyped" not in refused.value.message
    # What handlers/edge.py does when a Secret that a cluster names has changed.
    await _login(bare, LOGIN)
    bare.clusters.changed(key)
    await bare.settle(key)
    assert await bare.condition(key) == ("True", "Ready")


async def _login(here: World, values: dict[str, str]) -> None:
    await here.kube.delete("v1", "Secret", here.namespace, "login")
    await here.make_secret("login", values)


async def test_addresses_that_lead_to_another_kafka_are_refused_and_what_was_known_stays(
    here: World, kafka: KafkaCluster, kafka_tls: KafkaCluster
) -> None:
    key = cluster_of(here)
    await here.settle(key)
    await here.apply("MessagingCluster", CLUSTER, {"external": {"bootstrapServers": kafka.bootstrap.split(",")}})
    here.clusters.changed(key)
    with pytest.raises(UserError, match=kafka.cluster_id) as refused:
        await here.reconcile(key)
    assert refused.value.reason is Reason.IDENTITY_MISMATCH
    assert kafka_tls.cluster_id in refused.value.message
    assert (await here.status(key))["clusterId"] == kafka_tls.cluster_id
    await here.apply("MessagingCluster", CLUSTER, external(kafka_tls))
    here.clusters.changed(key)
    await here.settle(key)


async def test_topic_user_and_group_work_on_it_as_on_one_of_our_own(here: World, kafka_tls: KafkaCluster) -> None:
    await here.settle(cluster_of(here))
    name = f"orders-{here.namespace}"
    topic = await here.apply("Topic", name, {"partitions": 2, "replicas": 1, "deletionPolicy": "Delete"})
    await here.settle(topic)

    async def partitions() -> int:
        described = (await here.admin.describe_topics([name])).get(name)
        return len(described.partitions) if described else 0

    await eventually(lambda: _is(partitions, 2))

    user = await here.apply("User", "shop", {"userName": here.namespace, "authentication": "SCRAM-SHA-512"})
    await here.settle(user)
    secret = await here.secret("shop-kafka")
    assert secret is not None
    assert secret["bootstrap.servers"] == kafka_tls.bootstrap_of("SCRAM")
    assert await asyncio.to_thread(_produce, json.loads(secret["librdkafka-producer.json"]), name) == 0

    readers = f"readers-{here.namespace}"
    spec = {"groupId": readers, "topics": [name], "startPosition": {"from": "Earliest"}}
    group = await here.apply("ConsumerGroup", "readers", spec)

    async def failures() -> int:
        return len(failed(await here.reconcile(group), [group]))

    await eventually(lambda: _is(failures, 0))  # a new coordinator takes its time
    committed = await here.admin.list_group_offsets({readers: None})
    assert committed[readers] == {TopicPartition(name, 0): 0, TopicPartition(name, 1): 0}

    for key in (group, user, topic):
        await here.delete(key)
        await here.reconcile(key)
        assert await here.kube.get("sluice.dev/v1alpha1", key.kind, key.namespace, key.name) is None
    await eventually(lambda: _is(partitions, 0))


async def _is(ask: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await ask() == wanted


def _produce(config: dict[str, Any], topic: str) -> int:
    """Produce a record to each partition; how many weren't taken in time."""
    producer = Producer(config)
    for partition in range(2):
        producer.produce(topic, b"value", b"key", partition=partition)
    return int(producer.flush(20))
