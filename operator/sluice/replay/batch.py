"""Record batches as bytes: find their borders, judge them by their header, and seal them for another producer.

The layout is that of Kafka's message format v2 (KIP-98); nothing here looks at records.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from crc32c import crc32c

from sluice.replay.errors import CorruptBatchError

HEADER: Final = struct.Struct(">qiibIhiqqqhii")
"""Base offset, length, leader epoch, magic, CRC, attributes, last offset delta, base and max timestamp, producer id
and epoch, base sequence, record count."""
HEADER_BYTES: Final = HEADER.size
_FRAME: Final = struct.Struct(">qi")
_FRAME_BYTES: Final = _FRAME.size
_MAGIC_AT: Final = 16
_CRC_AT: Final = 17
_CRC: Final = struct.Struct(">I")
_CRC_FROM: Final = 21
"""Everything from the attributes on is covered by the CRC."""
_OFFSET_AND_LENGTH: Final = struct.Struct(">qii")
_ATTRIBUTES: Final = struct.Struct(">h")
_PRODUCER_AT: Final = 43
_PRODUCER: Final = struct.Struct(">qhi")

CODEC_MASK: Final = 0x07
LOG_APPEND_TIME: Final = 0x08
TRANSACTIONAL: Final = 0x10
CONTROL: Final = 0x20
DELETE_HORIZON: Final = 0x40
MAX_SEQUENCE: Final = 0x7FFFFFFF


@dataclass(slots=True)
class Batch:
    """A record batch as it came from a broker. ``view`` is writable and covers exactly this batch."""

    view: memoryview
    base_offset: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    records: int

    @property
    def next_offset(self) -> int:
        """The offset after this batch, whatever was removed from its end by compaction."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def codec(self) -> int:
        """Number of the compression codec (0: none)."""
        return self.attributes & CODEC_MASK

    @property
    def control(self) -> bool:
        """Whether this is a transaction's marker, not data."""
        return bool(self.attributes & CONTROL)

    @property
    def transactional(self) -> bool:
        """Whether it was written in a transaction."""
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def log_append_time(self) -> bool:
        """Whether the broker set the time: then ``max_timestamp`` is every record's."""
        return bool(self.attributes & LOG_APPEND_TIME)

    @property
    def dense(self) -> bool:
        """Whether no record is missing between its first and last offset."""
        return self.records == self.last_offset_delta + 1

    def intact(self, limit: int) -> bool:
        """Whether it can be copied whole to where batches have at most ``limit`` bytes."""
        return self.dense and not self.log_append_time and len(self.view) <= limit


def split(data: memoryview, where: str) -> Iterator[Batch]:
    """The whole batches in a fetched ``data``; a batch cut off at the end is left out, as brokers send it so.

    Args:
        data: bytes as in a Fetch response, writable.
        where: names the partition in errors.

    Raises:
        CorruptBatchError: a length is impossible, the CRC is wrong, or the format is older than v2.
    """
    position, size = 0, len(data)
    while size - position >= _FRAME_BYTES:
        base_offset, length = _FRAME.unpack_from(data, position)
        end = position + _FRAME_BYTES + length
        if end > size and length >= 0:
            return
        if length < _MAGIC_AT + 1 - _FRAME_BYTES:
            raise CorruptBatchError(f"{where}, offset {base_offset}: a batch says that it is {length} bytes long")
        magic = data[position + _MAGIC_AT]
        if magic != 2:
            raise CorruptBatchError(
                f"{where}, offset {base_offset}: message format v{magic} was written by a client older than Kafka 0.11"
                " and isn't copied; convert the topic first by consuming it into a new one"
            )
        if length < HEADER_BYTES - _FRAME_BYTES:
            raise CorruptBatchError(f"{where}, offset {base_offset}: a batch of {length} bytes has no whole header")
        yield _read(data[position:end], where)
        position = end


def _read(view: memoryview, where: str) -> Batch:
    (
        base_offset,
        _length,
        _leader_epoch,
        _magic,
        crc,
        attributes,
        last_offset_delta,
        base_timestamp,
        max_timestamp,
        producer_id,
        _producer_epoch,
        _base_sequence,
        records,
    ) = HEADER.unpack_from(view)
    if crc32c(view[_CRC_FROM:]) != crc:
        # A new CRC would make the damage look sound, so it is checked before it is replaced.
        raise CorruptBatchError(f"{where}, offset {base_offset}: the batch is damaged: its CRC is wrong")
    if last_offset_delta < 0 or records < 0 or records > last_offset_delta + 1:
        raise CorruptBatchError(
            f"{where}, offset {base_offset}: {records} records can't have a last offset delta of {last_offset_delta}"
        )
    return Batch(view, base_offset, attributes, last_offset_delta, base_timestamp, max_timestamp, producer_id, records)


def seal(view: memoryview, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
    """Make a batch this producer's, in place: offsets, epochs, sequence, the transactional bit, and the CRC.

    Bit 6 (delete horizon) is cleared: under it the target's cleaner would take tombstones for old ones and remove them
    early. Keys, values, headers, timestamps and compression are not touched.
    """
    _OFFSET_AND_LENGTH.pack_into(view, 0, 0, len(view) - _FRAME_BYTES, -1)
    (attributes,) = _ATTRIBUTES.unpack_from(view, _CRC_FROM)
    _ATTRIBUTES.pack_into(view, _CRC_FROM, (attributes & ~DELETE_HORIZON) | TRANSACTIONAL)
    _PRODUCER.pack_into(view, _PRODUCER_AT, producer_id, producer_epoch, base_sequence)
    _CRC.pack_into(view, _CRC_AT, crc32c(view[_CRC_FROM:]))


def assemble(payload: bytes, codec: int, records: int, base_timestamp: int, max_timestamp: int) -> memoryview:
    """A new batch around ``payload`` (records, compressed with ``codec``), of no producer's."""
    data = bytearray(HEADER_BYTES + len(payload))
    HEADER.pack_into(
        data,
        0,
        0,
        len(data) - _FRAME_BYTES,
        -1,
        2,
        0,
        codec & CODEC_MASK,
        records - 1,
        base_timestamp,
        max_timestamp,
        -1,
        -1,
        -1,
        records,
    )
    data[HEADER_BYTES:] = payload
    view = memoryview(data)
    _CRC.pack_into(view, _CRC_AT, crc32c(view[_CRC_FROM:]))
    return view


def next_sequence(sequence: int, records: int) -> int:
    """The base sequence after a batch of ``records``; it wraps to 0 after 2^31 - 1."""
    return (sequence + records) & MAX_SEQUENCE
