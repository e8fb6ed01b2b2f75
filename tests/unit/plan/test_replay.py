"""Plans of replays: the frozen range, who copies what, what is refused, and what one should know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.api.replay import ReplayJobSpec
from sluice.plan.observed import PartitionDescription, TopicDescription
from sluice.plan.replay import (
    Observed,
    OpenTransaction,
    Planned,
    SourcePartition,
    ledger_key,
    lookup_times,
    make,
    run_name,
    share_out,
)

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
OLD = int(datetime(2013, 2, 1, tzinfo=UTC).timestamp() * 1000)


def spec(range_: Mapping[str, Any] | None = None, **values: Any) -> ReplayJobSpec:
    return ReplayJobSpec.model_validate(
        {
            "clusterRef": {"name": "demo"},
            "source": {"topic": "source", "range": range_ or {}},
            "target": {"topic": "target"},
            **values,
        }
    )


def topic(name: str, partitions: int) -> TopicDescription:
    return TopicDescription(
        name, f"id-{name}", tuple(PartitionDescription(n, 0, 0, (0,), (0,)) for n in range(partitions))
    )


def observed(*partitions: SourcePartition, target_partitions: int | None = None, **config: str) -> Observed:
    count = len(partitions)
    return Observed(
        source=topic("source", count),
        target=topic("target", count if target_partitions is None else target_partitions),
        partitions=dict(enumerate(partitions)),
        target_config={key.replace("_", "."): value for key, value in config.items()},
    )


def ranges(planned: Planned) -> list[tuple[int, int]]:
    assert planned.plan is not None, planned.refusal
    return [(p.start, p.end) for p in planned.plan.partitions]


KEPT = SourcePartition(earliest=100, stable=900, latest=900, from_time=300, to_time=700)


@pytest.mark.parametrize(
    ("range_", "expected"),
    [
        ({}, (100, 900)),
        ({"from": {"offset": 200}, "to": {"offset": 400}}, (200, 400)),
        ({"from": {"offset": 5}, "to": {"offset": 5000}}, (100, 900)),
        ({"from": {"offset": 950}}, (900, 900)),
        ({"to": {"offset": 50}}, (100, 100)),
        ({"from": {"time": "2013-01-01T00:00:00Z"}, "to": {"time": "2013-02-01T00:00:00Z"}}, (300, 700)),
        ({"from": {"time": "2013-01-01T00:00:00Z"}}, (300, 900)),
    ],
)
def test_the_range_becomes_offsets_that_exist(range_: Mapping[str, Any], expected: tuple[int, int]) -> None:
    assert ranges(make(spec(range_), observed(KEPT), NOW)) == [expected]


def test_no_record_that_late_means_nothing_from_there_and_all_until_there() -> None:
    late = replace(KEPT, from_time=None, to_time=None)
    start = {"from": {"time": "2030-01-01T00:00:00Z"}}
    end = {"to": {"time": "2030-01-01T00:00:00Z"}}
    assert ranges(make(spec(start), observed(late), NOW)) == [(900, 900)]
    assert ranges(make(spec(end), observed(late), NOW)) == [(100, 900)]


@given(
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 50),
    st.none() | st.integers(0, 120),
    st.none() | st.integers(0, 120),
)
def test_ranges_never_turn_around_nor_leave_what_is_stable(
    earliest: int, kept: int, pending: int, start: int | None, end: int | None
) -> None:
    partition = SourcePartition(earliest, earliest + kept, earliest + kept + pending)
    asked: dict[str, Any] = {}
    if start is not None:
        asked["from"] = {"offset": start}
    if end is not None and end >= (start or 0):
        asked["to"] = {"offset": end}
    ((low, high),) = ranges(make(spec(asked), observed(partition), NOW))
    assert partition.earliest <= low <= high <= partition.stable


def test_late_records_are_looked_for_beyond_the_end() -> None:
    found = lookup_times(spec({"to": {"time": "2013-01-01T00:00:00Z"}, "latenessSeconds": 60}))
    assert found == (None, int(datetime(2013, 1, 1, tzinfo=UTC).timestamp() * 1000) + 60_000)


@given(st.dictionaries(st.integers(0, 50), st.integers(0, 1000), max_size=30), st.integers(1, 10))
def test_shares_are_even_and_nobody_is_idle(sizes: dict[int, int], workers: int) -> None:
    shards = share_out(sizes, workers)
    assert set(shards) == set(sizes)
    loads: dict[int, int] = {}
    for number, shard in shards.items():
        loads[shard] = loads.get(shard, 0) + sizes[number]
    busy = [load for load in loads.values() if load]
    assert sorted(loads) == list(range(len(loads)))
    if busy:
        assert len(busy) == min(workers, sum(size > 0 for size in sizes.values()))
        assert max(busy) - min(busy) <= max(sizes.values())


def test_too_few_partitions_in_the_target_are_refused() -> None:
    planned = make(spec(), observed(KEPT, KEPT, target_partitions=1), NOW)
    assert planned.refusal is not None
    assert "at least 2" in planned.refusal


def test_partitions_that_the_source_has_not_are_refused() -> None:
    planned = make(spec({"partitions": [0, 9]}), observed(KEPT), NOW)
    assert planned.refusal is not None
    assert "no partition 9" in planned.refusal


@pytest.mark.parametrize("name", ["sluice-replay-ledger", "__consumer_offsets"])
def test_nothing_is_replayed_into_topics_of_kafka_and_sluice(name: str) -> None:
    planned = make(spec(target={"topic": name}, ordering="AcceptReordering"), observed(KEPT), NOW)
    assert planned.refusal is not None
    assert "another target" in planned.refusal


@pytest.mark.parametrize("why", ["compacted", "live"])
def test_old_values_never_come_after_newer_ones_unasked(why: str) -> None:
    seen = observed(KEPT, cleanup_policy="compact,delete" if why == "compacted" else "delete")
    if why == "live":
        seen = replace(seen, target_writers=("producer 5 in partition 0",))
    refused = make(spec(), seen, NOW)
    assert refused.plan is None
    assert "AcceptReordering" in (refused.refusal or "")
    assert make(spec(ordering="AcceptReordering"), seen, NOW).plan is not None


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (observed(replace(KEPT, oldest_ms=OLD), retention_ms="86400000"), "deletes them at its next retention check"),
        (observed(replace(KEPT, oldest_ms=OLD), message_timestamp_before_max_ms="1000"), "before.max.ms"),
        (observed(KEPT, compression_type="zstd"), "compresses with zstd"),
        (observed(KEPT, message_timestamp_type="LogAppendTime"), "time of the replay"),
        (
            replace(observed(replace(KEPT, latest=950)), open_transactions=(OpenTransaction(0, 77, 900),)),
            "producer 77 in partition 0 since offset 900",
        ),
    ],
)
def test_what_to_know_before_it_runs(seen: Observed, word: str) -> None:
    plan = make(spec(), seen, NOW).plan
    assert plan is not None
    assert any(word in warning for warning in plan.warnings), plan.warnings


def test_of_several_open_transactions_the_earliest_is_the_one_that_holds_back() -> None:
    open_ones = (OpenTransaction(0, 1, 940), OpenTransaction(0, 2, 900), OpenTransaction(0, 3, 930))
    plan = make(spec(), replace(observed(replace(KEPT, latest=950)), open_transactions=open_ones), NOW).plan
    assert plan is not None
    (warning,) = plan.warnings
    assert "producer 2 in partition 0 since offset 900" in warning


@pytest.mark.parametrize(("future", "warned"), [(None, False), (99, False), (100, True), (899, True), (900, False)])
def test_records_of_the_range_that_are_too_far_in_the_future_for_the_target(future: int | None, warned: bool) -> None:
    seen = observed(replace(KEPT, future=future), message_timestamp_after_max_ms="3600000")
    plan = make(spec(), seen, NOW).plan
    assert plan is not None
    assert any("message.timestamp.after.max.ms" in warning for warning in plan.warnings) is warned


def test_an_empty_range_has_no_records_to_warn_of() -> None:
    seen = observed(replace(KEPT, oldest_ms=OLD), retention_ms="86400000")
    plan = make(spec({"from": {"offset": 900}}), seen, NOW).plan
    assert plan is not None
    assert plan.warnings == []


def test_an_ordinary_target_gives_no_warning() -> None:
    seen = observed(replace(KEPT, oldest_ms=OLD), retention_ms="-1", compression_type="producer")
    plan = make(spec(), seen, NOW).plan
    assert plan is not None
    assert plan.warnings == []


def test_a_plan_has_the_same_hash_exactly_if_it_moves_the_same() -> None:
    one, later = make(spec(), observed(KEPT), NOW).plan, make(spec(), observed(KEPT), datetime.now(UTC)).plan
    other = make(spec({"to": {"offset": 500}}), observed(KEPT), NOW).plan
    assert one is not None
    assert later is not None
    assert other is not None
    assert one.hash == later.hash != other.hash


def test_the_ledger_knows_a_replay_by_what_it_moves() -> None:
    key = ledger_key("ns", "job", spec())
    assert ledger_key("ns", "job", spec(runId="2")) != key
    assert ledger_key("ns", "job", spec({"partitions": [1]})) != key
    assert ledger_key("ns", "job", spec({"to": {"offset": 9}})) != key
    assert ledger_key("ns", "job", spec(target={"topic": "other"})) != key
    assert ledger_key("ns", "job", spec(clusterRef={"name": "other"})) != key
    assert run_name(key).startswith("sluice-replay-")
    assert len(run_name(key)) == len("sluice-replay-") + 12


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (spec(parallelism=9, backoffLimit=1, dryRun=True), spec()),
        # Consent to another order doesn't change what is copied, and a completed replay must not run again for it.
        (spec(ordering="AcceptReordering"), spec()),
        (spec({"partitions": [3, 1, 3]}), spec({"partitions": [1, 3]})),
        (spec(clusterRef={"name": "demo", "namespace": "ns"}), spec()),
        (spec({"from": {"at": "Earliest"}, "to": {"at": "Latest"}, "latenessSeconds": 3600}), spec()),
        (spec({"to": {"time": "2013-02-01T00:00:00-05:00"}}), spec({"to": {"time": "2013-02-01T05:00:00Z"}})),
    ],
)
def test_what_is_said_in_another_way_is_the_same_replay(one: ReplayJobSpec, other: ReplayJobSpec) -> None:
    assert ledger_key("ns", "job", one) == ledger_key("ns", "job", other)


def test_keys_stay_what_they_are_in_every_release() -> None:
    """These stand in ledgers: with another value, completed replays would run again after an upgrade."""
    whole = spec()
    part = spec(
        {
            "from": {"offset": 7},
            "to": {"time": "2013-02-01T00:00:00-05:00"},
            "partitions": [2, 0],
            "latenessSeconds": 60,
        },
        runId="second/run",
        clusterRef={"name": "demo", "namespace": "kafka"},
    )
    assert ledger_key("ns", "job", whole) == "ns/job/v1/0702e57b50"
    assert ledger_key("ns", "job", part) == "ns/job/v1/728cd861db/second/run"
