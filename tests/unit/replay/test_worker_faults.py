"""The worker against a Kafka that loses, refuses and moves on order: each record is written once, whatever happens."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka.protocol.consumer import FetchRequest
from kafka.protocol.metadata import FindCoordinatorRequest
from kafka.protocol.producer import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
    ProduceRequest,
    TxnOffsetCommitRequest,
)

from sluice.replay import worker as worker_module
from sluice.replay.assignment import Access, Assignment, Limits, Slice, TopicRoute
from sluice.replay.errors import DeniedError, FencedError, PositionLostError, RangeLostError, RefusedError
from sluice.replay.positions import Counts
from sluice.replay.worker import Worker
from tests.support.fake_kafka import SOURCE, TARGET, FakeKafka, Lost, kafka_id
from tests.unit.replay.test_selection import batch

SMALL = Limits(transaction_bytes=150, buffer_bytes=2000, fetch_bytes=500, request_bytes=100, stall_seconds=10)
TRANSACTIONAL = (
    InitProducerIdRequest,
    AddPartitionsToTxnRequest,
    AddOffsetsToTxnRequest,
    ProduceRequest,
    TxnOffsetCommitRequest,
    EndTxnRequest,
)
LONG = Limits(buffer_bytes=2000, fetch_bytes=500, request_bytes=100, stall_seconds=10)
"""One transaction for all."""
BATCHES = 30
PER_BATCH = 4
VALUES = [str(number).encode() for number in range(BATCHES * PER_BATCH)]


def assignment(kafka: FakeKafka, *, start: int = 0, end: int = BATCHES * PER_BATCH, **changes: Any) -> Assignment:
    """A copy of the source's partition, in transactions of a few batches."""
    access = Access((f"127.0.0.1:{kafka.port()}",))
    route = TopicRoute(SOURCE, kafka_id(SOURCE), TARGET, kafka_id(TARGET), SOURCE, 10**6)
    values = {"limits": SMALL, "routes": (route,), "slices": (Slice(0, 0, start, end, 0),)} | changes
    return Assignment(name="job", source=access, target=access, group="group", transactional_id_prefix="job", **values)


async def run(kafka: FakeKafka, plan: Assignment | None = None, seconds: float = 20) -> Counts | None:
    """A worker to its end."""
    kafka.source = kafka.source or [batch(number * PER_BATCH, PER_BATCH) for number in range(BATCHES)]
    async with asyncio.timeout(seconds):
        return await Worker(plan or assignment(kafka), Path("/nowhere"), 0).run()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("request_type", [EndTxnRequest, ProduceRequest, TxnOffsetCommitRequest, InitProducerIdRequest])
@pytest.mark.parametrize("lost", [Lost.BEFORE, Lost.AFTER])
async def test_a_request_that_is_lost_before_or_after_it_was_done(version: int, request_type: Any, lost: Lost) -> None:
    async with FakeKafka(transaction_version=version) as kafka:
        # The first of a kind, one in the middle, and two in a row.
        kafka.script(request_type, lost, *([0] * 5), lost, lost)
        counts = await run(kafka)
        assert kafka.values == VALUES
        assert kafka.transactions.committed[0] == BATCHES * PER_BATCH
        assert counts is not None
        assert counts.records == BATCHES * PER_BATCH
        assert kafka.count(InitProducerIdRequest) > 1


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("seed", range(15))
async def test_any_number_of_losses_in_any_order(version: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(worker_module, "_LONGEST_PAUSE", 0.01)
    chance = random.Random(seed)  # noqa: S311
    async with FakeKafka(transaction_version=version) as kafka:
        for request_type in TRANSACTIONAL:
            faults = chance.choices((0, Lost.BEFORE, Lost.AFTER), (8, 1, 1), k=60)
            kafka.script(request_type, *faults)
        await run(kafka)
        assert kafka.values == VALUES


@pytest.mark.parametrize(("version", "code"), [(2, 51), (1, 51), (1, 19)])
async def test_the_next_transactions_first_batch_waits_for_the_end_of_the_former(version: int, code: int) -> None:
    async with FakeKafka(transaction_version=version) as kafka:
        refused: list[int] = []

        def busy(_request: Any) -> int | None:
            if kafka.transactions.begun or len(refused) % 4 == 3:
                return None
            refused.append(code)
            return code

        kafka.script(ProduceRequest, 0, 0, *([busy] * 12))
        await run(kafka)
        assert len(refused) >= 3
        assert kafka.values == VALUES
        assert kafka.count(InitProducerIdRequest) == 1, "that is no reason to give a session up"


@pytest.mark.parametrize("version", [1, 2])
async def test_a_coordinator_that_moves_is_found_again(version: int) -> None:
    async with FakeKafka(transaction_version=version) as kafka:

        def move(_request: Any) -> None:
            kafka.coordinator = 1 - kafka.coordinator

        kafka.script(EndTxnRequest, 0, 0, move, 0, 0, move)
        kafka.script(TxnOffsetCommitRequest, 0, 0, 0, 0, 0, move)
        await run(kafka)
        assert kafka.values == VALUES
        assert kafka.count(FindCoordinatorRequest) >= 5
        assert kafka.count(InitProducerIdRequest) == 1


@pytest.mark.parametrize("version", [1, 2])
async def test_a_session_that_failed_with_an_open_transaction_isnt_taken_for_another_worker(version: int) -> None:
    async with FakeKafka(transaction_version=version) as kafka:
        kafka.script(TxnOffsetCommitRequest, 0, Lost.BEFORE)
        await run(kafka)
        assert kafka.values == VALUES
        assert kafka.transactions.aborts == 1


@pytest.mark.parametrize("version", [1, 2])
async def test_another_worker_is_told_from_our_own_past(version: int) -> None:
    async with FakeKafka(transaction_version=version) as kafka:

        def take_over(_request: Any) -> None:
            while kafka.transactions.init(-1):
                pass

        kafka.script(TxnOffsetCommitRequest, 0, take_over)
        with pytest.raises(FencedError, match="another worker"):
            await run(kafka)


@pytest.mark.parametrize("committed", [4, 21])
async def test_a_position_outside_of_the_frozen_range_is_not_gone_on_from(committed: int) -> None:
    async with FakeKafka() as kafka:
        kafka.transactions.committed = (committed, "")
        with pytest.raises(PositionLostError, match=str(committed)):
            await run(kafka, assignment(kafka, start=5, end=20))
        assert kafka.values == []


@pytest.mark.parametrize(
    ("request_type", "code", "error"), [(ProduceRequest, 87, RefusedError), (FetchRequest, 1, RangeLostError)]
)
async def test_a_worker_that_gives_up_leaves_no_transaction_open(
    request_type: Any, code: int, error: type[Exception]
) -> None:
    async with FakeKafka(batches_per_fetch=1) as kafka:
        kafka.script(request_type, *([0] * 8), code)
        with pytest.raises(error):
            await run(kafka, assignment(kafka, limits=LONG))
        assert not kafka.transactions.open


async def test_positions_are_committed_while_nothing_is_selected() -> None:
    async with FakeKafka(batches_per_fetch=1) as kafka:
        plan = assignment(kafka, from_ms=10**6, limits=Limits(transaction_ms=50))
        seen: list[int] = []

        def slowly(_request: Any) -> None:
            time.sleep(0.02)  # each fetch wakes the worker long before a second has passed
            seen.append(kafka.transactions.committed[0])

        kafka.script(FetchRequest, *([slowly] * BATCHES))
        await run(kafka, plan)
        assert kafka.values == []
        assert len(set(seen)) > 3


async def test_a_quota_slows_down_and_breaks_nothing() -> None:
    async with FakeKafka(quota=100_000) as kafka:
        kafka.source = [batch(number * 100, 100) for number in range(20)]
        limits = Limits(transaction_bytes=10**6)
        started = time.monotonic()
        await run(kafka, assignment(kafka, limits=limits, slices=(Slice(0, 0, 0, 2000, 0),)))
        sent = sum(
            len(request.topic_data[0].partition_data[0].records)
            for name, request in kafka.asked
            if name == "ProduceRequest"
        )
        assert kafka.count(InitProducerIdRequest) == 1
        assert time.monotonic() - started > 0.8 * sent / kafka.quota
        assert len(kafka.values) == 2000


async def test_a_denial_is_waited_for_from_its_first_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    clock = {"ahead": 0.0}
    monkeypatch.setattr(worker_module, "time", FakeTime(lambda: now + clock["ahead"]))
    async with FakeKafka() as kafka:
        worker = Worker(assignment(kafka, limits=Limits()), Path("/nowhere"), 0)
        clock["ahead"] = 60.0  # nothing moved for a minute, which is no denial
        worker._judge(DeniedError("no right"))
        clock["ahead"] = 79.0
        worker._judge(DeniedError("no right"))
        clock["ahead"] = 81.0
        with pytest.raises(DeniedError):
            worker._judge(DeniedError("no right"))


class FakeTime:
    """A clock that is set."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
