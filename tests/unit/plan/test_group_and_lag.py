"""Where a group starts, and how far it is behind."""

from __future__ import annotations

from typing import Any

import pytest

from sluice.api.base import Reason
from sluice.api.group import ConsumerGroupSpec, LagObjective
from sluice.plan.group import StartPlan, initialized_topics, plan_start
from sluice.plan.lag import BatchTime, Ends, Lag, judge, lag_of
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
        (4, 9, BatchTime(5, 8, 9_000, control=False), Lag(4, 1.0)),
        (0, 5, BatchTime(0, 4, 20_000, control=False), Lag(5, 0.0)),
    ],
)
def test_lag(position: int, end: int, batch: BatchTime | None, lag: Lag) -> None:
    assert lag_of(position, Ends(0, end), batch, 10_000) == lag


def test_lag_where_nothing_was_committed_counts_from_the_start() -> None:
    assert lag_of(None, Ends(3, 9), BatchTime(3, 9, 9_000, control=False), 10_000) == Lag(6, 1.0)
    assert lag_of(None, Ends(3, 3), None, 10_000) == Lag(0, 0.0)


def test_the_age_of_a_batch_that_was_passed_is_an_upper_bound_until_the_next_is_known() -> None:
    passed = BatchTime(0, 4, 9_000, control=False)
    assert lag_of(7, Ends(0, 9), passed, 10_000) == Lag(2, 1.0)


@pytest.mark.parametrize(("position", "lag"), [(9, Lag(None, None, in_range=False)), (2, Lag(2, None, in_range=False))])
def test_a_position_that_the_topic_does_not_have_is_no_small_lag(position: int, lag: Lag) -> None:
    assert lag_of(position, Ends(3, 5), None, 10_000) == lag


OBJECTIVE = LagObjective(max_records=100, max_seconds=60)


def test_an_objective_is_missed_at_once_and_kept_again_with_a_margin() -> None:
    assert judge(OBJECTIVE, {A0: Lag(60, 60.0), A1: Lag(40, 1.0)}, was_within=None).within
    missed = judge(OBJECTIVE, {A0: Lag(60, 61.0), A1: Lag(41, 1.0)}, was_within=True)
    assert (missed.within, missed.reason) == (False, Reason.LAGGING)
    assert missed.message == "The group is further behind than 100 records or 60 seconds."
    assert judge(OBJECTIVE, {A0: Lag(95, 1.0)}, was_within=False).within is False
    assert judge(OBJECTIVE, {A0: Lag(90, 54.0)}, was_within=False).within


def test_the_sentence_stays_as_long_as_the_verdict_does() -> None:
    lags = [{A0: Lag(101, 50.0)}, {A0: Lag(95, 61.0)}, {A0: Lag(120, 70.0)}, {A0: Lag(91, 1.0)}]
    assert len({judge(OBJECTIVE, lag, was_within=False) for lag in lags}) == 1


@pytest.mark.parametrize("unknown", [Lag(5, None), Lag(None, None)])
def test_what_is_not_known_is_not_taken_for_kept(unknown: Lag) -> None:
    verdict = judge(OBJECTIVE, {A0: Lag(1, 1.0), A1: unknown}, was_within=True)
    assert (verdict.within, verdict.reason) == (None, Reason.LAG_UNKNOWN)
    missed = judge(OBJECTIVE, {A0: Lag(101, 1.0), A1: unknown}, was_within=True)
    assert missed.within is False


def test_only_what_the_objective_speaks_of_needs_to_be_known() -> None:
    assert judge(LagObjective(max_records=100), {A0: Lag(5, None)}, was_within=None).within
    assert judge(LagObjective(max_seconds=60), {A0: Lag(None, 1.0)}, was_within=None).within


def test_a_position_out_of_range_is_told_by_a_reason_of_its_own() -> None:
    verdict = judge(OBJECTIVE, {A0: Lag(None, None, in_range=False), A1: Lag(None, None)}, was_within=True)
    assert (verdict.within, verdict.reason) == (None, Reason.POSITION_OUT_OF_RANGE)
    assert "topic a" in verdict.message
