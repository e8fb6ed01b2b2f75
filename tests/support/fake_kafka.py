"""A scripted Kafka in memory: two brokers, one source and one target topic, one coordinator, and faults on order.

It keeps the rules that exactly-once rests on (epochs, sequences, what an end of a transaction makes visible), so that a
test can lose a request before or after it was done, and count afterwards.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import struct
import uuid
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from kafka.protocol.consumer import (
    FetchRequest,
    FetchResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
)
from kafka.protocol.metadata import (
    ApiVersionsRequest,
    ApiVersionsResponse,
    FindCoordinatorRequest,
    FindCoordinatorResponse,
    MetadataRequest,
    MetadataResponse,
)
from kafka.protocol.producer import (
    AddOffsetsToTxnRequest,
    AddOffsetsToTxnResponse,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    EndTxnRequest,
    EndTxnResponse,
    InitProducerIdRequest,
    InitProducerIdResponse,
    ProduceRequest,
    ProduceResponse,
    TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
)
from kafka.protocol.sasl import (
    SaslAuthenticateRequest,
    SaslAuthenticateResponse,
    SaslHandshakeRequest,
    SaslHandshakeResponse,
)

from sluice.replay.batch import HEADER, split
from sluice.replay.records import key_and_value, read_records
from tests.support.fake_transactions import FakeTransactions

NOT_COORDINATOR: Final = 16
_HANDSHAKE, _AUTHENTICATE = 17, 36
SOURCE, TARGET = "source", "target"
IDS: Final = {SOURCE: uuid.UUID(int=1), TARGET: uuid.UUID(int=2)}
_LOWEST: Final = {0: 3, 1: 4}
_HIGHEST: Final = {0: 13, 1: 17, 3: 12, 10: 4, 9: 9}


class Lost(Enum):
    """When a connection breaks: before or after the request was done; or never, but there is no answer either."""

    BEFORE = "before"
    AFTER = "after"
    NEVER = "never"


Fault = Lost | int | Callable[[Any], int | None]
"""A lost answer, an error code instead of an answer, or something to do before it (which may give a code)."""


def kafka_id(topic: str) -> str:
    """A topic's id as Kafka prints it."""
    return base64.urlsafe_b64encode(IDS[topic].bytes).decode().rstrip("=")


@dataclass
class FakeKafka:
    """``async with FakeKafka() as kafka``: ``kafka.source`` is what Fetch finds, ``kafka.values`` what readers see."""

    transaction_version: int = 2
    source: list[bytes] = field(default_factory=list)
    """Batches of the source's one partition, in order."""
    coordinator: int = 0
    quota: float = math.inf
    """Bytes a second that may be produced; more is answered with a pause."""
    batches_per_fetch: int = 8
    """So few that a worker doesn't merge them, though they are small."""
    lifetime_ms: int = 0
    """After which clients have to authenticate (PLAIN) again."""
    proofs: list[bytes] = field(default_factory=list)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    """Every request: its name, and itself."""
    _faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    _servers: list[asyncio.Server] = field(default_factory=list)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.transactions = FakeTransactions(implicit=self.transaction_version >= 2)

    async def __aenter__(self) -> FakeKafka:
        for node in (0, 1):
            serve = lambda reader, writer, node=node: self._serve(node, reader, writer)  # noqa: E731
            self._servers.append(await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**26))
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for writer in self._writers:
            writer.close()

    def port(self, node: int = 0) -> int:
        """Where a broker listens."""
        port: int = self._servers[node].sockets[0].getsockname()[1]
        return port

    def script(self, request: type[Any], *faults: Fault) -> None:
        """The next requests of a kind each meet one of ``faults``."""
        self._faults[request.name].extend(faults)

    @property
    def values(self) -> list[bytes | None]:
        """Values of the records that a read_committed reader of the target sees."""
        return [
            key_and_value(record.content)[1]
            for view in self.transactions.written
            for batch in split(view, TARGET)
            for record in read_records(batch)
        ]

    def count(self, request: type[Any]) -> int:
        """How often something was asked."""
        return sum(name == request.name for name, _ in self.asked)

    # -- wire ---------------------------------------------------------------------------------------------------------

    async def _serve(self, node: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        before = -1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                data = await reader.readexactly(size)
                api = int.from_bytes(data[:2])
                answer = self._answer(node, memoryview(data))
                if answer is None or (before == _HANDSHAKE and api != _AUTHENTICATE):
                    break  # brokers hang up on whoever asks for something else in the middle of a proof
                before = api
                writer.write(answer)
                await writer.drain()
        writer.close()
        self._writers.discard(writer)

    def _answer(self, node: int, data: memoryview) -> bytes | None:
        api, version, correlation, name_length = struct.unpack_from(">hhih", data)
        kind, act = self._apis()[api]
        flexible = kind.flexible_version_q(version)
        request = kind.decode(data[10 + name_length + flexible :], version=version)
        self.asked.append((kind.name, request))
        fault: Fault | None = self._faults[kind.name].popleft() if self._faults[kind.name] else None
        if fault is Lost.BEFORE:
            return None
        if fault is Lost.NEVER:
            return b""
        outcome = fault(request) if callable(fault) else fault
        code = outcome if isinstance(outcome, int) else 0
        if not code and api in {22, 24, 25, 26, 28} and node != self.coordinator:
            code = NOT_COORDINATOR
        response = act(request, version, code)
        if fault is Lost.AFTER:
            return None
        head = struct.pack(">i", correlation) + (b"\0" if flexible and api != 18 else b"")
        body = bytes(response.encode(version=version))
        return struct.pack(">i", len(head) + len(body)) + head + body

    def _apis(self) -> dict[int, tuple[Any, Callable[[Any, int, int], Any]]]:
        return {
            0: (ProduceRequest, self._produce),
            1: (FetchRequest, self._fetch),
            2: (ListOffsetsRequest, self._earliest),
            3: (MetadataRequest, self._metadata),
            9: (OffsetFetchRequest, self._offset_fetch),
            10: (FindCoordinatorRequest, self._find_coordinator),
            18: (ApiVersionsRequest, self._versions),
            _HANDSHAKE: (SaslHandshakeRequest, lambda *_: SaslHandshakeResponse(error_code=0, mechanisms=["PLAIN"])),
            _AUTHENTICATE: (SaslAuthenticateRequest, self._authenticate),
            22: (InitProducerIdRequest, self._init),
            24: (AddPartitionsToTxnRequest, self._add_partitions),
            25: (AddOffsetsToTxnRequest, self._add_offsets),
            26: (EndTxnRequest, self._end),
            28: (TxnOffsetCommitRequest, self._commit_offsets),
        }

    # -- what is asked ------------------------------------------------------------------------------------------------

    def _versions(self, _request: Any, _version: int, _code: int) -> Any:
        make = ApiVersionsResponse
        return make(
            error_code=0,
            api_keys=[
                make.ApiVersion(
                    api_key=api, min_version=_LOWEST.get(api, 0), max_version=_HIGHEST.get(api, kind.max_version)
                )
                for api, (kind, _) in self._apis().items()
            ],
            throttle_time_ms=0,
            supported_features=[],
            finalized_features_epoch=1,
            finalized_features=[
                make.FinalizedFeatureKey(
                    name="transaction.version",
                    max_version_level=self.transaction_version,
                    min_version_level=self.transaction_version,
                )
            ],
            zk_migration_ready=False,
        )

    def _authenticate(self, request: Any, _version: int, _code: int) -> Any:
        self.proofs.append(request.auth_bytes)
        return SaslAuthenticateResponse(
            error_code=0, error_message=None, auth_bytes=b"", session_lifetime_ms=self.lifetime_ms
        )

    def _metadata(self, request: Any, _version: int, _code: int) -> Any:
        make = MetadataResponse
        part = make.MetadataResponseTopic.MetadataResponsePartition
        return make(
            throttle_time_ms=0,
            brokers=[
                make.MetadataResponseBroker(node_id=node, host="127.0.0.1", port=self.port(node), rack=None)
                for node in (0, 1)
            ],
            cluster_id="fake",
            controller_id=0,
            topics=[
                make.MetadataResponseTopic(
                    error_code=0,
                    name=topic.name,
                    topic_id=IDS[topic.name],
                    is_internal=False,
                    partitions=[
                        part(
                            error_code=0,
                            partition_index=0,
                            leader_id=0,
                            leader_epoch=1,
                            replica_nodes=[0],
                            isr_nodes=[0],
                            offline_replicas=[],
                        )
                    ],
                )
                for topic in request.topics
            ],
        )

    def _find_coordinator(self, request: Any, _version: int, code: int) -> Any:
        make = FindCoordinatorResponse
        found = make.Coordinator(
            key=request.coordinator_keys[0],
            node_id=self.coordinator,
            host="127.0.0.1",
            port=self.port(self.coordinator),
            error_code=code,
            error_message=None,
        )
        return make(throttle_time_ms=0, coordinators=[found])

    def _offset_fetch(self, request: Any, _version: int, code: int) -> Any:
        group = OffsetFetchResponse.OffsetFetchResponseGroup
        topic = group.OffsetFetchResponseTopics
        part = topic.OffsetFetchResponsePartitions
        partitions = [
            part(partition_index=0, committed_offset=offset, committed_leader_epoch=-1, metadata=metadata, error_code=0)
            for offset, metadata in [self.transactions.committed]
        ]
        return OffsetFetchResponse(
            throttle_time_ms=0,
            groups=[
                group(
                    group_id=request.groups[0].group_id,
                    topics=[topic(name=SOURCE, partitions=partitions)],
                    error_code=code,
                )
            ],
        )

    def _fetch(self, request: Any, _version: int, code: int) -> Any:
        make = FetchResponse.FetchableTopicResponse
        (asked,) = request.topics[0].partitions
        data, end, count = bytearray(), 0, 0
        for batch in self.source:
            base, delta = HEADER.unpack_from(batch)[0], HEADER.unpack_from(batch)[6]
            end = base + delta + 1
            if end > asked.fetch_offset and count < self.batches_per_fetch:
                data += batch
                count += 1
        part = make.PartitionData(
            partition_index=0,
            error_code=code,
            high_watermark=end,
            last_stable_offset=end,
            log_start_offset=0,
            aborted_transactions=[],
            preferred_read_replica=-1,
            records=bytes(data),
        )
        return FetchResponse(
            throttle_time_ms=0,
            error_code=0,
            session_id=0,
            responses=[make(topic_id=request.topics[0].topic_id, partitions=[part])],
        )

    def _produce(self, request: Any, _version: int, code: int) -> Any:
        make = ProduceResponse.TopicProduceResponse
        topic = request.topic_data[0]
        for part in topic.partition_data:
            code = code or self.transactions.append(memoryview(bytearray(part.records)))
        answer = make.PartitionProduceResponse(
            index=0,
            error_code=code,
            base_offset=0,
            log_append_time_ms=-1,
            log_start_offset=0,
            record_errors=[],
            error_message=None,
        )
        return ProduceResponse(
            responses=[make(name=topic.name, topic_id=topic.topic_id, partition_responses=[answer])],
            throttle_time_ms=self._throttle(request),
        )

    def _throttle(self, request: Any) -> int:
        size = sum(len(part.records) for topic in request.topic_data for part in topic.partition_data)
        return int(size / self.quota * 1000)

    def _earliest(self, request: Any, _version: int, code: int) -> Any:
        make = ListOffsetsResponse.ListOffsetsTopicResponse
        part = make.ListOffsetsPartitionResponse(
            partition_index=0, error_code=code, timestamp=-1, offset=10**6, leader_epoch=-1
        )
        return ListOffsetsResponse(throttle_time_ms=0, topics=[make(name=request.topics[0].name, partitions=[part])])

    # -- the coordinator ----------------------------------------------------------------------------------------------

    def _init(self, request: Any, _version: int, code: int) -> Any:
        code = code or self.transactions.init(request.producer_epoch)
        return InitProducerIdResponse(
            throttle_time_ms=0,
            error_code=code,
            producer_id=-1 if code else 1,
            producer_epoch=-1 if code else self.transactions.epoch,
        )

    def _add_partitions(self, request: Any, _version: int, code: int) -> Any:
        code = code or self.transactions.join(request.v3_and_below_producer_epoch)
        topic = AddPartitionsToTxnResponse.AddPartitionsToTxnTopicResult
        part = topic.AddPartitionsToTxnPartitionResult
        result = part(partition_index=0, partition_error_code=code)
        return AddPartitionsToTxnResponse(
            throttle_time_ms=0, results_by_topic_v3_and_below=[topic(name=TARGET, results_by_partition=[result])]
        )

    def _add_offsets(self, request: Any, _version: int, code: int) -> Any:
        code = code or self.transactions.join(request.producer_epoch)
        return AddOffsetsToTxnResponse(throttle_time_ms=0, error_code=code)

    def _commit_offsets(self, request: Any, _version: int, code: int) -> Any:
        code = code or self.transactions.join(request.producer_epoch)
        make = TxnOffsetCommitResponse.TxnOffsetCommitResponseTopic
        (asked,) = request.topics[0].partitions
        if not code:
            self.transactions.position = (asked.committed_offset, asked.committed_metadata)
        part = make.TxnOffsetCommitResponsePartition(partition_index=asked.partition_index, error_code=code)
        return TxnOffsetCommitResponse(throttle_time_ms=0, topics=[make(name=SOURCE, partitions=[part])])

    def _end(self, request: Any, _version: int, code: int) -> Any:
        code = code or self.transactions.end(request.producer_epoch, commit=request.committed)
        return EndTxnResponse(
            throttle_time_ms=0, error_code=code, producer_id=1, producer_epoch=self.transactions.epoch
        )
