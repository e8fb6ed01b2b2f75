"""From fetched batches to what goes into the target: whole where possible, opened where something must be left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sluice.replay.batch import Batch, split
from sluice.replay.records import control_type, read_records, write_batches

NOTHING: Final = memoryview(b"")
_ABORT: Final = 0


class AbortedTransaction(NamedTuple):
    """A transaction that was aborted: whose, and from which offset on."""

    producer_id: int
    first_offset: int


@dataclass(slots=True)
class Piece:
    """A batch to be written, or ``NOTHING`` for a mere step; ``next_offset`` is the position after it."""

    view: memoryview
    records: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a partition is wanted: offsets before ``end``, timestamps in ``[from_ms, to_ms)``."""

    end: int
    from_ms: int | None
    to_ms: int | None
    max_batch_bytes: int
    where: str

    def pieces(self, data: memoryview, position: int, aborted: Sequence[AbortedTransaction]) -> Iterator[Piece]:
        """What to write of a Fetch response's ``data``, in order, starting at ``position``.

        ``aborted`` are the transactions that the response names; their records are left out.

        Raises:
            CorruptBatchError: the bytes are damaged.
            RefusedError: a record is too large for the target.
        """
        pending = sorted(aborted, key=lambda transaction: transaction.first_offset, reverse=True)
        open_aborted: set[int] = set()
        for batch in split(data, self.where):
            if batch.next_offset <= position:
                continue
            if batch.base_offset >= self.end:
                yield Piece(NOTHING, 0, self.end)
                return
            while pending and pending[-1].first_offset < batch.next_offset:
                open_aborted.add(pending.pop().producer_id)
            following = min(batch.next_offset, self.end)
            if batch.control:
                if batch.records and control_type(batch) == _ABORT:
                    open_aborted.discard(batch.producer_id)
                yield Piece(NOTHING, 0, following)
            elif not batch.records or (batch.transactional and batch.producer_id in open_aborted):
                yield Piece(NOTHING, 0, following)
            else:
                yield from self._data(batch, position, following)
            position = following

    def _data(self, batch: Batch, position: int, following: int) -> Iterator[Piece]:
        if (self.from_ms is not None and batch.max_timestamp < self.from_ms) or (
            self.to_ms is not None and batch.records == 1 and batch.max_timestamp >= self.to_ms
        ):
            yield Piece(NOTHING, 0, following)
            return
        intact = batch.dense and not batch.log_append_time and len(batch.view) <= self.max_batch_bytes
        if intact and batch.base_offset >= position and batch.next_offset <= self.end and self._all_in_time(batch):
            yield Piece(batch.view, batch.records, following)
            return
        records = read_records(batch)
        wanted = [
            record
            for record in records
            if position <= record.offset < self.end
            and (self.from_ms is None or record.timestamp >= self.from_ms)
            and (self.to_ms is None or record.timestamp < self.to_ms)
        ]
        if intact and len(wanted) == len(records):
            yield Piece(batch.view, batch.records, following)
            return
        written = 0
        for view, count in write_batches(wanted, batch.codec, self.max_batch_bytes, self.where):
            written += count
            yield Piece(view, count, following if written == len(wanted) else wanted[written].offset)
        if not wanted:
            yield Piece(NOTHING, 0, following)

    def _all_in_time(self, batch: Batch) -> bool:
        """Whether the header alone shows that every record is in time; it tells the latest, not the earliest."""
        if self.to_ms is not None and batch.max_timestamp >= self.to_ms:
            return False
        return self.from_ms is None or batch.records == 1
