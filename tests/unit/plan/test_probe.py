"""The probe's topic: a partition led by each broker."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from sluice.plan.observed import PartitionDescription, TopicDescription
from sluice.plan.probe import place, plan_probe


def topic(*replicas: Sequence[int], leaders: dict[int, int | None] | None = None) -> TopicDescription:
    """A topic with these replicas, all in sync, led by the first or by ``leaders``."""
    partitions = tuple(
        PartitionDescription(
            id=number,
            leader=(leaders or {}).get(number, placement[0]),
            leader_epoch=0,
            replicas=tuple(placement),
            isr=tuple(placement),
        )
        for number, placement in enumerate(replicas)
    )
    return TopicDescription("sluice-probe", "", partitions)


def test_a_new_topic_has_a_partition_led_by_each_broker() -> None:
    plan = plan_probe([0, 1, 2, 100], None)
    assert plan.create == ((0, 1, 2), (1, 2, 100), (2, 100, 0), (100, 0, 1))
    assert not plan.routes


def test_a_topic_as_it_should_be_needs_nothing_and_reaches_every_broker() -> None:
    plan = plan_probe([0, 1, 2], topic((0, 1, 2), (1, 2, 0), (2, 0, 1)))
    assert not plan.changes
    assert plan.routes == {0: 0, 1: 1, 2: 2}


def test_a_broker_that_is_down_keeps_its_partition_and_is_not_reached() -> None:
    down = TopicDescription(
        "sluice-probe",
        "",
        (
            PartitionDescription(0, leader=0, leader_epoch=0, replicas=(0, 1, 2), isr=(0, 2)),
            PartitionDescription(1, leader=2, leader_epoch=1, replicas=(1, 2, 0), isr=(2, 0)),
            PartitionDescription(2, leader=2, leader_epoch=0, replicas=(2, 0, 1), isr=(2, 0)),
        ),
    )
    plan = plan_probe([0, 1, 2], down)
    assert not plan.changes
    assert plan.routes == {0: 0, 2: 2}


def test_leadership_returns_to_a_broker_that_is_back_in_sync() -> None:
    plan = plan_probe([0, 1, 2], topic((0, 1, 2), (1, 2, 0), (2, 0, 1), leaders={1: 2}))
    assert plan.elect == (1,)
    assert not plan.move
    assert plan.routes == {0: 0, 2: 2}


def test_a_broker_that_joins_gets_a_partition_and_nothing_else_moves() -> None:
    plan = plan_probe([0, 1, 2, 3], topic((0, 1, 2), (1, 2, 0), (2, 0, 1)))
    assert plan.add == ((3, 0, 1),)
    assert not plan.move


def test_a_single_node_that_grows_gets_more_replicas() -> None:
    plan = plan_probe([0, 1, 2], topic((0,)))
    assert plan.move == {0: (0, 1, 2)}
    assert plan.add == ((1,), (2,)), "Kafka takes only as many replicas as there are; the next look moves them too"
    assert plan.routes == {0: 0}, "it goes on being measured meanwhile"


def test_a_partition_of_a_broker_that_is_gone_goes_to_the_one_in_its_place() -> None:
    plan = plan_probe([0, 1, 7], topic((0, 1, 2), (1, 2, 0), (2, 0, 1)))
    assert not plan.add
    assert plan.move == {0: (0, 1, 7), 1: (1, 7, 0), 2: (7, 0, 1)}


def test_a_left_over_partition_lets_go_of_a_broker_that_is_gone() -> None:
    plan = plan_probe([0, 1], topic((0, 1), (1, 0), (2, 0)))
    assert plan.move == {2: (0, 1)}
    assert plan.routes == {0: 0, 1: 1}


def _changed(before: TopicDescription, now: list[int]) -> TopicDescription:
    plan = plan_probe(now, before)
    replicas = [plan.move.get(partition.id, partition.replicas) for partition in before.partitions]
    return topic(*replicas, *plan.add)


brokers = st.sets(st.integers(0, 8), min_size=1, max_size=6)


@given(brokers, brokers)
def test_after_its_changes_every_broker_leads_a_partition_and_no_more_is_to_do(before: set[int], now: set[int]) -> None:
    first = topic(*plan_probe(sorted(before), None).create)
    after = plan_probe(sorted(now), _changed(first, sorted(now)))
    if after.changes:  # the number of replicas was another
        after = plan_probe(sorted(now), _changed(_changed(first, sorted(now)), sorted(now)))
    assert not after.changes
    assert set(after.routes) == now
    assert all(place(sorted(now), broker)[0] == broker for broker in now)
