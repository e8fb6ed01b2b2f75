"""Offsets of partitions: start, end, last stable, by time; and the time of the record at an offset."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kafka.protocol.consumer import FetchRequest, ListOffsetsRequest
from kafka.record.default_records import DefaultRecordBatch

from sluice.kafka.admin_topics import TopicAdmin
from sluice.kafka.errors import KafkaUnreachableError, check, code_name
from sluice.plan.lag import BatchTime
from sluice.plan.observed import OffsetAndTime, TopicDescription, TopicPartition

EARLIEST: Final = -2
LATEST: Final = -1
READ_UNCOMMITTED: Final = 0
READ_COMMITTED: Final = 1
TOPICS_BY_NAME: Final = 12
"""Highest version of Fetch that says topics by name rather than by id."""
MAGIC_2: Final = 2
Topics = Mapping[str, TopicDescription]


class OffsetAdmin(TopicAdmin):
    """Looks up offsets, at the leaders of the partitions (asked for, unless ``topics`` were described just before)."""

    async def earliest_offsets(
        self, partitions: Sequence[TopicPartition], topics: Topics | None = None
    ) -> dict[TopicPartition, int]:
        """First offset that is still kept."""
        return _offsets(await self._list_offsets(dict.fromkeys(partitions, EARLIEST), READ_UNCOMMITTED, topics))

    async def latest_offsets(
        self, partitions: Sequence[TopicPartition], topics: Topics | None = None
    ) -> dict[TopicPartition, int]:
        """Offset after the last record that consumers can read (the high watermark)."""
        return _offsets(await self._list_offsets(dict.fromkeys(partitions, LATEST), READ_UNCOMMITTED, topics))

    async def stable_offsets(
        self, partitions: Sequence[TopicPartition], topics: Topics | None = None
    ) -> dict[TopicPartition, int]:
        """Last stable offset: before it, every transaction is decided."""
        return _offsets(await self._list_offsets(dict.fromkeys(partitions, LATEST), READ_COMMITTED, topics))

    async def offsets_for_times(
        self, times_ms: Mapping[TopicPartition, int], topics: Topics | None = None
    ) -> dict[TopicPartition, OffsetAndTime]:
        """First record at or after a time (Unix milliseconds); offset None where every record is earlier."""
        return await self._list_offsets(times_ms, READ_UNCOMMITTED, topics)

    async def partitions_by_leader(
        self, partitions: Sequence[TopicPartition], topics: Topics | None = None
    ) -> dict[int, list[TopicPartition]]:
        """Partitions by the broker that leads them.

        Raises:
            KafkaUnreachableError: a partition doesn't exist (yet) or has no leader.
        """
        if topics is None:
            topics = await self.describe_topics(sorted({place.topic for place in partitions}))
        leaders = {
            TopicPartition(topic.name, partition.id): partition.leader
            for topic in topics.values()
            for partition in topic.partitions
        }
        result: dict[int, list[TopicPartition]] = defaultdict(list)
        for place in partitions:
            leader = leaders.get(place)
            if leader is None:
                problem = "has no leader at the moment" if place in leaders else "doesn't exist"
                raise KafkaUnreachableError(f"partition {place} {problem}", code="LEADER_NOT_AVAILABLE")
            result[leader].append(place)
        return dict(result)

    async def batch_times(
        self, positions: Mapping[TopicPartition, int], topics: Topics | None = None
    ) -> dict[TopicPartition, BatchTime]:
        """The record batch at each position: the offsets that it spans, and the time of its first record.

        Only the batch's header is looked at, so nothing is decompressed. A broker returns one whole batch for a request
        however large it is, so each partition is asked for by itself; all requests are sent at once. Positions at the
        end, or before the start, have no batch and are left out.
        """

        async def ask(leader: int, place: TopicPartition) -> tuple[TopicPartition, BatchTime | None]:
            topic = FetchRequest.FetchTopic
            request = FetchRequest(
                max_wait_ms=0,
                min_bytes=0,
                max_bytes=1,
                isolation_level=READ_UNCOMMITTED,
                topics=[
                    topic(
                        topic=place.topic,
                        partitions=[
                            topic.FetchPartition(
                                partition=place.partition, fetch_offset=positions[place], partition_max_bytes=1
                            )
                        ],
                    )
                ],
                max_version=TOPICS_BY_NAME,
            )
            response = await self.read(request, f"record at {place} offset {positions[place]}", node=leader)
            check(response.error_code, f"record at {place}")
            answered = response.responses[0].partitions[0] if response.responses else None
            if answered is None or (answered.error_code and code_name(answered.error_code) == "OFFSET_OUT_OF_RANGE"):
                return place, None
            check(answered.error_code, f"record at {place}")
            return place, _batch_time(answered.records)

        by_leader = await self.partitions_by_leader(list(positions), topics)
        answers = await asyncio.gather(
            *(ask(leader, place) for leader, places in by_leader.items() for place in places)
        )
        return {place: batch for place, batch in answers if batch is not None}

    async def _list_offsets(
        self, specs: Mapping[TopicPartition, int], isolation: int, topics: Topics | None
    ) -> dict[TopicPartition, OffsetAndTime]:
        if not specs:
            return {}
        topic_type = ListOffsetsRequest.ListOffsetsTopic

        async def ask(leader: int, places: Sequence[TopicPartition]) -> Any:
            by_topic: dict[str, list[Any]] = defaultdict(list)
            for place in places:
                by_topic[place.topic].append(
                    topic_type.ListOffsetsPartition(partition_index=place.partition, timestamp=specs[place])
                )
            request = ListOffsetsRequest(
                isolation_level=isolation,
                topics=[topic_type(name=name, partitions=partitions) for name, partitions in by_topic.items()],
                min_version=2,
            )
            return await self.read(request, "offsets", node=leader)

        by_leader = await self.partitions_by_leader(list(specs), topics)
        found: dict[TopicPartition, OffsetAndTime] = {}
        for response in await asyncio.gather(*(ask(leader, places) for leader, places in by_leader.items())):
            for topic in response.topics:
                for partition in topic.partitions:
                    place = TopicPartition(topic.name, partition.partition_index)
                    check(partition.error_code, f"offset of {place}")
                    found[place] = OffsetAndTime(
                        offset=partition.offset if partition.offset >= 0 else None,
                        timestamp_ms=partition.timestamp if partition.timestamp >= 0 else None,
                    )
        return found


def _offsets(found: Mapping[TopicPartition, OffsetAndTime]) -> dict[TopicPartition, int]:
    return {place: answer.offset for place, answer in found.items() if answer.offset is not None}


def _batch_time(records: bytes | None) -> BatchTime | None:
    if not records or len(records) < DefaultRecordBatch.HEADER_STRUCT.size:
        return None
    batch = DefaultRecordBatch(bytes(records)[: DefaultRecordBatch.HEADER_STRUCT.size])
    if batch.magic != MAGIC_2:
        return None
    time = batch.max_timestamp if batch.timestamp_type == DefaultRecordBatch.LOG_APPEND_TIME else batch.first_timestamp
    return BatchTime(batch.base_offset, batch.last_offset, time, control=batch.is_control_batch)
