"""A replay's positions as the operator sees them: committed before the first worker starts, and read as progress."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from kafka.protocol.consumer import OffsetCommitRequest, OffsetFetchRequest

from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaUnreachableError, check
from sluice.plan.observed import TopicPartition
from sluice.plan.replay_progress import Committed
from sluice.replay.positions import Counts

_BY_NAME: Final = 9
"""Highest version of both requests that says topics by name rather than by id."""
_MOVING: Final = frozenset({"NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS"})
_PAUSES: Final = (0.1, 0.2, 0.4, 0.8, 1.6)

T = TypeVar("T")


async def read_positions(admin: KafkaAdmin, group: str) -> dict[TopicPartition, Committed]:
    """Committed positions and counts; those that an open transaction may still change are given as they were before.

    Raises:
        KafkaUnreachableError: they can't be read now.
    """
    batched = await admin.version_of(OffsetFetchRequest) >= 8

    async def ask(coordinator: int) -> dict[TopicPartition, Committed]:
        if batched:
            request = OffsetFetchRequest(
                groups=[OffsetFetchRequest.OffsetFetchRequestGroup(group_id=group, topics=None)],
                min_version=8,
                max_version=_BY_NAME,
            )
        else:
            request = OffsetFetchRequest(group_id=group, topics=None, min_version=2, max_version=7)
        response = await admin.read(request, f"positions of {group}", node=coordinator)
        answer = response.groups[0] if batched else response
        check(answer.error_code, f"positions of {group}")
        found: dict[TopicPartition, Committed] = {}
        for topic in answer.topics:
            for partition in topic.partitions:
                check(partition.error_code, f"position of {group} in {topic.name}-{partition.partition_index}")
                if partition.committed_offset >= 0:
                    counts = Counts.parse(partition.metadata)
                    place = TopicPartition(topic.name, partition.partition_index)
                    found[place] = Committed(partition.committed_offset, counts.records, counts.bytes)
        return found

    return await _at_coordinator(admin, group, ask)


async def commit_positions(admin: KafkaAdmin, group: str, positions: Mapping[TopicPartition, int]) -> None:
    """Commit start positions, with nothing written yet. Only while no worker runs.

    Raises:
        KafkaUnreachableError: whether they are committed isn't known; committing them again does no harm.
        KafkaRefusedError: Kafka says no.
    """
    topic_type = OffsetCommitRequest.OffsetCommitRequestTopic
    by_topic: dict[str, list[Any]] = defaultdict(list)
    for (topic, partition), offset in positions.items():
        by_topic[topic].append(
            topic_type.OffsetCommitRequestPartition(
                partition_index=partition, committed_offset=offset, committed_metadata=Counts().metadata()
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

    await _at_coordinator(admin, group, ask)


async def _at_coordinator(admin: KafkaAdmin, group: str, ask: Callable[[int], Awaitable[T]]) -> T:
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
