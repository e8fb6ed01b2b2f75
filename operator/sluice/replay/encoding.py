"""Fetch and Produce by hand: the two messages whose record bytes must not be copied (KIP-482 encoding)."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from typing import Final, NamedTuple

from sluice.replay.errors import DoubtError
from sluice.replay.selection import AbortedTransaction

FETCH: Final = 1
FETCH_VERSIONS: Final = (13, 17)
"""From 13 on topics go by id, so that a topic made again under the same name isn't taken for the planned one."""
PRODUCE: Final = 0
PRODUCE_LOWEST: Final = 9
PRODUCE_BY_ID: Final = 13

_INT: Final = struct.Struct(">i")
_FETCH_HEAD: Final = struct.Struct(">iiibii")
_FETCH_REPLICA: Final = struct.Struct(">i")
_FETCH_PARTITION: Final = struct.Struct(">iiqiqib")
_FETCHED_PARTITION: Final = struct.Struct(">ihqqq")
_ABORTED: Final = struct.Struct(">qqb")
_PRODUCED_PARTITION: Final = struct.Struct(">ihqqq")
_ACKS_AND_TIMEOUT: Final = struct.Struct(">hi")


class FetchedPartition(NamedTuple):
    """One partition's part of a Fetch response. ``records`` is writable memory of the response itself."""

    topic_id: uuid.UUID
    partition: int
    error: int
    high_watermark: int
    log_start: int
    aborted: Sequence[AbortedTransaction]
    records: memoryview


class ProducedPartition(NamedTuple):
    """One partition's part of a Produce response. ``topic`` is a name or an id, as it was in the request."""

    topic: str | uuid.UUID
    partition: int
    error: int
    message: str | None


class WantedPartition(NamedTuple):
    """What is asked of a partition in a Fetch request."""

    partition: int
    offset: int
    max_bytes: int


class BatchToSend(NamedTuple):
    """One batch for one partition in a Produce request."""

    partition: int
    view: memoryview


def fetch_request(
    version: int, topics: Sequence[tuple[uuid.UUID, Sequence[WantedPartition]]], max_bytes: int, max_wait_ms: int
) -> bytes:
    """A Fetch request without a session, read_committed (so that the response names aborted transactions)."""
    head = b"" if version >= 15 else _FETCH_REPLICA.pack(-1)
    data = bytearray(head + _FETCH_HEAD.pack(max_wait_ms, 1, max_bytes, 1, 0, -1))
    data += _uvarint(len(topics) + 1)
    for topic_id, partitions in topics:
        data += topic_id.bytes
        data += _uvarint(len(partitions) + 1)
        for wanted in partitions:
            data += _FETCH_PARTITION.pack(wanted.partition, -1, wanted.offset, -1, -1, wanted.max_bytes, 0)
        data.append(0)
    data += b"\x01\x01\x00"  # no forgotten topics, rack "", no tagged fields
    return bytes(data)


def fetch_response(body: memoryview) -> tuple[int, list[FetchedPartition]]:
    """A Fetch response's error code and partitions.

    Raises:
        DoubtError: the bytes are no such response.
    """
    reader = _Reader(body)
    try:
        reader.position = 4  # throttle time
        error = reader.int16()
        reader.position += 4  # session
        found = []
        for _ in range(reader.length()):
            topic_id = reader.uuid()
            for _ in range(reader.length()):
                partition, code, high, _stable, log_start = reader.unpack(_FETCHED_PARTITION)
                aborted = []
                for _ in range(reader.length()):
                    producer, first, _tags = reader.unpack(_ABORTED)
                    aborted.append(AbortedTransaction(producer, first))
                reader.position += 4  # preferred read replica
                records = reader.bytes()
                reader.tags()
                found.append(FetchedPartition(topic_id, partition, code, high, log_start, aborted, records))
            reader.tags()
    except (struct.error, IndexError, ValueError) as problem:
        raise DoubtError(f"a Fetch response can't be read: {problem}") from problem
    return error, found


def fetch_throttle(body: memoryview) -> int:
    """A Fetch response's throttle time in milliseconds.

    Raises:
        DoubtError: the bytes are no such response.
    """
    try:
        (throttle_ms,) = _INT.unpack_from(body)
    except struct.error as problem:
        raise DoubtError(f"a Fetch response can't be read: {problem}") from problem
    return int(throttle_ms)


def produce_request(
    version: int,
    transactional_id: str | None,
    topics: Sequence[tuple[str | uuid.UUID, Sequence[BatchToSend]]],
    timeout_ms: int,
) -> list[bytes | memoryview]:
    """A Produce request (acks=all) as parts: the batches are in it as they are."""
    name = (transactional_id or "").encode()
    head = bytearray(_uvarint(len(name) + 1 if transactional_id else 0) + name + _ACKS_AND_TIMEOUT.pack(-1, timeout_ms))
    head += _uvarint(len(topics) + 1)
    parts: list[bytes | memoryview] = []
    for topic, batches in topics:
        if isinstance(topic, str):
            encoded = topic.encode()
            head += _uvarint(len(encoded) + 1) + encoded
        else:
            head += topic.bytes
        head += _uvarint(len(batches) + 1)
        for batch in batches:
            head += _INT.pack(batch.partition) + _uvarint(len(batch.view) + 1)
            parts += (bytes(head), batch.view)
            head = bytearray(1)
        head.append(0)
    head.append(0)
    parts.append(bytes(head))
    return parts


def produce_response(body: memoryview, version: int) -> list[ProducedPartition]:
    """A Produce response's partitions; errors as in ``read_produce_response``."""
    return read_produce_response(body, version)[1]


def read_produce_response(body: memoryview, version: int) -> tuple[int, list[ProducedPartition]]:
    """A Produce response's throttle time in milliseconds, and its partitions.

    Raises:
        DoubtError: the bytes are no such response.
    """
    reader = _Reader(body)
    found = []
    try:
        for _ in range(reader.length()):
            topic: str | uuid.UUID = reader.uuid() if version >= PRODUCE_BY_ID else reader.string() or ""
            for _ in range(reader.length()):
                partition, code, _base, _time, _start = reader.unpack(_PRODUCED_PARTITION)
                messages = []
                for _ in range(reader.length()):
                    reader.position += 4
                    messages.append(reader.string())
                    reader.tags()
                message = reader.string()
                reader.tags()
                found.append(ProducedPartition(topic, partition, code, message or next(filter(None, messages), None)))
            reader.tags()
        (throttle_ms,) = reader.unpack(_INT)
    except (struct.error, IndexError, ValueError) as problem:
        raise DoubtError(f"a Produce response can't be read: {problem}") from problem
    return throttle_ms, found


class _Reader:
    """Reads flexible-version fields one after the other."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0

    def unpack(self, fields: struct.Struct) -> tuple[int, ...]:
        values = fields.unpack_from(self.data, self.position)
        self.position += fields.size
        return values

    def int16(self) -> int:
        self.position += 2
        return int.from_bytes(self.data[self.position - 2 : self.position], "big", signed=True)

    def uvarint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.position]
            self.position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 28:
                raise ValueError("a length is too large")

    def length(self) -> int:
        """Length of a compact array; null counts as empty."""
        return max(0, self.uvarint() - 1)

    def uuid(self) -> uuid.UUID:
        return uuid.UUID(bytes=bytes(self.bytes_of(16)))

    def bytes_of(self, size: int) -> memoryview:
        if size > len(self.data) - self.position:
            raise ValueError("a field reaches beyond the response")
        self.position += size
        return self.data[self.position - size : self.position]

    def bytes(self) -> memoryview:
        return self.bytes_of(self.length())

    def string(self) -> str | None:
        size = self.uvarint()
        return str(self.bytes_of(size - 1), "utf-8") if size else None

    def tags(self) -> None:
        for _ in range(self.uvarint()):
            self.uvarint()
            self.bytes_of(self.uvarint())


def _uvarint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append((value & 0x7F) | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
