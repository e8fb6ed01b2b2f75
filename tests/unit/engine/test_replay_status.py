"""How often progress is written."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.unit.engine.replay_fakes import JOB, Stage, stage


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return stage(monkeypatch)


async def test_progress_is_written_at_most_every_two_seconds_and_at_every_look(here: Stage) -> None:
    here.now += timedelta(milliseconds=900)  # of some second: parts of it count
    here.apply()
    pace = (await here.reconcile(2)).requeue_after
    assert pace == 2.0
    written: list[float] = []
    begun = here.now
    for step in range(1, 60):
        here.now = begun + timedelta(milliseconds=100 * step)
        here.kafka.at(step, step, step)
        before = len(here.kube.writes)
        await here.reconcile()
        if len(here.kube.writes) > before:
            assert here.status["progress"]["positions"] == [step] * 3
            written.append(step / 10)
    assert written == [2.0, 4.0]
    here.now = begun + timedelta(seconds=4 + pace)
    here.kafka.at(70, 70, 70)
    await here.reconcile()
    assert here.status["progress"]["recordsPerSecond"] == 45  # 90 records more than two seconds before


async def test_what_does_not_move_is_not_written(here: Stage) -> None:
    here.apply()
    await here.reconcile(2)
    version = here.kube.objects[JOB]["metadata"]["resourceVersion"]
    for _ in range(3):
        here.now += timedelta(seconds=2)
        await here.reconcile()
    assert here.kube.objects[JOB]["metadata"]["resourceVersion"] == version
