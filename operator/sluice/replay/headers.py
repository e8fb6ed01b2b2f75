"""Headers of records: read where a rule names them, changed, and marked with where a record comes from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from sluice.api.replay_selection import COUNT_HEADER, JOB_HEADER, SOURCE_HEADER
from sluice.replay.columns import Columns
from sluice.replay.errors import CorruptBatchError
from sluice.replay.records import read_varint, varint
from sluice.replay.rules import RecordRules
from sluice.replay.varints import Ints

MARKS: Final = frozenset(name.encode() for name in (JOB_HEADER, COUNT_HEADER, SOURCE_HEADER))
_COUNT: Final = COUNT_HEADER.encode()
_MOST_DIGITS: Final = 9
_MORE: Final = 0x80
_NULL: Final = -1
_new: Final = tuple.__new__
"""Makes a named tuple in a third of the time."""


class Header(NamedTuple):
    """A header: its name, and where in the data the length of its value stands, the value begins, and it ends.

    Without a value (null), or with an empty one, ``begin`` is ``end``; ``null`` tells which.
    """

    name: bytes
    size_at: int
    begin: int
    end: int
    null: bool


def needle(name: str) -> bytes:
    """How a header of this name begins in a record; where this isn't found, the header isn't either."""
    return _text(name.encode())


def read_headers(data: bytes, at: int, end: int, count: int) -> list[Header]:
    """The ``count`` headers between these places.

    Raises:
        CorruptBatchError: they are other than their lengths say.
    """
    found: list[Header] = []
    try:
        for _ in range(count):
            # Nearly all lengths are of one byte, and a call for each would double the time.
            byte = data[at]
            size, name_at = ((byte >> 1) ^ -(byte & 1), at + 1) if byte < _MORE else read_varint(data, at)
            name_end = name_at + size
            byte = data[name_end]
            length, begin = ((byte >> 1) ^ -(byte & 1), name_end + 1) if byte < _MORE else read_varint(data, name_end)
            at = begin + length if length > 0 else begin
            if size < 0 or length < _NULL or at > end:
                raise IndexError
            found.append(_new(Header, (data[name_at:name_end], name_end, begin, at, length == _NULL)))
    except IndexError:
        raise CorruptBatchError("a record's headers reach beyond it") from None
    if at != end:
        raise CorruptBatchError(f"{end - at} bytes are behind a record's last header")
    return found


class HeaderEdit:
    """What a replay's rules change in headers. ``source``: topic and partition, for the mark."""

    def __init__(self, rules: RecordRules, source: str) -> None:
        self._drop = frozenset(name.encode() for name in rules.drop)
        self._rename = {old.encode(): _text(new.encode()) for old, new in rules.rename}
        self._marks = rules.mark is not None
        self._job = _header(JOB_HEADER, (rules.mark or "").encode())
        self._source = _text(SOURCE_HEADER.encode())
        self._place = f"{source}/".encode()
        names = {*rules.drop, *(old for old, _ in rules.rename)}
        if self._marks:
            names |= {name.decode() for name in MARKS}
        self._needles = [needle(name) for name in sorted(names)]
        self._any = re.compile(b"|".join(re.escape(one) for one in self._needles)).search
        self._replays = cache(self._first_marks)

    def tails(self, columns: Columns, chosen: Ints) -> list[bytes] | None:
        """Number of headers and headers of each chosen record, changed; None: no record has what would be.

        Raises:
            CorruptBatchError: headers that have to be read are damaged.
        """
        present = [one for one in self._needles if one in columns.data]
        if not present and not self._marks:
            return None
        if not present and not columns.counts[chosen].any():  # as is usual
            begin = varint(len(MARKS))
            return self._marked(columns, chosen, [begin] * len(chosen), self._replays(1))
        return self._each(columns, chosen, changing=bool(present))

    def _each(self, columns: Columns, chosen: Ints, *, changing: bool) -> list[bytes]:
        data, more = columns.data, len(MARKS) if self._marks else 0
        counts, begins, ends = (c[chosen].tolist() for c in (columns.counts, columns.headers_at, columns.ends))
        kept: list[bytes] = []
        replays: list[bytes] = []
        first = self._replays(1)
        for count, at, end in zip(counts, begins, ends, strict=True):
            left, raw, replayed = count, data[at:end], first
            if changing and count and self._any(data, at, end):
                left, raw, before = self._change(data, read_headers(data, at, end, count))
                replayed = self._replays(before + 1) if before else first
            kept.append(varint(left + more) + raw)
            replays.append(replayed)
        if not self._marks:
            return kept
        return self._marked(columns, chosen, [a + b for a, b in zip(kept, replays, strict=True)], b"")

    def _change(self, data: bytes, headers: Sequence[Header]) -> tuple[int, bytes, int]:
        """How many are left, what they are then, and how often the record was replayed before."""
        kept: list[bytes] = []
        before = 0
        for name, size_at, begin, end, _ in headers:
            if name in self._drop:
                continue
            if self._marks and name in MARKS:
                if name == _COUNT:
                    before = max(before, _number(data[begin:end]))
                continue
            kept.append((self._rename.get(name) or _text(name)) + data[size_at:end])
        return len(kept), b"".join(kept), before

    def _marked(self, columns: Columns, chosen: Ints, begins: Sequence[bytes], middle: bytes) -> list[bytes]:
        """``begins`` with the marks behind them; the source is the last, since it differs from record to record."""
        offsets = columns.offsets[chosen].tolist()
        # One conversion of the whole list is several times faster than one for each number.
        digits = repr(offsets)[1:-1].encode().split(b", ")
        size = len(self._place)
        marks = {n: middle + self._source + varint(size + n) + self._place for n in set(map(len, digits))}
        return [begin + marks[len(digit)] + digit for begin, digit in zip(begins, digits, strict=True)]

    def _first_marks(self, count: int) -> bytes:
        return self._job + _header(COUNT_HEADER, b"%d" % count)


def _header(name: str, value: bytes) -> bytes:
    return _text(name.encode()) + _text(value)


def _text(value: bytes) -> bytes:
    return varint(len(value)) + value


def _number(value: bytes) -> int:
    """What a count says; one that can't be read says nothing."""
    return int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else 0
