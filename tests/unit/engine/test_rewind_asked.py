"""What people ask of a Rewind: to be undone, to rest, to be given up."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sluice.engine.reconciler import Outcome
from tests.unit.engine.replay_fakes import JOB
from tests.unit.engine.rewind_fakes import MEMBER, RewindStage, place, rewind_stage


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> RewindStage:
    return rewind_stage(monkeypatch)


# -- undo --------------------------------------------------------------------------------------------------------------


async def test_undone_it_is_where_it_was_and_stays_so(here: RewindStage) -> None:
    await here.completed()
    here.kafka.positions[place(0)] = 70
    here.stage.annotate(undo="a")
    await here.until("Undone")
    assert here.at() == [100, 100, 100]
    assert "it was undone at 2026-11-24T00:00:00Z: 3 positions of group billing" in here.message("Complete")
    here.kafka.did.clear()
    here.stage.annotate(undo="b")
    assert await here.stage.reconcile(2) == Outcome()
    here.apply(uid="2")
    await here.until("Undone")
    assert (here.kafka.did, here.at()) == ([], [100, 100, 100])


async def test_one_that_was_applied_again_can_be_undone(here: RewindStage) -> None:
    await here.completed()
    here.apply(uid="2")
    await here.until("AlreadyCompleted")
    here.stage.annotate(undo="a")
    await here.until("Undone")
    assert here.at() == [100, 100, 100]


async def test_members_stand_against_undoing_until_it_is_asked_for_again(here: RewindStage) -> None:
    await here.completed()
    here.kafka.members = (MEMBER,)
    here.stage.annotate(undo="a")
    await here.stage.reconcile(2)
    assert (here.phase, here.at()) == ("Completed", [40, 40, 40])
    assert "wasn't undone: group billing has 1 member: billing-1-abc" in here.message()
    here.kafka.members = ()
    assert await here.stage.reconcile(2) == Outcome()
    assert here.at() == [40, 40, 40]
    here.stage.annotate(undo="b")
    await here.until("Undone")


async def test_undoing_waits_as_long_as_the_rewind_would_have(here: RewindStage) -> None:
    await here.completed(wait=60)
    here.stage.now += timedelta(hours=1)
    here.kafka.members = (MEMBER,)
    here.stage.annotate(undo="a")
    assert await here.stage.reconcile() == Outcome(requeue_after=2.0)
    assert here.phase == "Completed"
    here.stage.now += timedelta(seconds=59)
    here.stage.restart()
    await here.stage.reconcile()
    assert "it waits until" in here.message()
    here.kafka.members = ()
    await here.until("Undone")
    assert here.at() == [100, 100, 100]


async def test_another_rewind_goes_to_the_snapshot_of_the_first(here: RewindStage) -> None:
    await here.completed()
    snapshot = here.stage.status["rewind"]["snapshot"]
    here.apply({"snapshot": snapshot}, uid="2", runId="back")
    await here.until("Completed")
    assert here.at() == [100, 100, 100]


# -- suspend and cancel ------------------------------------------------------------------------------------------------


async def test_suspended_it_moves_nothing_and_resumed_it_does(here: RewindStage) -> None:
    here.apply()
    await here.stage.reconcile()
    here.stage.annotate(suspend="a")
    assert await here.stage.reconcile() == Outcome(requeue_after=60.0)
    assert (here.phase, here.at()) == ("Suspended", [100, 100, 100])
    here.stage.annotate(resume="b")
    await here.until("Completed")
    assert here.at() == [40, 40, 40]


@pytest.mark.parametrize("planned", [False, True])
async def test_cancelled_before_it_acts_it_never_does(here: RewindStage, planned: bool) -> None:
    here.apply()
    if planned:
        await here.stage.reconcile()
    here.stage.annotate(cancel="a")
    await here.until("Cancelled")
    assert "cancelled at 2026-11-24T00:00:00Z, before anything was moved" in here.message("Failed")
    here.apply(uid="2")
    await here.until("Cancelled")
    assert (here.at(), here.kafka.moves) == ([100, 100, 100], 0)


async def test_what_is_asked_while_it_is_about_to_act_is_heard(here: RewindStage) -> None:
    here.apply()
    await here.stage.reconcile()
    body = here.stage.kube.objects[JOB]
    body["metadata"]["annotations"] = {"sluice.dev/cancel": "a"}
    here.stage.kube.put(body)  # the watch comes later
    await here.until("Cancelled")
    assert here.kafka.moves == 0


async def test_what_is_done_can_not_be_cancelled(here: RewindStage) -> None:
    await here.completed()
    here.stage.annotate(cancel="a")
    await here.stage.reconcile()
    assert here.phase == "Completed"
