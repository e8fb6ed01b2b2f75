"""A replay that is suspended, resumed and cancelled: what stops, what stays, and what never begins again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from sluice.engine.errors import WaitingError
from sluice.engine.reconciler import Outcome
from sluice.kafka.errors import KafkaUnreachableError
from sluice.replay.ledger import LedgerState
from tests.unit.engine.engine_fakes import FakeKube
from tests.unit.engine.replay_fakes import JOB, Stage, stage


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return stage(monkeypatch)


def conditions(here: Stage) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in here.status["conditions"]}


def message(here: Stage) -> str:
    return str(here.status["conditions"][0]["message"])


def job_suspended(here: Stage) -> bool:
    (key,) = here.workers()
    return bool(here.kube.objects[key]["spec"].get("suspend"))


async def started(here: Stage, **spec: Any) -> None:
    here.apply(**spec)
    await here.reconcile(2)
    assert here.status["phase"] == "Running"
    assert here.workers()


async def suspended(here: Stage, **spec: Any) -> None:
    await started(here, **spec)
    here.kafka.at(60, 60, 60)
    here.annotate(suspend="one")
    await here.reconcile()
    assert here.status["phase"] == "Suspended"


# -- suspend -----------------------------------------------------------------------------------------------------------


async def test_a_suspended_replay_has_its_workers_stopped_and_says_how_far_it_is(here: Stage) -> None:
    await suspended(here)
    assert job_suspended(here)
    assert conditions(here) == {
        "Ready": ("False", "Suspended"),
        "Planned": ("True", "Planned"),
        "Suspended": ("True", "Suspended"),
    }
    assert message(here) == (
        "it has passed 180 of 300 offsets, and written 180 records, and waits for sluice.dev/resume"
        " (kubectl sluice replay resume job)"
    )
    assert here.secret() is not None
    assert here.finalizers == ["sluice.dev/replayjob"]


async def test_a_suspended_replay_is_left_in_peace(here: Stage) -> None:
    await suspended(here)
    outcome = await here.reconcile()
    writes, did = len(here.kube.writes), list(here.kafka.did)
    await here.reconcile(3)
    assert outcome.requeue_after == 60
    assert (len(here.kube.writes), here.kafka.did) == (writes, did)


async def test_what_workers_commit_while_they_stop_is_told(here: Stage) -> None:
    await suspended(here)
    here.kafka.at(70, 60, 60)
    assert (await here.reconcile()).requeue_after == 2
    assert here.status["progress"]["positions"] == [70, 60, 60]


async def test_its_positions_are_kept_from_expiring_however_long_it_rests(here: Stage) -> None:
    await suspended(here)
    await here.reconcile()
    assert "kept [0, 1, 2]" not in here.kafka.did  # its workers have just committed
    for _ in range(2):
        here.kafka.did.clear()
        here.now += timedelta(minutes=10)
        await here.reconcile(2)
        assert here.kafka.did == ["kept [0, 1, 2]"]
    here.restart()  # since when it rests isn't known
    here.kafka.did.clear()
    await here.reconcile(2)
    assert here.kafka.did == ["kept [0, 1, 2]"]


async def test_a_replay_that_is_suspended_before_it_began_is_planned_and_not_started(here: Stage) -> None:
    here.apply()
    here.annotate(suspend="one")
    await here.reconcile(3)
    assert here.status["phase"] == "Suspended"
    assert here.status["plan"]["offsets"] == 300
    assert message(here).startswith("it hasn't begun, and waits for sluice.dev/resume")
    assert (here.workers(), here.secret(), here.kafka.did) == ([], None, ["entered planned"])
    here.annotate(resume="two")
    await here.reconcile(2)
    assert here.status["phase"] == "Running"
    assert here.workers()


async def test_workers_are_stopped_while_kafka_is_away(here: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await started(here)

    async def nobody(*_: Any) -> Any:
        raise KafkaUnreachableError("nobody answers")

    monkeypatch.setattr(here.context.clusters, "connect", nobody)
    here.annotate(suspend="one")
    assert isinstance(await here.error(), (KafkaUnreachableError, WaitingError))
    assert job_suspended(here)
    here.annotate(cancel="two")
    assert isinstance(await here.error(), (KafkaUnreachableError, WaitingError))
    assert here.workers() == []


async def test_a_suspended_replay_whose_records_are_all_there_is_complete(here: Stage) -> None:
    await started(here)
    here.kafka.at(100, 100, 100)
    here.annotate(suspend="one")
    await here.reconcile(2)
    assert here.status["phase"] == "Completed"


async def test_a_position_that_is_lost_while_it_rests_ends_it(here: Stage) -> None:
    await suspended(here)
    here.kafka.positions.clear()
    await here.reconcile()
    assert conditions(here)["Failed"] == ("True", "PositionLost")


async def test_a_suspended_replay_whose_entry_is_lost_was_begun_all_the_same(here: Stage) -> None:
    await suspended(here)
    here.kafka.ledger.clear()
    here.kafka.positions.clear()
    here.restart()
    await here.reconcile()
    assert "starts committed" not in here.kafka.did[-2:]
    assert conditions(here)["Failed"] == ("True", "PositionLost")


async def test_a_dry_run_has_nothing_to_suspend(here: Stage) -> None:
    here.apply(dryRun=True)
    here.annotate(suspend="one", cancel="two")
    await here.reconcile(2)
    assert here.status["phase"] == "Planned"
    assert "control" not in here.status


# -- resume ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
async def test_resumed_it_goes_on_with_the_same_plan(here: Stage, restart: bool) -> None:
    await suspended(here)
    plan, told = here.status["plan"], here.plan_of_workers()
    here.annotate(resume="two")
    if restart:
        here.restart()
    await here.reconcile()
    assert (here.status["phase"], here.status["plan"]) == ("Running", plan)
    assert here.plan_of_workers() == told
    assert not job_suspended(here)
    assert set(conditions(here)) == {"Ready", "Reconciling", "Planned"}
    assert here.kafka.did.count("starts committed") == 1
    here.kafka.at(100, 100, 100)
    await here.reconcile(2)
    assert here.status["phase"] == "Completed"


async def test_the_deadline_counts_anew_from_when_it_is_resumed(here: Stage) -> None:
    await suspended(here, activeDeadlineSeconds=60)
    here.now += timedelta(hours=1)
    await here.reconcile()
    assert here.status["phase"] == "Suspended"
    here.annotate(resume="two")
    await here.reconcile()
    here.now += timedelta(seconds=59)
    await here.reconcile()
    assert here.status["phase"] == "Running"
    here.now += timedelta(seconds=2)
    await here.reconcile()
    assert conditions(here)["Failed"] == ("True", "DeadlineExceeded")


async def test_who_had_the_lead_before_sees_what_another_one_did(here: Stage) -> None:
    await started(here)
    former, here.reconciler = here.reconciler, type(here.reconciler)(here.context)
    here.annotate(suspend="one")
    await here.reconcile()
    here.reconciler, other = former, here.reconciler
    await here.reconcile()
    assert (here.status["phase"], job_suspended(here)) == ("Suspended", True)
    here.annotate(resume="two")
    here.reconciler = other
    await here.reconcile()
    assert (here.status["phase"], job_suspended(here)) == ("Running", False)


async def test_an_act_is_done_once_though_its_annotation_stays(here: Stage) -> None:
    await suspended(here)
    here.annotate(resume="two")
    await here.reconcile(2)
    here.annotate(suspend="one")  # a GitOps tool puts it back
    here.restart()
    await here.reconcile(2)
    assert here.status["phase"] == "Running"
    here.annotate(suspend="three")
    await here.reconcile()
    assert here.status["phase"] == "Suspended"
    assert [entry.split(":")[0] for entry in here.status["control"]["handled"]] == ["suspend", "resume", "suspend"]


# -- cancel ------------------------------------------------------------------------------------------------------------


async def test_a_cancelled_replay_leaves_nothing_behind_and_says_how_far_it_came(here: Stage) -> None:
    await started(here, parallelism=3)
    here.kafka.at(60, 60, 60)
    here.annotate(cancel="one")
    await here.reconcile(2)
    assert here.status["phase"] == "Cancelled"
    assert conditions(here) == {
        "Ready": ("False", "Cancelled"),
        "Stalled": ("True", "Cancelled"),
        "Failed": ("True", "Cancelled"),
    }
    assert message(here) == (
        "it was cancelled at 2026-11-24T00:00:00Z: it has passed 180 of 300 offsets, and written 180 records; it isn't"
        " begun again, even if it is deleted and applied again; a job with another spec.runId asks for another run,"
        " from the beginning of the range"
    )
    assert here.status["progress"]["positions"] == [60, 60, 60]
    assert here.kafka.did[-4:] == [
        "transactions of 3 ended",
        "entered cancelled",
        "rights taken",
        "transactions of 3 ended",
    ]
    assert (here.workers(), here.secret(), here.finalizers) == ([], None, [])
    assert here.kafka.ledger[LedgerState.CANCELLED].records == 180


@pytest.mark.parametrize("phase", ["new", "suspended"])
async def test_what_never_moved_a_record_can_be_cancelled(here: Stage, phase: str) -> None:
    here.apply()
    if phase == "suspended":
        here.annotate(suspend="one")
        await here.reconcile(2)
    here.annotate(cancel="two")
    await here.reconcile(2)
    assert here.status["phase"] == "Cancelled"
    assert "begun" in message(here)
    here.apply(uid="2")
    await here.reconcile(2)
    assert here.status["phase"] == "Cancelled"
    assert here.workers() == []


async def test_applied_again_it_stays_cancelled_and_says_what_to_do(here: Stage) -> None:
    await started(here)
    here.kafka.at(60, 60, 60)
    here.annotate(cancel="one")
    await here.reconcile(2)
    here.restart()
    here.apply(uid="2")
    await here.reconcile(3)
    assert here.status["phase"] == "Cancelled"
    assert conditions(here)["Failed"] == ("True", "Cancelled")
    assert "was cancelled at 2026-11-24T00:00:00Z, after 180 records; it isn't begun again" in message(here)
    assert "another spec.runId" in message(here)
    assert (here.workers(), here.finalizers) == ([], [])


async def test_workers_that_came_back_before_it_was_let_go_are_stopped_too(here: Stage) -> None:
    """Somebody who didn't lead any more may have started them late."""
    await started(here)
    (key,) = here.workers()
    body = here.kube.objects[key]
    here.annotate(cancel="one")
    await here.reconcile()
    assert here.status["phase"] == "Cancelled"
    here.kube.put(body)
    await here.reconcile()
    assert (here.workers(), here.finalizers) == ([], [])


async def test_cancelled_and_deleted_at_once_it_is_not_begun_again(here: Stage) -> None:
    await started(here)
    here.annotate(cancel="one")
    here.mark_deleted(JOB)
    await here.reconcile()
    assert here.finalizers == []
    here.restart()
    here.apply(uid="2")
    await here.reconcile(2)
    assert here.status["phase"] == "Cancelled"


async def test_deleted_without_a_word_it_goes_on_where_it_was(here: Stage) -> None:
    await started(here)
    here.mark_deleted(JOB)
    await here.reconcile()
    assert LedgerState.CANCELLED not in here.kafka.ledger


async def test_what_is_complete_is_not_cancelled_any_more(here: Stage) -> None:
    await started(here)
    here.kafka.at(100, 100, 100)
    here.annotate(cancel="one")
    await here.reconcile(2)
    assert here.status["phase"] == "Completed"
    here.annotate(cancel="two")
    await here.reconcile()
    assert here.status["phase"] == "Completed"


# -- whoever dies ------------------------------------------------------------------------------------------------------


class KilledError(Exception):
    """The operator dies here."""


@pytest.mark.parametrize(
    ("asked", "phase"), [({"suspend": "a"}, "Suspended"), ({"cancel": "a"}, "Cancelled"), ({"resume": "b"}, "Running")]
)
async def test_each_step_may_be_an_operators_last(
    here: Stage, asked: dict[str, str], phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (suspended(here) if "resume" in asked else started(here))
    here.kafka.at(60, 60, 60)
    here.annotate(**asked)
    left = 0

    def dying(name: str) -> None:
        real = getattr(FakeKube if name == "patch" else type(here.kube), name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            done = await real(here.kube, *args, **kwargs)
            left -= 1
            if left < 0:
                raise KilledError
            return done

        monkeypatch.setattr(here.kube, name, call)

    for name in ("patch", "delete", "apply", "create_if_absent"):
        dying(name)
    for survived in range(20):
        left = survived
        here.restart()
        here.context.index.put(here.kube.put(here.kube.objects[JOB]))
        results = [(await here.reconciler.reconcile([JOB]))[JOB] for _ in range(2)]
        if all(isinstance(result, Outcome) for result in results):
            break
        assert all(isinstance(result, (Outcome, KilledError)) for result in results), results
    assert here.status["phase"] == phase
    assert len(here.status["control"]["handled"]) == (2 if "resume" in asked else 1)
    assert (here.workers() == []) is (phase == "Cancelled")
    if here.workers():
        assert job_suspended(here) is (phase == "Suspended")
