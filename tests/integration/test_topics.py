"""Topics on a real Kafka and a real API server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from sluice.api.base import Reason
from sluice.api.objects import Key
from sluice.engine import topic_scan
from sluice.engine.errors import UserError, WaitingError
from sluice.engine.reconciler import Outcome
from sluice.engine.topic import TopicReconciler
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError
from sluice.kube.errors import KubeError
from sluice.plan.observed import NewTopic
from tests.integration.support.world import World, eventually, world
from tests.support.kafka import KafkaCluster, start_cluster

MANY = 1000


@pytest.fixture
async def here(kubeconfig: Path, kafka: KafkaCluster) -> AsyncIterator[World]:
    """A namespace with a Kafka of one broker."""
    async with world(kubeconfig, kafka) as made:
        yield made
        names = [body["spec"].get("topicName") or body["metadata"]["name"] for body in made.index.list("Topic")]
        if names:
            await made.admin.delete_topics(names)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three brokers."""
    with start_cluster(tmp_path_factory.mktemp("three") / "cluster", brokers=3) as cluster:
        yield cluster


async def config_of(here: World, name: str, key: str) -> tuple[str | None, bool]:
    found = (await here.admin.describe_topic_configs({name: [key]}))[name][key]
    return found.value, found.overridden


def produce(kafka: KafkaCluster, topic: str) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, b"value", b"key")
    assert producer.flush(20) == 0


async def test_a_topic_is_made_as_its_spec_says_and_then_nothing_is_written_any_more(here: World) -> None:
    key = await here.apply("Topic", "orders", {"partitions": 3, "replicas": 1, "config": {"retention.ms": "-1"}})
    await here.settle(key)
    described = (await here.admin.describe_topics(["orders"]))["orders"]
    assert [len(part.replicas) for part in described.partitions] == [1, 1, 1]
    assert await config_of(here, "orders", "retention.ms") == ("-1", True)
    status = await here.status(key)
    assert (status["topicId"], status["partitions"], status["replicas"]) == (described.id, 3, 1)
    assert await here.condition(key) == ("True", "Ready")
    before, version = here.writes(), (await here.body(key))["metadata"]["resourceVersion"]
    here.restart()
    await here.settle(key)
    assert here.writes() == before
    assert (await here.body(key))["metadata"]["resourceVersion"] == version


async def test_an_existing_topic_is_adopted_and_keys_that_the_spec_does_not_name_stay(here: World) -> None:
    await here.admin.create_topics([NewTopic("legacy", 2, 1, (("retention.ms", "12345"), ("segment.ms", "60000")))])
    key = await here.apply("Topic", "legacy", {"partitions": 2, "replicas": 1, "config": {"segment.ms": "70000"}})
    await here.settle(key)
    await eventually(lambda: _is(here, "legacy", "segment.ms", ("70000", True)))
    assert await config_of(here, "legacy", "retention.ms") == ("12345", True)


async def test_a_key_that_leaves_the_spec_is_reset_also_by_another_process(here: World) -> None:
    spec = {"partitions": 1, "replicas": 1}
    key = await here.apply("Topic", "keys", {**spec, "config": {"retention.ms": "1000", "segment.ms": "60000"}})
    await here.settle(key)
    here.restart()
    await here.apply("Topic", "keys", {**spec, "config": {"segment.ms": "60000"}})
    await here.settle(key)
    await eventually(lambda: _is(here, "keys", "retention.ms", ("604800000", False)))
    assert await config_of(here, "keys", "segment.ms") == ("60000", True)


async def _is(here: World, name: str, key: str, value: tuple[str, bool]) -> bool:
    return await config_of(here, name, key) == value


async def test_partitions_of_a_written_topic_are_raised_only_with_consent(here: World, kafka: KafkaCluster) -> None:
    key = await here.apply("Topic", "grow", {"partitions": 1, "replicas": 1})
    await here.settle(key)
    await here.apply("Topic", "grow", {"partitions": 2, "replicas": 1})
    await here.settle(key)  # nothing was ever written: no key can be torn apart
    await eventually(lambda: _partitions(here, "grow", 2))
    produce(kafka, "grow")
    await here.apply("Topic", "grow", {"partitions": 4, "replicas": 1})
    refused = (await here.reconcile(key))[key]
    assert isinstance(refused, UserError)
    assert refused.reason is Reason.PARTITION_INCREASE_REFUSED
    assert await here.condition(key, "Stalled") == ("True", "PartitionIncreaseRefused")
    assert await _partitions(here, "grow", 2)
    await here.apply("Topic", "grow", {"partitions": 4, "replicas": 1, "allowPartitionIncrease": True})
    await here.settle(key)
    await eventually(lambda: _partitions(here, "grow", 4))


async def _partitions(here: World, name: str, count: int) -> bool:
    return len((await here.admin.describe_topics([name]))[name].partitions) == count


async def test_a_refused_increase_can_be_taken_back_but_no_partition(here: World, kafka: KafkaCluster) -> None:
    key = await here.apply("Topic", "back", {"partitions": 2, "replicas": 1})
    await here.settle(key)
    await asyncio.to_thread(produce, kafka, "back")
    await here.apply("Topic", "back", {"partitions": 8, "replicas": 1})
    assert isinstance((await here.reconcile(key))[key], UserError)
    await here.apply("Topic", "back", {"partitions": 2, "replicas": 1})
    await here.settle(key)
    assert await here.condition(key) == ("True", "Ready")
    with pytest.raises(KubeError, match="partitions can't be lowered below what the topic has"):
        await here.apply("Topic", "back", {"partitions": 1, "replicas": 1})


@pytest.mark.parametrize(
    ("name", "spec"), [("sluice-mine", {}), ("mine", {"topicName": "sluice-mine"}), ("mine", {"topicName": "__mine"})]
)
async def test_names_of_kafkas_and_our_own_topics_are_refused(here: World, name: str, spec: dict[str, str]) -> None:
    with pytest.raises(KubeError, match="can't start with"):
        await here.apply("Topic", name, {"replicas": 1, **spec})
    await here.apply("Topic", "sluice-fan", {"replicas": 1, "topicName": "fan"})


async def test_more_replicas_than_brokers_waits_and_says_so(here: World) -> None:
    key = await here.apply("Topic", "wide", {"replicas": 3})
    waiting = (await here.reconcile(key))[key]
    assert isinstance(waiting, WaitingError)
    assert waiting.reason is Reason.TOO_FEW_BROKERS
    assert "wide" not in await here.admin.describe_topics(["wide"])


async def test_what_kafka_refuses_is_told_and_does_not_hold_up_others(here: World) -> None:
    bad = await here.apply("Topic", "bad", {"replicas": 1, "config": {"no.such.key": "1"}})
    good = await here.apply("Topic", "good", {"replicas": 1})
    results = await here.reconcile(bad, good)
    assert isinstance(results[bad], KafkaRefusedError)
    assert "no.such.key" in str(results[bad])
    assert isinstance(results[good], Outcome)


async def test_of_two_objects_for_one_topic_the_oldest_wins_and_the_other_takes_over_when_it_goes(here: World) -> None:
    first = await here.apply(
        "Topic", "one", {"topicName": "shared", "replicas": 1, "partitions": 2, "deletionPolicy": "Delete"}
    )
    await here.settle(first)
    await asyncio.sleep(1.1)  # creation times have whole seconds
    second = await here.apply("Topic", "another", {"topicName": "shared", "replicas": 1, "partitions": 2})
    results = await here.reconcile(first, second)
    assert isinstance(results[first], Outcome)
    conflict = results[second]
    assert isinstance(conflict, UserError)
    assert conflict.reason is Reason.CONFLICT
    assert f"{here.namespace}/one" in conflict.message
    topic_id = (await here.admin.describe_topics(["shared"]))["shared"].id
    await here.delete(first)
    await here.settle(first)
    await here.reconcile(first)
    assert second in here.woken
    await here.settle(second)
    assert (await here.status(second))["topicId"] == topic_id  # handed over, not deleted


async def test_deletion_keeps_the_topic_unless_asked(here: World) -> None:
    kept = await here.apply("Topic", "kept", {"replicas": 1})
    gone = await here.apply("Topic", "gone", {"replicas": 1, "deletionPolicy": "Delete"})
    await here.settle(kept, gone)
    assert "finalizers" not in (await here.body(kept))["metadata"]
    assert (await here.body(gone))["metadata"]["finalizers"] == ["sluice.dev/topic"]
    await here.delete(kept)
    await here.delete(gone)
    await here.settle(kept)
    await here.settle(gone)
    assert await here.kube.list("sluice.dev/v1alpha1", "Topic", here.namespace) == []
    await eventually(lambda: _only(here, {"kept"}, {"kept", "gone"}))


async def _only(here: World, left: set[str], of: set[str]) -> bool:
    return set(await here.admin.describe_topics(sorted(of))) == left


async def test_a_topic_made_anew_by_somebody_else_is_not_deleted_with_the_object(here: World) -> None:
    key = await here.apply("Topic", "swapped", {"replicas": 1, "deletionPolicy": "Delete"})
    await here.settle(key)
    await here.admin.delete_topics(["swapped"])
    await eventually(lambda: _only(here, set(), {"swapped"}))
    await here.admin.create_topics([NewTopic("swapped", 1, 1)])
    await eventually(lambda: _only(here, {"swapped"}, {"swapped"}))
    await here.delete(key)
    await here.settle(key)
    assert "swapped" in await here.admin.describe_topics(["swapped"])


async def test_an_object_whose_cluster_is_gone_lets_go(here: World) -> None:
    key = await here.apply("Topic", "orphan", {"replicas": 1, "deletionPolicy": "Delete"})
    await here.settle(key)
    await here.delete(Key("MessagingCluster", here.namespace, "demo"))
    await here.delete(key)
    await here.settle(key)
    assert await here.kube.get("sluice.dev/v1alpha1", "Topic", here.namespace, "orphan") is None


async def test_an_object_deleted_behind_our_back_makes_no_topic(here: World) -> None:
    key = await here.apply("Topic", "ghost", {"replicas": 1})
    await here.watch()
    await here.delete(key)
    reconciler = TopicReconciler(here.context)
    reconciler.lane(key)
    result = (await reconciler.reconcile([key]))[key]
    assert isinstance(result, WaitingError)
    assert await here.admin.describe_topics(["ghost"]) == {}


async def test_a_thousand_topics_take_a_handful_of_requests(
    here: World, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    limit = asyncio.Semaphore(20)

    async def one(number: int) -> Key:
        async with limit:
            return await here.apply(
                "Topic",
                f"many-{number:04}",
                {"replicas": 1, "config": {"retention.ms": "60000", "segment.ms": "30000"}},
            )

    keys = await asyncio.gather(*(one(number) for number in range(MANY)))
    before = here.writes()
    here.kafka_requests.clear()
    started, used = time.monotonic(), time.process_time()
    await here.settle(*keys)
    print(f"created {MANY}: {time.monotonic() - started:.1f} s, {time.process_time() - used:.1f} s CPU,", end=" ")
    print(f"Kafka requests {dict(here.kafka_requests)}, writes to Kubernetes {here.writes() - before}")
    assert sum(here.kafka_requests.values()) <= 10
    assert len(await here.admin.describe_topics(sorted(key.name for key in keys))) == MANY
    assert here.writes() - before == MANY  # one status each

    here.kafka_requests.clear()
    started, used = time.monotonic(), time.process_time()
    here.restart()
    await here.settle(*keys)
    print(f"looked at {MANY}: {time.monotonic() - started:.1f} s, {time.process_time() - used:.1f} s CPU,", end=" ")
    print(f"Kafka requests {dict(here.kafka_requests)}")
    assert sum(here.kafka_requests.values()) <= 6
    assert here.writes() - before == MANY

    # The scan: nothing differs, so nothing is decoded; then one topic was changed by hand.
    monkeypatch.setattr(topic_scan, "SCAN_SECONDS", 0.0)
    reconciler = TopicReconciler(here.context)
    scout = min(keys)
    reconciler.lane(scout)

    async def scan() -> None:
        here.woken.clear()
        await asyncio.sleep(0.01)
        assert here.woken
        await reconciler.reconcile([scout])

    await reconciler.reconcile([scout])
    await scan()
    here.kafka_requests.clear()
    started, used = time.monotonic(), time.process_time()
    await scan()
    print(f"scan: {time.monotonic() - started:.3f} s, {time.process_time() - used:.3f} s CPU,", end=" ")
    print(f"Kafka requests {dict(here.kafka_requests)}")
    assert here.kafka_requests == {"Metadata": 1, "DescribeConfigs": 1}
    drifted = keys[700].name
    await here.admin.alter_topic_configs({drifted: {"retention.ms": "1"}})
    await eventually(lambda: _is(here, drifted, "retention.ms", ("1", True)))
    await scan()
    await eventually(lambda: _is(here, drifted, "retention.ms", ("60000", True)))


async def test_replicas_are_raised_and_lowered_and_the_object_says_that_it_is_on_its_way(
    kubeconfig: Path, three: KafkaCluster
) -> None:
    async with world(kubeconfig, three) as here:
        key = await here.apply("Topic", "moved", {"partitions": 6, "replicas": 1})
        await here.settle(key)
        leaders = [p.replicas[0] for p in (await here.admin.describe_topics(["moved"]))["moved"].partitions]
        await here.apply("Topic", "moved", {"partitions": 6, "replicas": 3})
        await here.settle(key)
        assert await here.condition(key, "Reconciling") == ("True", "Reassigning")
        here.restart()

        async def well() -> bool:
            await here.settle(key)
            return await here.condition(key) == ("True", "Ready")

        await eventually(well)
        found = (await here.admin.describe_topics(["moved"]))["moved"]
        assert [sorted(part.replicas) for part in found.partitions] == [[0, 1, 2]] * 6
        assert [part.replicas[0] for part in found.partitions] == leaders
        await here.apply("Topic", "moved", {"partitions": 6, "replicas": 2})
        await eventually(well)
        found = (await here.admin.describe_topics(["moved"]))["moved"]
        assert [len(part.replicas) for part in found.partitions] == [2] * 6
        load = [sum(node in part.replicas for part in found.partitions) for node in range(3)]
        # Leaders stay, so a broker that leads more than its share keeps so many; the others share the rest.
        assert max(load) <= max(4, *(leaders.count(node) for node in range(3)))


async def test_a_dead_cluster_is_told_apart_from_a_refusal(kubeconfig: Path, tmp_path: Path) -> None:
    with start_cluster(tmp_path / "mortal") as mortal:
        async with world(kubeconfig, mortal) as here:
            key = await here.apply("Topic", "late", {"replicas": 1})
            await here.settle(key)
            mortal.kill(0)
            here.restart()
            with pytest.raises(KafkaUnreachableError):
                await here.reconcile(key)
            mortal.start(0)

            async def back() -> bool:
                try:
                    await here.settle(key)
                except KafkaUnreachableError:
                    return False
                return True

            await eventually(back)
