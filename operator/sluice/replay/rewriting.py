"""New batches of chosen records. Of each, what doesn't change is one slice of the bytes that it came in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np

from sluice.replay import varints
from sluice.replay.batch import HEADER_BYTES, assemble
from sluice.replay.columns import Columns
from sluice.replay.compression import NONE, compress
from sluice.replay.errors import RefusedError
from sluice.replay.headers import Tails
from sluice.replay.varints import Bytes, Ints

BATCH_BYTES: Final = 1024 * 1024
"""Of records before compression; larger ones make nothing faster, and readers hold them whole."""
_HEAD_BYTES: Final = 11
"""Of a record, for its length, time and offset, nearly always."""


def write(
    columns: Columns, chosen: Ints, tails: Tails | None, codec: int, limit: int, where: str
) -> Iterator[tuple[memoryview, int]]:
    """Batches of ``chosen`` (indexes) in order, none larger than ``limit`` bytes, each with its number of records.

    ``tails``: what each gets in place of its headers and their number; None: they stay.

    Raises:
        RefusedError: a single record is larger than ``limit``.
    """
    until = columns.ends if tails is None else columns.count_at
    sizes = until[chosen] - columns.content[chosen]
    tail_sizes = _sizes(tails)
    growing = np.cumsum(sizes + tail_sizes + _HEAD_BYTES)
    if not len(chosen):
        return
    most = min(max(1, limit - HEADER_BYTES), BATCH_BYTES) if codec == NONE else BATCH_BYTES
    size = int(growing[-1])
    count = math.ceil(size / most)  # alike in size, rather than full ones and a small rest
    cuts = np.searchsorted(growing, size * np.arange(1, count) / count)
    for start, end in pairwise([0, *np.unique(cuts[cuts > 0]).tolist(), len(chosen)]):
        part = tails[start:end] if tails is not None else None
        yield from _fitting(columns, chosen[start:end], part, codec, limit, where)


def _fitting(
    columns: Columns, chosen: Ints, tails: Tails | None, codec: int, limit: int, where: str
) -> Iterator[tuple[memoryview, int]]:
    """One batch, or halves of it where it is too large."""
    batch = _batch(columns, chosen, tails, codec)
    if len(batch) <= limit:
        yield batch, len(chosen)
        return
    if len(chosen) == 1:
        raise RefusedError(
            f"{where}, offset {columns.offsets[chosen[0]]}: the record needs a batch of {len(batch)} bytes, and the"
            f" target takes {limit}; raise max.message.bytes of the target topic"
        )
    half = len(chosen) // 2
    first, second = (tails[:half], tails[half:]) if tails is not None else (None, None)
    yield from _fitting(columns, chosen[:half], first, codec, limit, where)
    yield from _fitting(columns, chosen[half:], second, codec, limit, where)


def _batch(columns: Columns, chosen: Ints, tails: Tails | None, codec: int) -> memoryview:
    timestamps = columns.timestamps[chosen]
    base = int(timestamps[0])
    begins = columns.content[chosen]
    ends = (columns.ends if tails is None else columns.count_at)[chosen]
    heads, bounds = _heads(columns.attributes[chosen], timestamps - base, ends - begins + _sizes(tails))
    data = columns.data
    count = len(chosen)
    stride = 2 + (len(tails.parts) if tails is not None else 0)
    parts: list[bytes] = [b""] * (stride * count)
    parts[::stride] = [heads[a:b] for a, b in pairwise(bounds)]
    parts[1::stride] = [data[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
    for number, part in enumerate(tails.parts if tails is not None else (), 2):
        parts[number::stride] = part
    return assemble(compress(codec, b"".join(parts)), codec, count, base, int(timestamps.max()))


def _heads(attributes: Bytes, deltas: Ints, sizes: Ints) -> tuple[bytes, list[int]]:
    """Length, attributes, time and offset of each record, one after another, and the bounds between them."""
    times = varints.zigzag(deltas)
    offsets = varints.zigzag(np.arange(len(sizes), dtype=np.int64))
    time_widths, offset_widths = varints.widths(times), varints.widths(offsets)
    lengths = varints.zigzag(1 + time_widths + offset_widths + sizes)
    length_widths = varints.widths(lengths)
    bounds = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(length_widths + 1 + time_widths + offset_widths, out=bounds[1:])
    found = np.empty(int(bounds[-1]), np.uint8)
    at = bounds[:-1]
    varints.write(found, at, lengths, length_widths)
    at = at + length_widths
    found[at] = attributes
    at = at + 1
    varints.write(found, at, times, time_widths)
    varints.write(found, at + time_widths, offsets, offset_widths)
    return found.tobytes(), bounds.tolist()


def _sizes(tails: Tails | None) -> Ints | int:
    return 0 if tails is None else tails.sizes
