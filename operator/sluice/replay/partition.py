"""One partition on its way: what is fetched and waits, what is written, and how far the position is."""

from __future__ import annotations

import base64
import uuid
from collections import deque
from dataclasses import dataclass, field

from sluice.plan.observed import TopicPartition
from sluice.replay.assignment import TopicRoute
from sluice.replay.pieces import Piece
from sluice.replay.positions import Counts
from sluice.replay.selection import Selection
from sluice.replay.transaction import Position


@dataclass(slots=True)
class PartitionCopy:
    """State of one partition in one session. ``position`` is what the open transaction will commit."""

    route: TopicRoute
    source: TopicPartition
    target: TopicPartition
    committed_as: TopicPartition
    selection: Selection
    position: int
    counts: Counts
    committed: int
    fetch_offset: int
    queue: deque[Piece] = field(default_factory=deque)
    queued_bytes: int = 0
    sequence: int = 0
    in_flight: int = 0
    joined: bool = False
    """Whether a batch of the open transaction was acknowledged: until then only one is sent, so that it can be sent
    again when the coordinator still ends the transaction before."""
    added: bool = False

    @property
    def end(self) -> int:
        """First offset that isn't wanted."""
        return self.selection.end

    @property
    def done(self) -> bool:
        """Whether all of it has been written or left out."""
        return self.position >= self.end

    @property
    def dirty(self) -> bool:
        """Whether the position has moved since the last commit."""
        return self.position != self.committed

    @property
    def wants_data(self) -> bool:
        """Whether there is more to fetch."""
        return self.fetch_offset < self.end

    def queue_piece(self, piece: Piece) -> int:
        """Take a fetched piece; returns the bytes that now wait more."""
        self.fetch_offset = piece.next_offset
        if not piece.view:
            if self.queue:
                self.queue[-1].next_offset = piece.next_offset
                self.queue[-1].filtered += piece.filtered
            else:
                self.position = piece.next_offset
                self.counts += Counts(filtered=piece.filtered)
            return 0
        self.queue.append(piece)
        self.queued_bytes += len(piece.view)
        return len(piece.view)

    def as_position(self) -> Position:
        """What is committed."""
        return Position(self.position, self.counts)

    def __str__(self) -> str:
        return f"{self.source} → {self.target}"


def topic_uuid(kafka_id: str) -> uuid.UUID:
    """The UUID of an id as Kafka prints it."""
    return uuid.UUID(bytes=base64.urlsafe_b64decode(kafka_id + "=="))
