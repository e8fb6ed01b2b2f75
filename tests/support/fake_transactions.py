"""A transaction coordinator's rules, and a partition's producer state, for one transactional id (KIP-360, KIP-890)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sluice.replay.batch import HEADER

OUT_OF_ORDER: Final = 45
INVALID_TXN_STATE: Final = 48
CONCURRENT_TRANSACTIONS: Final = 51
PRODUCER_FENCED: Final = 90


@dataclass
class FakeTransactions:
    """Each method answers with an error code. ``implicit``: by KIP-890 part 2, where each end gives the next epoch."""

    implicit: bool = True
    epoch: int = -1
    open: bool = False
    written: list[memoryview] = field(default_factory=list)
    """What readers with read_committed see."""
    committed: tuple[int, str] = (0, "")
    """The group's position and its metadata."""
    position: tuple[int, str] | None = None
    """What the open transaction would make of it."""
    aborts: int = 0
    """Transactions that held something and were aborted."""
    _last_epoch: int = -1
    _last_commit: bool = False
    _batches: list[memoryview] = field(default_factory=list)
    _sequence: int = 0
    _sequence_epoch: int = -1

    @property
    def begun(self) -> bool:
        """Whether the open transaction holds a batch."""
        return bool(self._batches)

    def init(self, known: int) -> int:
        """Fence others; whoever names an epoch must be the one that is known."""
        if known not in {-1, self.epoch, self._last_epoch}:
            return PRODUCER_FENCED
        if self.open:  # whoever held it is fenced by an epoch of its own, and we are asked to come again
            self.epoch, self._last_epoch = self.epoch + 1, -1
            self._finish(commit=False)
            return CONCURRENT_TRANSACTIONS
        if known in {-1, self.epoch}:
            self.epoch, self._last_epoch = self.epoch + 1, self.epoch
        return 0

    def join(self, epoch: int) -> int:
        """Something takes part in the transaction."""
        if epoch != self.epoch:
            return PRODUCER_FENCED
        self.open = True
        return 0

    def append(self, view: memoryview) -> int:
        """A batch arrives at the target partition's leader."""
        epoch, sequence, count = HEADER.unpack_from(view)[10:]
        if epoch != self.epoch:
            return PRODUCER_FENCED
        if not self.open and not self.implicit:
            return INVALID_TXN_STATE
        if epoch != self._sequence_epoch:
            self._sequence, self._sequence_epoch = 0, epoch
        if sequence != self._sequence:
            return OUT_OF_ORDER
        self._sequence += count
        self._batches.append(view)
        self.open = True
        return 0

    def end(self, epoch: int, *, commit: bool) -> int:
        """Commit or abort; the same end asked for again is answered again."""
        if self.implicit and not self.open and epoch == self._last_epoch:
            return 0 if commit == self._last_commit else INVALID_TXN_STATE
        if epoch != self.epoch:
            return PRODUCER_FENCED
        if not self.open:
            return 0 if not commit and self.implicit else INVALID_TXN_STATE
        self._finish(commit=commit)
        if self.implicit:
            self.epoch, self._last_epoch = self.epoch + 1, self.epoch
        return 0

    def _finish(self, *, commit: bool) -> None:
        if commit:
            self.written += self._batches
            self.committed = self.position or self.committed
        else:
            self.aborts += 1
        self._last_commit = commit
        self._batches, self.position, self.open = [], None, False
