"""A replay's positions as the operator sees them: committed before the first worker starts, and read as progress."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, TypeVar

from kafka.protocol.consumer import OffsetCommitRequest, OffsetFetchRequest

from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaUnreachableError, check, code_name
from sluice.plan.observed import TopicPartition
from sluice.plan.replay_progress import Committed
from sluice.replay.assignment import Limits, transactional_id
from sluice.replay.cluster import TRANSACTION, ReplayCluster
from sluice.replay.errors import DoubtError, ReplayError
from sluice.replay.positions import Counts
from sluice.replay.transaction import Position, Transactions

_BY_NAME: Final = 9
"""Highest version of both requests that says topics by name rather than by id."""
_MOVING: Final = frozenset({"NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS"})
_PAUSES: Final = (0.1, 0.2, 0.4, 0.8, 1.6)

T = TypeVar("T")


class Place(NamedTuple):
    """A committed offset, and what was committed with it."""

    offset: int
    metadata: str


async def read_positions(admin: KafkaAdmin, group: str) -> dict[TopicPartition, Committed]:
    """Committed positions and counts; those that an open transaction may still change are given as they were before.

    Raises:
        KafkaUnreachableError: they can't be read now.
    """
    found = await read_places(admin, group)
    return {place: _committed(at) for place, at in found.items()}


def _committed(at: Place) -> Committed:
    counts = Counts.parse(at.metadata)
    return Committed(at.offset, counts.records, counts.bytes, counts.filtered)


def _as_place(at: Committed) -> Place:
    return Place(at.offset, Counts(at.records, at.bytes, at.filtered).metadata())


async def read_places(admin: KafkaAdmin, group: str, *, require_stable: bool = False) -> dict[TopicPartition, Place]:
    """All that a group has committed; with ``require_stable`` only if no open transaction may still change it.

    Raises:
        KafkaUnreachableError: it can't be read now, or isn't stable.
    """
    batched = await admin.version_of(OffsetFetchRequest) >= 8

    async def ask(coordinator: int) -> dict[TopicPartition, Place]:
        if batched:
            request = OffsetFetchRequest(
                groups=[OffsetFetchRequest.OffsetFetchRequestGroup(group_id=group, topics=None)],
                require_stable=require_stable,
                min_version=8,
                max_version=_BY_NAME,
            )
        else:
            least = 7 if require_stable else 2
            request = OffsetFetchRequest(
                group_id=group, topics=None, require_stable=require_stable, min_version=least, max_version=7
            )
        response = await admin.read(request, f"positions of {group}", node=coordinator)
        answer = response.groups[0] if batched else response
        if answer.error_code and code_name(answer.error_code) == "GROUP_ID_NOT_FOUND":
            return {}
        check(answer.error_code, f"positions of {group}")
        found: dict[TopicPartition, Place] = {}
        for topic in answer.topics:
            for partition in topic.partitions:
                check(partition.error_code, f"position of {group} in {topic.name}-{partition.partition_index}")
                if partition.committed_offset >= 0:
                    place = TopicPartition(topic.name, partition.partition_index)
                    found[place] = Place(partition.committed_offset, partition.metadata or "")
        return found

    return await at_coordinator(admin, group, ask)


async def commit_starts(
    admin: KafkaAdmin, fence: Callable[[], None], run: str, shards: Mapping[int, Mapping[TopicPartition, int]]
) -> None:
    """Commit the start positions of each shard where there is none yet; they are there when this returns.

    They are committed as a worker's are, under the shard's transactional id: once a worker has started, what is left
    of this call comes to nothing, however late it gets to Kafka.

    Raises:
        KafkaUnreachableError: whether they are committed isn't known; doing it again does no harm.
    """
    async with _as_worker(admin, fence, run) as become:
        for shard, starts in shards.items():
            transactions = await become(shard)
            present = await read_positions(admin, run)
            missing = {place: Position(start, Counts()) for place, start in starts.items() if place not in present}
            if missing:
                await transactions.commit_positions(missing)
                fence()
                await transactions.end()
            # What was committed is seen a moment later: whoever reads too early takes it for lost.
            await transactions.positions(starts)


async def keep_positions(
    admin: KafkaAdmin, fence: Callable[[], None], run: str, shards: Mapping[int, Collection[TopicPartition]]
) -> None:
    """Commit the positions of shards that rest again, as they are, so that they don't expire.

    As a worker does: one that still ran would be fenced, so that nothing is put back that it has committed since; and
    once a worker has started again, what is left of this call comes to nothing, however late it gets to Kafka.

    Raises:
        KafkaUnreachableError: whether they are committed isn't known, or one is gone; doing it again does no harm.
    """
    async with _as_worker(admin, fence, run) as become:
        for shard, places in shards.items():
            transactions = await become(shard)
            await transactions.commit_positions(await transactions.positions(places))
            fence()
            await transactions.end()
            # What was committed is seen a moment later: whoever reads too early takes it for lost.
            await transactions.positions(places)


async def end_transactions(admin: KafkaAdmin, fence: Callable[[], None], run: str, shards: int) -> None:
    """Abort what workers have left open, which would hold up readers of the target, and fence those that still run.

    Raises:
        KafkaUnreachableError: some may still be open.
    """
    async with _as_worker(admin, fence, run) as become:
        for shard in range(shards):
            await become(shard)


@asynccontextmanager
async def _as_worker(
    admin: KafkaAdmin, fence: Callable[[], None], run: str
) -> AsyncIterator[Callable[[int], Awaitable[Transactions]]]:
    """How to become the producer of a shard, with the operator's own rights."""
    cluster = ReplayCluster(lambda: admin.settings, "target")

    async def become(shard: int) -> Transactions:
        name = transactional_id(run, shard)
        # In a new cluster coordinators are made when they are first asked for; the admin client waits for them.
        await admin.coordinators([name], TRANSACTION)
        made = Transactions(cluster, name, run, Limits().transaction_timeout_ms)
        fence()
        await made.start()
        return made

    try:
        await cluster.start()
        yield become
    except (DoubtError, ReplayError) as error:
        raise KafkaUnreachableError(f"transactions of {run}: {error}") from error
    finally:
        cluster.close()


async def commit_positions(admin: KafkaAdmin, group: str, positions: Mapping[TopicPartition, int]) -> None:
    """Commit start positions, with nothing written yet. Only where no operator and no worker is about."""
    await recommit(admin, group, {place: Committed(offset, 0, 0) for place, offset in positions.items()})


async def recommit(admin: KafkaAdmin, group: str, positions: Mapping[TopicPartition, Committed]) -> None:
    """Commit positions again that can't change any more: they expire each from its own commit on.

    Raises:
        KafkaUnreachableError: whether they are committed isn't known; committing them again does no harm.
        KafkaRefusedError: Kafka says no.
    """
    await commit_places(
        admin,
        group,
        {place: _as_place(at) for place, at in positions.items()},
    )


async def commit_places(admin: KafkaAdmin, group: str, places: Mapping[TopicPartition, Place]) -> None:
    """Commit for a group without members, all or nothing but for topics that are gone.

    Raises:
        KafkaUnreachableError: whether it is committed isn't known.
        KafkaRefusedError: Kafka says no, as it does while the group has members (``UNKNOWN_MEMBER_ID``).
    """
    topic_type = OffsetCommitRequest.OffsetCommitRequestTopic
    by_topic: dict[str, list[Any]] = defaultdict(list)
    for (topic, partition), at in places.items():
        by_topic[topic].append(
            topic_type.OffsetCommitRequestPartition(
                partition_index=partition, committed_offset=at.offset, committed_metadata=at.metadata
            )
        )

    async def ask(coordinator: int) -> None:
        request = OffsetCommitRequest(
            group_id=group,
            generation_id_or_member_epoch=-1,
            member_id="",
            topics=[topic_type(name=name, partitions=partitions) for name, partitions in by_topic.items()],
            max_version=_BY_NAME,
        )
        response = await admin.write(request, f"positions of {group}", node=coordinator)
        for topic in response.topics:
            for partition in topic.partitions:
                check(partition.error_code, f"position of {group} in {topic.name}-{partition.partition_index}")

    await at_coordinator(admin, group, ask)


async def at_coordinator(admin: KafkaAdmin, group: str, ask: Callable[[int], Awaitable[T]]) -> T:
    """Ask the group's coordinator; again, for a moment, while it moves or is being made."""
    for pause in (*_PAUSES, None):
        try:
            return await ask((await admin.coordinators([group]))[group])
        except KafkaUnreachableError as error:
            if error.code not in _MOVING or pause is None:
                raise
            admin.forget_coordinators([group])
            await asyncio.sleep(pause)
    raise AssertionError("the last try returns or raises")
