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
    topic; one is dropped from the rack that it has most on, and in the end brokers with more of the topic than others
    give what needn't be theirs.

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
    _even_out(changed, {partition.id: partition.replicas for partition in partitions}, racks, load)
    return changed


def _even_out(
    changed: dict[int, Placement], before: Mapping[int, Placement], racks: Mapping[int, str], load: Counter[int]
) -> None:
    """Keep another of the replicas that were there, where that takes from a broker with two more than another.

    What is dropped one partition after the other can't know what is dropped later; a way over brokers in between, each
    of which gives one and gets one, finds what is left to gain.
    """
    while (way := _way_down(changed, before, racks, load)) is not None:
        for number, giver, taker in way:
            changed[number] = tuple(taker if replica == giver else replica for replica in changed[number])
            load[giver] -= 1
            load[taker] += 1


def _way_down(
    changed: Mapping[int, Placement], before: Mapping[int, Placement], racks: Mapping[int, str], load: Counter[int]
) -> list[tuple[int, int, int]] | None:
    """Swaps (partition, broker that gives, broker that takes) from a broker to one with at least two fewer."""
    swaps = {
        giver: [
            (number, giver, taker)
            for number, kept in changed.items()
            if giver in kept[1:] and giver in before[number]
            for taker in before[number]
            if taker in racks and taker not in kept and _as_spread(kept, giver, taker, racks)
        ]
        for giver in racks
    }
    for busiest in sorted(racks, key=lambda broker: (-load[broker], broker)):
        ways: dict[int, list[tuple[int, int, int]]] = {busiest: []}
        queue = [busiest]
        for broker in queue:
            if load[broker] <= load[busiest] - 2:
                return ways[broker]
            for swap in swaps[broker]:
                used = {number for number, _, _ in ways[broker]}
                if swap[2] not in ways and swap[0] not in used:
                    ways[swap[2]] = [*ways[broker], swap]
                    queue.append(swap[2])
    return None


def _as_spread(kept: Placement, giver: int, taker: int, racks: Mapping[int, str]) -> bool:
    """Whether a partition stays as spread over racks when ``taker`` has the replica instead of ``giver``."""
    on_rack = Counter(racks.get(replica) for replica in kept)
    return racks[giver] == racks[taker] or on_rack[racks[taker]] < on_rack[racks[giver]]


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
