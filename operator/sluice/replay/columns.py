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
from sluice.replay.varints import Bytes, Ints

_LARGEST_SHIFT: Final = 28
"""Of a length, which has 32 bits."""


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
    data = b"".join(payloads)
    begins, ends = _spine(batches, payloads, data, where)
    counts = np.array([batch.records for batch in batches], np.int64)
    try:
        return _columns(batches, data, begins, ends, counts)
    except (IndexError, ValueError) as error:
        raise CorruptBatchError(f"{where}, offset {batches[0].base_offset} or after: {error}") from None


def _spine(
    batches: Sequence[Batch], payloads: Sequence[bytes | memoryview], data: bytes, where: str
) -> tuple[Ints, Ints]:
    """Where each record begins, after its length, and where it ends."""
    begins: list[int] = []
    ends: list[int] = []
    begin, end = begins.append, ends.append
    position = stop = 0
    try:
        for batch, payload in zip(batches, payloads, strict=True):
            stop += len(payload)
            for _ in range(batch.records):
                byte = data[position]
                position += 1
                if byte >= 0x80:
                    length, shift = byte & 0x7F, 7
                    while (byte := data[position]) >= 0x80:
                        if shift > _LARGEST_SHIFT:
                            raise IndexError
                        position += 1
                        length |= (byte & 0x7F) << shift
                        shift += 7
                    position += 1
                    length = (length | byte << shift) >> 1
                else:
                    length = byte >> 1
                begin(position)
                position += length
                end(position)
            if position != stop:
                raise IndexError
    except IndexError:
        raise CorruptBatchError(
            f"{where}, offset {batch.base_offset}: the batch isn't the {batch.records} records that its header says"
        ) from None
    return np.array(begins, np.int64), np.array(ends, np.int64)


def _columns(batches: Sequence[Batch], data: bytes, begins: Ints, ends: Ints, counts: Ints) -> Columns:
    def of_batches(values: list[int]) -> Ints:
        return np.repeat(np.array(values, np.int64), counts)

    raw: Bytes = np.frombuffer(data, np.uint8)
    if np.any(raw[np.concatenate((np.zeros(min(1, len(ends)), np.int64), ends[:-1]))] & 1):
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
