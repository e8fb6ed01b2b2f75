"""From fetched batches to what goes into the target: whole where possible, opened where something must be looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from sluice.replay.batch import CONTROL, TRANSACTIONAL, Batch, split
from sluice.replay.pieces import NOTHING, Piece
from sluice.replay.records import control_type
from sluice.replay.rules import NO_RULES, RecordRules

if TYPE_CHECKING:
    from sluice.replay.opening import Opener

_ABORT: Final = 0
_FEW_BATCHES: Final = 8
"""So many are sent as they are before opening and merging them pays."""
_FEW_RECORDS: Final = 32
_SMALL: Final = 16 * 1024
"""A batch costs about as much, on its way, as opening some fifty records does."""
_OPENED_TOGETHER: Final = 4096
"""Records. The bytes of more leave the processor's caches; for many fewer, numpy's calls aren't worth it."""
_BYTES_TOGETHER: Final = 1024 * 1024


class AbortedTransaction(NamedTuple):
    """A transaction that was aborted: whose, and from which offset on."""

    producer_id: int
    first_offset: int


@dataclass(slots=True)
class _Group:
    """Batches that are opened together; the position before them and after them, and after what follows them."""

    position: int
    following: int
    codec: int
    batches: list[Batch] = field(default_factory=list)
    records: int = 0
    size: int = 0

    def takes(self, batch: Batch) -> bool:
        """Whether ``batch`` can be packed with these."""
        return (
            self.records + batch.records <= _OPENED_TOGETHER
            and self.size + len(batch.view) <= _BYTES_TOGETHER
            and self.codec == batch.codec
        )

    def add(self, batch: Batch, following: int) -> None:
        """Take it."""
        self.batches.append(batch)
        self.records += batch.records
        self.size += len(batch.view)
        self.following = following


@dataclass(frozen=True)
class Selection:
    """What of a partition is wanted: offsets before ``end``, timestamps in ``[from_ms, to_ms)``, by ``rules``.

    ``source``: topic/partition, as records' marks say it; ``where`` names the partition in errors.
    """

    end: int
    from_ms: int | None
    to_ms: int | None
    max_batch_bytes: int
    where: str
    rules: RecordRules = NO_RULES
    source: str = ""

    def pieces(self, data: memoryview, position: int, aborted: Sequence[AbortedTransaction]) -> Iterator[Piece]:
        """What to write of a Fetch response's ``data``, in order, starting at ``position``.

        ``aborted`` are the transactions that the response names; their records are left out.

        Raises:
            CorruptBatchError: the bytes are damaged.
            RefusedError: a record is too large for the target.
        """
        batches = list(split(data, self.where))
        merge = _badly_batched(batches)
        group: _Group | None = None
        for batch, following, has_data in self._in_range(batches, position, aborted):
            if not has_data or self._out_of_time(batch):
                if group is None:
                    yield Piece(NOTHING, 0, following)
                else:
                    group.following = following
            elif not (merge and len(batch.view) < _SMALL) and self._whole(batch, position):
                if group is not None:
                    yield from self._open(group, merge=merge)
                    group = None
                yield Piece(batch.view, batch.records, following)
            else:
                if group is not None and not group.takes(batch):
                    yield from self._open(group, merge=merge)
                    group = None
                if group is None:
                    group = _Group(position, following, batch.codec)
                group.add(batch, following)
            position = following
        if group is not None:
            yield from self._open(group, merge=merge)

    def _in_range(
        self, batches: Sequence[Batch], position: int, aborted: Sequence[AbortedTransaction]
    ) -> Iterator[tuple[Batch, int, bool]]:
        """Batches that aren't wholly outside of the range, the position after each, and whether it has data to copy."""
        pending = sorted(aborted, key=lambda transaction: transaction.first_offset, reverse=True)
        open_aborted: set[int] = set()
        for batch in batches:
            following = batch.next_offset
            if following <= position:
                continue
            if batch.base_offset >= self.end:
                yield batch, self.end, False
                return
            while pending and pending[-1].first_offset < following:
                open_aborted.add(pending.pop().producer_id)
            has_data = batch.records > 0
            if batch.attributes & (CONTROL | TRANSACTIONAL):
                if batch.control and has_data and control_type(batch) == _ABORT:
                    open_aborted.discard(batch.producer_id)
                has_data = has_data and not batch.control and batch.producer_id not in open_aborted
            yield batch, min(following, self.end), has_data

    def _out_of_time(self, batch: Batch) -> bool:
        """Whether the header alone shows that no record is in time."""
        return (self.from_ms is not None and batch.max_timestamp < self.from_ms) or (
            self.to_ms is not None and batch.records == 1 and batch.max_timestamp >= self.to_ms
        )

    def _whole(self, batch: Batch, position: int) -> bool:
        """Whether the header alone shows that the batch goes as it is."""
        return (
            self.rules is NO_RULES
            and batch.base_offset >= position
            and batch.next_offset <= self.end
            and batch.intact(self.max_batch_bytes)
            and self._all_in_time(batch)
        )

    def _all_in_time(self, batch: Batch) -> bool:
        """Whether the header alone shows that every record is in time; it tells the latest, not the earliest."""
        if self.to_ms is not None and batch.max_timestamp >= self.to_ms:
            return False
        return self.from_ms is None or batch.records == 1

    def _open(self, group: _Group, *, merge: bool) -> Iterator[Piece]:
        return self._opener.pieces(group.batches, group.position, group.following, merge=merge)

    @cached_property
    def _opener(self) -> Opener:
        from sluice.replay.opening import Opener  # with numpy, which a replay of whole batches does without

        return Opener(self.end, self.from_ms, self.to_ms, self.rules, self.max_batch_bytes, self.where, self.source)


def _badly_batched(batches: Sequence[Batch]) -> bool:
    """Whether these batches are so small that records are better packed anew, in larger ones."""
    count = len(batches)
    return (
        count > _FEW_BATCHES
        and sum(batch.records for batch in batches) < _FEW_RECORDS * count
        and sum(len(batch.view) for batch in batches) < _SMALL * count
    )
