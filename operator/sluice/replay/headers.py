"""Headers of records: read where a rule names them, changed, and marked with where a record comes from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

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
_TABLE_DIGITS: Final = 3
_TABLE: Final = 10**_TABLE_DIGITS
_LAST_DIGITS: Final = [b"%03d" % number for number in range(_TABLE)]
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


@dataclass(frozen=True, slots=True)
class Tails:
    """What records end with: so many parts of each, one behind the other. ``sizes``: of all parts of a record."""

    sizes: Ints
    parts: Sequence[Sequence[bytes]]

    def __getitem__(self, some: slice) -> Tails:
        """Those of some records."""
        return Tails(self.sizes[some], [part[some] for part in self.parts])


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

    def tails(self, columns: Columns, chosen: Ints) -> Tails | None:
        """Number of headers and headers of each chosen record, changed; None: no record has what would be.

        Raises:
            CorruptBatchError: headers that have to be read are damaged.
        """
        present = [one for one in self._needles if one in columns.data]
        if not present and not self._marks:
            return None
        if not present and not columns.counts[chosen].any():  # as is usual
            return self._marked(columns.offsets[chosen], varint(len(MARKS)) + self._replays(1))
        return self._each(columns, chosen, changing=bool(present))

    def _each(self, columns: Columns, chosen: Ints, *, changing: bool) -> Tails:
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
        sizes = np.fromiter(map(len, kept), np.int64, len(kept))
        if not self._marks:
            return Tails(sizes, [kept])
        sizes += np.fromiter(map(len, replays), np.int64, len(kept))
        marked = self._marked(columns.offsets[chosen], b"")
        return Tails(sizes + marked.sizes, [kept, replays, *marked.parts])

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

    def _marked(self, offsets: Ints, begin: bytes) -> Tails:
        """``begin``, and the mark with the source, which is the last since it alone differs from record to record.

        A thousand offsets in a row have all digits but the last three in common, and those come from a table.
        """
        begin += self._source
        thousands = offsets // _TABLE
        edges = [0, *(np.flatnonzero(np.diff(thousands)) + 1).tolist(), len(offsets)]
        firsts: list[bytes] = []
        lasts: list[bytes] = []
        sizes = np.empty(len(offsets), np.int64)
        for start, end in pairwise(edges):
            if thousand := int(thousands[start]):
                digits = b"%d" % thousand
                size = varint(len(self._place) + len(digits) + _TABLE_DIGITS)
                first = begin + size + self._place + digits
                firsts += [first] * (end - start)
                lasts += map(_LAST_DIGITS.__getitem__, (offsets[start:end] - thousand * _TABLE).tolist())
                sizes[start:end] = len(first) + _TABLE_DIGITS
            else:
                few = [b"%d" % offset for offset in offsets[start:end].tolist()]
                these = [begin + varint(len(self._place) + len(digits)) + self._place for digits in few]
                firsts += these
                lasts += few
                sizes[start:end] = [len(a) + len(b) for a, b in zip(these, few, strict=True)]
        return Tails(sizes, [firsts, lasts])

    def _first_marks(self, count: int) -> bytes:
        return self._job + _header(COUNT_HEADER, b"%d" % count)


def _header(name: str, value: bytes) -> bytes:
    return _text(name.encode()) + _text(value)


def _text(value: bytes) -> bytes:
    return varint(len(value)) + value


def _number(value: bytes) -> int:
    """What a count says; one that can't be read says nothing."""
    return int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else 0
