"""One attempt at a shard: fence predecessors, read the position, and copy in bounded transactions.

A session never repairs itself. On any doubt it is given up as if the process had died, and the next one goes on from
the committed position; what makes a SIGKILL safe makes everything else safe.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError, code_name
from sluice.plan.observed import TopicPartition
from sluice.replay.assignment import Assignment
from sluice.replay.batch import next_sequence, seal
from sluice.replay.cluster import ReplayCluster, as_doubt, raise_for
from sluice.replay.encoding import (
    PRODUCE,
    PRODUCE_BY_ID,
    PRODUCE_LOWEST,
    BatchToSend,
    produce_request,
    produce_response,
)
from sluice.replay.errors import DeniedError, DoubtError, GaveUpError, RefusedError
from sluice.replay.partition import PartitionCopy, topic_uuid
from sluice.replay.positions import Counts
from sluice.replay.selection import Piece, Selection
from sluice.replay.source import Source
from sluice.replay.transaction import CONCURRENT_TRANSACTIONS, Identity, Transactions
from sluice.replay.wire import REQUEST_SECONDS, Connection

log = logging.getLogger(__name__)

_IN_FLIGHT: Final = 5
"""Kafka checks the sequence of at most five batches of a partition in flight."""
_NOT_ENOUGH_REPLICAS: Final = 19
"""What brokers say to clients without KIP-890 part 2 for CONCURRENT_TRANSACTIONS (and for what it means, too)."""
_BUSY_PAUSE: Final = 0.005
_LONGEST_BUSY_PAUSE: Final = 0.1
_REFUSALS: Final[dict[int, str]] = {
    10: "a batch is larger than the target's max.message.bytes, which was lowered since the plan was made; raise it",
    18: "a batch is larger than a segment of the target; raise its segment.bytes",
    32: "a timestamp is outside what the target allows; raise its message.timestamp.before.max.ms or after.max.ms",
    87: "a record isn't accepted: a compacted target needs a key in each record",
    76: "the target doesn't take this compression",
    44: "a policy of the target's cluster forbids it",
}
_RECOMMIT_SECONDS: Final = 600.0
"""Positions expire from their own commit on, so that those that don't move are committed again from time to time."""


class Session:
    """One attempt; ``run`` returns when every partition of the shard is at its end, or when asked to stop."""

    def __init__(
        self,
        assignment: Assignment,
        shard: int,
        source_settings: Callable[[], ConnectionSettings],
        target_settings: Callable[[], ConnectionSettings],
        on_progress: Callable[[], None],
    ) -> None:
        self._assignment = assignment
        self._shard = shard
        self._limits = assignment.limits
        self._on_progress = on_progress
        self._stop = False
        self._wake = asyncio.Event()
        self._source_cluster = ReplayCluster(source_settings, "source")
        self._target_cluster = ReplayCluster(target_settings, "target")
        self._error: Exception | None = None
        self._in_flight = 0
        self._moved = time.monotonic()
        self._connections: dict[int, Connection] = {}
        self._by_leader: dict[int, list[PartitionCopy]] = {}
        self._by_target: dict[tuple[str | uuid.UUID, int], PartitionCopy] = {}
        self._transaction_bytes = 0
        self._transaction_start: float | None = None
        self._recommitted = time.monotonic()
        self._turn = 0
        self.partitions: list[PartitionCopy] = []
        self.identity: Identity | None = None

    @property
    def counts(self) -> Counts:
        """What has been written for this shard's partitions, in all sessions of all workers."""
        return sum((p.counts for p in self.partitions), Counts())

    def stop(self) -> None:
        """Commit what has been written, then return."""
        self._stop = True
        self._wake.set()

    async def run(self, previous: Identity | None) -> bool:
        """Copy to the end; False if stopped before.

        Args:
            previous: identity of this process's former session.

        Raises:
            DoubtError: start another session.
            ReplayError: it can't go on.
        """
        self.identity = previous
        try:
            await self._open(previous)
            fetching = asyncio.create_task(self._source.run())
            fetching.add_done_callback(self._fetching_ended)
            try:
                return await self._copy()
            finally:
                fetching.cancel()
                await asyncio.gather(fetching, return_exceptions=True)
        except (KafkaUnreachableError, KafkaRefusedError) as error:
            raise as_doubt(error) from error
        finally:
            self._source_cluster.close()
            self._target_cluster.close()

    async def _open(self, previous: Identity | None) -> None:
        routes = self._assignment.routes
        slices = [s for s in self._assignment.slices if s.shard == self._shard]
        await self._target_cluster.start()
        await self._source_cluster.start()
        await self._target_cluster.load((r.target, r.target_id) for r in routes)
        await self._source_cluster.load((r.source, r.source_id) for r in routes)
        self._transactions = Transactions(
            self._target_cluster,
            self._assignment.transactional_id(self._shard),
            self._assignment.group,
            self._limits.transaction_timeout_ms,
        )
        # The order is what makes it exact: first nobody else can write or commit, then the position is read.
        await self._transactions.start(previous)
        self.identity = self._transactions.identity
        committed = await self._transactions.positions(
            TopicPartition(routes[s.topic].positions, s.partition) for s in slices
        )
        for s in slices:
            route = routes[s.topic]
            position = committed[TopicPartition(route.positions, s.partition)]
            source = TopicPartition(route.source, s.partition)
            selection = Selection(
                s.end, self._assignment.from_ms, self._assignment.to_ms, route.max_batch_bytes, str(source)
            )
            self.partitions.append(
                PartitionCopy(
                    route=route,
                    source=source,
                    target=TopicPartition(route.target, s.partition),
                    committed_as=TopicPartition(route.positions, s.partition),
                    selection=selection,
                    position=position.offset,
                    counts=position.counts,
                    committed=position.offset,
                    fetch_offset=position.offset,
                )
            )
        await self._connect_target()
        self._source = Source(self._source_cluster, self.partitions, self._limits, self._fetched)

    async def _connect_target(self) -> None:
        by_leader: dict[int, list[PartitionCopy]] = defaultdict(list)
        for partition in self.partitions:
            if not partition.done:
                by_leader[self._target_cluster.leader(partition.target)].append(partition)
        for node in by_leader:
            connection = self._connections[node] = await self._target_cluster.broker(node, "produce")
            if self._transactions.produce_version(connection.api_versions) < PRODUCE_LOWEST:
                raise DeniedError(
                    f"{connection.address} runs a Kafka that Sluice doesn't replay to; it needs 3.1 or newer"
                )
        self._by_leader = dict(by_leader)
        for partition in self.partitions:
            self._by_target[partition.target.topic, partition.target.partition] = partition
            self._by_target[topic_uuid(partition.route.target_id), partition.target.partition] = partition

    # -- copying ------------------------------------------------------------------------------------------------------

    async def _copy(self) -> bool:
        while True:
            if self._error is not None:
                raise self._error
            self._check_stall()
            self._wake.clear()
            finished = all(p.done for p in self.partitions)
            closing = self._stop or finished or self._full()
            if not closing:
                await self._join()
                self._dispatch()
                closing = self._full()
            if closing and not self._in_flight:
                await self._commit()
                if finished or self._stop:
                    return finished
                continue
            await self._wait()

    def _full(self) -> bool:
        if self._transaction_start is None:
            return time.monotonic() - self._recommitted > _RECOMMIT_SECONDS
        age = time.monotonic() - self._transaction_start
        return self._transaction_bytes >= self._limits.transaction_bytes or age * 1000 >= self._limits.transaction_ms

    async def _wait(self) -> None:
        """Until something was answered or fetched, or the transaction is old enough to end."""
        now = time.monotonic()
        timeout = 1.0
        if self._transaction_start is not None and not self._in_flight:
            timeout = max(0.001, self._transaction_start + self._limits.transaction_ms / 1000 - now)
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            # Positions that moved without anything to write (markers, records left out) are worth a commit too.
            if self._transaction_start is None and any(p.dirty for p in self.partitions):
                self._transaction_start = now

    async def _join(self) -> None:
        joining = [p for p in self.partitions if p.queue and not p.added]
        if joining:
            await self._transactions.add(p.target for p in joining)
            for p in joining:
                p.added = True

    def _dispatch(self) -> None:
        for node, connection in self._connections.items():
            while connection.in_flight < _IN_FLIGHT and not self._full():
                chosen = self._choose(self._by_leader[node])
                if not chosen:
                    break
                self._send(connection, chosen)

    def _choose(self, partitions: list[PartitionCopy]) -> list[tuple[PartitionCopy, Piece]]:
        """One batch for each partition that has one and may send it, up to the size of a request."""
        chosen: list[tuple[PartitionCopy, Piece]] = []
        size = 0
        count = len(partitions)
        start = self._turn % count
        for index in range(count):
            p = partitions[(start + index) % count]
            if not p.queue or not p.added or (p.in_flight and not p.joined):
                continue
            piece = p.queue[0]
            length = len(piece.view)
            if chosen and size + length > self._limits.request_bytes:
                self._turn = start + index
                break
            size += length
            p.queue.popleft()
            chosen.append((p, piece))
        return chosen

    def _send(self, connection: Connection, chosen: list[tuple[PartitionCopy, Piece]]) -> None:
        identity = self._transactions.identity
        if self._transaction_start is None:
            self._transaction_start = time.monotonic()
        for p, piece in chosen:
            seal(piece.view, identity.producer_id, identity.epoch, p.sequence)
            p.sequence = next_sequence(p.sequence, piece.records)
            p.position = piece.next_offset
            p.counts = Counts(p.counts.records + piece.records, p.counts.bytes + len(piece.view))
            p.in_flight += 1
            self._transaction_bytes += len(piece.view)
        self._transmit(connection, chosen)

    def _transmit(self, connection: Connection, chosen: list[tuple[PartitionCopy, Piece]]) -> None:
        version = self._transactions.produce_version(connection.api_versions)
        topics: dict[str | uuid.UUID, list[BatchToSend]] = defaultdict(list)
        for p, piece in chosen:
            topic = topic_uuid(p.route.target_id) if version >= PRODUCE_BY_ID else p.target.topic
            topics[topic].append(BatchToSend(p.target.partition, piece.view))
        parts = produce_request(
            version, self._transactions.transactional_id, list(topics.items()), int(REQUEST_SECONDS * 1000)
        )
        self._in_flight += 1
        answer = connection.send(PRODUCE, version, parts, REQUEST_SECONDS + 5)
        answer.add_done_callback(lambda future: self._answered(future, version, connection, chosen))

    def _answered(
        self,
        future: asyncio.Future[memoryview],
        version: int,
        connection: Connection,
        chosen: list[tuple[PartitionCopy, Piece]],
    ) -> None:
        self._in_flight -= 1
        self._wake.set()
        try:
            answers = {
                self._by_target[part.topic, part.partition].target: part
                for part in produce_response(future.result(), version)
            }
            again = []
            for p, piece in chosen:
                part = answers[p.target]
                if not p.joined and self._busy(part.error):
                    again.append((p, piece))
                    continue
                _check_produced(part.error, part.message, p)
                p.in_flight -= 1
                p.joined = True
                self._moved = time.monotonic()
                p.queued_bytes -= len(piece.view)
                self._source.release(len(piece.view))
        except (DoubtError, RefusedError, KafkaUnreachableError, KafkaRefusedError) as error:
            self._error = self._error or error
        except (KeyError, asyncio.CancelledError) as error:
            self._error = self._error or DoubtError(f"a Produce response doesn't fit its request: {error!r}")
        else:
            if again:
                self._in_flight += 1
                age = time.monotonic() - (self._transaction_start or 0.0)
                pause = min(max(_BUSY_PAUSE, age / 4), _LONGEST_BUSY_PAUSE)
                asyncio.get_running_loop().call_later(pause, self._again, connection, again)

    def _busy(self, code: int) -> bool:
        """Whether the former transaction isn't over yet, so that the first batch of the next is to be sent again."""
        if code == _NOT_ENOUGH_REPLICAS:
            return not self._transactions.implicit
        return code == CONCURRENT_TRANSACTIONS

    def _again(self, connection: Connection, chosen: list[tuple[PartitionCopy, Piece]]) -> None:
        self._in_flight -= 1
        self._transmit(connection, chosen)

    async def _commit(self) -> None:
        """Let records and positions commit together."""
        recommit = time.monotonic() - self._recommitted > _RECOMMIT_SECONDS
        moving = [p for p in self.partitions if p.dirty or recommit]
        if not moving:
            return
        positions = {p.committed_as: p.as_position() for p in moving}
        await self._transactions.commit_positions(positions)
        fresh = await self._transactions.end()
        self.identity = self._transactions.identity
        for p in moving:
            p.committed = positions[p.committed_as].offset
        for p in self.partitions:
            p.joined = p.added = False
            if fresh:
                p.sequence = 0
        self._transaction_bytes = 0
        self._transaction_start = None
        if recommit:
            self._recommitted = time.monotonic()
        self._on_progress()

    def _fetched(self) -> None:
        self._moved = time.monotonic()
        self._wake.set()

    def _check_stall(self) -> None:
        idle = time.monotonic() - self._moved
        if idle > self._limits.stall_seconds:
            waiting = [f"{p.source} at offset {p.fetch_offset} of {p.end}" for p in self.partitions if not p.done]
            raise GaveUpError(
                f"nothing moved for {idle:.0f} s: {', '.join(waiting[:5])}. Either the source lost records that were"
                " there when the range was frozen, or a transaction holds them back, or the target takes none"
            )

    def _fetching_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        found = next(iter(_leaves(error)))
        self._error = self._error or (found if isinstance(found, Exception) else DoubtError(repr(found)))
        self._wake.set()


def _check_produced(code: int, message: str | None, partition: PartitionCopy) -> None:
    if not code:
        return
    if code in _REFUSALS:
        said = f" Kafka says: {message}" if message else ""
        raise RefusedError(f"{partition.target}: {_REFUSALS[code]} ({code_name(code)}).{said}")
    raise_for(code, f"producing to {partition.target}")


def _leaves(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
