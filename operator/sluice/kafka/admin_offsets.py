"""Offsets of partitions: start, end, last stable, by time; and the time of the record at an offset."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from kafka.protocol.consumer import FetchRequest, ListOffsetsRequest
from kafka.record.default_records import DefaultRecordBatch

from sluice.kafka.admin_topics import TopicAdmin
from sluice.kafka.errors import Answers, KafkaError, KafkaUnreachableError, check, code_name, from_code
from sluice.plan.lag import BatchTime
from sluice.plan.observed import OffsetAndTime, TopicDescription, TopicPartition

EARLIEST: Final = -2
LATEST: Final = -1
READ_UNCOMMITTED: Final = 0
READ_COMMITTED: Final = 1
TOPICS_BY_NAME: Final = 12
"""Highest version of Fetch that says topics by name rather than by id."""
MAGIC_2: Final = 2
BATCHES_AT_ONCE: Final = 32
"""Requests for one batch each that are under way at a time: an answer is as large as a batch may be."""
MARKS_PASSED: Final = 10
"""Ends of transactions that are passed over on the way to the next record."""
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

    async def each_earliest_offset(
        self, partitions: Sequence[TopicPartition], topics: Topics | None = None
    ) -> Answers[TopicPartition, int]:
        """As `earliest_offsets`, each partition with its own error."""
        return await self._each_offset(partitions, EARLIEST, topics)

    async def each_latest_offset(
        self, partitions: Sequence[TopicPartition], topics: Topics | None = None
    ) -> Answers[TopicPartition, int]:
        """As `latest_offsets`, each partition with its own error."""
        return await self._each_offset(partitions, LATEST, topics)

    async def partitions_by_leader(
        self, partitions: Sequence[TopicPartition], topics: Topics | None = None
    ) -> dict[int, list[TopicPartition]]:
        """Partitions by the broker that leads them.

        Raises:
            KafkaUnreachableError: a partition doesn't exist (yet) or has no leader.
        """
        return _by_leader((await self._leaders(partitions, topics)).all())

    async def _leaders(
        self, partitions: Sequence[TopicPartition], topics: Topics | None
    ) -> Answers[TopicPartition, int]:
        if topics is None:
            topics = await self.describe_topics(sorted({place.topic for place in partitions}))
        leaders = {
            TopicPartition(topic.name, partition.id): partition.leader
            for topic in topics.values()
            for partition in topic.partitions
        }
        answers: Answers[TopicPartition, int] = Answers()
        for place in partitions:
            leader = leaders.get(place)
            if leader is not None:
                answers.found[place] = leader
                continue
            problem = "has no leader at the moment" if place in leaders else "doesn't exist"
            answers.errors[place] = KafkaUnreachableError(f"partition {place} {problem}", code="LEADER_NOT_AVAILABLE")
        return answers

    async def batch_times(
        self, positions: Mapping[TopicPartition, int], topics: Topics | None = None
    ) -> dict[TopicPartition, BatchTime]:
        """The first batch with records at or after each position: its offsets, and the time of its first record.

        Where only ends of transactions follow, it is the last of them. Positions at the end, or before the start, have
        no batch and are left out.
        """
        return (await self.each_batch_time(positions, topics)).all()

    async def each_batch_time(
        self, positions: Mapping[TopicPartition, int], topics: Topics | None = None
    ) -> Answers[TopicPartition, BatchTime]:
        """As `batch_times`, each partition with its own error."""
        leaders = await self._leaders(list(positions), topics)
        answers: Answers[TopicPartition, BatchTime] = Answers(errors=leaders.errors)

        async def ask(place: TopicPartition, leader: int) -> None:
            try:
                batch = await self._batch_from(place, positions[place], leader)
            except KafkaError as error:
                answers.errors[place] = error
            else:
                if batch is not None:
                    answers.found[place] = batch

        await asyncio.gather(*(ask(place, leader) for place, leader in leaders.found.items()))
        return answers

    @cached_property
    def _fetching(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(BATCHES_AT_ONCE)

    async def _batch_from(self, place: TopicPartition, position: int, leader: int) -> BatchTime | None:
        async with self._fetching:
            batch = await self._batch_at(place, position, leader)
            for _ in range(MARKS_PASSED):
                if batch is None or not batch.control:
                    break
                following = await self._batch_at(place, batch.last + 1, leader)
                if following is None:
                    break
                batch = following
        return batch

    async def _batch_at(self, place: TopicPartition, position: int, leader: int) -> BatchTime | None:
        """The batch at a position, or the next one that exists.

        Only the batch's header is looked at, so nothing is decompressed. A broker returns one whole batch for a request
        however large it is, so each partition is asked for by itself.
        """
        topic = FetchRequest.FetchTopic
        wanted = topic.FetchPartition(partition=place.partition, fetch_offset=position, partition_max_bytes=1)
        request = FetchRequest(
            max_wait_ms=0,
            min_bytes=0,
            max_bytes=1,
            isolation_level=READ_UNCOMMITTED,
            topics=[topic(topic=place.topic, partitions=[wanted])],
            max_version=TOPICS_BY_NAME,
        )
        response = await self.read(request, f"record at {place} offset {position}", node=leader)
        check(response.error_code, f"record at {place}")
        answered = response.responses[0].partitions[0] if response.responses else None
        if answered is None or (answered.error_code and code_name(answered.error_code) == "OFFSET_OUT_OF_RANGE"):
            return None
        check(answered.error_code, f"record at {place}")
        return _batch_time(answered.records)

    async def _each_offset(
        self, partitions: Sequence[TopicPartition], when: int, topics: Topics | None
    ) -> Answers[TopicPartition, int]:
        answers = await self.each_offset(dict.fromkeys(partitions, when), topics=topics)
        return Answers(_offsets(answers.found), answers.errors)

    async def _list_offsets(
        self, specs: Mapping[TopicPartition, int], isolation: int, topics: Topics | None
    ) -> dict[TopicPartition, OffsetAndTime]:
        return (await self.each_offset(specs, isolation, topics)).all()

    async def each_offset(
        self, specs: Mapping[TopicPartition, int], isolation: int = READ_UNCOMMITTED, topics: Topics | None = None
    ) -> Answers[TopicPartition, OffsetAndTime]:
        """Offsets by time (Unix milliseconds, `EARLIEST` or `LATEST`), each partition with its own error."""
        if not specs:
            return Answers()
        leaders = await self._leaders(list(specs), topics)
        answers: Answers[TopicPartition, OffsetAndTime] = Answers(errors=leaders.errors)
        topic_type = ListOffsetsRequest.ListOffsetsTopic

        async def ask(leader: int, places: Sequence[TopicPartition]) -> None:
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
            try:
                response = await self.read(request, "offsets", node=leader)
            except KafkaError as error:
                answers.errors.update(dict.fromkeys(places, error))
                return
            for topic in response.topics:
                for partition in topic.partitions:
                    place = TopicPartition(topic.name, partition.partition_index)
                    if partition.error_code:
                        answers.errors[place] = from_code(partition.error_code, f"offset of {place}")
                    else:
                        answers.found[place] = _offset(partition)

        await asyncio.gather(*(ask(leader, places) for leader, places in _by_leader(leaders.found).items()))
        return answers


def _by_leader(leaders: Mapping[TopicPartition, int]) -> dict[int, list[TopicPartition]]:
    result: dict[int, list[TopicPartition]] = defaultdict(list)
    for place, leader in leaders.items():
        result[leader].append(place)
    return dict(result)


def _offset(partition: Any) -> OffsetAndTime:
    return OffsetAndTime(
        offset=partition.offset if partition.offset >= 0 else None,
        timestamp_ms=partition.timestamp if partition.timestamp >= 0 else None,
    )


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
