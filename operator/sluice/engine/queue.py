"""The keyed queue's pure core: what is due, which lane may run, when a failed key is tried again. No clock, no I/O.

Level-based: a key says "look at this object", not what happened to it, so any number of events are one entry. All due
keys of a lane are handed out together; a lane is never handed out twice at once, nor is a key; lanes take turns.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass
from typing import Final, NamedTuple

from sluice.api.objects import Key

FIRST_BACKOFF: Final = 1.0
LONGEST_BACKOFF: Final = 300.0


class Lane(NamedTuple):
    """What is reconciled together."""

    kind: str
    name: str


@dataclass(frozen=True)
class Batch:
    """Keys of one lane, to be reconciled now; the lane is taken until ``Schedule.done``."""

    lane: Lane
    keys: tuple[Key, ...]


def backoff(failures: int, chance: random.Random) -> float:
    """Seconds until the next try after so many failures in a row: doubling from 1 s to 5 min, with jitter.

    At least half of the nominal time, so that there is always a pause; never more than all of it.
    """
    nominal = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures - 1, 20))
    return nominal * chance.uniform(0.5, 1.0)


class Schedule:
    """What waits, what is due and what runs.

    Times are seconds on any one monotonic clock.
    """

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()  # noqa: S311 - jitter, not secrets
        self._waiting: dict[Key, tuple[float, Lane]] = {}  # not yet due: when, and in which lane
        self._timers: list[tuple[float, int, Key]] = []  # may hold entries that are overtaken
        self._sequence = 0
        self._due: dict[Lane, dict[Key, None]] = {}  # in order of becoming due
        self._due_in: dict[Key, Lane] = {}
        self._turn: dict[Lane, None] = {}  # lanes with due keys that don't run, in order of their turn
        self._running: dict[Lane, tuple[Key, ...]] = {}
        self._runs_in: dict[Key, Lane] = {}
        self._again: dict[Key, Lane] = {}  # run, and are due again once they don't
        self._failures: dict[Key, int] = {}

    def add(self, key: Key, lane: Lane, at: float, now: float) -> None:
        """Have a look at ``key`` at ``at``, or before, if that was asked for already.

        It is looked at in the lane that was said last, also if it waits in another: an object that is deleted meanwhile
        isn't held up by what it was due with. A key that runs, in whatever lane, is looked at again after that.
        """
        if at <= now or key in self._due_in or key in self._again:
            self._waiting.pop(key, None)
            self._make_due(key, lane)
            return
        known = self._waiting.get(key)
        if known is not None and known[0] <= at:
            self._waiting[key] = (known[0], lane)
            return
        self._waiting[key] = (at, lane)
        self._sequence += 1
        heapq.heappush(self._timers, (at, self._sequence, key))

    def take(self, now: float) -> Batch | None:
        """The next lane in turn, with all its due keys; None if nothing may run now."""
        self._promote(now)
        lane = next(iter(self._turn), None)
        if lane is None:
            return None
        del self._turn[lane]
        keys = self._running[lane] = tuple(self._due.pop(lane))
        for key in keys:
            del self._due_in[key]
            self._runs_in[key] = lane
        return Batch(lane, keys)

    def done(self, lane: Lane) -> None:
        """The lane's batch has been worked on; what became due meanwhile waits for its turn."""
        for key in self._running.pop(lane, ()):
            del self._runs_in[key]
            if (again := self._again.pop(key, None)) is not None:
                self._make_due(key, again)
        if lane in self._due:
            self._turn.setdefault(lane, None)

    def succeeded(self, key: Key) -> None:
        """Forget the key's failures."""
        self._failures.pop(key, None)

    def failed(self, key: Key, lane: Lane, now: float) -> int:
        """Try again after a backoff; returns the number of failures in a row."""
        count = self._failures[key] = self.failures(key) + 1
        self.add(key, lane, now + backoff(count, self._chance), now)
        return count

    def failures(self, key: Key) -> int:
        """Number of the key's failures in a row."""
        return self._failures.get(key, 0)

    def next_due(self, now: float) -> float | None:
        """When ``take`` may have something that it hasn't now; None: only after ``add`` or ``done``."""
        self._promote(now)
        if self._turn:
            return now
        return self._timers[0][0] if self._timers else None

    def depth(self) -> int:
        """Number of keys that are due, and don't run yet or are to run again."""
        return len(self._due_in) + len(self._again)

    def depth_by_kind(self) -> dict[str, int]:
        """Number of due keys by kind."""
        return Counter(lane.kind for lanes in (self._due_in, self._again) for lane in lanes.values())

    def clear(self) -> None:
        """Forget everything that waits (another process is the leader); what runs goes on to its ``done``."""
        for part in (self._waiting, self._due, self._due_in, self._turn, self._again, self._failures):
            part.clear()
        self._timers.clear()

    def _promote(self, now: float) -> None:
        while self._timers:
            at, _, key = self._timers[0]
            known = self._waiting.get(key)
            current = known is not None and known[0] == at  # not overtaken by an earlier look
            if current and at > now:
                return
            heapq.heappop(self._timers)
            if known is not None and current:
                del self._waiting[key]
                self._make_due(key, known[1])

    def _make_due(self, key: Key, lane: Lane) -> None:
        if key in self._runs_in:
            self._again[key] = lane
            return
        if (former := self._due_in.get(key)) == lane:
            return  # and keeps its turn
        if former is not None:
            self._leave(key, former)
        self._due.setdefault(lane, {})[key] = None
        self._due_in[key] = lane
        if lane not in self._running:
            self._turn.setdefault(lane, None)

    def _leave(self, key: Key, lane: Lane) -> None:
        """Take a due key out of a lane, and the lane's turn with its last one."""
        del self._due[lane][key]
        if not self._due[lane]:
            del self._due[lane]
            self._turn.pop(lane, None)
