"""The comparison with what is listed: soon after the start, at intervals, when asked to, until it succeeds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sluice.api.objects import Key
from sluice.engine import resync
from sluice.engine.index import Index
from sluice.engine.resync import Resync
from tests.unit.engine.engine_fakes import FakeKube, topic, topic_key, until

NEVER = 3600.0


class Looks:
    """Stands for the workers: counts how often everything is to be looked at."""

    def __init__(self) -> None:
        self.all = 0

    async def room(self) -> None:
        return None

    def enqueue_all(self, spread: float = 0.0) -> None:
        self.all += 1


class Rig:
    """A resync over the fake API server."""

    def __init__(self) -> None:
        self.kube = FakeKube()
        self.index = Index()
        self.looks = Looks()
        parts: Any = (self.kube, self.index, self.looks)
        self.resync = Resync(*parts, namespaces=[], interval=NEVER, chance=random.Random(1))  # noqa: S311

    @property
    def known(self) -> list[Key]:
        return self.index.keys("Topic")

    def delete(self, name: str) -> None:
        """As another client does, in a moment in which nothing is watched."""
        del self.kube.objects[topic_key(name)]
        self.kube.version += 1


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "_STARTUP", 0.0)
    monkeypatch.setattr(resync, "_SETTLE", 0.0)
    monkeypatch.setattr(resync, "backoff", lambda *_: 0.0)


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    """A rig that knows two topics, and runs."""
    rig = Rig()
    for name in ("kept", "gone"):
        rig.kube.put(topic(name))
    await rig.resync.first()
    assert len(rig.known) == 2
    task = asyncio.create_task(rig.resync.run())
    try:
        yield rig
    finally:
        task.cancel()


async def test_a_deletion_between_the_first_listing_and_the_watch_is_found_soon() -> None:
    async with running() as rig:
        rig.delete("gone")
        await until(lambda: rig.known == [topic_key("kept")])
        assert rig.looks.all == 0, "what a restart has looked at already isn't looked at again"


async def test_a_watch_that_starts_anew_has_everything_compared_and_looked_at() -> None:
    async with running() as rig:
        await asyncio.sleep(0.01)
        rig.delete("gone")
        rig.resync.relisted()
        await until(lambda: rig.looks.all == 1)
        assert rig.known == [topic_key("kept")]


async def test_a_comparison_that_fails_is_tried_again_and_not_put_off_to_the_next_one() -> None:
    async with running() as rig:
        await asyncio.sleep(0.01)
        rig.delete("gone")
        rig.kube.unreachable = 3
        rig.resync.relisted()
        await until(lambda: rig.known == [topic_key("kept")])
        assert rig.kube.unreachable == 0


async def test_the_index_is_filled_as_soon_as_the_api_server_answers() -> None:
    rig = Rig()
    rig.kube.put(topic("kept"))
    rig.kube.unreachable = 3
    assert not rig.resync.synced
    await rig.resync.first()
    assert rig.resync.synced
    assert rig.known == [topic_key("kept")]


async def test_what_happens_while_it_is_listed_is_neither_lost_nor_undone() -> None:
    rig = Rig()
    for name in ("kept", "gone"):
        rig.kube.put(topic(name))
    await rig.resync.first()
    listing = rig.kube.listing

    async def meanwhile(api_version: str, kind: str, namespace: str | None = None) -> Any:
        listed = await listing(api_version, kind, namespace)
        if kind == "Topic":
            rig.index.remove(topic_key("gone"), "uid-gone")
            rig.index.put(rig.kube.put(topic("made")))
        return listed

    rig.kube.listing = meanwhile  # type: ignore[method-assign]
    assert await rig.resync.once() == 0
    assert rig.known == [topic_key("kept"), topic_key("made")]
