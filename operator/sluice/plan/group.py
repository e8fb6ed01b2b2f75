"""Where a consumer group starts, in partitions in which it has no committed offset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluice.api.group import ConsumerGroupSpec, StartFrom
from sluice.api.objects import ConsumerGroup
from sluice.plan.observed import TopicDescription, TopicPartition


def group_id(group: ConsumerGroup) -> str:
    """Id of the group in Kafka."""
    return group.spec.group_id or group.name


def claimed_id(body: Mapping[str, Any]) -> str:
    """Id of the group in Kafka of an object that perhaps can't be read."""
    name: str = body["spec"].get("groupId") or body["metadata"]["name"]
    return name


def partitions_of(names: Iterable[str], topics: Mapping[str, TopicDescription]) -> list[TopicPartition]:
    """Partitions of those of the named topics that exist."""
    return [TopicPartition(name, part.id) for name in names if name in topics for part in topics[name].partitions]


@dataclass(frozen=True)
class StartPlan:
    """Partitions in which an offset is to be committed, by where to start."""

    earliest: tuple[TopicPartition, ...] = ()
    latest: tuple[TopicPartition, ...] = ()
    at_time: tuple[TopicPartition, ...] = ()

    @property
    def partitions(self) -> tuple[TopicPartition, ...]:
        """All of them."""
        return self.earliest + self.latest + self.at_time


def plan_start(
    spec: ConsumerGroupSpec,
    partitions: Iterable[TopicPartition],
    committed: Mapping[TopicPartition, int],
    initialized: Sequence[str],
) -> StartPlan:
    """Where to start in each partition without a committed offset.

    In a topic that the group has started on before, a partition without one was added later: nothing in it may be
    missed, so it starts at its beginning whatever the spec says about the first start.

    Args:
        spec: says where a first start is.
        partitions: all partitions of the group's topics.
        committed: the group's committed offsets.
        initialized: topics that the group has started on before.
    """
    begun = {place.topic for place in committed} | set(initialized)
    missing = [place for place in partitions if place not in committed]
    later = tuple(place for place in missing if place.topic in begun)
    first = tuple(place for place in missing if place.topic not in begun)
    match spec.start_position.from_:
        case StartFrom.EARLIEST:
            return StartPlan(earliest=later + first)
        case StartFrom.LATEST:
            return StartPlan(earliest=later, latest=first)
        case StartFrom.TIME:
            return StartPlan(earliest=later, at_time=first)


def initialized_topics(
    names: Iterable[str], topics: Mapping[str, TopicDescription], committed: Iterable[TopicPartition]
) -> list[str]:
    """Topics whose every partition has a committed offset."""
    known = set(committed)
    return sorted(
        name
        for name in names
        if name in topics and all(TopicPartition(name, part.id) in known for part in topics[name].partitions)
    )
