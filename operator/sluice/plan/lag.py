"""How far a group is behind: records and seconds per partition, and whether that keeps an objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sluice.api.base import Reason
from sluice.api.group import LagObjective
from sluice.plan.observed import TopicPartition

RECOVERY: Final = 0.9
"""Share of an objective below which lag counts as recovered, so that a group near it doesn't flap."""


@dataclass(frozen=True, slots=True)
class BatchTime:
    """A record batch: first and last offset, time of its first record (Unix ms), and whether it only marks a
    transaction's end (``control``), which no consumer ever sees."""

    first: int
    last: int
    timestamp_ms: int
    control: bool

    def covers(self, offset: int) -> bool:
        """Whether ``offset`` lies in the batch."""
        return self.first <= offset <= self.last


class Ends(NamedTuple):
    """First offset that a partition still has, and the one after its last record."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Lag:
    """Lag of a partition.

    Attributes:
        records: records not consumed; None if that isn't known.
        seconds: age of the oldest of them; None if that isn't known.
        in_range: whether the group stands somewhere in what the partition has.
    """

    records: int | None
    seconds: float | None
    in_range: bool = True


UNKNOWN: Final = Lag(None, None)


def lag_of(position: int | None, ends: Ends, batch: BatchTime | None, now_ms: float) -> Lag:
    """Lag at ``position`` (at the start, where nothing was committed), given the first batch there with records.

    The age is that of the batch's first record, so it is exact to the time that a producer took to fill the batch. A
    batch that was passed since it was looked up tells how old the next record is at most.
    """
    if position is not None and position > ends.end:
        return Lag(None, None, in_range=False)
    in_range = position is None or position >= ends.start
    stands = max(ends.start, position or 0)
    if batch is not None and batch.last >= stands:
        stands = batch.last + 1 if batch.control else max(stands, batch.first)
    records = max(0, ends.end - stands)
    if records == 0:
        return Lag(0, 0.0, in_range)
    if batch is None or batch.control:
        return Lag(records, None, in_range)
    return Lag(records, max(0.0, (now_ms - batch.timestamp_ms) / 1000), in_range)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a group keeps its objective (None: that isn't known), and a sentence that stays as long as that does."""

    within: bool | None
    reason: Reason
    message: str


def judge(objective: LagObjective, lags: Mapping[TopicPartition, Lag], *, was_within: bool | None) -> Verdict:
    """Compare lag with an objective: total records, seconds of the worst partition. Recovery needs a margin."""
    margin = RECOVERY if was_within is False else 1.0
    limits = []
    missed = unknown = False
    if objective.max_records is not None:
        limits.append(f"{objective.max_records} records")
        missed |= sum(lag.records or 0 for lag in lags.values()) > objective.max_records * margin
        unknown |= any(lag.records is None for lag in lags.values())
    if objective.max_seconds is not None:
        limits.append(f"{objective.max_seconds} seconds")
        missed |= any((lag.seconds or 0.0) > objective.max_seconds * margin for lag in lags.values())
        unknown |= any(lag.seconds is None for lag in lags.values())
    if missed:
        return Verdict(False, Reason.LAGGING, f"The group is further behind than {' or '.join(limits)}.")
    if strays := sorted({place.topic for place, lag in lags.items() if not lag.in_range}):
        return Verdict(None, Reason.POSITION_OUT_OF_RANGE, astray(strays))
    if unknown:
        return Verdict(
            None,
            Reason.LAG_UNKNOWN,
            "Not all partitions tell how far the group is behind: some don't exist, have no leader or one that doesn't"
            " answer, or the age of their next record is yet to be looked up.",
        )
    return Verdict(True, Reason.WITHIN_OBJECTIVE, "The group keeps its lag objective.")


def astray(topics: Sequence[str]) -> str:
    """What it means that committed offsets lie outside of the topics."""
    return (
        f"Committed offsets lie outside of what topic {' and topic '.join(topics)} has: it was deleted and made anew,"
        " or records were deleted before the group consumed them. There the clients' auto.offset.reset decides where"
        " they go on, unless the group's offsets are set while it is stopped."
    )
