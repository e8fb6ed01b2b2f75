"""The Rewind reconciler: moved once, only while nobody is there, and never without a snapshot."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from sluice.api.base import Reason
from sluice.api.objects import Key
from sluice.engine.reconciler import Outcome
from sluice.kafka.errors import KafkaRefusedError
from tests.unit.engine.engine_fakes import FakeKube
from tests.unit.engine.replay_fakes import CLUSTER, JOB
from tests.unit.engine.rewind_fakes import MEMBER, KilledError, RewindStage, place, rewind_stage


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> RewindStage:
    return rewind_stage(monkeypatch)


def group_of(here: RewindStage, namespace: str) -> None:
    """A ConsumerGroup that has the group."""
    here.stage.context.index.put(
        here.stage.kube.put(
            {
                "apiVersion": "sluice.dev/v1alpha1",
                "kind": "ConsumerGroup",
                "metadata": {
                    "namespace": namespace,
                    "name": "billing",
                    "uid": "g",
                    "creationTimestamp": "2026-11-23T00:00:00Z",
                },
                "spec": {"clusterRef": {"name": CLUSTER.name, "namespace": CLUSTER.namespace}, "topics": ["orders"]},
            }
        )
    )


# -- there -------------------------------------------------------------------------------------------------------------


async def test_planned_then_kept_then_moved_then_entered(here: RewindStage) -> None:
    here.apply()
    await here.stage.reconcile()
    assert (here.phase, here.at()) == ("Planned", [100, 100, 100])
    assert "snapshot" not in here.stage.status["rewind"]
    await here.until("Completed")
    assert here.at() == [40, 40, 40]
    assert here.kafka.did == ["planned", "snapshot", "moved", "completed", "unmarked"]
    assert here.kafka.mark is None
    status = here.stage.status["rewind"]
    assert (status["moved"], status["backward"], status["forward"]) == (3, 180, 0)
    assert status["positions"][0] == {"topic": "orders", "partition": 0, "from": 100, "to": 40}
    snapshot = json.loads(here.kafka.values[f"snapshot:ns/{status['snapshot']}"])
    assert snapshot["positions"] == {"orders": {"0": 100, "1": 100, "2": 100}}
    assert "kubectl sluice replay undo job puts them back" in here.message("Complete")
    assert here.stage.finalizers == []


async def test_what_is_done_is_left_in_peace(here: RewindStage) -> None:
    await here.completed()
    here.kafka.did.clear()
    writes = len(here.stage.kube.writes)
    assert await here.stage.reconcile(3) == Outcome()
    here.stage.restart()
    await here.stage.reconcile()
    assert (here.kafka.did, len(here.stage.kube.writes)) == ([], writes)


async def test_a_dry_run_shows_the_plan_and_what_stands_against_it(here: RewindStage) -> None:
    here.kafka.members = (MEMBER,)
    here.apply(dryRun=True)
    await here.stage.reconcile(3)
    assert (here.phase, here.kafka.did, here.at()) == ("Planned", [], [100, 100, 100])
    assert "it is a dry run, so nothing moves" in here.message()
    assert here.stage.status["rewind"]["moved"] == 3
    assert any("billing-1-abc (client billing-1 at 10.0.0.7)" in w for w in here.stage.status["rewind"]["warnings"])


async def test_nothing_to_move_is_completed_without_a_commit(here: RewindStage) -> None:
    await here.completed(to={"at": "Latest"})
    assert here.kafka.did == ["planned", "completed"]
    assert "every position of group billing was where it should be" in here.message()


async def test_without_a_snapshot_nothing_moves(here: RewindStage) -> None:
    here.apply()
    await here.stage.reconcile()
    here.kafka.refusal = KafkaRefusedError(Reason.KAFKA_REFUSED, "it may forget")
    assert isinstance(await here.stage.error(), KafkaRefusedError)
    assert (here.at(), here.kafka.mark) == ([100, 100, 100], None)
    here.kafka.refusal = None
    await here.until("Completed")
    assert here.kafka.moves == 1


# -- members -----------------------------------------------------------------------------------------------------------


async def test_a_group_with_members_is_refused_and_they_are_named(here: RewindStage) -> None:
    here.kafka.members = (MEMBER,)
    here.apply()
    await here.stage.reconcile(2)
    assert (here.phase, here.kafka.did) == ("Refused", [])
    assert "group billing has 1 member: billing-1-abc (client billing-1 at 10.0.0.7): stop" in here.message("Failed")


async def test_it_waits_for_a_group_to_be_empty_and_goes_on_with_where_it_is_then(here: RewindStage) -> None:
    here.kafka.members = (MEMBER,)
    here.apply({"shift": -10}, wait=60)
    assert await here.stage.reconcile() == Outcome(requeue_after=2.0)
    assert here.phase == "Pending"
    assert "it waits until 2026-11-24T00:01:00Z for the group to be empty" in here.message("Reconciling")
    here.stage.now += timedelta(seconds=50)
    here.stage.restart()
    await here.stage.reconcile()
    assert here.phase == "Pending"
    here.kafka.positions[place(0)] = 90
    here.kafka.members = ()
    await here.until("Completed")
    assert here.at() == [80, 90, 90]


async def test_its_patience_has_an_end(here: RewindStage) -> None:
    here.kafka.members = (MEMBER,)
    here.apply(wait=60)
    await here.stage.reconcile()
    here.stage.now += timedelta(seconds=60)
    await here.stage.reconcile()
    assert (here.phase, here.kafka.did) == ("Refused", [])


async def test_the_deadline_bounds_the_waiting_too(here: RewindStage) -> None:
    here.kafka.members = (MEMBER,)
    here.apply(wait=3600, activeDeadlineSeconds=30)
    await here.stage.reconcile()
    here.stage.now += timedelta(seconds=30)
    await here.stage.reconcile()
    assert here.phase == "Failed"
    assert "activeDeadlineSeconds (30 s), and nothing has been moved" in here.message("Failed")


async def test_a_member_that_joins_at_the_last_moment_is_seen_by_kafka(here: RewindStage) -> None:
    here.apply(wait=60)
    await here.stage.reconcile()

    def join() -> None:
        here.kafka.members = (MEMBER,)

    here.kafka.before_move = join
    await here.stage.reconcile()
    assert here.at() == [100, 100, 100]
    await here.stage.reconcile()
    assert here.phase == "Pending"
    here.kafka.members = ()
    here.kafka.positions[place(1)] = 101
    here.stage.now += timedelta(seconds=40)
    await here.until("Completed")
    assert here.stage.status["rewind"]["positions"][1]["from"] == 101
    assert here.kafka.moves == 1


async def test_what_it_has_done_is_seen_though_members_came_back_at_once(here: RewindStage) -> None:
    here.apply(wait=3600)
    await here.stage.reconcile()
    here.kafka.members = (MEMBER,)
    await here.stage.reconcile()
    assert here.phase == "Pending"
    here.kafka.members = ()
    await here.until("Planned")
    here.kafka.left = 1  # the snapshot, then the move
    await here.stage.error()
    here.kafka.left, here.kafka.members = None, (MEMBER,)
    here.stage.restart()
    await here.until("Completed")


async def test_a_group_that_moves_without_members_is_not_fought_with(here: RewindStage) -> None:
    here.apply()
    await here.stage.reconcile()
    here.kafka.positions[place(0)] += 1
    await here.stage.reconcile()
    assert here.phase == "Refused"
    assert "clients commit for it without being members" in here.message("Failed")


# -- once --------------------------------------------------------------------------------------------------------------


async def test_applied_again_it_moves_nothing_and_another_run_does(here: RewindStage) -> None:
    await here.completed()
    here.kafka.positions = {place(n): 100 for n in range(3)}
    here.apply(uid="2")
    await here.until("AlreadyCompleted")
    assert here.at() == [100, 100, 100]
    assert "so nothing was moved again; another spec.runId asks for another run" in here.message()
    assert here.stage.status["rewind"]["moved"] == 3
    here.apply(uid="3", runId="again")
    await here.until("Completed")
    assert here.at() == [40, 40, 40]


@pytest.mark.parametrize("undo", [False, True])
@pytest.mark.parametrize("survived", range(9))
async def test_each_step_may_be_an_operators_last(
    here: RewindStage, monkeypatch: pytest.MonkeyPatch, undo: bool, survived: int
) -> None:
    """And if it has moved the group, consumers come and go before the next one, to where they were at first."""
    if undo:
        await here.completed()
        here.stage.annotate(undo="a")
    else:
        here.apply()
    real = FakeKube.patch

    async def patch(*args: Any, **kwargs: Any) -> Any:
        done = await real(here.stage.kube, *args, **kwargs)
        here.kafka.effect("patched")
        return done

    monkeypatch.setattr(here.stage.kube, "patch", patch)
    before, start = here.kafka.moves, dict(here.kafka.positions)
    here.kafka.left = survived
    for _ in range(6):
        result = (await here.stage.reconciler.reconcile([JOB]))[JOB]
        if isinstance(result, KilledError):
            break
        assert isinstance(result, Outcome), result
    moved = here.kafka.moves > before
    if moved:
        here.kafka.positions = dict(start)
    here.kafka.left = None
    here.stage.restart()
    here.stage.context.index.put(here.stage.kube.put(here.stage.kube.objects[JOB]))
    await here.stage.reconcile(6)
    assert here.phase == ("Undone" if undo else "Completed")
    assert here.kafka.moves == before + 1
    assert here.kafka.mark is None
    assert here.at() == list(start.values()) if moved else [100, 100, 100] if undo else [40, 40, 40]


async def test_a_commit_that_another_rewind_died_after_is_entered_for_it(here: RewindStage) -> None:
    here.apply({"offset": 20})
    await here.stage.reconcile()
    here.kafka.left = 1  # the snapshot, then the move
    await here.stage.error()
    here.kafka.left = None
    here.stage.restart()
    here.apply({"offset": 60}, uid="2", runId="other")
    await here.until("Completed")
    assert here.at() == [60, 60, 60]
    assert here.stage.status["rewind"]["positions"][0]["from"] == 20
    here.apply({"offset": 20}, uid="3")
    await here.until("AlreadyCompleted")
    assert here.at() == [60, 60, 60]


# -- whose -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("namespace", "phase"), [("ns", "Completed"), ("elsewhere", "Refused")])
async def test_a_group_of_another_namespace_is_not_ours_to_move(here: RewindStage, namespace: str, phase: str) -> None:
    group_of(here, namespace)
    here.apply()
    await here.until(phase)
    if phase == "Refused":
        assert "belongs to ConsumerGroup elsewhere/billing" in here.message("Failed")
        assert here.kafka.did == []


async def test_a_share_group_has_nothing_to_move(here: RewindStage) -> None:
    here.kafka.kind = "share"
    here.apply()
    await here.until("Refused")
    assert here.kafka.did == []


async def test_it_goes_when_its_time_has_come(here: RewindStage) -> None:
    await here.completed(ttlSecondsAfterFinished=60)
    here.stage.now += timedelta(seconds=61)
    await here.stage.reconcile()
    assert JOB not in here.stage.kube.objects


async def test_deleted_it_leaves_at_once(here: RewindStage) -> None:
    here.apply()
    await here.stage.reconcile()
    here.stage.mark_deleted(JOB)
    assert await here.stage.reconcile() == Outcome()
    assert Key("Job", "ns", "job") not in here.stage.kube.objects
