"""Batches that are opened: what of them is wanted, changed and packed anew; those that stay whole are left whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sluice.replay.batch import Batch
from sluice.replay.columns import Columns, scan
from sluice.replay.errors import CorruptBatchError
from sluice.replay.headers import HeaderEdit, Tails
from sluice.replay.matching import Mask, matcher
from sluice.replay.pieces import NOTHING, Piece
from sluice.replay.rewriting import write
from sluice.replay.rules import RecordRules
from sluice.replay.varints import Ints


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens batches of one partition, for offsets before ``end`` and Unix milliseconds in ``[from_ms, to_ms)``.

    ``source``: topic/partition, as the marks say it; ``where`` names it in errors.
    """

    end: int
    from_ms: int | None
    to_ms: int | None
    rules: RecordRules
    limit: int
    where: str
    source: str

    def pieces(self, batches: Sequence[Batch], position: int, following: int, *, merge: bool) -> Iterator[Piece]:
        """What to write of ``batches``, all of one codec, after which the position is ``following``.

        A batch that stays as it is goes whole, unless ``merge`` asks for all of them in as few as possible.

        Raises:
            CorruptBatchError: the bytes are damaged.
            RefusedError: a record is too large for the target.
        """
        columns = scan(batches, self.where)
        in_range = self._in_range(columns, position)
        try:
            wanted = matcher(self.rules).select(columns, in_range)
            chosen = np.nonzero(wanted)[0]
            tails = HeaderEdit(self.rules, self.source).tails(columns, chosen) if len(chosen) else None
        except CorruptBatchError as error:
            raise CorruptBatchError(f"{self.where}, offset {batches[0].base_offset} or after: {error}") from None
        # How many were left out before each wanted record, and in all.
        left_out = np.cumsum(in_range & ~wanted)
        passed = [*left_out[chosen].tolist(), int(left_out[-1]) if len(left_out) else 0]
        positions = [*columns.offsets[chosen].tolist(), following]
        if not len(chosen):
            yield Piece(NOTHING, 0, following, passed[0])
            return
        written = counted = 0
        for view, count in self._written(batches, columns, wanted, tails, merge=merge):
            written += count
            yield Piece(view, count, positions[written], passed[written] - counted)
            counted = passed[written]

    def _in_range(self, columns: Columns, position: int) -> Mask:
        found = (columns.offsets >= position) & (columns.offsets < self.end)
        if self.from_ms is not None:
            found &= columns.timestamps >= self.from_ms
        if self.to_ms is not None:
            found &= columns.timestamps < self.to_ms
        return found

    def _written(
        self, batches: Sequence[Batch], columns: Columns, wanted: Mask, tails: Tails | None, *, merge: bool
    ) -> Iterator[tuple[memoryview, int]]:
        """Batches with the wanted records, and how many each has."""
        chosen = np.nonzero(wanted)[0]
        bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(wanted)))[columns.firsts].tolist()
        begun = 0
        for batch, first, end in zip(batches, bounds[:-1], bounds[1:], strict=True):
            stays = tails is None and not merge and end - first == batch.records and batch.intact(self.limit)
            if stays and end > first:
                yield from self._anew(columns, chosen[begun:first], tails, batch.codec)
                yield batch.view, batch.records
                begun = end
        part = tails[begun:] if tails is not None else None
        yield from self._anew(columns, chosen[begun:], part, batches[0].codec)

    def _anew(
        self, columns: Columns, chosen: Ints, tails: Tails | None, codec: int
    ) -> Iterator[tuple[memoryview, int]]:
        return write(columns, chosen, tails, codec, self.limit, self.where)
