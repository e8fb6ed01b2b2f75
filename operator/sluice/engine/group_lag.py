"""How far a group is behind: what has to be asked of Kafka for it, and what is remembered so that it needn't be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from sluice.kafka.admin import KafkaAdmin
from sluice.plan.lag import UNKNOWN, BatchTime, Ends, Lag, lag_of
from sluice.plan.observed import TopicDescription, TopicPartition

BATCHES_LOOKED_AT: Final = 200
"""Partitions of a group of which the time of the next record is looked up in one refresh, the most at once."""

Topics = Mapping[str, TopicDescription]


@dataclass(frozen=True)
class _Seen:
    """What is known of the next records at a position, and in which refresh that was asked (0: never)."""

    position: int
    batch: BatchTime | None
    asked: int

    def tells(self, position: int) -> bool:
        return self.batch is not None and self.position <= position <= self.batch.last


class LagMemory:
    """The lag of one group, refreshed from time to time.

    The batch at which a group stands needn't be asked for again while it stands there. Where not all can be asked for
    in one refresh, it is the turn of those that were asked longest ago; what was known of the others is an upper bound.
    """

    def __init__(self) -> None:
        self._seen: dict[TopicPartition, _Seen] = {}
        self._refresh = 0

    async def measure(
        self,
        admin: KafkaAdmin,
        topics: Topics,
        positions: Mapping[TopicPartition, int | None],
        ends: Mapping[TopicPartition, Ends],
        now_ms: float,
    ) -> dict[TopicPartition, Lag]:
        """Lag of each partition, given committed offsets (None: none) and ends (missing: unknown)."""
        self._refresh += 1
        stands = {
            place: max(ends[place].start, position or 0) for place, position in positions.items() if place in ends
        }
        self._forget(positions, stands)
        behind = {place: position for place, position in stands.items() if position < ends[place].end}
        await self._look(admin, topics, behind)
        for place, position in stands.items():
            if position == ends[place].end:  # whatever comes is younger than now
                passed = BatchTime(position - 1, position - 1, int(now_ms), control=False)
                self._seen[place] = _Seen(position, passed, self._asked(place))
        return {
            place: lag_of(position, ends[place], self._batch(place), now_ms) if place in ends else UNKNOWN
            for place, position in positions.items()
        }

    def _forget(self, positions: Mapping[TopicPartition, int | None], stands: Mapping[TopicPartition, int]) -> None:
        """What is known of partitions that aren't the group's any more, or that it was set back in, says nothing."""
        self._seen = {place: seen for place, seen in self._seen.items() if place in positions}
        for place, seen in self._seen.items():
            if stands.get(place, seen.position) < seen.position:
                self._seen[place] = replace(seen, batch=None)

    async def _look(self, admin: KafkaAdmin, topics: Topics, behind: Mapping[TopicPartition, int]) -> None:
        unknown = [place for place, at in behind.items() if place not in self._seen or not self._seen[place].tells(at)]
        asked = {place: behind[place] for place in sorted(unknown, key=self._asked)[:BATCHES_LOOKED_AT]}
        if not asked:
            return
        answers = await admin.each_batch_time(asked, topics)
        for place, position in asked.items():
            known = self._seen.get(place)
            if place in answers.errors and known is not None:
                self._seen[place] = replace(known, asked=self._refresh)
            else:
                self._seen[place] = _Seen(position, answers.found.get(place), self._refresh)

    def _asked(self, place: TopicPartition) -> int:
        return self._seen[place].asked if place in self._seen else 0

    def _batch(self, place: TopicPartition) -> BatchTime | None:
        return self._seen[place].batch if place in self._seen else None
