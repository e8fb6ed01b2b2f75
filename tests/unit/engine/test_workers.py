"""The loop: what becomes of each outcome, and that one object's trouble stays its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sluice.api.base import Reason
from sluice.api.objects import Key
from sluice.engine.errors import NotLeaderError, UserError, WaitingError
from sluice.engine.reconciler import Outcome
from sluice.engine.workers import Workers
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError
from sluice.kube.errors import InvalidError, UnavailableError
from tests.unit.engine.engine_fakes import FakeKube, make_context, topic, topic_key, until

Result = Outcome | Exception


class Recorder:
    """A reconciler that does as it is told and remembers what it saw."""

    kind = "Topic"

    def __init__(self) -> None:
        self.batches: list[tuple[Key, ...]] = []
        self.answer: Callable[[Key], Result] = lambda _: Outcome()
        self.gate: asyncio.Event | None = None
        self.leaving: set[Key] = set()
        self.called = asyncio.Event()

    def lane(self, key: Key) -> str:
        return "leaving" if key in self.leaving else key.name[0]

    async def reconcile(self, keys: Sequence[Key]) -> Mapping[Key, Result]:
        self.batches.append(tuple(keys))
        self.called.set()
        if self.gate is not None:
            await self.gate.wait()
        return {key: self.answer(key) for key in keys}


class Rig:
    """Workers with one reconciler over the fake API server."""

    def __init__(self) -> None:
        self.kube = FakeKube()
        self.context = make_context(self.kube)
        self.reconciler = Recorder()
        self.workers = Workers(concurrency=4, queue_limit=100, chance=random.Random(1))  # noqa: S311
        self.workers.equip(self.context, [self.reconciler])

    def put(self, body: dict[str, Any]) -> None:
        self.context.index.put(self.kube.put(body))

    async def settle(self) -> None:
        """Until nothing runs and nothing is due."""
        while True:
            await asyncio.sleep(0)
            if self.workers.idle:
                return

    def ready(self, name: str) -> tuple[str, str] | None:
        status = self.kube.objects[topic_key(name)].get("status", {})
        found = [(c["status"], c["reason"]) for c in status.get("conditions", []) if c["type"] == "Ready"]
        return found[0] if found else None

    def outcomes(self, outcome: str) -> float:
        return self.context.metrics.reconciles.labels("Topic", outcome)._value.get()


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    """A rig whose loop runs and leads."""
    rig = Rig()
    task = asyncio.create_task(rig.workers.run())
    rig.workers.lead(True)
    try:
        yield rig
    finally:
        task.cancel()
        await rig.context.events.flush()


async def test_due_keys_of_a_lane_come_together_and_lanes_side_by_side() -> None:
    async with running() as rig:
        rig.reconciler.gate = asyncio.Event()
        for name in ("a1", "a2", "b1"):
            rig.put(topic(name))
            rig.workers.enqueue(topic_key(name))
        await rig.reconciler.called.wait()
        await asyncio.sleep(0)
        assert sorted(map(len, rig.reconciler.batches)) == [1, 2]
        rig.reconciler.gate.set()
        await rig.settle()


async def test_what_is_deleted_does_not_wait_for_a_batch_of_its_old_lane_that_is_stuck() -> None:
    async with running() as rig:
        rig.reconciler.gate = asyncio.Event()
        rig.workers.enqueue(topic_key("a1"))
        await until(lambda: rig.reconciler.batches == [(topic_key("a1"),)])
        rig.workers.enqueue(topic_key("a2"))
        rig.reconciler.leaving.add(topic_key("a2"))
        rig.workers.enqueue(topic_key("a2"))
        await until(lambda: rig.reconciler.batches[1:] == [(topic_key("a2"),)])
        rig.reconciler.gate.set()
        await rig.settle()


async def test_what_is_deleted_while_it_runs_is_tried_again_in_its_new_lane() -> None:
    async with running() as rig:
        rig.reconciler.gate = asyncio.Event()
        tries = iter([WaitingError(Reason.KAFKA_UNREACHABLE, "nobody answers", retry_after=0.0)])
        rig.reconciler.answer = lambda key: next(tries, Outcome()) if key == topic_key("a1") else Outcome()
        rig.workers.enqueue(topic_key("a1"))
        rig.workers.enqueue(topic_key("a2"))
        await until(lambda: len(rig.reconciler.batches) == 1)
        rig.workers.enqueue(topic_key("a2"))
        rig.reconciler.leaving.add(topic_key("a1"))
        rig.reconciler.gate.set()
        await rig.settle()
        assert [set(batch) for batch in rig.reconciler.batches] == [
            {topic_key("a1"), topic_key("a2")},
            {topic_key("a1")},
            {topic_key("a2")},
        ]


async def test_a_new_leader_looks_at_everything_and_a_follower_at_nothing() -> None:
    rig = Rig()
    task = asyncio.create_task(rig.workers.run())
    rig.put(topic("a"))
    rig.workers.enqueue(topic_key("a"))
    await rig.settle()
    assert rig.reconciler.batches == []
    rig.workers.lead(True)
    await rig.reconciler.called.wait()
    assert rig.reconciler.batches == [(topic_key("a"),)]
    task.cancel()


async def test_one_objects_error_is_not_its_neighbours() -> None:
    async with running() as rig:
        bad = UserError(Reason.CONFLICT, "two objects for one topic: delete one of them")
        rig.reconciler.answer = lambda key: bad if key.name == "a2" else Outcome()
        for name in ("a1", "a2"):
            rig.put(topic(name))
            rig.workers.enqueue(topic_key(name))
        await rig.settle()
        assert rig.ready("a1") is None
        assert rig.ready("a2") == ("False", "Conflict")


async def test_a_status_that_cannot_be_written_is_not_its_neighbours_trouble() -> None:
    async with running() as rig:
        rig.reconciler.answer = lambda _: UserError(Reason.CONFLICT, "delete one of them")
        for name in ("a1", "a2", "a3"):
            rig.put(topic(name))
        rig.kube.refused[topic_key("a1")] = InvalidError(422, "Invalid", "no such field")
        for attempt in range(1, 4):
            for name in ("a1", "a2", "a3"):
                rig.workers.enqueue(topic_key(name))
            await rig.settle()
            assert rig.workers._schedule.failures(topic_key("a1")) == attempt
        assert [rig.ready(name) for name in ("a1", "a2", "a3")] == [None, *[("False", "Conflict")] * 2]
        assert [rig.workers._schedule.failures(topic_key(name)) for name in ("a2", "a3")] == [0, 0]
        assert rig.outcomes("user_error") == 6
        assert rig.outcomes("error") == 3


async def test_statuses_that_cannot_be_written_are_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as rig:
        rig.reconciler.answer = lambda _: UserError(Reason.CONFLICT, "delete one of them")
        for number in range(50):
            rig.put(topic(f"a{number}"))
            rig.kube.refused[topic_key(f"a{number}")] = UnavailableError(503, "", "etcd is away")
            rig.workers.enqueue(topic_key(f"a{number}"))
        await rig.settle()
        lines = [r for r in caplog.records if "etcd is away" in r.getMessage()]
        assert [r.__dict__["count"] for r in lines] == [50]


async def test_a_users_error_is_told_once_and_not_retried() -> None:
    async with running() as rig:
        rig.reconciler.answer = lambda _: UserError(Reason.CONFLICT, "delete one of them")
        rig.put(topic("a"))
        for _ in range(3):
            rig.workers.enqueue(topic_key("a"))
            await rig.settle()
        await rig.context.events.flush()
        patches = [w for w in rig.kube.writes if w[0] == "patch"]
        events = [w for w in rig.kube.writes if w[0] == "create"]
        assert len(patches) == 1
        assert len(events) == 1
        assert rig.workers._schedule.next_due(0.0) is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (WaitingError(Reason.CLUSTER_NOT_FOUND, "create it", retry_after=30), "ClusterNotFound"),
        (KafkaRefusedError(Reason.KAFKA_REFUSED, "correct it"), "KafkaRefused"),
    ],
)
async def test_waiting_and_refusals_are_told_at_once_and_looked_at_calmly(error: Exception, reason: str) -> None:
    async with running() as rig:
        rig.reconciler.answer = lambda _: error
        rig.put(topic("a"))
        rig.workers.enqueue(topic_key("a"))
        await rig.settle()
        assert rig.ready("a") == ("False", reason)
        now = asyncio.get_running_loop().time()
        due = rig.workers._schedule.next_due(now)
        assert due is not None
        assert due - now > 20


async def test_an_error_of_the_world_is_told_at_once_where_somebody_waits_and_else_from_the_third_time_on() -> None:
    async with running() as rig:
        rig.reconciler.answer = lambda _: KafkaUnreachableError("nobody answers at broker:9091")
        well = {"type": "Ready", "status": "True", "reason": "Ready", "lastTransitionTime": "2026-11-23T00:00:00Z"}
        rig.put(topic("new"))
        rig.put(topic("well") | {"status": {"conditions": [well]}})
        seen = []
        for _ in range(3):
            for name in ("new", "well"):
                rig.workers.enqueue(topic_key(name))
            await rig.settle()
            seen.append((rig.ready("new"), rig.ready("well")))
        told, fine = ("False", "KafkaUnreachable"), ("True", "Ready")
        assert seen == [(told, fine), (told, fine), (told, told)]
        assert rig.outcomes("error") == 6


async def test_the_text_of_an_unforeseen_error_stays_in_the_log() -> None:
    async with running() as rig:
        rig.reconciler.answer = lambda _: ValueError("password=hunter2")
        rig.put(topic("a"))
        for _ in range(3):
            rig.workers.enqueue(topic_key("a"))
            await rig.settle()
        assert rig.ready("a") == ("False", "InternalError")
        assert "hunter2" not in str(rig.kube.writes)


async def test_an_error_that_many_objects_share_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as rig:
        rig.reconciler.answer = lambda _: KafkaUnreachableError("nobody answers at broker:9091")
        for number in range(50):
            rig.put(topic(f"a{number}"))
            rig.workers.enqueue(topic_key(f"a{number}"))
        await rig.settle()
        lines = [r for r in caplog.records if "nobody answers" in r.getMessage()]
        assert [r.__dict__["count"] for r in lines] == [50]


async def test_success_forgets_failures_and_dates_the_object() -> None:
    async with running() as rig:
        answers: list[Result] = [ValueError("x"), Outcome(requeue_after=60)]
        rig.reconciler.answer = lambda _: answers.pop(0)
        rig.put(topic("a"))
        for _ in range(2):
            rig.workers.enqueue(topic_key("a"))
            await rig.settle()
        metrics = rig.context.metrics
        labels = {"kind": "Topic", "namespace": "ns", "name": "a"}
        name = "sluice_last_successful_reconcile_timestamp_seconds"
        assert metrics.registry.get_sample_value(name, labels) == rig.context.clock().timestamp()
        rig.context.index.remove(topic_key("a"), "uid-a")
        answers.append(Outcome())
        rig.workers.enqueue(topic_key("a"))
        await rig.settle()
        assert metrics.registry.get_sample_value(name, labels) is None


async def test_a_raised_exception_counts_for_every_key_and_the_lane_is_given_back() -> None:
    async with running() as rig:

        def explode(_: Key) -> Result:
            raise RuntimeError("bug")

        rig.reconciler.answer = explode
        for name in ("a1", "a2"):
            rig.put(topic(name))
            rig.workers.enqueue(topic_key(name))
        await rig.settle()
        assert rig.outcomes("error") == 2
        rig.reconciler.answer = lambda _: Outcome()
        rig.workers.enqueue(topic_key("a1"))
        await rig.settle()
        assert rig.outcomes("success") == 1


async def test_a_paused_object_is_not_touched_unless_it_is_deleted() -> None:
    async with running() as rig:
        paused = {"annotations": {"sluice.dev/paused": "true"}}
        rig.put(topic("a", **paused))
        rig.put(topic("b", deletionTimestamp="2026-11-24T00:00:00Z", finalizers=["sluice.dev/topic"], **paused))
        for name in "ab":
            rig.workers.enqueue(topic_key(name))
        await rig.settle()
        assert rig.reconciler.batches == [(topic_key("b"),)]
        assert rig.ready("a") == ("Unknown", "Paused")


async def test_a_spec_that_cannot_be_read_is_told_and_never_wedges_a_deletion() -> None:
    async with running() as rig:
        going = topic("b", deletionTimestamp="2026-11-24T00:00:00Z", finalizers=["sluice.dev/topic"])
        for body in (topic("a"), going):
            body["spec"]["partitions"] = "many"
            rig.put(body)
            rig.workers.enqueue(topic_key(body["metadata"]["name"]))
        await rig.settle()
        assert rig.reconciler.batches == []
        assert rig.ready("a") == ("False", "InvalidSpec")
        assert rig.kube.objects[topic_key("b")]["metadata"]["finalizers"] == []


async def test_a_lost_lead_is_no_objects_fault() -> None:
    async with running() as rig:
        rig.reconciler.answer = lambda _: NotLeaderError("lost")
        rig.put(topic("a"))
        for _ in range(5):
            rig.workers.enqueue(topic_key("a"))
            await rig.settle()
        assert rig.kube.writes == []


async def test_a_full_queue_slows_whoever_fills_it_and_drops_nothing() -> None:
    async with running() as rig:
        rig.reconciler.gate = asyncio.Event()
        rig.put(topic("a"))
        rig.workers.enqueue(topic_key("a"))
        await rig.reconciler.called.wait()
        for number in range(101):
            rig.workers.enqueue(topic_key(f"a{number}"))
        room = asyncio.create_task(rig.workers.room())
        await asyncio.sleep(0)
        assert not room.done()
        rig.reconciler.gate.set()
        await room
        await rig.settle()
        assert sum(map(len, rig.reconciler.batches)) == 102


async def test_stopping_lets_what_runs_finish_and_starts_nothing_new() -> None:
    async with running() as rig:
        rig.reconciler.gate = asyncio.Event()
        for name in "ab":
            rig.put(topic(name))
        rig.workers.enqueue(topic_key("a"))
        await rig.reconciler.called.wait()
        stopping = asyncio.create_task(rig.workers.stop())
        rig.workers.enqueue(topic_key("b"))
        await asyncio.sleep(0)
        rig.reconciler.gate.set()
        await stopping
        assert rig.outcomes("success") >= 1
        assert (topic_key("b"),) not in rig.reconciler.batches[2:]
