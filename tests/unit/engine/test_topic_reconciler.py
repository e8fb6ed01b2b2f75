"""Topics against a Kafka in memory: what one object's trouble must not do to others, and what must not be forgotten."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sluice.api.base import Reason
from sluice.api.objects import Key
from sluice.engine import topic_scan
from sluice.engine.errors import UserError, WaitingError
from sluice.engine.reconciler import Outcome
from sluice.engine.topic import TopicReconciler
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError
from sluice.plan.observed import Reassignment, TopicPartition
from tests.unit.engine.kafka_fakes import World, pause, refusal

ONE: dict[str, Any] = {"replicas": 1}


@pytest.fixture
def world() -> World:
    return World(TopicReconciler, allowed=["ns", "other"])


def topic(world: World, name: str, namespace: str = "ns", day: int = 1, **spec: Any) -> Key:
    return world.put("Topic", name, {**ONE, **spec}, namespace=namespace, day=day)


# One object's trouble


async def test_a_topic_that_we_may_not_see_is_its_own_trouble(world: World) -> None:
    hidden, good = topic(world, "hidden"), topic(world, "good")
    world.kafka.refused["hidden"] = refusal("TOPIC_AUTHORIZATION_FAILED")
    results = await world.reconcile(hidden, good)
    assert isinstance(results[hidden], KafkaRefusedError)
    assert isinstance(results[good], Outcome)
    assert "good" in world.kafka.topics


async def test_a_partition_without_leader_holds_up_its_own_topic_only(world: World) -> None:
    for name in ("broken", "fine"):
        world.kafka.add_topic(name, 2)
    world.kafka.leaderless("broken", 1)
    broken, fine = topic(world, "broken", partitions=4), topic(world, "fine", partitions=4)
    results = await world.reconcile(broken, fine)
    waiting = results[broken]
    assert isinstance(waiting, WaitingError)
    assert waiting.reason is Reason.PARTITION_INCREASE_REFUSED
    assert len(world.kafka.topics["broken"].partitions) == 2
    assert isinstance(results[fine], Outcome)
    assert len(world.kafka.topics["fine"].partitions) == 4


async def test_a_claim_from_a_namespace_that_the_cluster_refuses_is_none(world: World) -> None:
    stranger = topic(world, "orders", namespace="stranger", day=1)
    mine = topic(world, "mine", day=2, topicName="orders")
    assert isinstance((await world.reconcile(stranger))[stranger], WaitingError)
    await world.settle(mine)
    assert world.condition(mine) == ("True", "Ready")


async def test_an_object_that_can_not_be_read_keeps_its_topic_and_holds_up_nobody(world: World) -> None:
    topic(world, "unreadable", day=1, novelty=True)
    rival, other = topic(world, "rival", day=2, topicName="unreadable"), topic(world, "other")
    results = await world.reconcile(rival, other)
    conflict = results[rival]
    assert isinstance(conflict, UserError)
    assert "Topic ns/unreadable" in conflict.message
    assert isinstance(results[other], Outcome)


# What is nobody's to manage


@pytest.mark.parametrize("name", ["__consumer_offsets", "sluice-probe"])
async def test_topics_of_kafka_and_of_our_own_are_left_alone(world: World, name: str) -> None:
    before = world.kafka.add_topic(name, 1)
    key = topic(world, "thief", topicName=name, partitions=9, deletionPolicy="Delete", config={"retention.ms": "1"})
    result = (await world.reconcile(key))[key]
    assert isinstance(result, UserError)
    assert result.reason is Reason.INVALID_SPEC
    assert (world.kafka.topics[name], world.kafka.configs[name]) == (before, {})
    assert "finalizers" not in world.kube.objects[key]["metadata"]
    # One that a former version let in.
    world.put("Topic", "thief", {**ONE, "topicName": name, "deletionPolicy": "Delete"}, finalizers=["sluice.dev/topic"])
    world.kube.objects[key]["status"] = {"topicId": before.id}
    world.delete(key)
    await world.settle(key)
    assert world.kafka.deleted == []
    assert key not in world.kube.objects


# Moves


async def test_a_topic_is_not_ready_while_replicas_are_copied(world: World) -> None:
    world.kafka.add_topic("moved", 1, replicas=3)
    key = topic(world, "moved", replicas=3)
    place = TopicPartition("moved", 0)
    (part,) = world.kafka.topics["moved"].partitions
    copying = dataclasses.replace(part, isr=(0,))
    world.kafka.topics["moved"] = dataclasses.replace(world.kafka.topics["moved"], partitions=(copying,))
    world.kafka.moving[place] = Reassignment((0, 1, 2), (1, 2), ())
    assert (await world.reconcile(key))[key] == Outcome(requeue_after=5.0)
    assert world.condition(key) == ("False", "Reassigning")
    # In sync by now, but not done: the last copies are dropped in the end.
    world.kafka.topics["moved"] = dataclasses.replace(world.kafka.topics["moved"], partitions=(part,))
    await world.reconcile(key)
    assert world.condition(key) == ("False", "Reassigning")
    world.kafka.moving.clear()
    await world.settle(key)
    assert world.condition(key) == ("True", "Ready")
    world.kafka.asked.clear()
    await world.settle(key)
    assert world.kafka.asked["list_reassignments"] == 0


async def test_who_may_not_move_replicas_can_still_have_topics(world: World) -> None:
    world.kafka.add_topic("narrow")
    world.kafka.cluster_refused = refusal("CLUSTER_AUTHORIZATION_FAILED")
    narrow, plain = topic(world, "narrow", replicas=2), topic(world, "plain")
    results = await world.reconcile(narrow, plain)
    assert isinstance(results[narrow], KafkaRefusedError)
    assert isinstance(results[plain], Outcome)


# Configuration


async def test_a_key_that_was_set_is_remembered_though_something_else_failed(world: World) -> None:
    world.kafka.add_topic("orders", 1)
    key = topic(world, "orders", partitions=2, config={"retention.ms": "5"})
    world.kafka.refused["grow orders"] = refusal("POLICY_VIOLATION")
    assert isinstance((await world.reconcile(key))[key], KafkaRefusedError)
    assert world.kafka.configs["orders"] == {"retention.ms": "5"}
    assert world.status(key)["configKeys"] == ["retention.ms"]
    world.kafka.refused.clear()
    topic(world, "orders", partitions=2)
    await world.settle(key)
    assert world.kafka.configs["orders"] == {}


async def test_keys_that_are_known_are_not_written_again(world: World) -> None:
    key = topic(world, "orders", config={"retention.ms": "5"})
    await world.settle(key)
    topic(world, "orders", config={"retention.ms": "6"})
    before = len(world.kube.writes)
    await world.settle(key)
    assert world.kafka.configs["orders"] == {"retention.ms": "6"}
    assert len(world.kube.writes) == before + 1  # the observed generation


# What people are told


async def test_problems_are_told_by_an_event_once(world: World) -> None:
    world.kafka.add_topic("orders", 3)
    key = topic(world, "orders", partitions=1)
    for _ in range(2):
        assert isinstance((await world.reconcile(key))[key], UserError)
    assert [(name, reason) for name, reason, _ in world.events] == [("orders", "PartitionDecrease")]


@pytest.mark.parametrize("somebody", [True, False])
async def test_a_topic_that_was_made_anew_is_told_of(world: World, somebody: bool) -> None:
    key = topic(world, "orders")
    await world.settle(key)
    former = world.kafka.topics.pop("orders").id
    if somebody:
        world.kafka.add_topic("orders")
    world.restart()
    await world.settle(key)
    ((_, reason, message),) = world.events
    assert reason == "TopicRecreated"
    assert former in message
    assert world.kafka.topics["orders"].id in message
    await world.settle(key)
    assert len(world.events) == 1


# The scan


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_scan, "SCAN_SECONDS", 0.01)


async def scan(world: World) -> None:
    """Wait for the next scan, and let it take place."""
    world.woken.clear()
    await pause()
    assert world.woken
    for key in dict.fromkeys(world.woken):
        await world.reconciler.reconcile([key])


@pytest.mark.usefixtures("often")
async def test_drift_is_corrected_in_every_namespace(world: World) -> None:
    keys = [topic(world, "a", config={"retention.ms": "5"}), topic(world, "b", "other", config={"retention.ms": "5"})]
    await world.settle(*keys)
    await scan(world)
    for name in ("a", "b"):
        world.kafka.configs[name]["retention.ms"] = "1"
    await scan(world)
    assert world.kafka.configs == {"a": {"retention.ms": "5"}, "b": {"retention.ms": "5"}}


@pytest.mark.usefixtures("often")
async def test_scans_go_on_when_the_topic_whose_turn_it_was_is_gone_paused_or_wrong(world: World) -> None:
    keys = [topic(world, name, config={"retention.ms": "5"}) for name in "abcd"]
    await world.settle(*keys)
    world.delete(keys[0])
    await world.reconcile(keys[0])
    world.put("Topic", "b", {**ONE, "config": {"retention.ms": "5"}}, annotations={"sluice.dev/paused": "true"})
    world.put("Topic", "c", {**ONE, "novelty": 1})
    world.kafka.configs["d"]["retention.ms"] = "1"
    await scan(world)
    assert set(world.woken) == {keys[3]}
    assert world.kafka.configs["d"]["retention.ms"] == "5"


@pytest.mark.usefixtures("often")
async def test_a_topic_that_is_refused_for_good_does_not_make_every_scan_a_close_look(world: World) -> None:
    refused, good = topic(world, "refused", config={"no.such": "1"}), topic(world, "good")
    world.kafka.add_topic("refused")
    world.kafka.refused["alter refused"] = refusal("INVALID_CONFIG")
    await world.reconcile(refused, good)
    await scan(world)
    await world.reconcile(refused)
    world.kafka.asked.clear()
    await world.reconciler.reconcile([good])
    await pause()
    await world.reconciler.reconcile([good])
    assert set(world.kafka.asked) == {"fingerprint"}


@pytest.mark.usefixtures("often")
async def test_an_object_that_was_changed_is_not_taken_for_well_by_a_state_that_was_good_before(world: World) -> None:
    key, other = topic(world, "a", config={"retention.ms": "5"}), topic(world, "b")
    await world.settle(key, other)
    await scan(world)
    topic(world, "a", config={"retention.ms": "6"})
    world.restart()
    await world.settle(other)
    await scan(world)
    assert world.kafka.configs["a"]["retention.ms"] == "6"


# Objects that go


async def test_a_topic_is_deleted_by_its_id(world: World) -> None:
    keys = [topic(world, name, deletionPolicy="Delete") for name in ("a", "b")]
    await world.settle(*keys)
    for key in keys:
        world.delete(key)
    world.kafka.asked.clear()
    await world.settle(*keys)
    assert world.kafka.deleted == ["a", "b"]
    assert (world.kafka.asked["topics"], world.kafka.asked["delete_topics"]) == (1, 1)
    assert not set(keys) & set(world.kube.objects)


async def test_deletions_have_a_lane_of_their_own_and_are_tried_again_soon(world: World) -> None:
    key, other = topic(world, "a", deletionPolicy="Delete"), topic(world, "b")
    await world.settle(key, other)
    assert world.reconciler.lane(key) == world.reconciler.lane(other)
    world.delete(key)
    assert world.reconciler.lane(key) != world.reconciler.lane(other)
    world.kafka.silent = True
    waiting = (await world.reconcile(key))[key]
    assert isinstance(waiting, WaitingError)
    assert waiting.reason is Reason.KAFKA_UNREACHABLE
    assert waiting.retry_after * 1.2 <= 15
    with pytest.raises(KafkaUnreachableError):
        await world.reconcile(other)
    world.kafka.silent = False
    await world.settle(key)
    assert world.kafka.deleted == ["a"]


async def test_a_topic_that_another_object_wants_is_handed_over(world: World) -> None:
    key = topic(world, "a", deletionPolicy="Delete", day=1)
    await world.settle(key)
    topic(world, "stranger", "stranger", topicName="a", day=2)
    heir = topic(world, "heir", topicName="a", day=3)
    world.delete(key)
    await world.settle(key)
    assert world.kafka.deleted == []
    assert heir in world.woken


async def test_who_may_not_use_the_cluster_keeps_no_topic_alive(world: World) -> None:
    key = topic(world, "a", deletionPolicy="Delete", day=1)
    await world.settle(key)
    topic(world, "stranger", "stranger", topicName="a", day=2)
    world.delete(key)
    await world.settle(key)
    assert world.kafka.deleted == ["a"]
