"""What of a fetched partition goes into the target, and where the position stands after it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sluice.replay.batch import CONTROL, LOG_APPEND_TIME, TRANSACTIONAL, assemble, split
from sluice.replay.pieces import Piece
from sluice.replay.records import Record, content_of, key_and_value, read_records, write_batch
from sluice.replay.selection import AbortedTransaction, Selection
from tests.unit.replay.test_batches import change


def batch(first: int, count: int, *, producer: int = -1, attributes: int = 0, times: list[int] | None = None) -> bytes:
    """A batch with records ``first`` to ``first + count``; each value is its offset."""
    found = [
        Record(0, times[n] if times else first + n, content_of(None, str(first + n).encode())) for n in range(count)
    ]
    raw = bytearray(write_batch(found))
    raw[0:8] = first.to_bytes(8, "big")
    raw[43:51] = producer.to_bytes(8, "big", signed=True)
    return bytes(change(raw, attributes))


def marker(offset: int, producer: int, *, commit: bool) -> bytes:
    """The end of a transaction."""
    content = content_of(bytes([0, 0, 0, int(commit)]), b"\0" * 6)
    raw = bytearray(write_batch([Record(0, 0, content)]))
    raw[0:8] = offset.to_bytes(8, "big")
    raw[43:51] = producer.to_bytes(8, "big")
    return bytes(change(raw, CONTROL | TRANSACTIONAL))


def sparse(first: int, offsets: list[int], last_delta: int) -> bytes:
    """A batch as compaction leaves it."""
    body = bytearray()
    for offset in offsets:
        record = bytes([0, 0, (offset - first) * 2]) + bytes(content_of(None, str(offset).encode()))
        body += bytes([len(record) * 2]) + record
    raw = bytearray(assemble(bytes(body), 0, len(offsets), 0, 0))
    raw[0:8] = first.to_bytes(8, "big")
    raw[23:27] = last_delta.to_bytes(4, "big")
    return bytes(change(raw, 0))


def select(
    data: bytes,
    *,
    end: int = 1000,
    position: int = 0,
    aborted: tuple[AbortedTransaction, ...] = (),
    from_ms: int | None = None,
    to_ms: int | None = None,
    limit: int = 10**6,
) -> tuple[list[int], list[Piece]]:
    """Offsets that were chosen (by the records' values), and the pieces."""
    selection = Selection(end, from_ms, to_ms, limit, "t-0")
    pieces = list(selection.pieces(memoryview(bytearray(data)), position, aborted))
    chosen = []
    for piece in pieces:
        if piece.view:
            (found,) = split(piece.view, "t")
            assert found.dense
            assert not found.log_append_time
            assert piece.records == found.records
            chosen += [int(key_and_value(record.content)[1] or b"") for record in read_records(found)]
    return chosen, pieces


def test_a_whole_batch_goes_as_it_is() -> None:
    data = batch(0, 5)
    chosen, (piece,) = select(data)
    assert chosen == [0, 1, 2, 3, 4]
    assert piece.view == data
    assert piece.next_offset == 5


def test_the_edges_of_the_range_cut_batches() -> None:
    data = batch(0, 10) + batch(10, 10) + batch(20, 10)
    chosen, pieces = select(data, position=7, end=23)
    assert chosen == list(range(7, 23))
    assert [piece.next_offset for piece in pieces] == [10, 20, 23]


def test_aborted_transactions_are_left_out_and_the_same_producers_next_one_is_not() -> None:
    data = (
        batch(0, 2, producer=7, attributes=TRANSACTIONAL)
        + batch(2, 2, producer=8, attributes=TRANSACTIONAL)
        + marker(4, 7, commit=False)
        + batch(5, 2, producer=7, attributes=TRANSACTIONAL)
        + marker(7, 8, commit=True)
        + marker(8, 7, commit=True)
        + batch(9, 1, producer=7)
    )
    chosen, pieces = select(data, aborted=(AbortedTransaction(7, 0),))
    assert chosen == [2, 3, 5, 6, 9]
    assert pieces[-1].next_offset == 10


def test_gaps_are_closed_and_the_position_passes_them() -> None:
    chosen, (piece,) = select(sparse(10, [11, 14], last_delta=9), position=10)
    assert chosen == [11, 14]
    assert piece.next_offset == 20


def test_a_batch_that_begins_after_the_end_ends_the_range() -> None:
    chosen, (piece,) = select(batch(50, 5), position=10, end=40)
    assert chosen == []
    assert (bytes(piece.view), piece.next_offset) == (b"", 40)


def test_an_empty_batch_moves_the_position() -> None:
    _, (piece,) = select(sparse(0, [], last_delta=9))
    assert (bytes(piece.view), piece.next_offset) == (b"", 10)


def test_times_decide_record_by_record() -> None:
    data = batch(0, 4, times=[5, 30, 10, 19]) + batch(4, 2, times=[1, 2]) + batch(6, 2, times=[12, 11])
    chosen, pieces = select(data, from_ms=10, to_ms=20)
    assert chosen == [2, 3, 6, 7]
    assert pieces[-1].next_offset == 8


def test_log_append_time_is_written_into_the_records() -> None:
    chosen, (piece,) = select(batch(0, 2, attributes=LOG_APPEND_TIME, times=[3, 9]))
    assert chosen == [0, 1]
    (found,) = split(piece.view, "t")
    assert [record.timestamp for record in read_records(found)] == [9, 9]


def test_between_the_halves_of_a_split_batch_the_position_is_the_next_record() -> None:
    chosen, pieces = select(batch(0, 40), limit=250)
    assert chosen == list(range(40))
    assert len(pieces) > 1
    done = 0
    for piece in pieces:
        done += piece.records
        assert piece.next_offset == done


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=15), st.data())
def test_each_wanted_offset_once_in_order_from_any_position(layout: list[tuple[int, int]], draw: st.DataObject) -> None:
    """Whatever the layout, starting again at any position that was reached gives exactly what was still missing."""
    data, offset, offsets = b"", 0, []
    for count, gap in layout:
        data += batch(offset, count)
        offsets += range(offset, offset + count)
        offset += count + gap
    end = draw.draw(st.integers(0, offset))
    chosen, pieces = select(data, end=end)
    assert chosen == [o for o in offsets if o < end]
    for piece in pieces:
        rest, _ = select(data, end=end, position=piece.next_offset)
        assert rest == [o for o in offsets if piece.next_offset <= o < end]
