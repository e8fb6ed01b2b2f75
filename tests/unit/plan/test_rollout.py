"""The gate of a rolling restart."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.plan.observed import QuorumDescription, QuorumReplica, TopicPartition
from sluice.plan.rollout import Done, Health, KafkaState, NodeState, PartitionState, Restart, Wait, decide


def node(number: int, *, stale: bool = True, health: Health = Health.READY, roles: str = "cb") -> NodeState:
    return NodeState(
        id=number,
        name=f"node-{number}",
        controller="c" in roles,
        broker="b" in roles,
        health=health,
        why_stale="its configuration has changed" if stale else None,
        trouble="" if health is Health.READY else "CrashLoopBackOff",
    )


def quorum(voters: int = 3, *, leader: int = 0, behind: frozenset[int] = frozenset()) -> QuorumDescription:
    replicas = tuple(
        QuorumReplica(number, f"d{number}", 0, 0, 0 if number in behind else 1_000_000) for number in range(voters)
    )
    return QuorumDescription(leader, 1, 0, replicas, ())


def partition(
    name: str, replicas: set[int], isr: set[int] | None = None, *, min_isr: int = 2, staying: set[int] | None = None
) -> PartitionState:
    return PartitionState(
        TopicPartition(name, 0),
        frozenset(replicas),
        frozenset(replicas if isr is None else isr),
        min_isr,
        frozenset(replicas if staying is None else staying),
    )


def kafka(*partitions: PartitionState, brokers: int = 3, seen: QuorumDescription | None = None) -> KafkaState:
    return KafkaState(frozenset(range(brokers)), seen or quorum(), partitions)


def test_nothing_to_do_when_every_node_is_as_the_spec_asks() -> None:
    assert decide([node(0, stale=False)], None) == Done()


def test_the_active_controller_is_last() -> None:
    nodes = [node(0), node(1), node(2)]
    order = []
    while not isinstance(step := decide(nodes, kafka(seen=quorum(leader=0))), Done):
        assert isinstance(step, Restart)
        order.append(step.node.id)
        nodes[step.node.id] = dataclasses.replace(step.node, why_stale=None)
    assert order == [1, 2, 0]


def test_brokers_come_after_controllers() -> None:
    nodes = [node(0, roles="b"), node(1, roles="b"), node(2, roles="c"), node(3, roles="c"), node(4, roles="c")]
    voters = tuple(QuorumReplica(n, "", 0, 0, 0) for n in (2, 3, 4))
    state = KafkaState(frozenset({0, 1}), QuorumDescription(2, 1, 0, voters, ()), ())
    step = decide(nodes, state)
    assert isinstance(step, Restart)
    assert step.node.id == 3


def test_a_node_that_starts_is_waited_for() -> None:
    step = decide([node(0), node(1, stale=False, health=Health.STARTING), node(2)], kafka())
    assert isinstance(step, Wait)
    assert not step.blocked


def test_a_node_that_crashes_is_replaced_before_any_that_works() -> None:
    step = decide([node(0), node(1, health=Health.STUCK), node(2)], kafka())
    assert isinstance(step, Restart)
    assert step.node.id == 1


def test_a_revision_whose_first_node_crashes_goes_no_further() -> None:
    nodes = [node(0), node(1, stale=False, health=Health.STUCK), node(2, health=Health.STUCK)]
    step = decide(nodes, kafka())
    assert isinstance(step, Wait)
    assert step.blocked
    assert "node-1 isn't ready: CrashLoopBackOff" in step.why


def test_when_no_node_works_new_revisions_are_the_only_help() -> None:
    nodes = [node(0, stale=False, health=Health.STUCK), node(1, health=Health.STUCK), node(2, health=Health.STUCK)]
    step = decide(nodes, None)
    assert isinstance(step, Restart)
    assert step.node.id == 1


def test_no_working_node_goes_down_while_kafka_cannot_be_asked() -> None:
    step = decide([node(0), node(1)], None)
    assert isinstance(step, Wait)
    assert step.blocked


def test_a_controller_that_has_not_fetched_for_longer_than_an_election_takes_to_start_is_no_spare() -> None:
    def seen(caught_up: int) -> QuorumDescription:
        times = (1_000_000, 999_500, caught_up)
        return QuorumDescription(0, 1, 0, tuple(QuorumReplica(n, "", 0, t, t) for n, t in enumerate(times)), ())

    nodes = [node(n) for n in range(3)]
    first = decide(nodes, kafka(seen=seen(998_000)))
    assert isinstance(first, Restart)
    assert first.node.id == 1
    later = decide(nodes, kafka(seen=seen(997_999)))
    assert isinstance(later, Restart)
    assert later.node.id == 2, "only the one that is behind may go"


def test_a_broker_whose_partition_would_fall_below_its_min_isr_stays_up_and_the_reason_names_it() -> None:
    step = decide(
        [node(n) for n in range(3)], kafka(*(partition(f"t{n}", {0, 1, 2}, {0, 1, 2} - {n}) for n in range(3)))
    )
    assert isinstance(step, Wait)
    assert any("t0-0 (1 of 2)" in reason for reason in step.why)


def test_a_broker_that_is_not_in_sync_may_go_when_the_others_may_not() -> None:
    step = decide([node(n) for n in range(3)], kafka(partition("orders", {0, 1, 2}, {0, 1}), seen=quorum(leader=0)))
    assert isinstance(step, Restart)
    assert step.node.id == 2


def test_partitions_that_can_never_spare_a_replica_do_not_block_but_are_named() -> None:
    step = decide([node(0), node(1, stale=False), node(2, stale=False)], kafka(partition("single", {0}, min_isr=1)))
    assert isinstance(step, Restart)
    assert "single-0" in step.notes[0]


def test_replicas_that_a_reassignment_is_about_to_remove_do_not_count() -> None:
    moving = partition("moving", {0, 1, 2, 3}, min_isr=2, staying={0, 3})
    nodes = [node(0), node(1, stale=False), node(2, stale=False), node(3, stale=False, roles="b")]
    assert isinstance(decide(nodes, kafka(moving, brokers=4)), Wait)


def test_a_controller_stays_up_while_another_one_lags() -> None:
    step = decide([node(0), node(1), node(2, stale=False)], kafka(seen=quorum(behind=frozenset({2}))))
    assert isinstance(step, Wait)
    assert any("2 are needed" in reason for reason in step.why)


def test_a_controller_stays_up_until_one_that_lost_its_disk_votes_again() -> None:
    step = decide([node(0), node(1), node(2, stale=False)], kafka(seen=quorum(2)))
    assert isinstance(step, Wait)
    assert any("node-2 is not in the controllers' quorum yet" in reason for reason in step.why)


def test_a_single_node_is_restarted_though_nothing_stands_in_for_it() -> None:
    step = decide([node(0)], kafka(partition("orders", {0}, min_isr=1), brokers=1, seen=quorum(1)))
    assert isinstance(step, Restart)


def test_a_dead_broker_that_is_the_last_of_its_partition_may_be_restarted() -> None:
    state = KafkaState(frozenset({0, 2}), quorum(), [partition("orders", {0, 1, 2}, {1})])
    step = decide([node(0), node(1, health=Health.STUCK), node(2)], state)
    assert isinstance(step, Restart)
    assert step.node.id == 1


def test_a_broker_that_kafka_has_not_registered_again_is_waited_for() -> None:
    state = KafkaState(frozenset({0, 1}), quorum(), [])
    step = decide([node(0), node(1), node(2, stale=False)], state)
    assert isinstance(step, Wait)
    assert any("node-2 is not registered" in reason for reason in step.why)


IDS = st.sets(st.integers(0, 4), min_size=1)


@st.composite
def states(draw: st.DrawFn) -> tuple[list[NodeState], KafkaState]:
    """Five combined nodes in any state, and any partitions."""
    nodes = [
        node(n, stale=draw(st.booleans()), health=draw(st.sampled_from([Health.READY, Health.READY, *Health])))
        for n in range(5)
    ]
    partitions = []
    for number in range(draw(st.integers(0, 4))):
        replicas = draw(IDS)
        isr = draw(st.sets(st.sampled_from(sorted(replicas)), min_size=1))
        partitions.append(partition(f"t{number}", replicas, isr, min_isr=draw(st.integers(1, 3))))
    seen = quorum(5, leader=draw(st.integers(0, 4)), behind=frozenset(draw(st.sets(st.integers(0, 4)))))
    return nodes, KafkaState(frozenset(draw(st.sets(st.integers(0, 4)))), seen, partitions)


@settings(max_examples=400, deadline=None)
@given(states())
def test_whatever_is_observed_no_step_costs_availability(observed: tuple[list[NodeState], KafkaState]) -> None:
    nodes, seen = observed
    step = decide(nodes, seen)
    if isinstance(step, Wait):
        assert step.why, "a wait always says why"
    if not isinstance(step, Restart):
        return
    down = step.node
    assert down.why_stale is not None, "only what isn't as the spec asks is restarted"
    works = down.health is Health.READY
    if works:
        assert all(other.health is Health.READY for other in nodes), "at most one node is down"
    if works or down.id in seen.brokers:
        for partition_ in seen.partitions:
            if down.id in partition_.isr and len(partition_.replicas) > partition_.min_isr:
                assert len(partition_.isr - {down.id}) >= partition_.min_isr
    caught_up = {v.id for v in seen.quorum.voters if v.last_caught_up_ms or v.id == seen.quorum.leader_id}
    leader_up = next(v for v in seen.quorum.voters if v.id == seen.quorum.leader_id).last_caught_up_ms
    if leader_up:
        assert len(caught_up - {down.id}) >= 3, "a majority of caught-up controllers remains"
    if works and down.id == seen.quorum.leader_id:
        assert not any(o.why_stale for o in nodes if o.id != down.id), "the active controller is last"


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 7), st.integers(0, 6), st.integers(1, 3))
def test_a_roll_of_a_healthy_cluster_always_ends(count: int, active: int, copies: int) -> None:
    nodes = [node(n) for n in range(count)]
    partitions = [
        partition(f"t{n}", {(n + c) % count for c in range(min(copies, count))}, min_isr=min(2, copies))
        for n in range(count)
    ]
    state = KafkaState(frozenset(range(count)), quorum(count, leader=active % count), partitions)
    for _ in range(count):
        step = decide(nodes, state)
        # With two controllers no majority remains, but they have no spare anyway.
        assert isinstance(step, Restart), step
        nodes[step.node.id] = dataclasses.replace(step.node, why_stale=None)
    assert decide(nodes, state) == Done()
