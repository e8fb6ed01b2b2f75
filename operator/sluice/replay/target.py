"""Producing: the target partitions of one session, and what is on its way to their leaders."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError, code_name
from sluice.replay.assignment import Limits
from sluice.replay.batch import next_sequence, seal
from sluice.replay.cluster import ReplayCluster, raise_for
from sluice.replay.encoding import (
    PRODUCE,
    PRODUCE_BY_ID,
    PRODUCE_LOWEST,
    BatchToSend,
    produce_request,
    read_produce_response,
)
from sluice.replay.errors import DeniedError, DoubtError, RefusedError
from sluice.replay.pace import Pace
from sluice.replay.partition import PartitionCopy, topic_uuid
from sluice.replay.pieces import Piece
from sluice.replay.positions import Counts
from sluice.replay.together import together
from sluice.replay.transaction import CONCURRENT_TRANSACTIONS, Transactions
from sluice.replay.wire import REQUEST_SECONDS, Connection

_BUSY: Final = frozenset({CONCURRENT_TRANSACTIONS, 19})
"""The former transaction isn't over yet. Brokers say NOT_ENOUGH_REPLICAS for it to clients without KIP-890 part 2, and
to all if the coordinator can't be asked; like the error's own meaning it says that nothing was written."""
_BUSY_PAUSE: Final = 0.005
_LONGEST_BUSY_PAUSE: Final = 0.1
_MOST_DELAYS: Final = 200
"""Some 20 s: well before the transaction's timeout, after which we would be taken for a stranger."""
_REFUSALS: Final[dict[int, str]] = {
    10: "a batch is larger than the target's max.message.bytes, which was lowered since the plan was made; raise it",
    18: "a batch is larger than a segment of the target; raise its segment.bytes",
    32: "a timestamp is outside what the target allows; raise its message.timestamp.before.max.ms or after.max.ms",
    87: "a record isn't accepted: a compacted target needs a key in each record",
    76: "the target doesn't take this compression",
    44: "a policy of the target's cluster forbids it",
}


@dataclass(slots=True)
class _Leader:
    """A broker and the partitions that it leads. ``turn`` is whose batch goes first."""

    connection: Connection
    partitions: list[PartitionCopy]
    pace: Pace
    turn: int = 0


@dataclass(slots=True)
class _Sent:
    """A Produce request: where it went, what is in it, and how often Kafka has put it off."""

    leader: _Leader
    version: int
    chosen: list[tuple[PartitionCopy, Piece]]
    delays: int = 0


class Target:
    """The target partitions of one session. ``error`` is the first thing that went wrong."""

    def __init__(
        self,
        cluster: ReplayCluster,
        partitions: Sequence[PartitionCopy],
        transactions: Transactions,
        limits: Limits,
        on_answer: Callable[[int], None],
    ) -> None:
        """``on_answer`` is told how many bytes were acknowledged."""
        self._cluster = cluster
        self._partitions = partitions
        self._transactions = transactions
        self._limits = limits
        self._on_answer = on_answer
        self._leaders: list[_Leader] = []
        self._by_target: dict[tuple[str | uuid.UUID, int], PartitionCopy] = {}
        self.in_flight = 0
        self.transaction_bytes = 0
        """Sent in the open transaction."""
        self.error: Exception | None = None

    @property
    def full(self) -> bool:
        """Whether the open transaction holds as much as it may."""
        return self.transaction_bytes >= self._limits.transaction_bytes

    async def connect(self) -> None:
        """Connect to the leaders.

        Raises:
            DeniedError: a broker is too old.
        """
        by_leader: dict[int, list[PartitionCopy]] = defaultdict(list)
        for partition in self._partitions:
            self._by_target[partition.target.topic, partition.target.partition] = partition
            self._by_target[topic_uuid(partition.route.target_id), partition.target.partition] = partition
            if not partition.done:
                by_leader[self._cluster.leader(partition.target)].append(partition)
        await together(*(self._connect(node, partitions) for node, partitions in by_leader.items()))

    async def _connect(self, node: int, partitions: list[PartitionCopy]) -> None:
        connection = await self._cluster.broker(node, "produce")
        if self._transactions.produce_version(connection.api_versions) < PRODUCE_LOWEST:
            raise DeniedError(f"{connection.address} runs a Kafka that Sluice doesn't replay to; it needs 3.1 or newer")
        self._leaders.append(_Leader(connection, partitions, Pace(self._limits.request_bytes)))

    async def send(self) -> None:
        """Send what waits, as far as requests in flight and the size of the transaction allow."""
        joining = [p for p in self._partitions if p.queue and not p.added]
        if joining:
            await self._transactions.add(p.target for p in joining)
            for p in joining:
                p.added = True
        for leader in self._leaders:
            while leader.connection.in_flight < leader.pace.in_flight and not self.full:
                if leader.connection.throttled or not (chosen := self._choose(leader)):
                    break
                self._seal(chosen)
                version = self._transactions.produce_version(leader.connection.api_versions)
                self._transmit(_Sent(leader, version, chosen))

    def ended(self, *, fresh: bool) -> None:
        """The transaction is over; ``fresh``: we have another identity, whose sequences start at 0."""
        self.transaction_bytes = 0
        for p in self._partitions:
            p.joined = p.added = False
            if fresh:
                p.sequence = 0

    def _choose(self, leader: _Leader) -> list[tuple[PartitionCopy, Piece]]:
        """One batch for each partition that has one and may send it, up to the size of a request."""
        chosen: list[tuple[PartitionCopy, Piece]] = []
        size = 0
        count = len(leader.partitions)
        start = leader.turn % count
        for index in range(count):
            p = leader.partitions[(start + index) % count]
            if not p.queue or not p.added or (p.in_flight and not p.joined):
                continue
            piece = p.queue[0]
            length = len(piece.view)
            if chosen and size + length > leader.pace.request_bytes:
                leader.turn = start + index
                break
            size += length
            p.queue.popleft()
            chosen.append((p, piece))
        return chosen

    def _seal(self, chosen: list[tuple[PartitionCopy, Piece]]) -> None:
        identity = self._transactions.identity
        for p, piece in chosen:
            seal(piece.view, identity.producer_id, identity.epoch, p.sequence)
            p.sequence = next_sequence(p.sequence, piece.records)
            p.position = piece.next_offset
            p.counts += Counts(piece.records, len(piece.view), piece.filtered)
            p.in_flight += 1
            self.transaction_bytes += len(piece.view)

    def _transmit(self, sent: _Sent) -> None:
        topics: dict[str | uuid.UUID, list[BatchToSend]] = defaultdict(list)
        for p, piece in sent.chosen:
            topic = topic_uuid(p.route.target_id) if sent.version >= PRODUCE_BY_ID else p.target.topic
            topics[topic].append(BatchToSend(p.target.partition, piece.view))
        parts = produce_request(
            sent.version, self._transactions.transactional_id, list(topics.items()), int(REQUEST_SECONDS * 1000)
        )
        self.in_flight += 1
        answer = sent.leader.connection.send(PRODUCE, sent.version, parts, REQUEST_SECONDS + 5)
        answer.add_done_callback(lambda future: self._answered(future, sent))

    def _answered(self, future: asyncio.Future[memoryview], sent: _Sent) -> None:
        self.in_flight -= 1
        acknowledged = 0
        try:
            acknowledged, again = self._read(future.result(), sent)
            if again:
                self._delay(_Sent(sent.leader, sent.version, again, sent.delays + 1))
        except (DoubtError, RefusedError, KafkaUnreachableError, KafkaRefusedError) as error:
            self.error = self.error or error
        except (KeyError, asyncio.CancelledError) as error:
            self.error = self.error or DoubtError(f"a Produce response doesn't fit its request: {error!r}")
        self._on_answer(acknowledged)

    def _read(self, body: memoryview, sent: _Sent) -> tuple[int, list[tuple[PartitionCopy, Piece]]]:
        """Bytes that were acknowledged, and what is to be sent again.

        Raises:
            DoubtError, RefusedError: a batch wasn't taken.
        """
        throttle_ms, answered = read_produce_response(body, sent.version)
        sent.leader.pace.answered(throttle_ms)
        sent.leader.connection.throttle(throttle_ms)
        if throttle_ms:
            asyncio.get_running_loop().call_later(throttle_ms / 1000, self._on_answer, 0)
        answers = {self._by_target[part.topic, part.partition].target: part for part in answered}
        acknowledged = 0
        again = []
        for p, piece in sent.chosen:
            part = answers[p.target]
            if not p.joined and part.error in _BUSY and sent.delays < _MOST_DELAYS:
                again.append((p, piece))
                continue
            _check_produced(part.error, part.message, p)
            p.in_flight -= 1
            p.joined = True
            p.queued_bytes -= len(piece.view)
            acknowledged += len(piece.view)
        return acknowledged, again

    def _delay(self, sent: _Sent) -> None:
        """Send the first batches of a transaction again in a moment: nothing came after them that could overtake."""

        def again() -> None:
            self.in_flight -= 1
            self._transmit(sent)

        self.in_flight += 1
        pause = min(_BUSY_PAUSE * 1.5**sent.delays, _LONGEST_BUSY_PAUSE)
        asyncio.get_running_loop().call_later(pause, again)


def _check_produced(code: int, message: str | None, partition: PartitionCopy) -> None:
    if not code:
        return
    if code in _REFUSALS:
        said = f" Kafka says: {message}" if message else ""
        raise RefusedError(f"{partition.target}: {_REFUSALS[code]} ({code_name(code)}).{said}")
    raise_for(code, f"producing to {partition.target}")
