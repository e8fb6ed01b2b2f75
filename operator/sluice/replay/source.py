"""Fetching ahead: one loop for each broker that leads source partitions, held back by how much waits to be written."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from kafka.protocol.consumer import ListOffsetsRequest

from sluice.kafka.errors import KafkaRefusedError
from sluice.replay.assignment import Limits
from sluice.replay.cluster import ReplayCluster, raise_for
from sluice.replay.encoding import FETCH, FETCH_VERSIONS, WantedPartition, fetch_request, fetch_response, fetch_throttle
from sluice.replay.errors import DeniedError, DoubtError, RangeLostError
from sluice.replay.partition import PartitionCopy, topic_uuid
from sluice.replay.together import together
from sluice.replay.wire import REQUEST_SECONDS, Connection

_OFFSET_OUT_OF_RANGE: Final = 1
_MAX_WAIT_MS: Final = 500
_LONGEST_TURN: Final = 0.02
"""Seconds after which sending and answers get their turn."""
_SMALLEST_SHARE: Final = 1024 * 1024
_EARLIEST: Final = -2


class Source:
    """The source partitions of one session. Fetched pieces go into the partitions' queues."""

    def __init__(
        self,
        cluster: ReplayCluster,
        partitions: Sequence[PartitionCopy],
        limits: Limits,
        on_data: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._limits = limits
        self._on_data = on_data
        self._by_id = {(topic_uuid(p.route.source_id), p.source.partition): p for p in partitions}
        self._share = max(_SMALLEST_SHARE, limits.fetch_bytes // max(1, len(partitions)))
        self._room = asyncio.Event()
        self._room.set()
        self.queued_bytes = 0
        """Bytes fetched and not yet acknowledged by the target."""

    def release(self, size: int) -> None:
        """``size`` bytes have been written: there is room for more."""
        self.queued_bytes -= size
        if self.queued_bytes < self._limits.buffer_bytes:
            self._room.set()

    async def run(self) -> None:
        """Fetch all partitions to their ends.

        Raises:
            RangeLostError: the source's retention passed the position.
            DoubtError: a leader moved, or a broker can't be reached.
        """
        by_leader: dict[int, list[PartitionCopy]] = defaultdict(list)
        for partition in self._by_id.values():
            if partition.wants_data:
                by_leader[self._cluster.leader(partition.source)].append(partition)
        await together(*(self._fetch_from(node, partitions) for node, partitions in by_leader.items()))

    async def _fetch_from(self, node: int, partitions: list[PartitionCopy]) -> None:
        connection = await self._cluster.broker(node, "fetch")
        _, high = connection.api_versions.get(FETCH, (0, 0))
        version = min(high, FETCH_VERSIONS[1])
        if version < FETCH_VERSIONS[0]:
            raise DeniedError(f"{connection.address} runs a Kafka older than 3.1, which Sluice doesn't replay from")
        turn = 0
        while wanted := [p for p in partitions if p.wants_data]:
            await self._wait_for_room(wanted)
            turn = (turn + 1) % len(wanted)
            ready = [p for p in wanted[turn:] + wanted[:turn] if p.queued_bytes < self._limits.fetch_bytes]
            if not ready:
                self._room.clear()
                continue
            request = fetch_request(version, self._grouped(ready), self._limits.fetch_bytes, _MAX_WAIT_MS)
            body = await connection.send(FETCH, version, (request,), REQUEST_SECONDS)
            connection.throttle(fetch_throttle(body))
            await self._take(connection, body)
            await asyncio.sleep(connection.throttled)

    async def _wait_for_room(self, wanted: Sequence[PartitionCopy]) -> None:
        if self.queued_bytes >= self._limits.buffer_bytes:
            self._room.clear()
        await self._room.wait()

    def _grouped(self, partitions: Sequence[PartitionCopy]) -> list[tuple[uuid.UUID, list[WantedPartition]]]:
        topics: dict[uuid.UUID, list[WantedPartition]] = defaultdict(list)
        for p in partitions:
            wanted = WantedPartition(p.source.partition, p.fetch_offset, self._share)
            topics[topic_uuid(p.route.source_id)].append(wanted)
        return list(topics.items())

    async def _take(self, connection: Connection, body: memoryview) -> None:
        error, found = fetch_response(body)
        raise_for(error, f"fetching from {connection.address}")
        moved = False
        for part in found:
            partition = self._by_id.get((part.topic_id, part.partition))
            if partition is None:
                continue
            if part.error == _OFFSET_OUT_OF_RANGE:
                await self._explain_lost_range(connection, partition)
            raise_for(part.error, f"fetching {partition.source}")
            before = partition.fetch_offset
            begun = time.monotonic()
            for piece in partition.selection.pieces(part.records, before, part.aborted):
                self.queued_bytes += partition.queue_piece(piece)
                if time.monotonic() - begun > _LONGEST_TURN:  # batches that are opened take their time
                    self._on_data()
                    await asyncio.sleep(0)
                    begun = time.monotonic()
            moved = moved or partition.fetch_offset > before
        if moved:
            self._on_data()

    async def _explain_lost_range(self, connection: Connection, partition: PartitionCopy) -> None:
        make = ListOffsetsRequest.ListOffsetsTopic
        request = ListOffsetsRequest(
            replica_id=-1,
            isolation_level=0,
            topics=[
                make(
                    name=partition.source.topic,
                    partitions=[
                        make.ListOffsetsPartition(partition_index=partition.source.partition, timestamp=_EARLIEST)
                    ],
                )
            ],
        )
        try:
            response = await connection.call(request, 7)
        except KafkaRefusedError as error:
            raise DoubtError(error.message) from error
        answer = response.topics[0].partitions[0]
        raise_for(answer.error_code, f"looking for the first offset of {partition.source}")
        lost_from = partition.fetch_offset
        if answer.offset > lost_from:
            until = min(answer.offset, partition.end)
            raise RangeLostError(
                f"{partition.source}: offsets {lost_from} to {until - 1} were to be copied and are deleted from the"
                f" source (it now begins at {answer.offset}); raise the source's retention, and make another"
                " ReplayJob for what is left if the target may lack them"
            )
        raise RangeLostError(
            f"{partition.source}: offset {lost_from} was to be copied, but the source ends before it: it lost records"
            " that were there when the range was frozen (an unclean leader election, or the topic was made again)"
        )
