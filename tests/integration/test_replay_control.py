"""Replays that are suspended, resumed and cancelled midway, on a real API server and a real Kafka."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sluice.api.base import API_VERSION
from sluice.api.objects import Key
from sluice.replay.assignment import Assignment
from sluice.replay.errors import ExitCode
from tests.integration.support.replay import Replay, fill, outcome, read_back, records
from tests.integration.support.replay_world import (
    Deaths,
    acls,
    apply,
    guarded_broker,
    guarded_world,
    job_of,
    pod,
    run_of,
    started,
    topics,
    until,
    with_replays,
)
from tests.integration.support.world import World
from tests.support.kafka import KafkaCluster
from tests.support.processes import wait_until

COUNT = 60_000


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A broker that allows only what ACLs say."""
    with guarded_broker(tmp_path_factory.mktemp("guarded") / "cluster") as cluster:
        yield cluster


@pytest.fixture
async def here(kubeconfig: Path, guarded: KafkaCluster) -> AsyncIterator[World]:
    """A namespace with a cluster that runs in Sluice's way."""
    async with guarded_world(kubeconfig, guarded) as made:
        yield made


async def begun(here: World, guarded: KafkaCluster, folder: Path) -> tuple[Key, Replay, str, str]:
    """A replay that runs, and what its worker's pod sees: it takes transactions of a few records."""
    source, target = await topics(here, 1)
    await asyncio.to_thread(fill, guarded, source, COUNT)
    key = await apply(here, source, target)
    await started(here, key)
    replay = await pod(here, key, folder, guarded)
    plan = json.loads(replay.plan.to_json())
    plan["limits"] |= {"transaction_bytes": 20_000, "buffer_bytes": 30_000, "fetch_bytes": 20_000}
    (folder / "plan.json").write_text(json.dumps(plan))
    replay.plan = Assignment.read(folder / "plan.json")
    return key, replay, source, target


async def in_the_middle(replay: Replay) -> subprocess.Popen[str]:
    """A worker that has committed something more."""

    def offsets() -> int:
        return sum(position.offset for position in replay.positions().values())

    before = await asyncio.to_thread(offsets)
    worker = replay.start()
    await asyncio.to_thread(wait_until, lambda: offsets() > before, 30, "a commit")
    return worker


async def annotate(here: World, key: Key, act: str, token: str) -> None:
    """As kubectl does."""
    patch = {"metadata": {"annotations": {f"sluice.dev/{act}": token}}}
    await here.kube.patch(API_VERSION, key.kind, key.namespace, key.name, patch)


async def stopped(here: World, key: Key) -> bool:
    """Whether Kubernetes would have no worker run."""
    _, job = await job_of(here, key)
    return job is None or bool(job["spec"].get("suspend"))


async def whole(guarded: KafkaCluster, topic: str) -> list[Any]:
    """Records of the only partition of a topic."""
    return records(await asyncio.to_thread(read_back, guarded, topic)).get(0, [])


async def test_suspended_in_the_middle_it_stands_still_and_resumed_it_comes_to_its_end_once(
    here: World, guarded: KafkaCluster, tmp_path: Path
) -> None:
    key, replay, source, target = await begun(here, guarded, tmp_path / "one")
    plan = (await here.status(key))["plan"]
    worker = await in_the_middle(replay)
    await annotate(here, key, "suspend", "2026-11-24T12:00:00Z")
    await here.settle(key)
    assert await stopped(here, key)
    worker.terminate()  # what the Job controller does to the pods of a suspended Job
    code, _ = await asyncio.to_thread(outcome, worker)
    assert code == ExitCode.STOPPED
    status = await until(here, key, "Suspended")
    await here.settle(key)
    positions = await asyncio.to_thread(replay.positions)
    (position,) = positions.values()
    assert 0 < position.offset < COUNT
    assert (await here.status(key))["progress"]["positions"] == [position.offset]
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Ready": "False",
        "Planned": "True",
        "Suspended": "True",
    }
    name, _ = await job_of(here, key)
    assert await here.secret(name) is not None
    assert await acls(here.admin, run_of(here, key)[1])
    writes = here.writes()
    await here.settle(key)
    assert here.writes() == writes
    # Whether by the same operator after a while or by another one, positions are committed again as they were.
    here.now += timedelta(minutes=11)
    await here.settle(key)
    with_replays(here)
    await here.settle(key)
    assert await asyncio.to_thread(replay.positions) == positions
    await asyncio.to_thread(fill, guarded, source, 500)  # newer than the frozen range
    await annotate(here, key, "resume", "2026-12-02T12:00:00Z")
    status = await until(here, key, "Running")
    assert status["plan"] == plan
    assert not await stopped(here, key)
    replay = await pod(here, key, tmp_path / "two", guarded)
    code, summary = await asyncio.to_thread(replay.run)
    assert (code, summary["records"]) == (0, COUNT), summary
    await until(here, key, "Completed")
    assert await whole(guarded, target) == (await whole(guarded, source))[:COUNT]


async def test_a_worker_that_still_runs_when_positions_are_kept_is_fenced_and_nothing_is_put_back(
    here: World, guarded: KafkaCluster, tmp_path: Path
) -> None:
    key, replay, source, target = await begun(here, guarded, tmp_path)
    worker = await in_the_middle(replay)
    await annotate(here, key, "suspend", "one")
    await until(here, key, "Suspended")
    await asyncio.to_thread(wait_until, lambda: worker.poll() is None, 1, "a worker that goes on")
    with_replays(here)  # knows nothing of when they were kept, and keeps them at once
    await here.settle(key)
    code, _ = await asyncio.to_thread(outcome, worker)
    assert code == ExitCode.FENCED
    await annotate(here, key, "resume", "two")
    await until(here, key, "Running")
    code, summary = await asyncio.to_thread(replay.run)
    assert (code, summary["records"]) == (0, COUNT), summary
    await until(here, key, "Completed")
    assert await whole(guarded, target) == await whole(guarded, source)


async def test_cancelled_in_the_middle_it_stays_so_however_often_it_is_applied(
    here: World, guarded: KafkaCluster, tmp_path: Path
) -> None:
    key, replay, source, target = await begun(here, guarded, tmp_path)
    worker = await in_the_middle(replay)
    await annotate(here, key, "cancel", "one")
    status = await until(here, key, "Cancelled")
    code, _ = await asyncio.to_thread(outcome, worker)
    assert code != ExitCode.DONE
    assert await here.condition(key, "Failed") == ("True", "Cancelled")
    copied = await whole(guarded, target)
    assert 0 < len(copied) < COUNT
    assert status["progress"]["records"] == len(copied)
    await here.settle(key)
    assert (await job_of(here, key))[1] is None
    assert await acls(here.admin, run_of(here, key)[1]) == set()
    assert (await here.body(key))["metadata"].get("finalizers") is None
    await apply(here, source, target)  # self-heal of a GitOps tool
    await here.settle(key)
    assert (await here.status(key))["phase"] == "Cancelled"
    await here.delete(key)
    await apply(here, source, target)
    status = await until(here, key, "Cancelled", restart=True)
    assert f"after {len(copied):,} records; it isn't begun again" in status["conditions"][0]["message"]
    assert (await job_of(here, key))[1] is None
    assert await whole(guarded, target) == copied
    await here.delete(key)
    await apply(here, source, target, runId="again", ordering="AcceptReordering")
    assert (await started(here, key))["phase"] == "Running"


async def test_operators_killed_after_each_effect_of_suspend_and_resume_go_on_where_they_were(
    here: World, guarded: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, replay, source, target = await begun(here, guarded, tmp_path)
    worker = await in_the_middle(replay)
    worker.terminate()
    await asyncio.to_thread(outcome, worker)
    deaths = Deaths(here, key, monkeypatch)

    async def suspended(body: dict[str, Any]) -> bool:
        return body["status"]["phase"] == "Suspended" and await stopped(here, key)

    async def running(body: dict[str, Any]) -> bool:
        return body["status"]["phase"] == "Running" and not await stopped(here, key)

    for number in range(2):
        await annotate(here, key, "suspend", f"suspend {number}")
        assert await deaths.go_on(suspended) >= 2
        await annotate(here, key, "resume", f"resume {number}")
        assert await deaths.go_on(running) >= 2
    code, summary = await asyncio.to_thread(replay.run)
    assert (code, summary["records"]) == (0, COUNT), summary
    await until(here, key, "Completed")
    assert len((await here.status(key))["control"]["handled"]) == 4
    assert await whole(guarded, target) == await whole(guarded, source)


async def test_operators_killed_after_each_effect_of_cancel_cancel_it_all_the_same(
    here: World, guarded: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, replay, source, target = await begun(here, guarded, tmp_path)
    worker = await in_the_middle(replay)
    await annotate(here, key, "cancel", "one")

    async def cancelled(body: dict[str, Any]) -> bool:
        return body["status"]["phase"] == "Cancelled" and not body["metadata"].get("finalizers")

    assert await Deaths(here, key, monkeypatch).go_on(cancelled) >= 4
    assert (await asyncio.to_thread(outcome, worker))[0] != ExitCode.DONE
    copied = await whole(guarded, target)
    assert (await here.status(key))["progress"]["records"] == len(copied)
    assert copied == (await whole(guarded, source))[: len(copied)]
    assert await acls(here.admin, run_of(here, key)[1]) == set()


async def test_the_commands_write_tokens_that_self_heal_leaves_alone(
    here: World, guarded: KafkaCluster, kubeconfig: Path
) -> None:
    async def sluice(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).parent / "sluice"
        command = [str(program), "replay", *arguments, "--namespace", here.namespace]
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        return await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, check=False
        )

    source, target = await topics(here, 1)
    await asyncio.to_thread(fill, guarded, source, 100)
    made = await sluice("create", "replay", "--cluster", "demo", "--source", source, "--target", target)
    assert made.returncode == 0, made.stderr
    key = Key("ReplayJob", here.namespace, "replay")
    await started(here, key)
    for act, phase in (("suspend", "Suspended"), ("resume", "Running"), ("cancel", "Cancelled")):
        asked = await sluice(act, "replay")
        assert (asked.returncode, asked.stderr) == (0, "")
        assert f"replay: asked to {act}" in asked.stdout
        await apply(here, source, target)  # self-heal of a GitOps tool
        body = await here.body(key)
        assert f"sluice.dev/{act}" in body["metadata"]["annotations"]
        managers = {entry["manager"] for entry in body["metadata"]["managedFields"]}
        assert "sluice-cli" in managers
        await until(here, key, phase)
    late = await sluice("resume", "replay")
    assert (late.returncode, late.stdout) == (1, "")
    assert "has ended already (Cancelled)" in late.stderr
    watched = await sluice("watch", "replay")
    assert watched.returncode == 1
    assert "Cancelled" in watched.stdout
    missing = await sluice("cancel", "nobody")
    assert missing.returncode == 1
    assert "nobody doesn't exist" in missing.stderr
