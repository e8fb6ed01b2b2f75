"""What is done about a topic."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sluice.api.base import Reason
from sluice.api.topic import TopicSpec
from sluice.plan.observed import Broker, ConfigValue, NewTopic, PartitionDescription, TopicDescription
from sluice.plan.topic import (
    ObservedTopic,
    TopicPlan,
    is_reserved,
    may_be_moving,
    plan_topic,
    same_value,
    was_written,
)

BROKERS = [Broker(number, "host", 9092) for number in range(3)]


def spec(**values: Any) -> TopicSpec:
    return TopicSpec.model_validate({"clusterRef": {"name": "demo"}, "replicas": 1, **values})


def topic(partitions: int = 1, replicas: int = 1) -> TopicDescription:
    placement = tuple(range(replicas))
    return TopicDescription(
        "orders", "id", tuple(PartitionDescription(n, 0, 0, placement, placement) for n in range(partitions))
    )


def plan(wanted: TopicSpec, observed: ObservedTopic, managed: tuple[str, ...] = ()) -> TopicPlan:
    return plan_topic("orders", wanted, managed, observed, BROKERS)


def test_a_topic_that_is_missing_is_made() -> None:
    made = plan(spec(partitions=3, replicas=2, config={"b": "2", "a": "1"}), ObservedTopic())
    assert made.create == NewTopic("orders", 3, 2, (("a", "1"), ("b", "2")))
    assert made.problem is None


def test_a_topic_that_is_right_is_left_alone() -> None:
    found = ObservedTopic(topic(), {"retention.ms": ConfigValue("1000", True)})
    assert plan(spec(config={"retention.ms": "1000"}), found, ("retention.ms",)) == TopicPlan()


def test_a_default_that_the_spec_names_is_set_since_defaults_may_change() -> None:
    found = ObservedTopic(topic(), {"retention.ms": ConfigValue("1000", overridden=False)})
    assert plan(spec(config={"retention.ms": "1000"}), found).config == {"retention.ms": "1000"}


def test_only_keys_that_were_set_by_us_are_reset() -> None:
    found = ObservedTopic(topic(), {"ours": ConfigValue("1", True), "default": ConfigValue("2", False)})
    assert plan(spec(), found, ("ours", "default")).config == {"ours": None}
    assert plan(spec(), found, ()).config == {}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.50", "0.5", True),
        ("1000", " 1000 ", True),
        ("compact,delete", "compact, delete", True),
        ("TRUE", "true", True),
        ("9007199254740993", "9007199254740992", False),
        ("lz4", "zstd", False),
        ("true", "1", False),
    ],
)
def test_values_are_compared_as_kafka_understands_them(one: str, other: str, same: bool) -> None:
    assert same_value(one, other) is same


def test_partitions_are_raised_freely_only_while_nothing_was_written() -> None:
    wanted = spec(partitions=4)
    assert plan(wanted, ObservedTopic(topic(2), written=False)).partitions == 4
    assert plan(wanted, ObservedTopic(topic(2), written=True)).partitions is None
    refused = plan(wanted, ObservedTopic(topic(2), written=True))
    assert refused.partitions is None
    assert refused.problem is not None
    assert refused.problem.reason is Reason.PARTITION_INCREASE_REFUSED
    assert not refused.problem.waits
    consented = spec(partitions=4, allowPartitionIncrease=True)
    assert plan(consented, ObservedTopic(topic(2), written=True)).partitions == 4


def test_partitions_are_never_removed_and_the_rest_is_done_all_the_same() -> None:
    found = ObservedTopic(topic(4), {"retention.ms": ConfigValue("1", True)})
    refused = plan(spec(partitions=2, config={"retention.ms": "2"}), found)
    assert refused.problem is not None
    assert refused.problem.reason is Reason.PARTITION_DECREASE
    assert refused.config == {"retention.ms": "2"}


@pytest.mark.parametrize("found", [ObservedTopic(), ObservedTopic(topic())])
def test_more_replicas_than_brokers_waits_for_brokers(found: ObservedTopic) -> None:
    waiting = plan(spec(replicas=4), found)
    assert waiting.problem is not None
    assert (waiting.problem.reason, waiting.problem.waits) == (Reason.TOO_FEW_BROKERS, True)
    assert waiting.create is None
    assert not waiting.placements


def test_partitions_that_are_being_moved_are_not_moved_again() -> None:
    found = ObservedTopic(topic(3), reassigning=frozenset({0, 1}))
    moving = plan(spec(partitions=3, replicas=2), found)
    assert set(moving.placements) == {2}
    assert moving.reassigning


def test_partitions_are_not_raised_while_nobody_knows_whether_the_topic_was_written_to() -> None:
    waiting = plan(spec(partitions=4), ObservedTopic(topic(2), written=None))
    assert waiting.partitions is None
    assert waiting.problem is not None
    assert (waiting.problem.reason, waiting.problem.waits) == (Reason.PARTITION_INCREASE_REFUSED, True)


@pytest.mark.parametrize(
    ("ends", "written"), [([0, 0], False), ([0, 1], True), ([0, None], None), ([1, None], True), ([None, None], None)]
)
def test_a_partition_that_does_not_answer_may_hold_records(ends: list[int | None], written: bool | None) -> None:
    assert was_written(ends) is written


@pytest.mark.parametrize("name", ["__consumer_offsets", "__anything", "sluice-probe", "sluice-replay-ledger"])
@pytest.mark.parametrize("found", [ObservedTopic(), ObservedTopic(topic())])
def test_names_that_are_kafkas_or_our_own_are_refused(name: str, found: ObservedTopic) -> None:
    refused = plan_topic(name, spec(partitions=7, config={"a": "b"}), (), found, BROKERS)
    assert is_reserved(name)
    assert refused.problem is not None
    assert refused.problem.reason is Reason.INVALID_SPEC
    assert refused == TopicPlan(problem=refused.problem)


def test_a_topic_that_kafka_calls_its_own_is_refused_whatever_its_name() -> None:
    internal = dataclasses.replace(topic(), internal=True)
    refused = plan(spec(config={"a": "b"}), ObservedTopic(internal))
    assert refused.problem is not None
    assert refused == TopicPlan(problem=refused.problem)
    assert not is_reserved("orders")


def test_replicas_that_are_still_copied_may_be_a_move() -> None:
    def placed(replicas: tuple[int, ...], isr: tuple[int, ...]) -> TopicDescription:
        return TopicDescription("orders", "id", (PartitionDescription(0, 0, 0, replicas, isr),))

    three = spec(replicas=3)
    assert not may_be_moving(three, placed((0, 1, 2), (2, 1, 0)))
    assert may_be_moving(three, placed((0, 1, 2), (0, 1)))
    assert may_be_moving(three, placed((0, 1), (0, 1)))
