"""Consumer groups against a Kafka in memory: one group's trouble stays its own, and what isn't known isn't kept."""

from __future__ import annotations

from typing import Any

import pytest

from sluice.api.base import Reason
from sluice.api.objects import Key
from sluice.engine import group_lag
from sluice.engine.errors import UserError, WaitingError
from sluice.engine.group import ConsumerGroupReconciler
from sluice.engine.reconciler import Outcome
from sluice.kafka.errors import KafkaRefusedError
from sluice.plan.lag import BatchTime
from sluice.plan.observed import GroupDescription, TopicPartition
from tests.unit.engine.engine_fakes import NOW
from tests.unit.engine.kafka_fakes import World, refusal

NOW_MS = int(NOW.timestamp() * 1000)
A = TopicPartition("a", 0)
OBJECTIVE = {"maxRecords": 100, "maxSeconds": 60}


@pytest.fixture
def world() -> World:
    made = World(ConsumerGroupReconciler, allowed=["ns", "other"])
    made.kafka.add_topic("a", 1)
    return made


def group(world: World, name: str = "g", topics: tuple[str, ...] = ("a",), day: int = 1, **spec: Any) -> Key:
    namespace = spec.pop("namespace", "ns")
    return world.put("ConsumerGroup", name, {"topics": list(topics), **spec}, day=day, namespace=namespace)


def stands(world: World, position: int | None, end: int, start: int = 0, age: float | None = None) -> None:
    """Where the group g stands in topic a, and how old its next record is."""
    world.kafka.offsets["g"] = {} if position is None else {A: position}
    world.kafka.starts[A], world.kafka.ends[A] = start, end
    world.kafka.batches.pop(A, None)
    if age is not None:
        first = max(start, position or 0)
        world.kafka.batches[A] = BatchTime(first, end - 1, int(NOW_MS - age * 1000), control=False)


def metric(world: World, name: str) -> dict[str, float]:
    samples = (sample for family in world.context.metrics.registry.collect() for sample in family.samples)
    return {f"{s.labels['topic']}-{s.labels['partition']}": s.value for s in samples if s.name == name}


async def objective(world: World, key: Key) -> tuple[str, str]:
    await world.settle(key)
    return world.condition(key, "LagWithinObjective")


# One group's trouble


async def test_a_topic_or_group_that_kafka_refuses_is_the_trouble_of_its_own_object(world: World) -> None:
    world.kafka.refused["secret"] = refusal("GROUP_AUTHORIZATION_FAILED")
    world.kafka.refused["hidden"] = refusal("TOPIC_AUTHORIZATION_FAILED")
    topical = group(world, "topical", ("a", "hidden"))
    secret, good = group(world, "secret"), group(world, "good")
    results = await world.reconcile(topical, secret, good)
    assert isinstance(results[topical], KafkaRefusedError)
    assert isinstance(results[secret], KafkaRefusedError)
    assert isinstance(results[good], Outcome)
    assert world.kafka.offsets["good"] == {A: 0}


async def test_a_claim_from_a_namespace_that_the_cluster_refuses_is_none(world: World) -> None:
    stranger = group(world, "g", namespace="stranger", day=1)
    key = group(world, "g", day=2)
    assert isinstance((await world.reconcile(stranger))[stranger], WaitingError)
    await world.settle(key)


async def test_an_object_that_can_not_be_read_holds_up_nobody(world: World) -> None:
    group(world, "broken", novelty=1)
    rival, other = group(world, "rival", groupId="broken", day=2), group(world, "other")
    results = await world.reconcile(rival, other)
    assert isinstance(results[rival], UserError)
    assert isinstance(results[other], Outcome)


async def test_a_share_group_is_told_that_it_has_no_start_position(world: World) -> None:
    world.kafka.groups["g"] = GroupDescription("g", "Stable", "share", 0)
    key, other = group(world), group(world, "other")
    results = await world.reconcile(key, other)
    told = results[key]
    assert isinstance(told, UserError)
    assert told.reason is Reason.INVALID_SPEC
    assert "share group" in told.message
    assert "startPosition" in told.message
    assert isinstance(results[other], Outcome)


async def test_an_active_group_of_the_new_protocol_is_left_to_its_members(world: World) -> None:
    world.kafka.groups["g"] = GroupDescription("g", "Stable", "consumer", 0)
    key = group(world)
    await world.settle(key)
    assert "g" not in world.kafka.offsets
    assert "has members" in world.message(key)


# The objective


async def test_an_age_that_is_not_known_is_not_taken_for_kept(world: World) -> None:
    key = group(world, lagObjective=OBJECTIVE)
    stands(world, 5, 10)
    assert await objective(world, key) == ("Unknown", "LagUnknown")
    stands(world, 5, 10, age=30)
    assert await objective(world, key) == ("True", "WithinObjective")


async def test_a_partition_without_leader_is_not_taken_for_kept(world: World) -> None:
    key = group(world, lagObjective=OBJECTIVE)
    stands(world, 5, 10, age=1)
    world.kafka.leaderless("a", 0)
    assert await objective(world, key) == ("Unknown", "LagUnknown")
    assert world.condition(key) == ("True", "Ready")
    assert metric(world, "sluice_consumer_group_lag_records") == {}


async def test_a_topic_that_does_not_exist_is_not_taken_for_kept(world: World) -> None:
    key = group(world, topics=("a", "missing"), lagObjective=OBJECTIVE)
    stands(world, 5, 5)
    assert await objective(world, key) == ("Unknown", "LagUnknown")
    assert world.condition(key) == ("False", "TopicNotFound")


async def test_what_was_never_committed_is_behind_from_the_start_on(world: World) -> None:
    world.kafka.groups["g"] = GroupDescription("g", "Stable", "consumer", 3)
    key = group(world, lagObjective=OBJECTIVE)
    stands(world, None, 500, start=200, age=10)
    assert await objective(world, key) == ("False", "Lagging")
    assert metric(world, "sluice_consumer_group_lag_records") == {"a-0": 300}


@pytest.mark.parametrize(("position", "shown"), [(50, {}), (2, {"a-0": 10})])
async def test_a_position_that_the_topic_does_not_have_is_told(
    world: World, position: int, shown: dict[str, float]
) -> None:
    key = group(world, lagObjective=OBJECTIVE)
    stands(world, position, 20, start=10, age=1)
    assert await objective(world, key) == ("Unknown", "PositionOutOfRange")
    assert metric(world, "sluice_consumer_group_lag_records") == shown
    assert world.condition(key) == ("True", "Ready")
    assert "made anew" in world.message(key)
    assert [reason for _, reason, _ in world.events] == ["PositionOutOfRange"]
    await world.settle(key)
    assert len(world.events) == 1


async def test_such_a_position_is_told_without_an_objective_too(world: World) -> None:
    key = group(world)
    stands(world, 50, 20)
    await world.settle(key)
    assert "made anew" in world.message(key)
    assert [reason for _, reason, _ in world.events] == ["PositionOutOfRange"]
    stands(world, 20, 20)
    await world.settle(key)
    assert world.message(key) == ""


async def test_numbers_that_change_within_a_verdict_write_nothing(world: World) -> None:
    key = group(world, lagObjective=OBJECTIVE)
    stands(world, 0, 101, age=10)
    assert await objective(world, key) == ("False", "Lagging")
    writes = len(world.kube.writes)
    for end, age in ((95, 70.0), (110, 61.0), (92, 1.0)):
        stands(world, 0, end, age=age)
        world.restart()
        assert await objective(world, key) == ("False", "Lagging")
    assert len(world.kube.writes) == writes
    stands(world, 0, 90, age=1)
    assert await objective(world, key) == ("True", "WithinObjective")
    assert [reason for _, reason, _ in world.events] == ["WithinObjective"]


# Where to look


async def test_ages_are_looked_up_for_all_partitions_in_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_lag, "BATCHES_LOOKED_AT", 2)
    world.kafka.add_topic("a", 6)
    places = [TopicPartition("a", number) for number in range(6)]
    key = group(world, lagObjective={"maxSeconds": 60})
    position = 0
    for turn in range(3):
        position += 10  # the group works, so that it stands somewhere else each time
        world.kafka.offsets["g"] = dict.fromkeys(places, position)
        world.kafka.ends = dict.fromkeys(places, position + 5)
        world.kafka.batches = {p: BatchTime(position, position + 4, NOW_MS - 5000, control=False) for p in places}
        expected = ("True", "WithinObjective") if turn == 2 else ("Unknown", "LagUnknown")
        assert await objective(world, key) == expected
    assert {f"batch {place}" for place in places} <= set(world.kafka.asked)
    assert len(metric(world, "sluice_consumer_group_lag_seconds")) == 6


async def test_a_partition_that_was_just_read_to_its_end_is_no_older_than_that(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_lag, "BATCHES_LOOKED_AT", 0)
    key = group(world, lagObjective={"maxSeconds": 60})
    stands(world, 5, 5)
    assert await objective(world, key) == ("True", "WithinObjective")
    stands(world, 5, 9)
    assert await objective(world, key) == ("True", "WithinObjective")


async def test_a_group_that_was_set_back_is_asked_for_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key = group(world, lagObjective={"maxSeconds": 60})
    stands(world, 50, 60, age=1)
    assert await objective(world, key) == ("True", "WithinObjective")
    stands(world, 0, 60, age=600)
    monkeypatch.setattr(group_lag, "BATCHES_LOOKED_AT", 0)
    assert await objective(world, key) == ("Unknown", "LagUnknown")
    monkeypatch.setattr(group_lag, "BATCHES_LOOKED_AT", 200)
    assert await objective(world, key) == ("False", "Lagging")
