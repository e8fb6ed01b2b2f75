"""The positions of a group that a Rewind moves, and the mark that tells whether it has moved them.

The mark is committed with them, in the same request, as a position in the ledger's topic: Kafka takes all of it or
nothing, and only while the group has no members. Once the ledger has what the mark says, it is taken away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kafka.protocol.consumer import OffsetDeleteRequest

from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import check, code_name
from sluice.plan.observed import TopicPartition
from sluice.replay.group_positions import Place, at_coordinator, commit_places, read_places
from sluice.replay.ledger import TOPIC

MARK: Final = TopicPartition(TOPIC, 0)
_NOTHING_THERE: Final = frozenset({"GROUP_ID_NOT_FOUND", "UNKNOWN_TOPIC_OR_PARTITION"})


@dataclass(frozen=True)
class Found:
    """Where a group is, and the mark that was left on it."""

    positions: Mapping[TopicPartition, int]
    mark: str | None


async def look(admin: KafkaAdmin, group: str) -> Found:
    """Where a group is.

    Raises:
        KafkaUnreachableError: it can't be told now, as while a transaction is open that may still move it.
    """
    places = await read_places(admin, group, require_stable=True)
    mark = places.pop(MARK, None)
    return Found({place: at.offset for place, at in places.items()}, mark.metadata if mark else None)


async def move(admin: KafkaAdmin, group: str, positions: Mapping[TopicPartition, int], mark: str) -> None:
    """Move positions, and leave a mark.

    Raises:
        KafkaUnreachableError: whether they were moved isn't known; the mark tells.
        KafkaRefusedError: they weren't, as while the group has members.
    """
    places = {place: Place(offset, "") for place, offset in positions.items()}
    await commit_places(admin, group, {**places, MARK: Place(0, mark)})


async def unmark(admin: KafkaAdmin, group: str) -> None:
    """Take the mark away, whether or not the group has members by now.

    Raises:
        KafkaUnreachableError: whether it is gone isn't known; doing it again does no harm.
        KafkaRefusedError: Kafka says no.
    """
    topic = OffsetDeleteRequest.OffsetDeleteRequestTopic
    request = OffsetDeleteRequest(
        group_id=group,
        topics=[topic(name=MARK.topic, partitions=[topic.OffsetDeleteRequestPartition(partition_index=0)])],
    )
    what = f"the mark of a Rewind on group {group}"

    async def ask(coordinator: int) -> None:
        response = await admin.write(request, what, node=coordinator)
        for code in (response.error_code, *(p.error_code for t in response.topics for p in t.partitions)):
            if code and code_name(code) not in _NOTHING_THERE:
                check(code, what)

    await at_coordinator(admin, group, ask)
