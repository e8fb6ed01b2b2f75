"""Judge a replay from outside: what an independent client read, against the input itself and against the source topic.

Pure: lists in, findings out. Nothing here knows Sluice.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from demo.flights import Event
from e2e.support.kafka import Content, Read


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    holds: bool
    text: str


def judge(
    expected: Sequence[Event],
    source: Sequence[Read],
    target: Sequence[Read],
    start: datetime.datetime,
    end: datetime.datetime,
) -> list[Finding]:
    """Check that ``target`` is exactly the part of ``source`` from ``start`` to before ``end``.

    ``expected`` is that part of the input, before Kafka ever saw it. ``source`` and ``target`` are whole topics, in the
    order of each partition.
    """
    wanted: Counter[Content] = Counter((e.key, e.value, e.timestamp, tuple(e.headers)) for e in expected)
    found = Counter(read.content for read in target)
    missing, surplus = wanted - found, found - wanted
    twice = sum(count - 1 for count in found.values() if count > 1)
    unknown = sum(count for content, count in surplus.items() if content not in wanted)
    first, last = start.timestamp() * 1000, end.timestamp() * 1000
    in_range = [read for read in source if first <= read.timestamp < last]
    return [
        Finding(
            len(target) == len(expected),
            f"count: {len(target):,} records in the target, {len(expected):,} flights in the input's month",
        ),
        Finding(twice == 0, f"nothing twice: {twice:,} repeated records"),
        Finding(unknown == 0, f"nothing else: {unknown:,} records that aren't flights of the month"),
        Finding(
            not missing,
            "keys, values, headers and timestamps are the input's: "
            f"{sum(missing.values()):,} flights missing or changed",
        ),
        _same_order(in_range, target),
    ]


def _same_order(source: Sequence[Read], target: Sequence[Read]) -> Finding:
    """Every partition of the target is the same partition of the source, record by record; so is every key's order."""
    theirs, ours = _by_partition(source), _by_partition(target)
    differing = sorted(p for p in theirs.keys() | ours.keys() if theirs.get(p) != ours.get(p))
    keys = len({read.key for read in target if read.key is not None})
    if differing:
        return Finding(False, f"order: partitions {differing} of the target aren't in the order of the source")
    return Finding(True, f"order: every partition, and so each of {keys:,} keys, is in the order of the source")


def _by_partition(reads: Sequence[Read]) -> Mapping[int, list[Content]]:
    partitions: dict[int, list[Content]] = {}
    for read in sorted(reads, key=lambda r: (r.partition, r.offset)):
        partitions.setdefault(read.partition, []).append(read.content)
    return partitions
