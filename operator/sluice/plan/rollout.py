"""The gate of a rolling restart: which node may go down next, or why none may.

Pure and without memory: it is asked again with what is observed, so that the operator may be killed between any two
steps. At most one node that works is taken down at a time, no partition falls below its min ISR by it, and a majority
of caught-up controllers remains.

Order: nodes that don't work anyway, controllers (the active one last), brokers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from sluice.plan.observed import FETCH_TIMEOUT_MS, QuorumDescription, TopicPartition

_NAMED: Final = 5


class Health(Enum):
    """How a node does, as Kubernetes sees its pod."""

    READY = "ready"
    STARTING = "starting"
    """It is being made, or starts, or recovers its log: to be left alone."""
    STUCK = "stuck"
    """It won't become ready by itself: it crashes again and again, can't be scheduled, its image can't be pulled."""


@dataclass(frozen=True)
class NodeState:
    """What is observed of one node. ``why_stale``: why it must be restarted; None if it is as the spec asks."""

    id: int
    name: str
    controller: bool
    broker: bool
    health: Health
    why_stale: str | None = None
    trouble: str = ""
    """Why it isn't ready, in words."""


@dataclass(frozen=True)
class PartitionState:
    """A partition as the gate sees it. ``staying``: replicas that a running reassignment, if any, doesn't remove."""

    name: TopicPartition
    replicas: frozenset[int]
    isr: frozenset[int]
    min_isr: int
    staying: frozenset[int]


@dataclass(frozen=True)
class KafkaState:
    """What Kafka says. ``brokers``: ids of brokers that are registered and not fenced."""

    brokers: frozenset[int]
    quorum: QuorumDescription
    partitions: Sequence[PartitionState]


@dataclass(frozen=True)
class Restart:
    """Restart this node now. ``notes``: what can't be avoided by waiting, to be told."""

    node: NodeState
    why: str
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Wait:
    """Nothing may go down now. ``blocked``: something must get better first, rather than just finish."""

    why: Sequence[str]
    blocked: bool


@dataclass(frozen=True)
class Done:
    """Every node is as the spec asks."""


@dataclass(frozen=True)
class _Verdict:
    """Whether a node may go down: never if there is a reason against it."""

    against: Sequence[str]
    notes: Sequence[str] = field(default=())


def decide(nodes: Sequence[NodeState], kafka: KafkaState | None) -> Restart | Wait | Done:
    """The next step.

    Args:
        nodes: every node.
        kafka: what Kafka says; None if it can't be asked.
    """
    stale = [node for node in nodes if node.why_stale is not None]
    if not stale:
        return Done()
    broken = sorted((node for node in stale if node.health is Health.STUCK), key=_controllers_first)
    suspect = [node for node in nodes if node.health is Health.STUCK and node.why_stale is None]
    if broken:
        # A node that is down already costs nothing. But if one that has the new revision doesn't come up, that revision
        # is suspect; unless nothing works at all, when only new revisions can help.
        refused: list[str] = []
        if suspect and kafka is not None:
            return Wait(_not_ready(suspect), blocked=True)
        for node in broken:
            verdict = _may_stop(node, nodes, kafka, down=True)
            if not verdict.against:
                return Restart(node, f"{node.why_stale} ({node.trouble or 'it does not become ready'})", verdict.notes)
            refused += verdict.against
        return Wait(refused, blocked=True)
    unready = [node for node in nodes if node.health is not Health.READY]
    if unready:
        return Wait(_not_ready(unready), blocked=bool(suspect))
    if kafka is None:
        return Wait(["Kafka can't be asked whether a node may go down"], blocked=True)
    refused = []
    for candidate in _next_group(stale, kafka.quorum.leader_id):
        verdict = _may_stop(candidate, nodes, kafka, down=False)
        if not verdict.against:
            return Restart(candidate, candidate.why_stale or "", verdict.notes)
        refused += verdict.against
    return Wait(refused, blocked=True)


def _controllers_first(node: NodeState) -> tuple[bool, int]:
    return (not node.controller, node.id)


def _next_group(stale: Iterable[NodeState], active: int) -> list[NodeState]:
    """The nodes whose turn it is: followers among the controllers, then the active one, then brokers."""
    ordered = sorted(stale, key=_controllers_first)
    followers = [node for node in ordered if node.controller and node.id != active]
    if followers:
        return followers
    leader = [node for node in ordered if node.controller]
    return leader or ordered


def _may_stop(node: NodeState, nodes: Sequence[NodeState], kafka: KafkaState | None, *, down: bool) -> _Verdict:
    """Whether this node may go down. ``down``: Kubernetes says that it doesn't work; Kafka may know better."""
    if kafka is None:
        return _Verdict(())
    against: list[str] = []
    notes: list[str] = []
    if node.controller:
        against += _quorum_against(node, nodes, kafka.quorum)
    if node.broker and (not down or node.id in kafka.brokers):
        verdict = _partitions_against(node, kafka.partitions)
        against += verdict.against
        notes += verdict.notes
    if not down:
        missing = [other for other in nodes if other.broker and other.id not in kafka.brokers]
        if missing:
            against.append(f"{_names(missing)} not registered at the controllers yet")
    return _Verdict(against, notes)


def _quorum_against(node: NodeState, nodes: Sequence[NodeState], quorum: QuorumDescription) -> list[str]:
    if sum(other.controller for other in nodes) < 3:
        return []  # without spare controllers there is no restart without a pause
    leader = quorum.leader
    if leader is None:
        return ["the controllers have no leader"]
    absent = [other for other in nodes if other.controller and other.id not in {voter.id for voter in quorum.voters}]
    if absent and node not in absent:
        return [f"{_names(absent)} not in the controllers' quorum yet"]
    # One that wasn't at the leader's end for longer is cut off, or behind: it couldn't lead at once.
    caught_up = {
        voter.id
        for voter in quorum.voters
        if voter.id == leader.id or voter.last_caught_up_ms >= leader.last_caught_up_ms - FETCH_TIMEOUT_MS
    }
    needed = len(quorum.voters) // 2 + 1
    remaining = len(caught_up - {node.id})
    if remaining < needed:
        return [
            f"without {node.name} only {remaining} of {len(quorum.voters)} controllers would be caught up, and "
            f"{needed} are needed"
        ]
    return []


def _partitions_against(node: NodeState, partitions: Iterable[PartitionState]) -> _Verdict:
    short: list[str] = []
    unavoidable: list[str] = []
    for partition in partitions:
        if node.id not in partition.replicas:
            continue
        if len(partition.replicas) <= partition.min_isr:
            unavoidable.append(str(partition.name))
            continue
        remaining = partition.isr - {node.id}
        if node.id in partition.isr and min(len(remaining), len(remaining & partition.staying)) < partition.min_isr:
            short.append(f"{partition.name} ({len(remaining)} of {partition.min_isr})")
    against = [f"without {node.name} these partitions would have too few in-sync replicas: {_some(short)}"]
    notes = [
        f"these partitions have no more replicas than min.insync.replicas, so writes to them pause while {node.name} "
        f"restarts: {_some(unavoidable)}"
    ]
    return _Verdict(against if short else (), notes if unavoidable else ())


def _not_ready(nodes: Iterable[NodeState]) -> list[str]:
    return [f"{node.name} isn't ready: {node.trouble or node.health.value}" for node in nodes]


def _names(nodes: Iterable[NodeState]) -> str:
    found = [node.name for node in nodes]
    return f"{', '.join(found)} {'is' if len(found) == 1 else 'are'}"


def _some(items: Sequence[str]) -> str:
    more = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (f" and {more} more" if more > 0 else "")
