"""The ReplayJob reconciler: what moves nothing, what never moves twice, and what is left behind."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from sluice.api.objects import Key
from sluice.engine import replay_end
from sluice.engine.errors import WaitingError
from sluice.kafka.errors import KafkaUnreachableError
from sluice.replay.ledger import LedgerState
from tests.unit.engine.replay_fakes import CLUSTER, JOB, Stage, stage


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return stage(monkeypatch)


def condition(here: Stage, type_: str = "Ready") -> tuple[str, str, str]:
    found = next(c for c in here.status["conditions"] if c["type"] == type_)
    return found["status"], found["reason"], found["message"]


async def started(here: Stage, **spec: Any) -> None:
    here.apply(**spec)
    await here.reconcile(2)
    assert here.status["phase"] == "Running"
    assert here.workers()


# -- what moves nothing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [LedgerState.PLANNED, LedgerState.STARTED])
async def test_a_dry_run_of_what_was_begun_shows_its_plan_and_moves_nothing(here: Stage, state: LedgerState) -> None:
    await started(here)
    plan = here.status["plan"]
    here.kafka.ledger = {state: here.kafka.ledger[state]}
    here.kafka.did.clear()
    for key in here.workers():
        del here.kube.objects[key]
    here.restart()
    here.apply(uid="2", dryRun=True)
    await here.reconcile(3)
    assert here.status["phase"] == "Planned"
    assert here.status["plan"] == plan
    assert (here.workers(), here.kafka.did, here.finalizers) == ([], [], [])


async def test_a_dry_run_enters_nothing(here: Stage) -> None:
    here.apply(dryRun=True)
    await here.reconcile(3)
    assert here.status["phase"] == "Planned"
    assert (here.workers(), here.kafka.did, here.finalizers) == ([], [], [])


# -- once --------------------------------------------------------------------------------------------------------------


async def test_a_running_replay_whose_entry_is_lost_goes_on_with_its_own_plan(here: Stage) -> None:
    await started(here)
    here.kafka.at(60, 60, 60)
    await here.reconcile()
    plan = here.status["plan"]
    here.kafka.ledger.clear()
    here.kafka.did.clear()
    here.restart()
    await here.reconcile()
    assert here.kafka.did == ["entered started"]  # and no position was committed
    assert here.status["plan"] == plan
    assert here.status["progress"]["offsetsDone"] == 180


async def test_without_entry_and_positions_a_running_replay_is_lost(here: Stage) -> None:
    await started(here)
    here.kafka.ledger.clear()
    here.kafka.positions.clear()
    here.restart()
    await here.reconcile()
    assert condition(here, "Failed")[1] == "PositionLost"


async def test_a_plan_that_was_shown_stays_the_plan(here: Stage) -> None:
    here.apply()
    await here.reconcile()
    assert here.status["phase"] == "Planned"
    plan = here.status["plan"]
    here.kafka.ledger.clear()
    here.now += timedelta(hours=1)
    here.restart()
    await here.reconcile()
    assert here.status["plan"] == plan
    assert here.kafka.did[-3:] == ["entered planned", "starts committed", "entered started"]


async def test_a_plan_that_was_edited_in_the_status_is_put_right(here: Stage) -> None:
    await started(here)
    plan = here.status["plan"]
    here.kube.objects[JOB]["status"]["plan"] = {**plan, "partitions": [{**plan["partitions"][0], "end": 0}]}
    here.context.index.put(here.kube.put(here.kube.objects[JOB]))
    await here.reconcile()
    assert (here.status["plan"], here.status["phase"]) == (plan, "Running")


@pytest.mark.parametrize("restart", [False, True])
async def test_a_position_that_went_back_ends_it_for_good(here: Stage, restart: bool) -> None:
    await started(here)
    here.kafka.at(60, 60, 60)
    here.now += timedelta(seconds=2)
    await here.reconcile()
    assert here.status["progress"]["positions"] == [60, 60, 60]
    here.kafka.at(60, 59, 60)
    if restart:
        here.restart()
    await here.reconcile()
    assert condition(here, "Failed")[1:] == (
        "PositionLost",
        "the committed position of partition 1 went back from 60 to 59; going on would copy records twice: find out how"
        " far the target is, and make another ReplayJob from there",
    )
    assert here.status["progress"]["positions"] == [60, 60, 60]
    await here.reconcile()
    assert here.workers() == []
    here.restart()
    here.apply(uid="2")
    await here.reconcile(3)
    assert condition(here, "Failed")[1] == "PositionLost"
    assert here.workers() == []


async def test_what_was_seen_counts_even_if_it_was_not_written(here: Stage) -> None:
    await started(here)
    here.kafka.at(60, 60, 60)
    await here.reconcile()  # too soon after the last for another write
    assert here.status["progress"]["positions"] == [0, 0, 0]
    here.kafka.at(60, 59, 60)
    await here.reconcile()
    assert condition(here, "Failed")[1] == "PositionLost"


async def test_positions_at_their_ends_are_kept_from_expiring(here: Stage) -> None:
    await started(here, parallelism=3)
    here.kafka.at(100, 60, 100)
    await here.reconcile()
    assert here.kafka.did[-1] == "entered started"
    here.now += timedelta(minutes=10)
    await here.reconcile(2)
    assert here.kafka.did[-2:] == ["entered started", "recommitted [0, 2]"]


async def test_trying_again_after_the_target_was_made_to_take_more_takes_more(here: Stage) -> None:
    await started(here)
    assert here.plan_of_workers().routes[0].max_batch_bytes == 1_000
    here.kafka.limit = 5_000
    here.kube.objects = {k: b for k, b in here.kube.objects.items() if k.kind != "ConfigMap"}
    here.restart()
    here.apply(uid="2")
    await here.reconcile()
    assert here.plan_of_workers().routes[0].max_batch_bytes == 5_000


# -- what is left behind -----------------------------------------------------------------------------------------------


async def test_at_its_deadline_workers_are_stopped_and_their_transactions_ended(here: Stage) -> None:
    await started(here, parallelism=3, activeDeadlineSeconds=60)
    here.now += timedelta(seconds=61)
    await here.reconcile(2)
    assert condition(here, "Failed")[1] == "DeadlineExceeded"
    # In this order: whoever still runs can open another transaction until its rights are gone.
    assert here.kafka.did[-2:] == ["rights taken", "transactions of 3 ended"]
    assert (here.workers(), here.secret(), here.finalizers) == ([], None, [])


async def test_what_is_completed_has_no_transaction_to_end(here: Stage) -> None:
    await started(here)
    here.kafka.at(100, 100, 100)
    await here.reconcile(2)
    assert here.status["phase"] == "Completed"
    assert here.kafka.did[-1] == "rights taken"


async def test_a_deleted_job_takes_its_rights_with_it(here: Stage) -> None:
    await started(here)
    here.mark_deleted(JOB)
    await here.reconcile()
    assert here.kafka.did[-2:] == ["rights taken", "transactions of 1 ended"]
    assert (here.workers(), here.secret(), here.finalizers) == ([], None, [])


@pytest.mark.parametrize("gone", [True, False])
async def test_it_lets_go_of_a_cluster_that_goes(here: Stage, gone: bool) -> None:
    await started(here)
    here.mark_deleted(JOB)
    here.mark_deleted(CLUSTER)
    if gone:
        del here.kube.objects[CLUSTER]
    before = list(here.kafka.did)
    await here.reconcile()
    assert (here.kafka.did, here.finalizers) == (before, [])


async def test_a_namespace_that_goes_takes_rights_in_a_cluster_that_stays_with_it(here: Stage) -> None:
    await started(here)
    here.mark_deleted(Key("Namespace", "", JOB.namespace))
    here.mark_deleted(JOB)
    await here.reconcile()
    assert here.kafka.did[-2:] == ["rights taken", "transactions of 1 ended"]
    assert here.finalizers == []


@pytest.mark.parametrize("how", ["unreachable", "silent", "refuses the namespace"])
async def test_a_namespace_that_goes_never_waits_for_long(
    here: Stage, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await started(here)
    here.mark_deleted(Key("Namespace", "", JOB.namespace))
    here.mark_deleted(JOB)
    if how == "unreachable":
        here.kafka.refusal = KafkaUnreachableError("nobody answers")
    elif how == "silent":
        monkeypatch.setattr(replay_end, "_LAST_TRY_SECONDS", 0.01)
        here.kafka.silent = lambda: asyncio.sleep(60)
    else:
        body = here.kube.objects[CLUSTER]
        body["spec"]["allowedNamespaces"] = []
        here.context.index.put(here.kube.put(body))
    await here.reconcile()
    assert here.finalizers == []


async def test_otherwise_it_is_tried_until_nothing_is_left(here: Stage) -> None:
    await started(here)
    here.mark_deleted(JOB)
    here.kafka.refusal = KafkaUnreachableError("nobody answers")
    assert isinstance(await here.error(), (KafkaUnreachableError, WaitingError))
    assert here.finalizers == ["sluice.dev/replayjob"]
    here.kafka.refusal = None
    await here.reconcile()
    assert here.finalizers == []
