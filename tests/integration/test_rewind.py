"""Rewinds on a real Kafka and a real API server: moved while nobody is there, once, and put back."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sluice.api.base import API_VERSION
from sluice.api.objects import Key
from sluice.engine.group import ACTIVE
from sluice.kafka.errors import KafkaError, KafkaUnreachableError
from sluice.plan.observed import TopicPartition
from sluice.replay.ledger import Ledger
from sluice.replay.rewind_positions import look, move, unmark
from tests.integration.support.groups import committed, member, produce, topic
from tests.integration.support.replay_world import Deaths, until, with_replays
from tests.integration.support.world import World, eventually, world
from tests.support.kafka import KafkaCluster

START_MS = 1357002000000  # 2013-01-01T01:00:00Z


@pytest.fixture
async def here(kubeconfig: Path, kafka: KafkaCluster) -> AsyncIterator[World]:
    """A namespace with a Kafka of one broker."""
    async with world(kubeconfig, kafka) as made:
        with_replays(made)
        yield made


async def consumed(here: World, kafka: KafkaCluster) -> str:
    """A topic of five records, of which a group of the same name has consumed four."""
    name = f"rewind-{here.namespace}"
    await topic(here, name)
    await asyncio.to_thread(produce, kafka, name, 5, START_MS)

    async def moved() -> bool:  # in a new cluster the coordinator is on the move for a moment
        try:
            await here.admin.alter_group_offsets(name, at(name, 4, 0))
        except KafkaUnreachableError:
            return False
        return True

    await eventually(moved)
    return name


async def rewind(here: World, group: str, to: dict[str, Any], **spec: Any) -> Key:
    """A ReplayJob that moves a group."""
    values = {"group": group, "to": to, "waitForInactiveSeconds": spec.pop("wait", 0)}
    return await here.apply("ReplayJob", "rewind", {"mode": "Rewind", "rewind": values, **spec})


def at(name: str, *offsets: int) -> dict[TopicPartition, int]:
    """Positions in a topic's partitions."""
    return {TopicPartition(name, number): offset for number, offset in enumerate(offsets)}


async def undo(here: World, key: Key, kubeconfig: Path) -> None:
    """As people do."""
    program = Path(sys.executable).parent / "sluice"
    command = [str(program), "replay", "undo", key.name, "--namespace", key.namespace]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    asked = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=False
    )
    assert (asked.returncode, asked.stderr) == (0, "")


async def test_to_a_time_once_and_back(here: World, kafka: KafkaCluster, kubeconfig: Path) -> None:
    name = await consumed(here, kafka)
    to = {"time": "2013-01-01T01:00:00.002Z"}
    key = await rewind(here, name, to)
    status = await until(here, key, "Completed")
    assert await committed(here, name) == at(name, 2, 0)  # and no mark is left on it
    assert status["rewind"]["positions"] == [{"topic": name, "partition": 0, "from": 4, "to": 2}]
    values = await Ledger(here.admin, lambda: None).values()
    snapshot = json.loads(values[f"snapshot:{here.namespace}/{status['rewind']['snapshot']}"])
    assert snapshot["positions"] == {name: {"0": 4, "1": 0}}
    await here.admin.alter_group_offsets(name, at(name, 5))  # consumers go on
    await here.delete(key)
    with_replays(here)
    await rewind(here, name, to)
    assert (await until(here, key, "AlreadyCompleted"))["rewind"]["moved"] == 1
    assert await committed(here, name) == at(name, 5, 0)
    await undo(here, key, kubeconfig)
    await rewind(here, name, to)  # self-heal of a GitOps tool
    status = await until(here, key, "Undone")
    assert "the group has gone on since: 1 offsets will be consumed again" in status["conditions"][0]["message"]
    assert await committed(here, name) == at(name, 4, 0)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_a_group_with_members_is_waited_for_or_refused_and_they_are_named(
    here: World, kafka: KafkaCluster, protocol: str
) -> None:
    name = await consumed(here, kafka)
    config = {"group.protocol": protocol, "client.id": "teller"}
    with member(kafka, name, name, **config) as consumer:
        key = await rewind(here, name, {"at": "Earliest"})
        message = (await until(here, key, "Refused"))["conditions"][0]["message"]
        assert f"group {name} has 1 member: " in message
        assert "(client teller at 127.0.0.1)" in message
        assert str(consumer.memberid()) in message
        with pytest.raises(KafkaError) as refused:  # what Kafka says to an operator that didn't look
            await move(here.admin, name, at(name, 0), "mark")
        assert refused.value.code in ACTIVE
        await unmark(here.admin, name)
        found = await look(here.admin, name)
        assert (found.positions, found.mark) == (at(name, 4, 0), None)
        await here.delete(key)
        await rewind(here, name, {"at": "Earliest"}, wait=600)
        await until(here, key, "Pending")
        assert await here.condition(key, "Reconciling") == ("True", "GroupActive")
    await until(here, key, "Completed")
    assert await committed(here, name) == at(name, 0, 0)


async def test_operators_killed_after_each_effect_move_and_undo_it_once(
    here: World, kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await consumed(here, kafka)
    key = await rewind(here, name, {"shift": -3})
    deaths = Deaths(here, key, monkeypatch)

    async def completed(body: dict[str, Any]) -> bool:
        return bool(body.get("status", {}).get("phase") == "Completed")

    async def undone(body: dict[str, Any]) -> bool:
        return bool(body["status"]["phase"] == "Undone")

    assert await deaths.go_on(completed) >= 3
    assert await committed(here, name) == at(name, 1, 0)
    patch = {"metadata": {"annotations": {"sluice.dev/undo": "a"}}}
    await here.kube.patch(API_VERSION, key.kind, key.namespace, key.name, patch)
    assert await deaths.go_on(undone) >= 3
    assert await committed(here, name) == at(name, 4, 0)


async def test_a_group_that_is_none_is_refused(here: World) -> None:
    found = await look(here.admin, f"nobody-{here.namespace}")
    assert (found.positions, found.mark) == ({}, None)
    key = await rewind(here, f"nobody-{here.namespace}", {"at": "Latest"})
    message = (await until(here, key, "Refused"))["conditions"][0]["message"]
    assert "has no committed position" in message
