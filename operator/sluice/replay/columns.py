"""The records of many batches at once, as columns: where each begins, and where its parts are.

A loop in Python finds where records begin, since only a record's length tells that; all else is read for all of them
together. Keys, values and headers stay bytes, at their places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from sluice.replay import varints
from sluice.replay.batch import HEADER_BYTES, Batch
from sluice.replay.compression import decompress
from sluice.replay.errors import CorruptBatchError
from sluice.replay.records import read_varint
from sluice.replay.varints import Bytes, Ints

_MORE: Final = 0x80
_LONGEST: Final = 2**31 - 1
_SHORT: Final = [2 + ((low & 0x7F) >> 1) for low in range(0x100)]
"""Of a length in two bytes: its own size, and what its first byte says."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Records in order; places are indexes of ``data``. Times are Unix milliseconds.

    ``content``: the place of the key's length, from which on to ``ends`` all goes on as it is unless headers change;
    ``key_sizes``: -1 for none; ``counts``: of headers, whose number stands at ``count_at`` and they at ``headers_at``.
    ``firsts``: the first record of each batch, and the number of records behind them.
    """

    data: bytes
    attributes: Bytes
    offsets: Ints
    timestamps: Ints
    content: Ints
    keys: Ints
    key_sizes: Ints
    count_at: Ints
    counts: Ints
    headers_at: Ints
    ends: Ints
    firsts: Ints

    def __len__(self) -> int:
        return len(self.offsets)


def scan(batches: Sequence[Batch], where: str) -> Columns:
    """The records of ``batches``, which come from one partition, in order.

    Raises:
        CorruptBatchError: the bytes of one are not as many whole records as its header says.
    """
    payloads = [decompress(batch.codec, batch.view[HEADER_BYTES:]) for batch in batches]
    data = bytes(payloads[0]) if len(payloads) == 1 else b"".join(payloads)
    bounds = _spine(batches, payloads, data, where)
    counts = np.array([batch.records for batch in batches], np.int64)
    try:
        return _columns(batches, data, bounds, counts)
    except (IndexError, ValueError) as error:
        raise CorruptBatchError(f"{where}, offset {batches[0].base_offset} or after: {error}") from None


def _spine(batches: Sequence[Batch], payloads: Sequence[bytes | memoryview], data: bytes, where: str) -> Ints:
    """Where each record begins, with its length, and where the last one ends."""
    found = [0]
    add = found.append
    short = _SHORT
    position = stop = 0
    try:
        for batch, payload in zip(batches, payloads, strict=True):
            stop += len(payload)
            for _ in range(batch.records):
                low = data[position]
                if low < _MORE:
                    position += 1 + (low >> 1)
                elif (high := data[position + 1]) < _MORE:
                    position += short[low] + (high << 6)
                else:
                    length, after = read_varint(data, position)
                    if not 0 <= length <= _LONGEST:
                        raise IndexError
                    position = after + length
                add(position)
            if position != stop:
                raise IndexError
    except (IndexError, CorruptBatchError):
        raise CorruptBatchError(
            f"{where}, offset {batch.base_offset}: the batch isn't the {batch.records} records that its header says"
        ) from None
    return np.array(found, np.int64)


def _columns(batches: Sequence[Batch], data: bytes, bounds: Ints, counts: Ints) -> Columns:
    def of_batches(values: list[int]) -> Ints:
        return np.repeat(np.array(values, np.int64), counts)

    raw: Bytes = np.frombuffer(data, np.uint8)
    ends = bounds[1:]
    lengths, begins = varints.read(raw, bounds[:-1])
    if np.any(begins + lengths != ends):
        raise ValueError("a record's length is negative")
    deltas, at = varints.read(raw, begins + 1)
    offset_deltas, content = varints.read(raw, at)
    _inside(content, ends)
    last = of_batches([batch.last_offset_delta for batch in batches])
    if np.any((offset_deltas < 0) | (offset_deltas > last)):
        raise ValueError("a record's offset isn't its batch's")
    key_sizes, keys = varints.read(raw, content)
    at = _after(keys, key_sizes, ends)
    value_sizes, values = varints.read(raw, at)
    count_at = _after(values, value_sizes, ends)
    header_counts, headers_at = varints.read(raw, count_at)
    _inside(headers_at, ends)
    if np.any((header_counts < 0) | (header_counts > ends - headers_at)):
        raise ValueError("a record can't have so many headers")
    appended = np.repeat(np.array([batch.log_append_time for batch in batches], np.bool_), counts)
    timestamps = np.where(
        appended,
        of_batches([batch.max_timestamp for batch in batches]),
        of_batches([batch.base_timestamp for batch in batches]) + deltas,
    )
    return Columns(
        data=data,
        attributes=raw[begins],
        offsets=of_batches([batch.base_offset for batch in batches]) + offset_deltas,
        timestamps=timestamps,
        content=content,
        keys=keys,
        key_sizes=key_sizes,
        count_at=count_at,
        counts=header_counts,
        headers_at=headers_at,
        ends=ends,
        firsts=np.concatenate((np.zeros(1, np.int64), np.cumsum(counts))),
    )


def _after(places: Ints, sizes: Ints, ends: Ints) -> Ints:
    """Behind fields of these sizes (-1: none, of no bytes), which are compared before they are added."""
    if np.any((sizes < -1) | (sizes > ends - places)):
        raise ValueError("a field reaches beyond its record")
    return places + np.maximum(sizes, 0)


def _inside(places: Ints, ends: Ints) -> None:
    if np.any(places > ends):
        raise ValueError("a record ends before its fields do")
