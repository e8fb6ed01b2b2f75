"""Plans of Rewinds: where positions go, what is refused, what one should know, and that undoing puts them back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.api.replay import ReplayJobSpec
from sluice.api.replay_rewind import SHOWN, Rewind
from sluice.plan.observed import (
    GroupDescription,
    GroupMember,
    PartitionDescription,
    TopicDescription,
    TopicPartition,
)
from sluice.plan.replay import ledger_key
from sluice.plan.rewind import holds, make, refusal, restless, undo, wanted
from sluice.plan.rewind_model import Bounds, Observed, Planned, RewindPlan, Snapshot, busy, sentence, shown

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
KEPT = Bounds(start=100, stable=900, latest=950, at_time=300)


def place(number: int, topic: str = "orders") -> TopicPartition:
    return TopicPartition(topic, number)


def rewind(to: Mapping[str, Any], *topics: Mapping[str, Any], **values: Any) -> Rewind:
    return Rewind.model_validate({"group": "billing", "topics": topics, "to": to, **values})


def topic(name: str, partitions: int, id_: str | None = None) -> TopicDescription:
    parts = tuple(PartitionDescription(n, 0, 0, (0,), (0,)) for n in range(partitions))
    return TopicDescription(name, id_ or f"id-{name}", parts)


def observed(
    positions: Mapping[TopicPartition, int],
    bounds: Bounds | Mapping[TopicPartition, Bounds] = KEPT,
    *,
    snapshot: Snapshot | None = None,
    kind: str = "consumer",
    topics: Mapping[str, TopicDescription] | None = None,
) -> Observed:
    known = {"orders": topic("orders", 4)} if topics is None else topics
    everything = [place(n, name) for name, found in known.items() for n in range(len(found.partitions))]
    each = dict.fromkeys(everything, bounds) if isinstance(bounds, Bounds) else bounds
    return Observed(GroupDescription("billing", "Empty", kind, 0), (), positions, known, each, snapshot)


def ways(planned: Planned) -> dict[TopicPartition, tuple[int | None, int]]:
    assert planned.plan is not None, planned.refusal
    return {move.place: (move.before, move.after) for move in planned.plan.moves}


def plan_of(asked: Rewind, seen: Observed) -> RewindPlan:
    planned = make(asked, "job", seen, NOW)
    assert planned.plan is not None, planned.refusal
    return planned.plan


@pytest.mark.parametrize(
    ("to", "expected", "warning"),
    [
        ({"at": "Earliest"}, 100, None),
        ({"at": "Latest"}, 900, "go ahead: 400 offsets will never be consumed"),
        ({"offset": 200}, 200, None),
        ({"offset": 5}, 100, "orders-0 begin later than that"),
        ({"offset": 5000}, 900, "orders-0 end before that"),
        ({"time": "2026-11-24T06:00:00Z"}, 300, None),
        ({"shift": -50}, 450, None),
        ({"shift": 50}, 550, "50 offsets will never be consumed"),
        ({"shift": -5000}, 100, "orders-0 begin later than that"),
        ({"shift": 5000}, 900, "orders-0 end before that"),
    ],
)
def test_positions_go_where_they_should_or_to_the_nearer_end(
    to: Mapping[str, Any], expected: int, warning: str | None
) -> None:
    plan = plan_of(rewind(to), observed({place(0): 500}))
    assert [move.after for move in plan.moves] == [expected]
    told = [text for text in plan.warnings if not text.startswith("open transactions")]
    assert (warning is None) is (told == [])
    assert warning is None or any(warning in text for text in told)


def test_no_record_that_late_is_the_end_and_it_is_said() -> None:
    seen = observed({place(0): 500}, Bounds(100, 900, 900))
    plan = plan_of(rewind({"time": "2030-01-01T00:00:00Z"}), seen)
    assert [move.after for move in plan.moves] == [900]
    assert "orders-0 have no record at or after 2030-01-01T00:00:00+00:00: the end is taken" in plan.warnings


def test_without_topics_every_position_moves_that_the_group_has_and_none_is_made() -> None:
    topics = {"orders": topic("orders", 4), "other": topic("other", 1)}
    seen = observed({place(1): 200, place(0, "other"): 500, place(0, "gone"): 3}, topics=topics)
    planned = make(rewind({"at": "Earliest"}), "job", seen, NOW)
    assert ways(planned) == {place(1): (200, 100), place(0, "other"): (500, 100)}
    assert planned.plan is not None
    assert "gone-0 don't exist any more: left as they are" in planned.plan.warnings


def test_topics_and_partitions_restrict_it_and_what_has_no_position_is_left_alone() -> None:
    seen = observed({place(n): 500 for n in range(3)})
    asked = rewind({"at": "Earliest"}, {"topic": "orders", "partitions": [1, 3]})
    planned = make(asked, "job", seen, NOW)
    assert ways(planned) == {place(1): (500, 100)}
    assert planned.plan is not None
    assert any(text.startswith("there is no position for orders-3: left alone") for text in planned.plan.warnings)


@pytest.mark.parametrize(
    ("asked", "seen", "sentence_"),
    [
        (rewind({"at": "Latest"}), observed({}), "group billing has no committed position"),
        (rewind({"at": "Latest"}, {"topic": "x"}), observed({place(0): 1}), "topic x doesn't exist"),
        (
            rewind({"at": "Latest"}, {"topic": "orders", "partitions": [9]}),
            observed({place(0): 1}),
            "has 4 partitions, so there is no partition 9",
        ),
        (
            rewind({"at": "Latest"}, {"topic": "other"}),
            observed({place(0): 1}, topics={"orders": topic("orders", 4), "other": topic("other", 1)}),
            "group billing has no position in topic other",
        ),
        (rewind({"at": "Latest"}), observed({place(0, "gone"): 1}), "no topic exists any more"),
        (rewind({"at": "Latest"}), observed({}, kind="share"), "is a share group"),
        (rewind({"snapshot": "s"}), observed({place(0): 1}), "there is no snapshot s of this namespace"),
        (
            rewind({"snapshot": "s"}),
            observed({}, snapshot=Snapshot("s", "sales", "t", {"orders": "id-orders"}, {place(0): 1})),
            "snapshot s is of group sales, not of billing",
        ),
        (
            rewind({"snapshot": "s"}),
            observed({}, snapshot=Snapshot("s", "billing", "t", {"orders": "another"}, {place(0): 1})),
            "topic orders was deleted and made anew since snapshot s",
        ),
    ],
)
def test_what_can_not_be_is_refused_with_a_sentence(asked: Rewind, seen: Observed, sentence_: str) -> None:
    found = refusal(asked, seen)
    assert found is not None
    assert sentence_ in found
    assert make(asked, "job", seen, NOW) == Planned(None, found)


def test_groups_of_sluice_are_left_alone_whoever_let_the_object_in() -> None:
    found = refusal(rewind({"at": "Latest"}).model_copy(update={"group": "sluice-replay-1"}), observed({place(0): 1}))
    assert found is not None
    assert "choose another group" in found


def test_more_than_fits_into_one_commit_is_refused_and_thousands_fit() -> None:
    for count, fits in ((5_000, True), (20_000, False)):
        seen = observed({place(n): 500 for n in range(count)}, topics={"orders": topic("orders", count)})
        found = refusal(rewind({"at": "Earliest"}), seen)
        assert (found is None) is fits, found


def test_a_snapshot_is_restored_as_it_was_and_what_it_does_not_have_stays() -> None:
    snapshot = Snapshot("s", "billing", "t", {"orders": "id-orders"}, {place(0): 940, place(1): 200})
    planned = make(rewind({"snapshot": "s"}), "job", observed({place(0): 100, place(2): 500}, snapshot=snapshot), NOW)
    assert ways(planned) == {place(0): (100, 940), place(1): (None, 200)}
    assert planned.plan is not None
    assert "the snapshot has no position for orders-2: left as they are" in planned.plan.warnings


def test_who_keeps_a_group_busy_is_named() -> None:
    assert busy(GroupDescription("g", "Empty", "consumer", 0), ()) is None
    assert busy(GroupDescription("g", "Dead", "", 0), ()) is None
    members = [GroupMember(f"m{n}", "app", "/10.0.0.7") for n in range(7)]
    found = busy(GroupDescription("g", "Stable", "consumer", 7), members)
    assert found is not None
    assert found.startswith("group g has 7 members: m0 (client app at 10.0.0.7); m1")
    assert found.endswith(" and 2 more")
    assert busy(GroupDescription("g", "Stable", "streams", 0), ()) == "group g has members (it is Stable)"


def test_a_plan_holds_as_long_as_the_group_stands_and_its_goal_exists() -> None:
    seen = observed({place(0): 500, place(1): 100})
    plan = plan_of(rewind({"at": "Earliest"}), seen)
    assert [move.place for move in plan.moved] == [place(0)]
    assert holds(plan, seen.positions, seen.bounds, seen.topics)
    assert not holds(plan, {place(0): 501, place(1): 100}, seen.bounds, seen.topics)
    assert not holds(plan, {place(0): 500, place(1): 101}, seen.bounds, seen.topics), "one that was to stay has moved"
    later = dict.fromkeys(seen.bounds, Bounds(101, 900, 900))
    assert not holds(plan, seen.positions, later, seen.topics)
    assert not holds(plan, seen.positions, seen.bounds, {"orders": topic("orders", 4, "another")})


def test_a_group_that_moves_without_members_is_no_empty_one() -> None:
    plan = plan_of(rewind({"at": "Earliest"}), observed({place(0): 500}))
    assert restless(plan, {place(0): 500}, NOW) is None
    assert "without being members" in (restless(plan, {place(0): 501}, NOW) or "")
    assert restless(plan, {place(0): 501}, NOW + timedelta(minutes=1)) is None


def test_what_is_shown_is_bounded_and_has_the_longest_ways() -> None:
    seen = observed({place(n): 101 + n for n in range(500)}, topics={"orders": topic("orders", 500)})
    plan = plan_of(rewind({"at": "Earliest"}), seen)
    status = shown(plan, snapshot=True)
    assert (status.moved, len(status.positions)) == (500, SHOWN)
    assert [p.partition for p in status.positions] == list(range(400, 500))
    assert status.backward == sum(range(1, 501))
    assert status.snapshot == "job-20261124t120000z"
    assert sentence(plan, done=True) == "500 positions of group billing in 1 topic were moved, 125,250 offsets back"


def test_nothing_to_do_is_said() -> None:
    plan = plan_of(rewind({"shift": 0}), observed({place(0): 500}))
    assert plan.moved == ()
    assert sentence(plan, done=False) == "every position of group billing is where it should be: nothing is moved"


def test_undoing_says_what_is_consumed_again_and_what_it_can_not_put_back() -> None:
    seen = observed({place(0): 500, place(1): 600})
    plan = plan_of(rewind({"offset": 200}), seen)
    cut = {**seen.bounds, place(1): Bounds(650, 900, 900)}
    back = undo(plan, observed({place(0): 520, place(1): 700}, cut), NOW)
    assert {m.place: m.after for m in back.moves} == {place(0): 500, place(1): 650}
    assert back.warnings == (
        "orders-1 don't have the former offset any more: the nearest that there is is taken",
        "the group has gone on since: 70 offsets will be consumed again",
    )
    gone = undo(plan, observed({place(0): 200}, topics={"orders": topic("orders", 4, "another")}), NOW)
    assert gone.moves == ()
    assert "orders-0, orders-1 were deleted, or made anew, since" in gone.warnings[0]


OFFSETS = st.integers(0, 120)
TARGETS = st.one_of(
    st.builds(lambda n: {"offset": n}, OFFSETS),
    st.builds(lambda n: {"shift": n}, st.integers(-150, 150)),
    st.sampled_from([{"at": "Earliest"}, {"at": "Latest"}, {"time": "2026-01-01T00:00:00Z"}]),
)


@st.composite
def partitions(draw: st.DrawFn) -> tuple[int, Bounds]:
    """A position, in or out of what the partition has."""
    start = draw(st.integers(0, 50))
    stable = start + draw(st.integers(0, 50))
    latest = stable + draw(st.integers(0, 10))
    at_time = draw(st.none() | st.integers(start, latest))
    return draw(OFFSETS), Bounds(start, stable, latest, at_time)


@given(st.lists(partitions(), min_size=1, max_size=4), TARGETS)
def test_positions_never_leave_what_is_stable(found: list[tuple[int, Bounds]], to: Mapping[str, Any]) -> None:
    positions = {place(n): position for n, (position, _) in enumerate(found)}
    bounds = {place(n): bound for n, (_, bound) in enumerate(found)}
    plan = plan_of(rewind(to), observed(positions, bounds))
    assert [move.place for move in plan.moves] == wanted(rewind(to), positions, None, {"orders": topic("orders", 4)})
    for move in plan.moves:
        assert bounds[move.place].start <= move.after <= bounds[move.place].stable


@given(st.lists(partitions(), min_size=1, max_size=4), TARGETS)
def test_undoing_what_was_done_changes_nothing(found: list[tuple[int, Bounds]], to: Mapping[str, Any]) -> None:
    bounds = {place(n): bound for n, (_, bound) in enumerate(found)}
    before = {place(n): max(b.start, min(position, b.latest)) for n, (position, b) in enumerate(found)}
    plan = plan_of(rewind(to), observed(before, bounds))
    after = {**before, **{move.place: move.after for move in plan.moved}}
    back = undo(plan, observed(after, bounds), NOW)
    assert {**after, **{move.place: move.after for move in back.moved}} == before
    assert back.warnings == ()


def spec(to: Mapping[str, Any], **values: Any) -> ReplayJobSpec:
    body = {"clusterRef": {"name": "demo"}, "mode": "Rewind", "rewind": {"group": "billing", "to": to, **values}}
    return ReplayJobSpec.model_validate(body)


def test_the_ledger_knows_a_rewind_by_what_it_moves() -> None:
    key = ledger_key("ns", "job", spec({"time": "2026-11-24T06:00:00Z"}))
    assert key == "ns/job/v1/dc642bed91"
    assert key == ledger_key("ns", "job", spec({"time": "2026-11-24T07:00:00+01:00"}, waitForInactiveSeconds=60))
    assert key != ledger_key("ns", "job", spec({"time": "2026-11-24T06:00:00Z"}, topics=[{"topic": "orders"}]))
    assert key != ledger_key("ns", "job", spec({"shift": 1}))
