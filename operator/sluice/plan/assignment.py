"""Where replicas go: changing the number of replicas of a topic while it stays spread over racks and brokers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sluice.plan.observed import Broker, PartitionDescription

Placement = tuple[int, ...]
"""Brokers of a partition's replicas, the preferred leader first."""


def place(partitions: Iterable[PartitionDescription], replicas: int, brokers: Sequence[Broker]) -> dict[int, Placement]:
    """New placements, by partition number, of those partitions that don't have ``replicas`` replicas.

    As few replicas as possible move: existing ones stay, the preferred leader always (unless its broker is gone). One
    is added on the rack that the partition has fewest replicas on, there on the broker with fewest replicas of the
    topic; one is dropped from the rack that it has most on.

    Args:
        partitions: the partitions as they are.
        replicas: replicas that each should have.
        brokers: brokers that serve.

    Raises:
        ValueError: there are fewer brokers than replicas.
    """
    if replicas > len(brokers):
        raise ValueError(f"{replicas} replicas need as many brokers, and there are {len(brokers)}")
    racks = {broker.id: broker.rack or f"broker-{broker.id}" for broker in brokers}
    partitions = list(partitions)
    load: Counter[int] = Counter(replica for partition in partitions for replica in partition.replicas)
    changed: dict[int, Placement] = {}
    for partition in partitions:
        current = list(partition.replicas)
        if len(current) == replicas:
            continue
        while len(current) > replicas:
            dropped = _to_drop(current, racks, load)
            current.remove(dropped)
            load[dropped] -= 1
        while len(current) < replicas:
            added = _to_add(current, racks, load, turn=partition.id)
            current.append(added)
            load[added] += 1
        changed[partition.id] = tuple(current)
    return changed


def _to_drop(current: Sequence[int], racks: Mapping[int, str], load: Counter[int]) -> int:
    on_rack = Counter(racks[replica] for replica in current if replica in racks)
    # The first is the preferred leader: it goes only if its broker doesn't serve.
    candidates = [replica for replica in current[1:] if replica in racks]
    gone = [replica for replica in current if replica not in racks]
    if gone:
        return gone[-1]
    return max(candidates, key=lambda replica: (on_rack[racks[replica]], load[replica], replica))


def _to_add(current: Sequence[int], racks: Mapping[int, str], load: Counter[int], *, turn: int) -> int:
    on_rack = Counter(racks[replica] for replica in current if replica in racks)
    ids = sorted(racks)
    # Ties go round from partition to partition, so that they don't all land on the first broker.
    rank = {broker: (position - turn) % len(ids) for position, broker in enumerate(ids)}
    candidates = [broker for broker in ids if broker not in current]
    return min(candidates, key=lambda broker: (on_rack[racks[broker]], load[broker], rank[broker]))
