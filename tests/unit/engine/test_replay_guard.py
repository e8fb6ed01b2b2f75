"""A replay that needs approval: nothing is made for it before, everything about it is in the audit first."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from sluice.api.base import Reason
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError
from sluice.replay.ledger import LedgerState
from tests.unit.engine.replay_fakes import JOB, Stage, stage
from tests.unit.engine.rewind_fakes import place, rewind_stage

AT = "2026-11-24T12:00:00Z"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = stage(monkeypatch)
    made.cluster({}, replayPolicy={"approvals": 1})
    return made


def approve(here: Stage, *users: str, plan: str | None = None) -> None:
    named = plan or here.status["plan"]["hash"]
    here.recorded(approved_by=[{"user": user, "planHash": named, "at": AT} for user in users])


async def waiting(here: Stage) -> str:
    """A replay by ann that waits; its sentence."""
    here.apply()
    here.recorded(requested_by="ann")
    await here.reconcile(3)
    assert here.status["phase"] == "AwaitingApproval"
    return message(here)


def message(here: Stage) -> str:
    found: str = next(c["message"] for c in here.status["conditions"] if c["type"] == "Ready")
    return found


def made(here: Stage) -> list[Any]:
    """What a replay has that may move something."""
    return [key for key in here.kube.objects if key.kind in ("Job", "Secret", "ConfigMap")]


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_until_it_is_approved_there_is_a_plan_and_nothing_else(here: Stage) -> None:
    said = await waiting(here)
    plan = here.status["plan"]["hash"]
    assert f"plan {plan} needs 1 approval by people other than ann, and has none" in said
    assert "kubectl sluice replay approve job" in said
    assert (made(here), here.kafka.did, here.kafka.positions) == ([], ["entered planned"], {})
    assert here.facts() == ["Planned"]
    assert {c["type"]: c["status"] for c in here.status["conditions"]} == {
        "Ready": "False",
        "Reconciling": "True",
        "Planned": "True",
    }
    writes = len(here.kube.writes)
    await here.reconcile(2)
    assert len(here.kube.writes) == writes


@pytest.mark.parametrize("user", ["ann", ""])
async def test_the_one_who_asked_counts_for_nothing(here: Stage, user: str) -> None:
    await waiting(here)
    here.recorded(requested_by=user)
    approve(here, "ann")
    await here.reconcile(2)
    assert (here.status["phase"], made(here)) == ("AwaitingApproval", [])


async def test_approved_it_runs_and_the_status_keeps_by_whom(here: Stage) -> None:
    await waiting(here)
    plan = here.status["plan"]
    approve(here, "bob")
    await here.reconcile()
    assert (here.status["phase"], here.status["plan"]) == ("Running", plan)
    assert here.status["approval"] == {
        "planHash": plan["hash"],
        "needed": 1,
        "approvers": [{"user": "bob", "at": AT}],
    }
    assert here.facts() == ["Planned", "Approved", "Started"]


async def test_an_approval_of_another_plan_is_none(here: Stage) -> None:
    await waiting(here)
    approve(here, "bob", plan="0000000000")
    await here.reconcile()
    assert here.status["phase"] == "AwaitingApproval"


async def test_the_topics_policy_counts_where_it_is_stricter(here: Stage) -> None:
    here.topic(replayPolicy={"approvals": 2})
    assert "needs 2 approvals" in await waiting(here)
    approve(here, "bob")
    await here.reconcile()
    assert "has 1 (bob)" in message(here)
    approve(here, "bob", "cem")
    await here.reconcile()
    assert here.status["phase"] == "Running"


async def test_a_policy_that_is_lifted_lets_it_begin(here: Stage) -> None:
    await waiting(here)
    here.cluster({})
    await here.reconcile()
    assert here.status["phase"] == "Running"
    assert "approval" not in here.status


async def test_what_has_begun_is_stopped_neither_by_policies_nor_by_annotations_that_vanish(here: Stage) -> None:
    await waiting(here)
    approve(here, "bob")
    await here.reconcile()
    here.cluster({}, replayPolicy={"approvals": 2})
    here.kube.objects[JOB]["metadata"]["annotations"] = {}
    here.context.index.put(here.kube.put(here.kube.objects[JOB]))
    here.restart()
    here.kafka.at(50, 50, 50)
    here.now += timedelta(seconds=3)
    await here.reconcile()
    assert (here.status["phase"], here.status["progress"]["records"]) == ("Running", 150)


async def test_a_dry_run_needs_nobody_and_leaves_no_trace(here: Stage) -> None:
    here.apply(dryRun=True)
    await here.reconcile(3)
    assert (here.status["phase"], here.facts()) == ("Planned", [])


async def test_a_broken_glass_lets_it_begin_and_nobody_misses_it(here: Stage) -> None:
    await waiting(here)
    here.recorded(glass_broken_by={"user": "ann", "reason": "the shop is down", "at": AT})
    await here.reconcile()
    assert here.status["phase"] == "Running"
    assert here.status["approval"]["brokenGlass"] == {"user": "ann", "reason": "the shop is down", "at": AT}
    loud = "with 0 of the 1 approvals that it needs, since ann broke the glass: the shop is down"
    assert loud in message(here)
    assert here.facts() == ["Planned", "GlassBroken", "Started"]
    here.kafka.at(100, 100, 100)
    await here.reconcile(2)
    assert (here.status["phase"], loud in message(here)) == ("Completed", True)


@pytest.mark.parametrize(("act", "phase"), [("suspend", "Suspended"), ("cancel", "Cancelled")])
async def test_while_it_waits_it_can_be_suspended_and_cancelled(here: Stage, act: str, phase: str) -> None:
    await waiting(here)
    here.annotate(**{act: "one"})
    await here.reconcile(2)
    assert (here.status["phase"], made(here)) == (phase, [])
    here.annotate(resume="2026-11-24T12:00:00Z")
    await here.reconcile(2)
    assert here.status["phase"] == ("AwaitingApproval" if act == "suspend" else "Cancelled")


async def test_deleted_and_applied_again_it_waits_again_for_the_same_plan(here: Stage) -> None:
    await waiting(here)
    plan = here.status["plan"]
    approve(here, "bob")
    here.mark_deleted(JOB)
    await here.reconcile()
    assert here.facts() == ["Planned", "Deleted"]
    here.restart()
    here.apply(uid="2")
    here.recorded(requested_by="ann")
    here.kube.objects[JOB]["metadata"]["annotations"].pop("sluice.dev/approved-by", None)
    await here.reconcile(3)
    assert (here.status["phase"], here.status["plan"], made(here)) == ("AwaitingApproval", plan, [])


# -- the audit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [KafkaUnreachableError("nobody answers"), KafkaRefusedError(Reason.KAFKA_REFUSED, "no right")]
)
async def test_what_cannot_be_audited_does_not_begin(here: Stage, error: Any) -> None:
    await waiting(here)
    approve(here, "bob")
    here.kafka.audit_refusal = error
    found = await here.error()
    assert type(error) is type(found)
    assert (made(here), here.kafka.positions, LedgerState.STARTED in here.kafka.ledger) == ([], {}, False)
    here.kafka.audit_refusal = None
    await here.reconcile()
    assert here.status["phase"] == "Running"


async def test_an_end_is_told_only_once_it_is_audited(here: Stage) -> None:
    await waiting(here)
    approve(here, "bob")
    await here.reconcile()
    here.kafka.at(100, 100, 100)
    here.kafka.audit_refusal = KafkaUnreachableError("nobody answers")
    await here.error()
    assert here.status["phase"] == "Running"
    here.kafka.audit_refusal = None
    here.restart()
    await here.reconcile()
    assert here.status["phase"] == "Completed"
    assert here.facts() == ["Planned", "Approved", "Started", "Completed"]
    done = here.kafka.audit[-1]
    assert (done.detail["records"], done.detail["bytes"], done.job) == (300, 3000, "ns/job")


async def test_acts_are_audited_by_their_tokens_and_operators_that_repeat_it_make_no_second_fact(here: Stage) -> None:
    await waiting(here)
    approve(here, "bob")
    await here.reconcile()
    for act, token in (("suspend", "one"), ("resume", "2026-12-24T12:00:00Z"), ("suspend", "two"), ("cancel", "three")):
        here.annotate(**{act: token})
        here.restart()
        await here.reconcile(2)
    assert here.facts() == ["Planned", "Approved", "Started", "Suspend", "Resume", "Suspend", "Cancel", "Cancelled"]
    assert len(here.kafka.audit) > len(here.facts())


# -- Rewinds -----------------------------------------------------------------------------------------------------------


async def test_a_rewind_waits_for_approval_and_all_of_it_is_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    here = rewind_stage(monkeypatch)
    here.stage.cluster({}, replayPolicy={"approvals": 1})
    here.apply()
    here.stage.recorded(requested_by="ann")
    await here.until("AwaitingApproval")
    await here.stage.reconcile(2)
    planned = here.stage.status["rewind"]["hash"]
    assert f"plan {planned} needs 1 approval by people other than ann" in here.message()
    assert (here.at(), here.kafka.did) == ([100, 100, 100], ["planned"])
    here.stage.recorded(approved_by=[{"user": "bob", "planHash": planned, "at": AT}])
    await here.until("Completed")
    assert here.at() == [40, 40, 40]
    assert here.stage.status["approval"]["approvers"] == [{"user": "bob", "at": AT}]
    here.stage.annotate(undo="now")
    await here.until("Undone")
    assert here.at() == [100, 100, 100]
    facts = [(record.fact.value, record.plan_hash == planned) for record in here.kafka.audit]
    assert facts == [
        ("Planned", True),
        ("Approved", True),
        ("Started", True),
        ("Completed", True),
        ("Undo", False),
        ("Planned", False),
        ("Started", False),
        ("Undone", True),
    ]


async def test_the_policy_of_a_topic_holds_for_rewinds_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    here = rewind_stage(monkeypatch)
    here.stage.topic(topicName="orders", replayPolicy={"approvals": 2})
    here.apply()
    await here.until("AwaitingApproval")
    assert here.at() == [100, 100, 100]


async def test_a_plan_that_has_changed_needs_another_approval(monkeypatch: pytest.MonkeyPatch) -> None:
    here = rewind_stage(monkeypatch)
    here.stage.cluster({}, replayPolicy={"approvals": 1})
    here.apply()
    here.stage.recorded(requested_by="ann")
    await here.until("AwaitingApproval")
    here.stage.recorded(approved_by=[{"user": "bob", "planHash": here.stage.status["rewind"]["hash"], "at": AT}])
    here.kafka.positions[place(0)] = 90  # consumers were there meanwhile
    here.stage.now += timedelta(minutes=5)
    await here.until("AwaitingApproval")
    assert here.kafka.moves == 0


async def test_a_rewind_that_cannot_be_audited_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    here = rewind_stage(monkeypatch)
    here.apply()
    await here.until("Planned")
    here.kafka.audit_refusal = KafkaRefusedError(Reason.KAFKA_REFUSED, "no")
    with pytest.raises(AssertionError, match="the audit isn't told of"):
        await here.stage.reconcile(3)
    assert here.at() == [100, 100, 100]
