"""The transactional producer's talk with its coordinator, by KIP-890's second part where the cluster has it.

With ``transaction.version=2`` partitions join by being produced to, and each end of a transaction gives the next epoch;
without it they are added first, and the epoch stays. After any doubt a new ``InitProducerId`` ends what was open.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kafka.protocol.consumer import OffsetFetchRequest
from kafka.protocol.producer import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
    ProduceRequest,
    TxnOffsetCommitRequest,
)

from sluice.kafka.errors import code_name
from sluice.plan.observed import TopicPartition
from sluice.replay.cluster import GROUP, TRANSACTION, ReplayCluster, Response, raise_for
from sluice.replay.errors import FencedError, PositionLostError
from sluice.replay.positions import Counts

CONCURRENT_TRANSACTIONS: Final = 51
INVALID_PRODUCER_EPOCH: Final = 47
PRODUCER_FENCED: Final = 90
_INVALID_TXN_STATE: Final = 48
_INVALID_PRODUCER_ID_MAPPING: Final = 49
_NOTHING_OPEN: Final = frozenset({_INVALID_TXN_STATE, _INVALID_PRODUCER_ID_MAPPING})
"""What is answered to the end of a transaction that isn't open, or of an id that Kafka has forgotten."""
_LOADING: Final = 14
_MOVED: Final = frozenset({15, 16})
_RETRIABLE: Final = frozenset({_LOADING, CONCURRENT_TRANSACTIONS, 7, 88}) | _MOVED
"""Coordinator loading, busy or moved; request timed out; offsets that a transaction still holds."""
_RETRY_SECONDS: Final = 60.0
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Identity:
    """Who produces: Kafka's producer id and the epoch that fences its predecessors."""

    producer_id: int
    epoch: int


NOBODY: Final = Identity(-1, -1)


@dataclass(frozen=True, slots=True)
class Position:
    """A committed position, with what was written until then."""

    offset: int
    counts: Counts


class Transactions:
    """One transactional id on the target's cluster, and the group whose offsets commit with its records."""

    def __init__(
        self,
        cluster: ReplayCluster,
        transactional_id: str,
        group: str,
        timeout_ms: int,
        previous: Identity = NOBODY,
    ) -> None:
        """``previous`` is our own identity of a moment ago, if there was one."""
        self._cluster = cluster
        self.transactional_id = transactional_id
        self._group = group
        self._timeout_ms = timeout_ms
        self.identity = previous
        self._offsets_added = False

    @property
    def implicit(self) -> bool:
        """Whether partitions join a transaction by being produced to (KIP-890 part 2)."""
        return self._cluster.features.get("transaction.version", 0) >= 2

    def produce_version(self, broker_versions: Mapping[int, tuple[int, int]]) -> int:
        """Version of Produce that fits the transaction's protocol."""
        _, high = broker_versions.get(ProduceRequest.API_KEY, (0, 0))
        return min(high, 13 if self.implicit else 11)

    async def start(self) -> None:
        """Become the only producer of this id: predecessors are fenced, their open transaction is aborted.

        With an identity of our own a newer producer is not fenced but found. Our own open transaction is ended by name
        before: InitProducerId would fence it by an epoch that we aren't told, and then take us for a stranger.

        Raises:
            FencedError: there is a newer producer.
        """
        if self.identity != NOBODY:
            # Whoever may be in our place is judged by InitProducerId, which knows our last epoch, too.
            await self._end(committed=False, accepted=_NOTHING_OPEN | {PRODUCER_FENCED, INVALID_PRODUCER_EPOCH})
        own = self.identity
        response = await self._ask(
            lambda: InitProducerIdRequest(
                transactional_id=self.transactional_id,
                transaction_timeout_ms=self._timeout_ms,
                producer_id=own.producer_id,
                producer_epoch=own.epoch,
            ),
            highest=5,
        )
        self.identity = Identity(response.producer_id, response.producer_epoch)
        self._offsets_added = False

    async def positions(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Position]:
        """The committed positions, waiting for those that a transaction still holds.

        Raises:
            PositionLostError: a partition has none.
        """
        by_topic = _by_topic(partitions)

        def request() -> Any:
            make = OffsetFetchRequest
            group = make.OffsetFetchRequestGroup(
                group_id=self._group,
                topics=[
                    make.OffsetFetchRequestGroup.OffsetFetchRequestTopics(name=topic, partition_indexes=indexes)
                    for topic, indexes in by_topic.items()
                ],
            )
            flat = [
                make.OffsetFetchRequestTopic(name=topic, partition_indexes=indexes)
                for topic, indexes in by_topic.items()
            ]
            return make(group_id=self._group, topics=flat, groups=[group], require_stable=True)

        response = await self._ask(request, highest=9, coordinator=GROUP, codes=_offset_fetch_codes)
        found = {
            TopicPartition(topic.name, p.partition_index): Position(p.committed_offset, Counts.parse(p.metadata))
            for topic in (response.groups[0].topics if response.groups else response.topics)
            for p in topic.partitions
        }
        missing = [
            str(TopicPartition(topic, index))
            for topic, indexes in by_topic.items()
            for index in indexes
            if (position := found.get(TopicPartition(topic, index))) is None or position.offset < 0
        ]
        if missing:
            raise PositionLostError(
                f"group {self._group} has no committed position for {', '.join(missing[:5])}"
                f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}: starting again would copy records"
                " twice; find out how far the target is, and make another ReplayJob from there"
            )
        return found

    async def add(self, partitions: Iterable[TopicPartition]) -> None:
        """Let ``partitions`` of the target take part in the open transaction; nothing to do under KIP-890 part 2."""
        if self.implicit:
            return
        topic = AddPartitionsToTxnRequest.AddPartitionsToTxnTopic
        topics = [topic(name=name, partitions=indexes) for name, indexes in _by_topic(partitions).items()]
        await self._ask(
            lambda: AddPartitionsToTxnRequest(
                v3_and_below_transactional_id=self.transactional_id,
                v3_and_below_producer_id=self.identity.producer_id,
                v3_and_below_producer_epoch=self.identity.epoch,
                v3_and_below_topics=topics,
            ),
            highest=3,
            codes=lambda response: [
                p.partition_error_code for t in response.results_by_topic_v3_and_below for p in t.results_by_partition
            ],
        )

    async def commit_positions(self, positions: Mapping[TopicPartition, Position]) -> None:
        """Make ``positions`` part of the open transaction."""
        if not self.implicit and not self._offsets_added:
            await self._ask(
                lambda: AddOffsetsToTxnRequest(
                    transactional_id=self.transactional_id,
                    producer_id=self.identity.producer_id,
                    producer_epoch=self.identity.epoch,
                    group_id=self._group,
                ),
                highest=3,
            )
            self._offsets_added = True
        make = TxnOffsetCommitRequest.TxnOffsetCommitRequestTopic
        topics = [
            make(
                name=name,
                partitions=[
                    make.TxnOffsetCommitRequestPartition(
                        partition_index=index,
                        committed_offset=positions[TopicPartition(name, index)].offset,
                        committed_metadata=positions[TopicPartition(name, index)].counts.metadata(),
                    )
                    for index in indexes
                ],
            )
            for name, indexes in _by_topic(positions).items()
        ]
        await self._ask(
            lambda: TxnOffsetCommitRequest(
                transactional_id=self.transactional_id,
                group_id=self._group,
                producer_id=self.identity.producer_id,
                producer_epoch=self.identity.epoch,
                topics=topics,
            ),
            highest=5 if self.implicit else 4,
            coordinator=GROUP,
            codes=lambda response: [p.error_code for t in response.topics for p in t.partitions],
        )

    async def end(self) -> bool:
        """Commit the open transaction; True if the identity has changed, so that sequences start at 0 again.

        Raises:
            DoubtError: whether it was committed isn't known; the committed position will tell.
        """
        return await self._end(committed=True)

    async def abort(self) -> None:
        """End the open transaction, if there is one, so that readers of the target see nothing of it, and go on."""
        await self._end(committed=False, accepted=_NOTHING_OPEN)

    async def _end(self, *, committed: bool, accepted: frozenset[int] = frozenset()) -> bool:
        response = await self._ask(
            lambda: EndTxnRequest(
                transactional_id=self.transactional_id,
                producer_id=self.identity.producer_id,
                producer_epoch=self.identity.epoch,
                committed=committed,
            ),
            highest=5 if self.implicit else 4,
            accepted=accepted,
        )
        self._offsets_added = False
        if not self.implicit or response.error_code:
            return False
        self.identity = Identity(response.producer_id, response.producer_epoch)
        return True

    async def _ask(
        self,
        request: Callable[[], Any],
        *,
        highest: int,
        coordinator: Any = TRANSACTION,
        codes: Callable[[Response], list[int]] = lambda response: [response.error_code],
        accepted: frozenset[int] = frozenset(),
    ) -> Response:
        """Ask a coordinator until it answers for good; error codes in ``accepted`` are answers, too."""
        key = self.transactional_id if coordinator == TRANSACTION else self._group
        deadline = time.monotonic() + _RETRY_SECONDS
        pause = _FIRST_PAUSE
        while True:
            message = request()
            connection = await self._cluster.coordinator(coordinator, key)
            response = await connection.call(message, highest)
            problems = {code for code in codes(response) if code} - accepted
            if not problems:
                return response
            fatal = problems - _RETRIABLE
            code = min(fatal or problems)
            what = f"{message.name} for {key}"
            if code == PRODUCER_FENCED or (code == INVALID_PRODUCER_EPOCH and message.name.startswith("InitProducer")):
                raise FencedError(
                    f"another worker took over {self.transactional_id}, or a transaction ran into its timeout"
                    f" ({code_name(code)})"
                )
            if fatal or time.monotonic() > deadline:
                raise_for(code, what)
            if problems & _MOVED:
                self._cluster.forget_coordinator(coordinator, key)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)


def _offset_fetch_codes(response: Response) -> list[int]:
    if response.groups:
        group = response.groups[0]
        return [group.error_code, *(p.error_code for t in group.topics for p in t.partitions)]
    return [response.error_code, *(p.error_code for t in response.topics for p in t.partitions)]


def _by_topic(partitions: Iterable[TopicPartition]) -> dict[str, list[int]]:
    topics: dict[str, list[int]] = defaultdict(list)
    for topic, partition in partitions:
        topics[topic].append(partition)
    return topics
