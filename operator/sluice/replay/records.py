"""A few records, one by one: what markers and the ledger are made of (format v2, KIP-98).

Those that are copied are read as columns, many at once (`sluice.replay.columns`), for which numpy is loaded: the
operator, and a replay of whole batches, do without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sluice.replay.batch import HEADER_BYTES, Batch, assemble
from sluice.replay.compression import NONE, compress, decompress
from sluice.replay.errors import CorruptBatchError

_MAX_VARINT_BYTES: Final = 10
_BYTES: Final = [bytes([value]) for value in range(0x80)]


class Record(NamedTuple):
    """One record: its offset and Unix time in milliseconds, and key, value and headers as they stand in the batch."""

    offset: int
    timestamp: int
    content: memoryview


def read_records(batch: Batch) -> list[Record]:
    """The records of a batch in order.

    Raises:
        CorruptBatchError: the bytes are not as many whole records as the header says.
    """
    payload = memoryview(decompress(batch.codec, batch.view[HEADER_BYTES:]))
    append_time = batch.max_timestamp if batch.log_append_time else None
    records: list[Record] = []
    position = 0
    try:
        for _ in range(batch.records):
            length, position = read_varint(payload, position)
            end = position + length
            if length < 3 or end > len(payload):
                raise CorruptBatchError(f"offset {batch.base_offset}: a record says that it is {length} bytes long")
            timestamp_delta, position = read_varint(payload, position + 1)  # the first byte, attributes, has no use yet
            offset_delta, position = read_varint(payload, position)
            if position > end or not 0 <= offset_delta <= batch.last_offset_delta:
                raise CorruptBatchError(f"offset {batch.base_offset}: a record's header is damaged")
            timestamp = batch.base_timestamp + timestamp_delta if append_time is None else append_time
            records.append(Record(batch.base_offset + offset_delta, timestamp, payload[position:end]))
            position = end
    except IndexError:
        raise CorruptBatchError(f"offset {batch.base_offset}: the batch ends in the middle of a record") from None
    if position != len(payload):
        raise CorruptBatchError(f"offset {batch.base_offset}: {len(payload) - position} bytes after the last record")
    return records


def write_batch(records: Sequence[Record], codec: int = NONE) -> memoryview:
    """A batch with ``records`` in order, of which there is at least one."""
    base = records[0].timestamp
    data = bytearray()
    for delta, record in enumerate(records):
        head = b"\0" + varint(record.timestamp - base) + varint(delta)
        data += varint(len(head) + len(record.content))
        data += head
        data += record.content
    latest = max(record.timestamp for record in records)
    return assemble(compress(codec, data), codec, len(records), base, latest)


def read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """Read a zigzag varint; returns it and the position after it.

    Raises:
        CorruptBatchError: it has no end.
        IndexError: it goes beyond the data.
    """
    byte = data[position]
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), position + 1
    value, shift = byte & 0x7F, 7
    for at in range(position + 1, position + _MAX_VARINT_BYTES):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at + 1
        shift += 7
    raise CorruptBatchError("a number in a record has no end")


def varint(value: int) -> bytes:
    """A number as it is written: zigzag, seven bits a byte."""
    value = (value << 1) ^ (value >> 63)
    if value <= 0x7F:
        return _BYTES[value]
    found = bytearray()
    while value > 0x7F:
        found.append((value & 0x7F) | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def control_type(batch: Batch) -> int:
    """What a control batch says: 0 the transaction was aborted, 1 it was committed, others are for other uses.

    Raises:
        CorruptBatchError: it isn't a marker.
    """
    content = read_records(batch)[0].content
    length, position = read_varint(content, 0)
    if length < 4 or position + 4 > len(content):
        raise CorruptBatchError(f"offset {batch.base_offset}: a control batch has no type")
    return int.from_bytes(content[position + 2 : position + 4], "big")


def key_and_value(content: memoryview) -> tuple[bytes | None, bytes | None]:
    """Key and value out of a record's content."""
    key, position = _field(content, 0)
    value, _ = _field(content, position)
    return key, value


def content_of(key: bytes | None, value: bytes | None) -> memoryview:
    """A record's content, without headers."""
    data = bytearray()
    for field in (key, value):
        data += varint(-1 if field is None else len(field))
        data += field or b""
    data.append(0)
    return memoryview(data)


def _field(content: memoryview, position: int) -> tuple[bytes | None, int]:
    length, position = read_varint(content, position)
    if length < 0:
        return None, position
    return bytes(content[position : position + length]), position + length
