"""Opened batches against a model: which records are taken, what their headers become, and what the counts say."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2

from sluice.replay.batch import CODEC_MASK, HEADER_BYTES, assemble, seal, split
from sluice.replay.columns import scan
from sluice.replay.compression import LZ4, NONE, decompress
from sluice.replay.errors import CorruptBatchError, RefusedError
from sluice.replay.matching import hash_keys
from sluice.replay.pieces import Piece
from sluice.replay.records import read_records
from sluice.replay.rules import NO_RULES, HeaderRule, Match, RecordRules
from sluice.replay.selection import Selection
from tests.unit.replay.test_batches import CODECS, Row, built, change, only, read_by_others

LIMIT = 10**6
MARKS = ("sluice-replay-job", "sluice-replay-count", "sluice-replay-source")
names = st.sampled_from(["a", "b", "ä", *MARKS])
values = st.none() | st.sampled_from([b"", b"1", b"7", b"x\xff", b"a", b"ab", b"\x02a\x02b"]) | st.binary(max_size=4)
keys = st.none() | st.sampled_from([b"", b"a", b"ab", b"abc", b"\xff\x00", "ä".encode()]) | st.binary(max_size=300)
rows = st.lists(
    st.tuples(keys, values, st.lists(st.tuples(names, values), max_size=4), st.integers(0, 2**41)),
    min_size=1,
    max_size=8,
)
texts = st.sampled_from(["", "a", "ab", "1", "ä"])
matches = st.one_of(
    st.builds(lambda some: Match(exact=tuple(some)), st.lists(texts, min_size=1, max_size=3)),
    st.builds(lambda some: Match(prefix=tuple(some)), st.lists(texts.filter(bool), min_size=1, max_size=3)),
    st.builds(lambda one: Match(regex=one), st.sampled_from(["^a", "b$", "[0-9]", "^$", "a|1"])),
)
header_rules = st.one_of(
    st.builds(HeaderRule, names, st.none() | matches), st.builds(lambda name: HeaderRule(name, absent=True), names)
)
all_rules = st.builds(
    RecordRules,
    key=st.none() | matches,
    hash_range=st.none() | st.sampled_from([(0, 50), (50, 100), (0, 100), (3, 4)]),
    headers=st.lists(header_rules, max_size=2).map(tuple),
    exclude_replayed=st.booleans(),
    drop=st.lists(names, max_size=2).map(tuple),
    rename=st.lists(st.tuples(names, st.sampled_from(["c", "long-name"])), max_size=2, unique_by=lambda p: p[0]).map(
        tuple
    ),
    mark=st.none() | st.just("ns/job"),
)


@dataclass(frozen=True)
class Laid:
    """A batch in the source: its records and codec."""

    rows: list[Row]
    codec: int


logs = st.lists(st.builds(Laid, rows, st.sampled_from(CODECS)), min_size=1, max_size=6)


def log_bytes(log: list[Laid]) -> bytes:
    data, offset = bytearray(), 0
    for laid in log:
        data += built(laid.rows, offset, laid.codec)
        offset += len(laid.rows)
    return bytes(data)


def pieces_of(data: bytes, rules: RecordRules, position: int = 0, end: int = 10**6, limit: int = LIMIT) -> list[Piece]:
    selection = Selection(end, None, None, limit, "t-3", rules, "t/3")
    return list(selection.pieces(memoryview(bytearray(data)), position, ()))


def rows_of(pieces: list[Piece]) -> list[Row]:
    """Records as kafka-python reads them."""
    found: list[Row] = []
    for piece in pieces:
        if piece.view:
            batch = only(bytearray(piece.view))
            assert batch.records == piece.records
            assert batch.dense
            plain = assemble(
                bytes(decompress(batch.codec, piece.view[HEADER_BYTES:])), NONE, batch.records, batch.base_timestamp, 0
            )
            these = read_by_others(plain)
            assert batch.max_timestamp == max(row[3] for row in these)
            found += these
    return found


# -- the model: nothing but what the documentation says ---------------------------------------------------------------


def passes(value: bytes | None, match: Match | None) -> bool:
    if match is None:
        return True
    if value is None:
        return False
    if match.exact:
        return value in [one.encode() for one in match.exact]
    if match.prefix:
        return any(value.startswith(one.encode()) for one in match.prefix)
    return re.search((match.regex or "").encode().replace(b"$", rb"\Z"), value) is not None


def taken(row: Row, rules: RecordRules) -> bool:
    key, _, headers, _ = row
    if rules.key is not None and not passes(key, rules.key):
        return False
    if rules.hash_range is not None:
        low, high = rules.hash_range
        if key is None or not low <= (murmur2(key) & 0xFFFFFFFF) * 100 // 2**32 < high:
            return False
    present = {name for name, _ in headers}
    if rules.exclude_replayed and present & set(MARKS[:2]):
        return False
    return all(
        rule.name not in present
        if rule.absent
        else any(name == rule.name and passes(value, rule.value) for name, value in headers)
        for rule in rules.headers
    )


def changed(row: Row, rules: RecordRules, offset: int) -> Row:
    key, value, headers, time = row
    kept = [(name, said) for name, said in headers if name not in rules.drop]
    if rules.mark is not None:
        counts = [said for name, said in kept if name == "sluice-replay-count" and said and said.isdigit()]
        count = 1 + max((int(said) for said in counts), default=0)
        kept = [(name, said) for name, said in kept if name not in MARKS]
    new = dict(rules.rename)
    kept = [(new.get(name, name), said) for name, said in kept]
    if rules.mark is not None:
        kept += zip(MARKS, (rules.mark.encode(), str(count).encode(), f"t/3/{offset}".encode()), strict=True)
    return key, value, kept, time


@settings(max_examples=150, deadline=None)
@given(logs, all_rules, st.sampled_from((400, LIMIT)), st.data())
def test_what_is_taken_and_what_becomes_of_it_is_as_said(
    log: list[Laid], rules: RecordRules, limit: int, draw: st.DataObject
) -> None:
    """From any position that was reached, too, with counts that add up to the same."""
    data = log_bytes(log)
    all_rows = [row for laid in log for row in laid.rows]
    end = draw.draw(st.integers(0, len(all_rows)))
    wanted = [(offset, row) for offset, row in enumerate(all_rows[:end]) if taken(row, rules)]

    def expected(position: int) -> list[Row]:
        return [changed(row, rules, offset) for offset, row in wanted if offset >= position]

    try:
        pieces = pieces_of(data, rules, end=end, limit=limit)
    except RefusedError:
        assert limit < LIMIT
        return
    assert rows_of(pieces) == expected(0)
    filtered = sum(piece.filtered for piece in pieces)
    assert filtered == end - len(wanted)
    before = 0
    for piece in pieces:
        before += piece.filtered
        rest = pieces_of(data, rules, piece.next_offset, end, limit)
        assert rows_of(rest) == expected(piece.next_offset)
        assert before + sum(one.filtered for one in rest) == filtered
    assert [piece.next_offset for piece in pieces][-1:] == ([end] if end else [0])


@settings(max_examples=20, deadline=None)
@given(st.lists(rows, min_size=12, max_size=40), st.sampled_from(CODECS))
def test_small_batches_are_merged_and_nothing_else_changes(small: list[list[Row]], codec: int) -> None:
    log = [Laid(few, codec) for few in small]
    pieces = pieces_of(log_bytes(log), NO_RULES)
    assert len(pieces) == 1
    assert rows_of(pieces) == [row for few in small for row in few]
    assert only(bytearray(pieces[0].view)).codec == codec


def test_batches_that_are_large_enough_go_whole_even_among_small_ones() -> None:
    large = [(b"k", bytes(20_000), [], 5)]
    log = [*(Laid([(b"s", b"v", [], n)], NONE) for n in range(6)), Laid(large, NONE)]
    log += [Laid([(b"s", b"v", [], n)], NONE) for n in range(60)]
    data = log_bytes(log)
    pieces = pieces_of(data, NO_RULES)
    assert [piece.records for piece in pieces] == [6, 1, 60]
    assert bytes(pieces[1].view) in data


def test_what_is_filtered_only_in_part_leaves_the_other_batches_whole() -> None:
    log = [Laid([(b"a", b"v", [], n) for n in range(40)], LZ4), Laid([(b"a", b"v", [], 1), (b"b", b"v", [], 2)], LZ4)]
    data = log_bytes(log)
    first, second = pieces_of(data, RecordRules(key=Match(exact=("a",))))
    assert bytes(first.view) in data
    assert (first.records, second.records, second.filtered) == (40, 1, 1)


def test_markers_between_small_batches_dont_keep_them_apart() -> None:
    from tests.unit.replay.test_selection import batch, marker

    data = b"".join(batch(n * 3, 2, producer=7, attributes=0x10) + marker(n * 3 + 2, 7, commit=True) for n in range(20))
    (piece,) = pieces_of(data, NO_RULES)
    assert (piece.records, piece.next_offset) == (40, 60)


def test_a_marked_record_is_marked_anew_and_not_twice() -> None:
    rules = RecordRules(mark="ns/job/run")
    data = bytes(built([(b"k", b"v", [("a", b"1")], 5)], 999))
    for round_ in (1, 2, 3):
        (piece,) = pieces_of(data, rules)
        ((_, _, headers, time),) = rows_of([piece])
        offset = 999 if round_ == 1 else 0
        source = f"t/3/{offset}".encode()
        assert headers == [
            ("a", b"1"),
            ("sluice-replay-job", b"ns/job/run"),
            ("sluice-replay-count", str(round_).encode()),
            ("sluice-replay-source", source),
        ]
        assert time == 5
        seal(piece.view, 1, 1, 0)
        data = bytes(piece.view)


def test_large_numbers_of_records_make_batches_of_a_sensible_size() -> None:
    log = [Laid([(b"k%d" % n, bytes(200), [], n) for n in range(2000)], LZ4) for _ in range(8)]
    pieces = pieces_of(log_bytes(log), RecordRules(mark="ns/job"))
    assert sum(piece.records for piece in pieces) == 16_000
    assert min(piece.records for piece in pieces) > 1500


def test_a_record_that_never_fits_is_named() -> None:
    data = bytes(built([(b"k", bytes(2000), [], 0)], 7))
    with pytest.raises(RefusedError, match=r"t-3, offset 7: .*1000.*max\.message\.bytes"):
        pieces_of(data, NO_RULES, limit=1000)


@given(rows)
def test_keys_are_hashed_as_kafkas_default_partitioner_does(data: list[Row]) -> None:
    columns = scan([only(built(data))], "t")
    asked = np.nonzero(columns.key_sizes >= 0)[0]
    expected = [murmur2(row[0]) & 0xFFFFFFFF for row in data if row[0] is not None]
    assert hash_keys(columns, asked).tolist() == expected


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 40), st.sampled_from((NONE, LZ4)), all_rules)
def test_any_bytes_at_all_end_in_a_result_or_in_a_sentence(
    noise: bytes, records: int, codec: int, rules: RecordRules
) -> None:
    raw = bytes(assemble(noise, codec, max(1, records), 0, 0))
    with contextlib.suppress(CorruptBatchError, RefusedError):
        pieces_of(raw * 2, rules)


@settings(max_examples=200, deadline=None)
@given(rows, all_rules, st.data())
def test_damage_under_a_right_crc_ends_in_a_result_or_in_a_sentence(
    data: list[Row], rules: RecordRules, draw: st.DataObject
) -> None:
    raw = built(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        raw[draw.draw(st.integers(HEADER_BYTES, len(raw) - 1))] = draw.draw(st.integers(0, 255))
    change(raw, 0)
    with contextlib.suppress(CorruptBatchError, RefusedError):
        pieces_of(bytes(raw), replace(rules, mark="ns/job"))


def test_a_length_without_end_is_told_at_once() -> None:
    raw = bytes(assemble(b"\xff" * 2_000_000, NONE, 1, 0, 0))
    with pytest.raises(CorruptBatchError, match="t-3, offset 0"):
        pieces_of(raw, RecordRules(mark="x"), limit=10**7)


@given(rows, st.sampled_from(CODECS), st.integers(0, 2**40))
def test_columns_say_what_records_one_by_one_say(data: list[Row], codec: int, base: int) -> None:
    batch = only(built(data, base, codec))
    columns = scan([batch], "t")
    found = read_records(batch)
    assert columns.offsets.tolist() == [record.offset for record in found]
    assert columns.timestamps.tolist() == [record.timestamp for record in found]
    contents = [columns.data[a:b] for a, b in zip(columns.content, columns.ends, strict=True)]
    assert contents == [bytes(record.content) for record in found]
    assert columns.counts.tolist() == [len(row[2]) for row in data]


def test_the_codec_of_the_source_stays() -> None:
    for codec in CODECS:
        (piece,) = pieces_of(bytes(built([(b"k", b"v", [], 1)], 0, codec)), RecordRules(mark="x"))
        (batch,) = split(piece.view, "t")
        assert batch.attributes & CODEC_MASK == codec
