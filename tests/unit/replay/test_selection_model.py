"""Selection against a model: a log of everything that Kafka may hold, read as a read_committed consumer reads it."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatchBuilder

from sluice.replay.batch import HEADER, HEADER_BYTES, LOG_APPEND_TIME, TRANSACTIONAL, assemble
from sluice.replay.compression import CODEC_NAMES, compress
from sluice.replay.selection import AbortedTransaction
from tests.unit.replay.test_batches import change
from tests.unit.replay.test_selection import marker, select

NOBODY = -1
PRODUCERS = (7, 8)


@dataclass(frozen=True)
class Data:
    """A batch: which of its offsets are left after compaction, each with its time, and what stood after the last."""

    producer: int
    kept: list[int | None]
    codec: int
    append_time: bool


@dataclass(frozen=True)
class End:
    """The end of a producer's transaction, if it has one open."""

    producer: int
    commit: bool


@dataclass
class Log:
    """Batches in order, and what a reader is to see of them."""

    batches: list[tuple[int, bytes]] = field(default_factory=list)
    """Next offset and bytes."""
    aborted: list[tuple[AbortedTransaction, int]] = field(default_factory=list)
    """With the offset of their marker."""
    expected: dict[int, int] = field(default_factory=dict)
    """Offset and time of each record that was committed."""
    end: int = 0
    open: dict[int, tuple[int, dict[int, int]]] = field(default_factory=dict)
    """First offset and records of open transactions."""

    def add(self, entry: Data | End) -> None:
        """Write an entry."""
        if isinstance(entry, Data):
            self._data(entry)
        elif entry.producer in self.open:
            first, records = self.open.pop(entry.producer)
            if entry.commit:
                self.expected |= records
            else:
                self.aborted.append((AbortedTransaction(entry.producer, first), self.end))
            self._append(marker(self.end, entry.producer, commit=entry.commit), 1)

    def _append(self, raw: bytes, offsets: int) -> None:
        self.end += offsets
        self.batches.append((self.end, raw))

    def _data(self, entry: Data) -> None:
        times = {delta: time for delta, time in enumerate(entry.kept) if time is not None}
        seen = {d: max(times.values()) if entry.append_time else time for d, time in times.items()}
        records = {self.end + delta: time for delta, time in seen.items()}
        if entry.producer == NOBODY:
            self.expected |= records
        else:
            self.open.setdefault(entry.producer, (self.end, {}))[1].update(records)
        self._append(written(entry, self.end, times), len(entry.kept))

    def fetch(self, position: int) -> tuple[bytes, tuple[AbortedTransaction, ...]]:
        """As a broker answers: whole batches from the one with ``position`` on, and transactions that matter there."""
        data = b"".join(raw for following, raw in self.batches if following > position)
        return data, tuple(transaction for transaction, last in self.aborted if last >= position)


def written(entry: Data, base: int, times: dict[int, int]) -> bytes:
    """A batch's bytes; each value is its record's offset."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, entry.producer, 1, 0, 10**7)
    for delta, time in times.items():
        builder.append(delta, time, None, str(base + delta).encode(), [])
    if times:
        plain = bytearray(builder.build())
        header = HEADER.unpack_from(plain)
        raw = bytearray(
            assemble(compress(entry.codec, plain[HEADER_BYTES:]), entry.codec, header[12], header[7], header[8])
        )
    else:
        raw = bytearray(assemble(b"", 0, 0, 0, 0))  # compaction keeps a producer's last batch, empty
    raw[0:8] = base.to_bytes(8, "big")
    raw[23:27] = (len(entry.kept) - 1).to_bytes(4, "big")
    raw[43:51] = entry.producer.to_bytes(8, "big", signed=True)
    attributes = HEADER.unpack_from(raw)[5]
    attributes |= TRANSACTIONAL if entry.producer != NOBODY else 0
    attributes |= LOG_APPEND_TIME if entry.append_time else 0
    return bytes(change(raw, attributes))


times = st.integers(0, 40)
data = st.builds(
    Data,
    st.sampled_from((NOBODY, *PRODUCERS)),
    st.lists(st.none() | times, min_size=1, max_size=6) | st.lists(times, min_size=1, max_size=6),
    st.sampled_from(sorted(CODEC_NAMES)),
    st.booleans(),
)
ends = st.builds(End, st.sampled_from(PRODUCERS), st.booleans())


@settings(max_examples=300)
@given(
    st.lists(data | ends, min_size=1, max_size=15),
    st.lists(st.booleans(), min_size=len(PRODUCERS), max_size=len(PRODUCERS)),
    st.none() | times,
    st.none() | times,
    st.sampled_from((120, 10**6)),
    st.data(),
)
def test_what_a_reader_sees_in_range_and_time_once_and_in_order(
    entries: list[Data | End],
    last: list[bool],
    from_ms: int | None,
    to_ms: int | None,
    limit: int,
    draw: st.DataObject,
) -> None:
    """From the start, and again from each position that was reached, exactly what is still missing is chosen."""
    log = Log()
    for entry in (*entries, *(End(producer, commit) for producer, commit in zip(PRODUCERS, last, strict=True))):
        log.add(entry)
    end = draw.draw(st.integers(0, log.end))
    wanted = [
        offset
        for offset, time in sorted(log.expected.items())
        if offset < end and (from_ms is None or time >= from_ms) and (to_ms is None or time < to_ms)
    ]

    def chosen(position: int) -> tuple[list[int], list[int]]:
        fetched, aborted = log.fetch(position)
        found, pieces = select(
            fetched, end=end, position=position, aborted=aborted, from_ms=from_ms, to_ms=to_ms, limit=limit
        )
        return found, [piece.next_offset for piece in pieces]

    found, positions = chosen(0)
    assert found == wanted
    assert positions == sorted(positions)
    assert not positions or positions[-1] == end or end == 0
    for position in positions:
        assert chosen(position)[0] == [offset for offset in wanted if offset >= position]
