"""Which records a replay's rules take, judged for many records at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from itertools import repeat
from typing import Final

import numpy as np
from kafka.partitioner.default import murmur2
from numpy.typing import NDArray

from sluice.api.replay_selection import COUNT_HEADER, JOB_HEADER
from sluice.plan.regex import finder
from sluice.replay.columns import Columns
from sluice.replay.headers import Header, needle, read_headers
from sluice.replay.rules import HeaderRule, Match, RecordRules
from sluice.replay.varints import Ints

Mask = NDArray[np.bool_]
Test = Callable[[bytes], bool]
TestAll = Callable[[bytes, list[int], list[int]], Iterable[bool]]
"""For data, and the bounds of values in it."""

_REMEMBERED: Final = 16_384
"""Keys come again and again, and an expression costs more than looking a key up."""
_HASHED_TOGETHER: Final = 256
"""Bytes of a key; longer ones, which are rare, are hashed one by one."""
_M: Final = np.uint32(0x5BD1E995)
_SEED: Final = 0x9747B28C


class Matcher:
    """Rules made ready."""

    def __init__(self, rules: RecordRules) -> None:
        self._key = _test_all(rules.key) if rules.key is not None else None
        self._share = rules.hash_range
        headers = list(rules.headers)
        if rules.exclude_replayed:
            headers += [HeaderRule(name, absent=True) for name in (JOB_HEADER, COUNT_HEADER)]
        self._headers = [(rule, needle(rule.name), _test(rule.value) if rule.value else None) for rule in headers]

    def select(self, columns: Columns, among: Mask) -> Mask:
        """Those of ``among`` that all rules hold for.

        Raises:
            CorruptBatchError: headers that have to be read are damaged.
        """
        taken = among
        if self._key is not None:
            taken = self._by_key(columns, taken, self._key)
        if self._share is not None:
            taken = _by_hash(columns, taken, *self._share)
        for rule, begins, test in self._headers:
            taken = _by_header(columns, taken, rule, begins, test)
        return taken

    @staticmethod
    def _by_key(columns: Columns, among: Mask, test: TestAll) -> Mask:
        asked = np.nonzero(among & (columns.key_sizes >= 0))[0]
        begins = columns.keys[asked]
        ends = begins + columns.key_sizes[asked]
        hits = np.fromiter(test(columns.data, begins.tolist(), ends.tolist()), np.bool_, len(asked))
        return _only(asked, hits, len(columns))


@cache
def matcher(rules: RecordRules) -> Matcher:
    """Rules made ready, once for all partitions."""
    return Matcher(rules)


def _test(match: Match) -> Test:
    if match.exact:
        return frozenset(value.encode() for value in match.exact).__contains__
    if match.prefix:
        prefixes = tuple(value.encode() for value in match.prefix)
        return lambda value: value.startswith(prefixes)
    if match.regex is None:
        raise ValueError("a rule that says nothing")
    return finder(match.regex)


def _test_all(match: Match) -> TestAll:
    """A test of many places of the data. It runs in C, but for what remains of expressions."""
    if match.prefix:
        prefixes = tuple(value.encode() for value in match.prefix)
        return lambda data, begins, ends: map(data.startswith, repeat(prefixes), begins, ends)
    test = _test(match)
    if match.regex is not None:
        test = lru_cache(_REMEMBERED)(test)
    return lambda data, begins, ends: map(test, map(data.__getitem__, map(slice, begins, ends)))


def _only(asked: Ints, hits: Mask, count: int) -> Mask:
    found = np.zeros(count, np.bool_)
    found[asked[hits]] = True
    return found


def _by_header(columns: Columns, among: Mask, rule: HeaderRule, begins: bytes, test: Test | None) -> Mask:
    found = np.zeros(len(columns), np.bool_)
    data = columns.data
    if begins in data:
        name = rule.name.encode()
        asked = np.nonzero(among & (columns.counts > 0))[0]
        places = (c[asked].tolist() for c in (columns.headers_at, columns.ends, columns.counts))
        for index, at, end, count in zip(asked.tolist(), *places, strict=True):
            if begins in data[at:end]:
                for header in read_headers(data, at, end, count):
                    if header.name == name and (test is None or _passes(header, data, test)):
                        found[index] = True
                        break
    return among & ~found if rule.absent else found


def _passes(header: Header, data: bytes, test: Test) -> bool:
    return not header.null and test(data[header.begin : header.end])


def _by_hash(columns: Columns, among: Mask, start: int, end: int) -> Mask:
    asked = np.nonzero(among & (columns.key_sizes >= 0))[0]
    hashes = hash_keys(columns, asked)
    shares = (hashes.astype(np.uint64) * np.uint64(100)) >> np.uint64(32)
    return _only(asked, (shares >= start) & (shares < end), len(columns))


def hash_keys(columns: Columns, asked: Ints) -> NDArray[np.uint32]:
    """murmur2 of these records' keys, as Kafka's default partitioner has it, all 32 bits of it."""
    sizes = columns.key_sizes[asked]
    hashes = np.zeros(len(asked), np.uint32)
    short = np.nonzero(sizes <= _HASHED_TOGETHER)[0]
    hashes[short] = _murmur2(np.frombuffer(columns.data, np.uint8), columns.keys[asked[short]], sizes[short])
    for index in np.nonzero(sizes > _HASHED_TOGETHER)[0].tolist():
        at = int(columns.keys[asked[index]])
        hashes[index] = murmur2(columns.data[at : at + int(sizes[index])]) & 0xFFFFFFFF
    return hashes


def _murmur2(data: NDArray[np.uint8], at: Ints, sizes: Ints) -> NDArray[np.uint32]:
    hashes = np.uint32(_SEED) ^ sizes.astype(np.uint32)
    words = sizes // 4
    for word in range(int(words.max()) if len(words) else 0):
        rows = np.nonzero(words > word)[0]
        k = _little(data, at[rows] + 4 * word, 4) * _M
        k = (k ^ (k >> np.uint32(24))) * _M
        hashes[rows] = (hashes[rows] * _M) ^ k
    for left in (1, 2, 3):
        rows = np.nonzero(sizes % 4 == left)[0]
        hashes[rows] = (hashes[rows] ^ _little(data, at[rows] + 4 * words[rows], left)) * _M
    hashes = (hashes ^ (hashes >> np.uint32(13))) * _M
    return hashes ^ (hashes >> np.uint32(15))


def _little(data: NDArray[np.uint8], at: Ints, size: int) -> NDArray[np.uint32]:
    """Little-endian numbers of ``size`` bytes."""
    found = np.zeros(len(at), np.uint32)
    for byte in range(size):
        found |= data[at + byte].astype(np.uint32) << np.uint32(8 * byte)
    return found
