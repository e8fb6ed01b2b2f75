"""Where a group starts, and how far it is behind."""

from __future__ import annotations

from typing import Any

import pytest

from sluice.api.group import ConsumerGroupSpec, LagObjective
from sluice.plan.group import StartPlan, initialized_topics, plan_start
from sluice.plan.lag import BatchTime, Lag, judge, lag_of
from sluice.plan.observed import PartitionDescription, TopicDescription, TopicPartition

A0, A1, B0 = TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b", 0)


def spec(**start: Any) -> ConsumerGroupSpec:
    return ConsumerGroupSpec.model_validate(
        {"clusterRef": {"name": "demo"}, "topics": ["a", "b"], "startPosition": start}
    )


def test_a_first_start_is_where_the_spec_says() -> None:
    assert plan_start(spec(), [A0, A1], {}, []) == StartPlan(earliest=(A0, A1))
    assert plan_start(spec(**{"from": "Latest"}), [A0], {}, []) == StartPlan(latest=(A0,))
    time = {"from": "Time", "time": "2013-01-01T00:00:00Z"}
    assert plan_start(spec(**time), [A0], {}, []) == StartPlan(at_time=(A0,))


def test_a_partition_added_later_starts_at_its_beginning() -> None:
    latest = spec(**{"from": "Latest"})
    assert plan_start(latest, [A0, A1, B0], {A0: 5}, []) == StartPlan(earliest=(A1,), latest=(B0,))
    assert plan_start(latest, [A0, A1], {}, ["a"]) == StartPlan(earliest=(A0, A1))


def test_committed_offsets_are_left_alone() -> None:
    assert plan_start(spec(), [A0, A1], {A0: 1, A1: 2}, []).partitions == ()


def test_a_topic_is_initialised_when_all_its_partitions_are() -> None:
    parts = tuple(PartitionDescription(number, 0, 0, (0,), (0,)) for number in range(2))
    topics = {"a": TopicDescription("a", "id", parts)}
    assert initialized_topics(["a", "b"], topics, [A0]) == []
    assert initialized_topics(["a", "b"], topics, [A0, A1]) == ["a"]


@pytest.mark.parametrize(
    ("position", "end", "batch", "lag"),
    [
        (5, 5, None, Lag(0, 0.0)),
        (0, 5, BatchTime(0, 4, 9_000, control=False), Lag(5, 1.0)),
        (0, 5, None, Lag(5, None)),
        (4, 5, BatchTime(4, 4, 9_000, control=True), Lag(0, 0.0)),
        (4, 9, BatchTime(4, 4, 9_000, control=True), Lag(4, None)),
        (0, 5, BatchTime(0, 4, 20_000, control=False), Lag(5, 0.0)),
        (9, 5, None, Lag(0, 0.0)),
    ],
)
def test_lag(position: int, end: int, batch: BatchTime | None, lag: Lag) -> None:
    assert lag_of(position, end, batch, 10_000) == lag


def test_an_objective_is_missed_at_once_and_kept_again_with_a_margin() -> None:
    objective = LagObjective(max_records=100, max_seconds=60)
    assert judge(objective, {A0: Lag(60, 60.0), A1: Lag(40, 1.0)}, was_within=None).within
    missed = judge(objective, {A0: Lag(60, 61.0), A1: Lag(41, 1.0)}, was_within=True)
    assert missed.message == "The group is more than 100 records and more than 60 seconds behind."
    assert not judge(objective, {A0: Lag(95, 1.0)}, was_within=False).within
    assert judge(objective, {A0: Lag(90, 54.0)}, was_within=False).within
