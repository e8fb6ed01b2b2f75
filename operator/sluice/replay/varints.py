"""Variable-length numbers (zigzag, seven bits a byte), read and written for many records at once."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
_LONGEST: Final = 10
_BITS: Final = 7
_MORE: Final = 0x80
_LOW: Final = 0x7F


def read(data: Bytes, at: Ints) -> tuple[Ints, Ints]:
    """The numbers that begin ``at`` these places, and the places after them.

    Raises:
        IndexError: one goes beyond the data.
        ValueError: one has no end.
    """
    byte = data[at]
    value = (byte & _LOW).astype(np.uint64)
    after = at + 1
    open_ = np.nonzero(byte >= _MORE)[0]
    for number in range(1, _LONGEST):
        if not open_.size:
            break
        byte = data[after[open_]]
        value[open_] |= (byte & _LOW).astype(np.uint64) << np.uint64(_BITS * number)
        after[open_] += 1
        open_ = open_[byte >= _MORE]
    if open_.size:
        raise ValueError("a number has no end")
    one = np.uint64(1)
    return ((value >> one) ^ (np.uint64(0) - (value & one))).view(np.int64), after


def zigzag(values: Ints) -> NDArray[np.uint64]:
    """As they are written: small whether positive or negative."""
    return ((values << 1) ^ (values >> 63)).view(np.uint64)


def widths(values: NDArray[np.uint64]) -> Ints:
    """How many bytes each takes."""
    found = np.ones(len(values), np.int64)
    largest = int(values.max()) if len(values) else 0
    bits = _BITS
    while largest >> bits:
        found += values >= np.uint64(1 << bits)
        bits += _BITS
    return found


def write(data: Bytes, at: Ints, values: NDArray[np.uint64], width: Ints) -> None:
    """Put numbers of these ``width``s into ``data``."""
    data[at] = (values & np.uint64(_LOW)).astype(np.uint8) | ((width > 1) * np.uint8(_MORE))
    for number in range(1, int(width.max()) if len(width) else 0):
        rows = np.nonzero(width > number)[0]
        byte = ((values[rows] >> np.uint64(_BITS * number)) & np.uint64(_LOW)).astype(np.uint8)
        data[at[rows] + number] = byte | ((width[rows] > number + 1) * np.uint8(_MORE))
