"""Where the probe's partitions must be: one led by each broker, so that each broker's latency is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sluice.plan.assignment import Placement
from sluice.plan.observed import TopicDescription

MAX_REPLICAS: Final = 3


@dataclass(frozen=True)
class ProbePlan:
    """What the probe's topic needs, and through which partition each broker can be measured now."""

    create: tuple[Placement, ...] = ()
    """The topic doesn't exist: partitions that it gets."""
    add: tuple[Placement, ...] = ()
    """Partitions that are added at the end."""
    move: Mapping[int, Placement] = field(default_factory=dict)
    """Partitions that get other replicas."""
    elect: tuple[int, ...] = ()
    """Partitions whose preferred leader is in sync but doesn't lead."""
    routes: Mapping[int, int] = field(default_factory=dict)
    """Partition by the broker that leads it, as it should; a broker without one can't be measured now."""

    @property
    def changes(self) -> bool:
        """Whether anything is to be done to the topic."""
        return bool(self.create or self.add or self.move or self.elect)


def place(brokers: Sequence[int], leader: int) -> Placement:
    """Replicas of the partition that ``leader`` leads: itself and the next ones, three at most."""
    ids = sorted(brokers)
    start = ids.index(leader)
    return tuple(ids[(start + step) % len(ids)] for step in range(min(MAX_REPLICAS, len(ids))))


def plan_probe(brokers: Sequence[int], topic: TopicDescription | None) -> ProbePlan:
    """Compare the probe's topic with the brokers that the cluster should have (whether they are up or not).

    A partition stays with the broker that is its preferred leader. Partitions of brokers that are gone go to new ones;
    only then are partitions added. A broker that is merely down keeps its partition, so nothing moves in a restart.
    """
    wanted = sorted(set(brokers))
    if not wanted:
        return ProbePlan()
    if topic is None:
        return ProbePlan(create=tuple(place(wanted, broker) for broker in wanted))

    copies = min(MAX_REPLICAS, len(wanted))
    # Kafka wants as many replicas of a partition that is added as the others have; the next look corrects the number.
    existing_copies = max(1, topic.replication_factor)
    owner: dict[int, int] = {}  # broker → partition
    for partition in topic.partitions:
        leader = partition.replicas[0] if partition.replicas else -1
        if leader in wanted and leader not in owner:
            owner[leader] = partition.id
    spare = [partition.id for partition in topic.partitions if partition.id not in owner.values()]
    add: list[Placement] = []
    for broker in wanted:
        if broker in owner:
            continue
        if spare:
            owner[broker] = spare.pop(0)
        elif existing_copies <= copies:
            add.append(place(wanted, broker)[:existing_copies])
    # Kafka can't remove partitions: those left over must not hold on to brokers that are gone.
    leaders = {partition: broker for broker, partition in owner.items()}
    preferred = {partition.id: partition.replicas[:1] for partition in topic.partitions}
    for number in spare:
        leaders[number] = next(
            (leader for leader in preferred[number] if leader in wanted), wanted[number % len(wanted)]
        )

    move: dict[int, Placement] = {}
    elect: list[int] = []
    routes: dict[int, int] = {}
    for partition in topic.partitions:
        leader = leaders[partition.id]
        replicas = partition.replicas
        if replicas[:1] != (leader,) or len(replicas) != copies or not set(replicas) <= set(wanted):
            move[partition.id] = place(wanted, leader)
        elif partition.leader != leader and leader in partition.isr:
            elect.append(partition.id)
        if partition.leader == leader and owner.get(leader) == partition.id:
            routes[leader] = partition.id
    return ProbePlan(add=tuple(add), move=move, elect=tuple(elect), routes=routes)
