"""What ``sluice replay`` shows follows from the object alone."""

from __future__ import annotations

from typing import Any

import pytest

from sluice.api.objects import ReplayJob, parse
from sluice.cli import replay
from sluice.cli.status import overview, ready

PLAN = {
    "hash": "abc",
    "plannedAt": "2026-11-01T10:00:00Z",
    "sourceTopicId": "s",
    "targetTopicId": "t",
    "fromTime": "2013-02-01T05:00:00Z",
    "toTime": "2013-03-01T05:00:00Z",
    "offsets": 1500,
    "partitions": [
        {"partition": 0, "start": 100, "end": 1100, "shard": 0},
        {"partition": 1, "start": 0, "end": 500, "shard": 0},
    ],
    "warnings": ["the target is read by a group"],
}


def job(dry_run: bool = False, **status: Any) -> ReplayJob:
    return parse(
        {
            "kind": "ReplayJob",
            "metadata": {"name": "february", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "clusterRef": {"name": "demo"},
                "source": {"topic": "departures"},
                "target": {"topic": "again"},
                "dryRun": dry_run,
            },
            "status": status,
        }
    )


def refused(message: str) -> dict[str, Any]:
    return {
        "phase": "Refused",
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "Refused",
                "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }


def test_a_completed_replay_says_how_much_and_how_long() -> None:
    ended = job(
        phase="Completed",
        startTime="2026-11-01T10:00:00Z",
        completionTime="2026-11-01T10:00:07Z",
        progress={"offsetsDone": 9, "percent": 100, "records": 24951, "bytes": 1000000, "recordsPerSecond": 0},
    )
    assert replay.ending(ended) == "february: Completed, 24,951 records, 1,000,000 bytes in 7 s"
    assert replay.succeeded(ended)


def test_a_refused_replay_says_why_and_fails() -> None:
    ended = job(**refused("the target is compacted: say AcceptReordering"))
    assert "the target is compacted: say AcceptReordering" in replay.ending(ended)
    assert not replay.succeeded(ended)


@pytest.mark.parametrize(("dry_run", "over"), [(True, True), (False, False)])
def test_only_a_dry_run_is_over_when_it_is_planned(dry_run: bool, over: bool) -> None:
    assert replay.planned_only(job(dry_run, phase="Planned", plan=PLAN)) is over


def test_the_plan_names_the_range_and_its_warnings() -> None:
    found = job(plan=PLAN).status.plan
    assert found is not None
    lines = list(replay.plan_lines("departures", "again", found))
    assert lines[1] == "records with a timestamp from 2013-02-01T05:00:00+00:00 to before 2013-03-01T05:00:00+00:00"
    assert lines[2] == "1,500 offsets in 2 partitions: at most so many records"
    assert lines[3] == "warning: the target is read by a group"
    assert replay.plan_table(found).row_count == 2


def test_an_object_that_nobody_has_looked_at_is_not_called_ready() -> None:
    fresh = {"kind": "Topic", "metadata": {"name": "orders", "namespace": "n"}}
    assert ready(fresh) == {}
    assert list(overview([fresh], with_namespace=False).columns[2].cells) == ["Unknown"]


REWIND = {
    "hash": "abc",
    "plannedAt": "2026-11-01T10:00:00Z",
    "snapshot": "back-20261101t100000z",
    "moved": 150,
    "backward": 60_000,
    "forward": 7,
    "positions": [
        {"topic": "departures", "partition": 0, "from": 1500, "to": 500},
        {"topic": "departures", "partition": 1, "to": 7},
    ],
    "warnings": ["departures-1 go ahead: 7 offsets will never be consumed"],
}


def rewind(**status: Any) -> ReplayJob:
    rewind = {"group": "board", "to": {"at": "Earliest"}}
    return parse(
        {
            "kind": "ReplayJob",
            "metadata": {"name": "back", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"clusterRef": {"name": "demo"}, "mode": "Rewind", "rewind": rewind},
            "status": {"rewind": REWIND, **status},
        }
    )


def test_the_plan_of_a_rewind_says_who_moves_and_how_far() -> None:
    found = rewind().status.rewind
    assert found is not None
    assert list(replay.rewind_lines("board", found)) == [
        "group board, planned 2026-11-01 10:00:00 UTC (plan abc)",
        "150 positions move: 60,000 offsets back, 7 offsets ahead",
        "shown are the 2 with the longest ways",
        "where it was is kept as snapshot:back-20261101t100000z",
        "warning: departures-1 go ahead: 7 offsets will never be consumed",
    ]
    columns = replay.rewind_table(found).columns
    assert [list(column.cells) for column in columns] == [
        ["departures", "departures"],
        ["0", "1"],
        ["1,500", "none"],
        ["500", "7"],
        ["-1,000", ""],
    ]


def test_how_a_rewind_ended_is_what_its_condition_says() -> None:
    told = {"type": "Ready", "status": "True", "reason": "Completed", "message": "m", "lastTransitionTime": "t"}
    assert replay.ending(rewind(phase="Completed", conditions=[told])) == "back: Completed (Completed: m)"
