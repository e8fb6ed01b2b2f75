"""What operator and workers tell each other: plan, positions, ledger, credentials."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sluice.api.replay import PartitionRange, ReplayPlan
from sluice.replay.assignment import Access, Assignment, Limits, Slice, TopicRoute
from sluice.replay.errors import BadPlanError
from sluice.replay.ledger import LedgerEntry, LedgerState
from sluice.replay.positions import Counts
from sluice.replay.rules import HeaderRule, Match, RecordRules
from sluice.replay.worker import Worker, connection_settings

PLAN = Assignment(
    name="ns/job",
    source=Access(("a:1", "b:2"), tls=True),
    target=Access(("c:3",), sasl_mechanism="SCRAM-SHA-512", credentials="target"),
    group="g",
    transactional_id_prefix="x",
    routes=(TopicRoute("s", "id-s", "t", "id-t", "s", 1000),),
    slices=tuple(Slice(0, n, n * 10, n * 20, n % 2) for n in range(3)),
    from_ms=5,
    limits=Limits(transaction_ms=10),
)


def test_a_plan_survives_its_file() -> None:
    assert Assignment.from_json(PLAN.to_json()) == PLAN


def test_what_is_asked_of_records_survives_its_file() -> None:
    rules = RecordRules(
        key=Match(prefix=("a", "ä")),
        hash_range=(0, 10),
        headers=(HeaderRule("h"), HeaderRule("i", Match(regex="^x")), HeaderRule("j", absent=True)),
        exclude_replayed=True,
        drop=("d",),
        rename=(("old", "new"),),
        mark="ns/job",
    )
    plan = replace(PLAN, rules=rules)
    assert Assignment.from_json(plan.to_json()) == plan


def test_where_nothing_is_asked_of_records_the_plan_is_one_that_earlier_workers_read() -> None:
    assert "rules" not in json.loads(PLAN.to_json())


def test_ten_thousand_partitions_fit_into_a_config_map() -> None:
    wide = Assignment(
        PLAN.name,
        PLAN.source,
        PLAN.target,
        "g",
        "x",
        PLAN.routes,
        tuple(Slice(0, n, 10**12, 10**12 + n, 0) for n in range(10_000)),
    )
    assert len(wide.to_json()) < 1024 * 1024


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 99}', PLAN.to_json()[:-20]])
def test_a_broken_plan_is_told(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadPlanError, match="plan"):
        Assignment.from_json(text)
    with pytest.raises(BadPlanError):
        Assignment.read(tmp_path / "missing")


def test_a_worker_needs_a_shard_of_the_plan(tmp_path: Path) -> None:
    with pytest.raises(BadPlanError, match="no shard 7"):
        Worker(PLAN, tmp_path, 7)


def test_each_shard_has_a_transactional_id_of_its_own() -> None:
    assert PLAN.transactional_id(0) == "x-0"
    assert PLAN.transactional_id(1) == "x-1"


def test_credentials_are_what_stands_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "username").write_text("me")
    with pytest.raises(BadPlanError, match="username and password"):
        connection_settings(PLAN.target, tmp_path)
    (tmp_path / "target" / "password").write_text("hidden")
    found = connection_settings(PLAN.target, tmp_path)
    assert (found.username, found.password, found.tls) == ("me", "hidden", False)
    assert "hidden" not in repr(found)


def test_counts_without_filtered_records_are_as_earlier_workers_wrote_and_read_them() -> None:
    assert Counts(5, 6).metadata() == "r=5;b=6"
    assert Counts.parse("r=5;b=6") == Counts(5, 6)


@pytest.mark.parametrize("counts", [Counts(), Counts(5, 10**15), Counts(5, 6, 7)])
def test_counts_travel_in_the_offsets_metadata(counts: Counts) -> None:
    assert Counts.parse(counts.metadata()) == counts


@pytest.mark.parametrize("metadata", [None, "", "r=1", "r=-1;b=2", "somebody else's"])
def test_other_metadata_counts_nothing(metadata: str | None) -> None:
    assert Counts.parse(metadata) == Counts()


def test_the_ledger_keeps_the_whole_plan() -> None:
    plan = ReplayPlan(
        hash="h",
        planned_at=datetime(2026, 1, 1, tzinfo=UTC),
        source_topic_id="a",
        target_topic_id="b",
        from_time=datetime(2013, 1, 1, tzinfo=UTC),
        offsets=10,
        partitions=[PartitionRange(partition=0, start=0, end=10, shard=0)],
        warnings=["careful"],
    )
    entry = LedgerEntry("ns/job/h", LedgerState.COMPLETED, "uid", plan, 5, "2026", 7, 8, 9)
    assert LedgerEntry.from_json("ns/job/h", entry.to_json()) == entry
    earlier = {name: value for name, value in json.loads(entry.to_json()).items() if name != "filtered"}
    assert LedgerEntry.from_json("ns/job/h", json.dumps(earlier)) == replace(entry, filtered=0)
    with pytest.raises(ValueError, match="lacks"):
        LedgerEntry.from_json("ns/job/h", "{}")
