"""How far a group is behind: records and seconds per partition, and whether that keeps an objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

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


@dataclass(frozen=True, slots=True)
class Lag:
    """Lag of a partition. ``seconds`` is the age of the oldest record not consumed, None if that isn't known."""

    records: int
    seconds: float | None


def lag_of(position: int, end: int, batch: BatchTime | None, now_ms: float) -> Lag:
    """Lag at ``position``, given the batch there.

    The age is that of the batch's first record, so it is exact to the time that a producer took to fill the batch.
    """
    if batch is not None and batch.control and batch.covers(position):
        position = batch.last + 1
        batch = None
    records = max(0, end - position)
    if records == 0:
        return Lag(0, 0.0)
    if batch is None:
        return Lag(records, None)
    return Lag(records, max(0.0, (now_ms - batch.timestamp_ms) / 1000))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a group keeps its objective, and a sentence without numbers that change all the time."""

    within: bool
    message: str


def judge(objective: LagObjective, lags: Mapping[TopicPartition, Lag], *, was_within: bool | None) -> Verdict:
    """Compare lag with an objective: total records, seconds of the worst partition. Recovery needs a margin."""
    margin = RECOVERY if was_within is False else 1.0
    records = sum(lag.records for lag in lags.values())
    seconds = max((lag.seconds for lag in lags.values() if lag.seconds is not None), default=0.0)
    missed = []
    if objective.max_records is not None and records > objective.max_records * margin:
        missed.append(f"more than {objective.max_records} records")
    if objective.max_seconds is not None and seconds > objective.max_seconds * margin:
        missed.append(f"more than {objective.max_seconds} seconds")
    if missed:
        return Verdict(False, f"The group is {' and '.join(missed)} behind.")
    return Verdict(True, "The group keeps its lag objective.")
