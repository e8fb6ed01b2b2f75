"""Who lets a replay begin: others than the one who asked, for this plan and no other, as many as were asked for."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.api.cluster import MessagingClusterSpec, MessagingClusterStatus
from sluice.api.objects import Cluster, Key
from sluice.plan.replay_approval import (
    APPROVED_BY,
    GLASS_BROKEN_BY,
    REQUESTED_BY,
    STRICTEST,
    Ruling,
    Verb,
    approvals,
    approvals_needed,
    broken_glass,
    claims,
    record,
    refusal,
    rule,
)

AT = "2026-11-24T12:00:00Z"
USERS = st.sampled_from(["ann", "bob", "cem", "dee"])
HASHES = st.sampled_from(["aaa", "bbb"])


def after(*acts: tuple[str, str], asked_by: str | None = "ann") -> dict[str, str]:
    """Annotations after these (user, plan hash) have approved, one after the other."""
    found = {REQUESTED_BY: asked_by} if asked_by is not None else {}
    for user, plan in acts:
        name, value = record(Verb.APPROVE, plan, user, AT, plan, found)
        found[name] = value
    return found


def ruling(annotations: dict[str, str], needed: int = 1, before: Any = None) -> Ruling:
    return rule("job", annotations, needed, "aaa", before)


def cluster(approvals: int | None) -> Cluster:
    policy = {} if approvals is None else {"replayPolicy": {"approvals": approvals}}
    return Cluster(
        key=Key("MessagingCluster", "ns", "demo"),
        uid="u",
        generation=1,
        resource_version="1",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        spec=MessagingClusterSpec.model_validate({"external": {"bootstrapServers": ["k:1"]}, **policy}),
        status=MessagingClusterStatus(),
    )


# -- what is needed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_cluster", "of_topic", "expected"),
    [
        (None, None, 0),
        (1, None, 1),
        (None, {"approvals": 2}, 2),
        (2, {"approvals": 0}, 2),
        (0, {"approvals": 1}, 1),
        (None, {}, 0),
        (None, {"approvals": "many"}, STRICTEST),
    ],
)
def test_the_stricter_of_cluster_and_topic_counts(of_cluster: int | None, of_topic: Any, expected: int) -> None:
    topics = [] if of_topic is None else [{"spec": {}}, {"spec": {"replayPolicy": of_topic}}]
    assert approvals_needed(cluster(of_cluster), topics) == expected


def test_where_nothing_is_asked_for_a_replay_begins_and_nothing_is_said_of_it() -> None:
    assert ruling(after(), needed=0) == Ruling()


# -- who counts --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(USERS, HASHES), max_size=8), st.integers(1, 2), st.sampled_from(["ann", None, ""]))
def test_it_begins_exactly_when_enough_others_have_approved_this_plan(
    acts: list[tuple[str, str]], needed: int, asked_by: str | None
) -> None:
    last_plan = acts[-1][1] if acts else "aaa"
    counted = {user for user, plan in acts if plan == "aaa"} - {asked_by} if last_plan == "aaa" else set()
    # A plan that came between has taken the earlier ones' place.
    since = next((n for n in range(len(acts), 0, -1) if acts[n - 1][1] != "aaa"), 0)
    counted &= {user for user, _ in acts[since:]}
    found = ruling(after(*acts, asked_by=asked_by), needed)
    wanted = needed if asked_by else needed + 1
    assert (found.waits is None) == (len(counted) >= wanted)
    if found.approval is not None:
        assert {approver.user for approver in found.approval.approvers} == counted
        assert (found.approval.plan_hash, found.approval.needed) == ("aaa", wanted)


def test_who_approves_twice_counts_once_and_keeps_the_first_time() -> None:
    first = after(("bob", "aaa"))
    assert record(Verb.APPROVE, "aaa again", "bob", "later", "aaa", first) == (APPROVED_BY, first[APPROVED_BY])


def test_what_waits_says_for_whom_and_how() -> None:
    assert ruling(after(("bob", "aaa")), needed=2).waits == (
        "plan aaa needs 2 approvals by people other than ann, and has 1 (bob): kubectl sluice replay approve job"
        " (sluice.dev/approve: aaa)"
    )
    assert "3 approvals by different people (who asked for it isn't known), and has none" in str(
        ruling({}, needed=2).waits
    )


def test_a_broken_glass_lets_it_begin_with_whatever_approvals_there_are() -> None:
    annotations = after(("bob", "aaa"))
    name, value = record(Verb.BREAK_GLASS, " the shop is down ", "ann", AT, "aaa", annotations)
    found = ruling(annotations | {name: value}, needed=2).approval
    assert found is not None
    assert found.broken_glass is not None
    assert (found.broken_glass.user, found.broken_glass.reason) == ("ann", "the shop is down")
    assert [approver.user for approver in found.approvers] == ["bob"]


def test_where_enough_have_approved_no_glass_was_broken() -> None:
    annotations = after(("bob", "aaa"))
    name, value = record(Verb.BREAK_GLASS, "why", "ann", AT, "aaa", annotations)
    found = ruling(annotations | {name: value}).approval
    assert found is not None
    assert found.broken_glass is None


def test_what_was_decided_stays_when_annotations_vanish_and_policies_change() -> None:
    decided = ruling(after(("bob", "aaa"))).approval
    assert ruling({}, needed=2, before=decided) == Ruling(decided)
    assert rule("job", {}, 2, "bbb", decided).waits is not None


@given(st.text(max_size=40))
def test_what_is_no_record_of_admission_counts_for_nothing(text: str) -> None:
    assert approvals({APPROVED_BY: text}) == [] or json.loads(text)
    assert broken_glass({GLASS_BROKEN_BY: text}) is None


# -- what admission asks -----------------------------------------------------------------------------------------------


def test_only_what_is_new_is_claimed() -> None:
    old = {"sluice.dev/approve": "aaa"}
    assert claims(old, old) == {}
    assert claims({}, old) == {}
    assert claims({"sluice.dev/approve": "aaa second"}, old) == {Verb.APPROVE: "aaa second"}
    assert claims({"sluice.dev/break-glass": "why"}, {}) == {Verb.BREAK_GLASS: "why"}


@pytest.mark.parametrize(
    ("verb", "text", "user", "plan", "why"),
    [
        (Verb.APPROVE, "aaa", "bob", "aaa", None),
        (Verb.APPROVE, "aaa 2026-11-24", "bob", "aaa", None),
        (Verb.APPROVE, "aaa", "ann", "aaa", "ann asked for this replay"),
        (Verb.APPROVE, "bbb", "bob", "aaa", "names plan bbb, and the plan of this replay is aaa"),
        (Verb.APPROVE, "", "bob", "aaa", "names plan (none)"),
        (Verb.APPROVE, "aaa", "bob", None, "has none yet"),
        (Verb.BREAK_GLASS, "the shop is down", "ann", None, None),
        (Verb.BREAK_GLASS, "  ", "ann", "aaa", "needs a reason"),
        (Verb.BREAK_GLASS, "x" * 1001, "ann", "aaa", "at most 1,000 characters"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    verb: Verb, text: str, user: str, plan: str | None, why: str | None
) -> None:
    found = refusal(verb, text, user, "ann", plan)
    assert found is None if why is None else why in (found or "")
