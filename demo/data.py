"""The demo's records: what is in Kafka already, what is still to be produced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from demo.flights import Event
from e2e.support import kafka


def missing(events: Sequence[Event], there: Sequence[kafka.Read]) -> list[Event]:
    """Events that aren't in the topic yet, in order.

    A run that was killed while producing leaves a beginning of each partition: what is missing can simply be appended
    without disturbing the order of any key. No two events have the same content, so content is what they are told
    apart by.
    """
    known = Counter(read.value for read in there)
    return [event for event in events if not known[event.value]]


def produce(config: kafka.Config, topic: str, events: Sequence[Event], progress: Callable[[int], None]) -> int:
    """Produce events in their order; return how many were acknowledged."""
    writes = (kafka.Write(event.key, event.value, event.timestamp, tuple(event.headers)) for event in events)
    return kafka.produce(config, topic, writes, progress=progress)


def placed(reads: Sequence[kafka.Read]) -> str:
    """How records without key are spread over the partitions, in words."""
    partitions = Counter(read.partition for read in reads if read.key is None)
    return f"{partitions.total():,} records without key in {len(partitions)} partitions"
