"""Where replicas go."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.plan.assignment import place
from sluice.plan.observed import Broker, PartitionDescription


def partition(number: int, *replicas: int) -> PartitionDescription:
    return PartitionDescription(number, replicas[0], 0, replicas, replicas)


def brokers(*racks: str | None) -> list[Broker]:
    return [Broker(number, "host", 9092, rack) for number, rack in enumerate(racks)]


def test_replicas_are_added_on_other_racks() -> None:
    placed = place([partition(0, 0), partition(1, 2)], 2, brokers("a", "a", "b", "b"))
    assert placed[0][1] in (2, 3)
    assert placed[1][1] in (0, 1)


def test_the_rack_with_most_replicas_loses_one() -> None:
    assert place([partition(0, 0, 1, 2)], 2, brokers("a", "a", "b")) == {0: (0, 2)}


def test_a_replica_on_a_broker_that_is_gone_goes_first() -> None:
    assert place([partition(0, 0, 1, 9)], 2, brokers("a", "b")) == {0: (0, 1)}
    assert place([partition(0, 9, 1, 0)], 2, brokers("a", "b")) == {0: (1, 0)}


def test_what_is_right_is_not_touched() -> None:
    assert place([partition(0, 0, 1), partition(1, 2)], 2, brokers(None, None, None)).keys() == {1}


def test_more_replicas_than_brokers_is_impossible() -> None:
    with pytest.raises(ValueError, match="as many brokers"):
        place([partition(0, 0)], 3, brokers("a", "b"))


@given(st.integers(1, 24), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_placements_keep_leaders_spread_over_racks_and_share_the_load(
    count: int, before: int, after: int, racks: int
) -> None:
    nodes = brokers(*(f"rack-{number % racks}" for number in range(8)))
    current = [partition(n, *((n + step) % 8 for step in range(before))) for n in range(count)]
    placed = place(current, after, nodes)
    load: Counter[int] = Counter()
    for found in current:
        replicas = placed.get(found.id, found.replicas)
        assert len(replicas) == len(set(replicas)) == after
        assert replicas[0] == found.replicas[0]
        kept = set(found.replicas) & set(replicas)
        assert len(kept) == min(before, after)  # nothing moves that needn't
        load.update(replicas)
        if before == 1:
            on_rack = Counter(nodes[replica].rack for replica in replicas)
            assert max(on_rack.values()) - min(on_rack.get(f"rack-{r}", 0) for r in range(racks)) <= 1
    if before == 1 and count >= 8:
        assert max(load.values()) - min(load.values()) <= 2 + after


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_replicas_that_go_leave_brokers_as_even_as_their_leaders_allow(leaders: list[int]) -> None:
    current = [partition(n, leader, *({0, 1, 2} - {leader})) for n, leader in enumerate(leaders)]
    placed = place(current, 2, brokers(None, None, None))
    load = Counter(replica for replicas in placed.values() for replica in replicas)
    share = -(-2 * len(leaders) // 3)
    assert max(load.values()) <= max(share, *(leaders.count(node) for node in range(3)))
    assert all(replicas[0] == leaders[number] for number, replicas in placed.items())
