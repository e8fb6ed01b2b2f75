"""How far a replay is, and what follows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluice.api.base import Reason
from sluice.api.replay import PartitionRange, ReplayPlan
from sluice.plan.replay_progress import Committed, Sample, Step, Workers, decide, floor_of, progress, worker_state

NOW = datetime(2026, 11, 24, tzinfo=UTC)
PLAN = ReplayPlan(
    hash="h",
    planned_at=NOW,
    source_topic_id="a",
    target_topic_id="b",
    offsets=1000,
    partitions=[
        PartitionRange(partition=0, start=100, end=600, shard=0),
        PartitionRange(partition=1, start=0, end=500, shard=0),
    ],
)
HALF = {0: Committed(350, 200, 2000), 1: Committed(250, 250, 2500)}
ALL = {0: Committed(600, 400, 4000), 1: Committed(505, 500, 5000)}
AT_WORK = Workers(exist=True)
FAILED = Workers(True, (Reason.WORKER_FAILED, "they failed"))


START = floor_of(PLAN, (), {})


def step(
    positions: dict[int, Committed],
    workers: Workers = AT_WORK,
    deadline: int | None = None,
    floor: Mapping[int, int] = START,
) -> tuple[Step, Reason]:
    found = decide(PLAN, positions, floor, workers, NOW - timedelta(seconds=60), deadline, NOW)
    return found.step, found.reason


def test_workers_are_started_and_watched() -> None:
    assert step(HALF, Workers(exist=False))[0] is Step.START
    assert step(HALF)[0] is Step.WATCH


@pytest.mark.parametrize("workers", [AT_WORK, FAILED, Workers(exist=False)])
def test_positions_at_their_ends_complete_it_whatever_became_of_the_workers(workers: Workers) -> None:
    assert step(ALL, workers, deadline=1)[0] is Step.COMPLETE


def test_a_missing_position_fails_even_before_workers_are_started() -> None:
    assert step({0: HALF[0]}, Workers(exist=False)) == (Step.FAIL, Reason.POSITION_LOST)


@pytest.mark.parametrize("workers", [AT_WORK, FAILED, Workers(exist=False)])
@pytest.mark.parametrize(
    ("floor", "partition", "offset"),
    [
        (START, 0, 99),  # before the range
        (floor_of(PLAN, [350, 250], {}), 1, 249),  # before what the status says
        (floor_of(PLAN, [], {0: 350}), 0, 349),  # before what was seen since
        (floor_of(PLAN, [600, 500], {}), 0, 599),  # a finished partition too: a worker would go on from there
    ],
)
def test_a_position_that_went_back_fails_it(
    workers: Workers, floor: Mapping[int, int], partition: int, offset: int
) -> None:
    moved = ALL | {partition: Committed(offset, 0, 0)}
    found = decide(PLAN, moved, floor, workers, NOW, None, NOW)
    assert (found.step, found.reason) == (Step.FAIL, Reason.POSITION_LOST)
    assert found.for_good
    assert f"partition {partition} went back from {floor[partition]} to {offset}" in found.message


def test_the_floor_is_the_highest_that_is_known() -> None:
    assert floor_of(PLAN, [300, 250], {0: 350, 1: 200}) == {0: 350, 1: 250}
    assert floor_of(PLAN, [50], {}) == {0: 100, 1: 0}  # positions of another plan say nothing


def test_failed_workers_and_deadlines_fail_it() -> None:
    assert step(HALF, FAILED) == (Step.FAIL, Reason.WORKER_FAILED)
    assert step(HALF, deadline=60) == (Step.FAIL, Reason.DEADLINE_EXCEEDED)
    assert step(HALF, deadline=61)[0] is Step.WATCH


def test_progress_counts_offsets_in_the_range_and_records_that_were_written() -> None:
    first, sample = progress(PLAN, HALF, None, NOW)
    assert (first.offsets_done, first.percent, first.records, first.bytes) == (500, 50, 450, 4500)
    assert (first.records_per_second, first.seconds_left) == (0, None)
    assert first.positions == [350, 250]
    later = {0: Committed(450, 300, 3000), 1: Committed(250, 250, 2500)}
    second, _ = progress(PLAN, later, sample, NOW + timedelta(seconds=4))
    assert (second.records_per_second, second.seconds_left) == (25, 16)
    done, _ = progress(PLAN, ALL, Sample(NOW, 0, 0), NOW + timedelta(seconds=1))
    assert (done.percent, done.seconds_left, done.offsets_done) == (100, 0, 1000)


def test_it_is_not_said_to_be_whole_before_it_is() -> None:
    almost = {0: Committed(599, 1, 1), 1: Committed(500, 1, 1)}
    assert progress(PLAN, almost, None, NOW)[0].percent == 99


def job(*conditions: str) -> dict[str, Any]:
    return {"status": {"conditions": [{"type": c, "status": "True", "message": "gave up"} for c in conditions]}}


def pod(message: str, finished: str = "2026-01-01T00:00:00Z", exit_code: int = 1) -> dict[str, Any]:
    ended = {"exitCode": exit_code, "message": message, "finishedAt": finished}
    return {"status": {"containerStatuses": [{"state": {"terminated": ended}}]}}


def test_no_job_a_running_job_and_a_failed_one() -> None:
    assert worker_state(None, ()) == Workers(exist=False)
    assert worker_state(job(), ()) == Workers(exist=True)
    assert worker_state(job("Failed"), ()).failure == (Reason.WORKER_FAILED, "the workers failed: gave up")


def test_the_last_words_are_those_of_the_last_pod_that_said_something() -> None:
    older = pod(json.dumps({"code": "RANGE_LOST", "error": "older"}), "2026-01-01T00:00:00Z")
    newer = pod(json.dumps({"code": "POSITION_LOST", "error": "newer"}), "2026-01-02T00:00:00Z")
    noise = pod("Killed", "2026-01-03T00:00:00Z")
    assert worker_state(job("Failed"), [newer, noise, older]).failure == (Reason.POSITION_LOST, "newer")


def test_records_that_rules_left_out_are_counted() -> None:
    found, _ = progress(PLAN, {0: Committed(350, 200, 2000, 7), 1: Committed(250, 250, 2500, 5)}, None, NOW)
    assert found.filtered == 12
