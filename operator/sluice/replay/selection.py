"""From fetched batches to what goes into the target: whole where possible, opened where something must be looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from sluice.replay.batch import Batch, split
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
_OPENED_TOGETHER: Final = 2 * 1024 * 1024
"""Bytes of batches before they are decompressed; more at once makes nothing faster."""


class AbortedTransaction(NamedTuple):
    """A transaction that was aborted: whose, and from which offset on."""

    producer_id: int
    first_offset: int


@dataclass(slots=True)
class _Group:
    """Batches that are opened together; the position before them and after them, and after what follows them."""

    position: int
    following: int
    batches: list[Batch] = field(default_factory=list)
    size: int = 0

    def takes(self, batch: Batch) -> bool:
        """Whether ``batch`` can be packed with these."""
        return self.size + len(batch.view) <= _OPENED_TOGETHER and self.batches[0].codec == batch.codec

    def add(self, batch: Batch, following: int) -> None:
        """Take it."""
        self.batches.append(batch)
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
            elif self._whole(batch, position) and not (merge and len(batch.view) < _SMALL):
                if group is not None:
                    yield from self._open(group, merge=merge)
                    group = None
                yield Piece(batch.view, batch.records, following)
            else:
                if group is not None and not group.takes(batch):
                    yield from self._open(group, merge=merge)
                    group = None
                group = group or _Group(position, following)
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
            if batch.next_offset <= position:
                continue
            if batch.base_offset >= self.end:
                yield batch, self.end, False
                return
            while pending and pending[-1].first_offset < batch.next_offset:
                open_aborted.add(pending.pop().producer_id)
            following = min(batch.next_offset, self.end)
            if batch.control and batch.records and control_type(batch) == _ABORT:
                open_aborted.discard(batch.producer_id)
            left_out = batch.control or (batch.transactional and batch.producer_id in open_aborted)
            yield batch, following, bool(batch.records) and not left_out

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
