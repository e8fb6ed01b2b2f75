"""What a Rewind is planned from, and what its plan is and says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sluice.api.replay_rewind import SHOWN, RewindStatus, RewoundPosition
from sluice.manifests.names import content_hash
from sluice.plan.observed import GroupDescription, GroupMember, TopicDescription, TopicPartition

Positions = Mapping[TopicPartition, int]
Topics = Mapping[str, TopicDescription]


@dataclass(frozen=True)
class Bounds:
    """What a partition has: its first offset, last stable offset, high watermark, and the offset of the asked time."""

    start: int
    stable: int
    latest: int
    at_time: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """All positions of a group before a Rewind; ``topic_ids`` tell topics from later ones of the same name."""

    name: str
    group: str
    taken_at: str
    topic_ids: Mapping[str, str]
    positions: Positions


@dataclass(frozen=True)
class Observed:
    """What a plan is made from. ``bounds`` are those of the partitions that are wanted, as `wanted` says."""

    group: GroupDescription
    members: tuple[GroupMember, ...]
    positions: Positions
    topics: Topics
    bounds: Mapping[TopicPartition, Bounds]
    snapshot: Snapshot | None = None


@dataclass(frozen=True)
class Move:
    """The way of one position; ``before`` is None where the group had none."""

    place: TopicPartition
    before: int | None
    after: int

    @property
    def way(self) -> int:
        """Offsets from before to after; negative if it goes back."""
        return 0 if self.before is None else self.after - self.before


@dataclass(frozen=True)
class RewindPlan:
    """A frozen plan, of every position that it speaks of: those that stay are known, too, to see whether they did."""

    group: str
    planned_at: datetime
    snapshot: str
    moves: tuple[Move, ...]
    topic_ids: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    @property
    def moved(self) -> tuple[Move, ...]:
        """Positions that aren't where they should be."""
        return tuple(move for move in self.moves if move.before != move.after)

    @property
    def backward(self) -> int:
        """Offsets that are gone back, over all positions."""
        return -sum(move.way for move in self.moves if move.way < 0)

    @property
    def forward(self) -> int:
        """Offsets that are gone ahead, over all positions."""
        return sum(move.way for move in self.moves if move.way > 0)

    @property
    def hash(self) -> str:
        """Stands for what is moved, from where and to where."""
        moves = [[move.place.topic, move.place.partition, move.before, move.after] for move in self.moves]
        return content_hash({"group": self.group, "moves": moves, "topics": dict(self.topic_ids)})


@dataclass(frozen=True)
class Planned:
    """The plan, or why there is none (``refusal``, a sentence)."""

    plan: RewindPlan | None
    refusal: str | None = None


def busy(group: GroupDescription, members: Sequence[GroupMember]) -> str | None:
    """Who keeps a group from being empty, in words; None if it has no members."""
    if group.empty:
        return None
    if not members:
        return f"group {group.group_id} has members (it is {group.state})"
    named = "; ".join(f"{m.member_id} (client {m.client_id} at {m.host.lstrip('/')})" for m in members[:5])
    more = f" and {len(members) - 5} more" if len(members) > 5 else ""
    return f"group {group.group_id} has {len(members)} {'member' if len(members) == 1 else 'members'}: {named}{more}"


def shown(plan: RewindPlan, *, snapshot: bool) -> RewindStatus:
    """A plan as a status shows it; ``snapshot``: whether its snapshot is taken."""
    furthest = sorted(plan.moved, key=lambda move: -abs(move.way))[:SHOWN]
    return RewindStatus(
        hash=plan.hash,
        planned_at=plan.planned_at,
        snapshot=plan.snapshot if snapshot else None,
        moved=len(plan.moved),
        backward=plan.backward,
        forward=plan.forward,
        positions=[
            RewoundPosition(topic=m.place.topic, partition=m.place.partition, from_=m.before, to=m.after)
            for m in sorted(furthest, key=lambda move: move.place)
        ],
        warnings=list(plan.warnings),
    )


def sentence(plan: RewindPlan, *, done: bool) -> str:
    """What a plan does, or did, in a sentence."""
    if not plan.moved:
        return f"every position of group {plan.group} {'was' if done else 'is'} where it should be: nothing is moved"
    back = f"{plan.backward:,} offsets back" if plan.backward else ""
    ahead = f"{plan.forward:,} offsets ahead" if plan.forward else ""
    topics = {move.place.topic for move in plan.moved}
    verb = ("was" if done else "is") if len(plan.moved) == 1 else ("were" if done else "are")
    return (
        f"{_count(len(plan.moved), 'position')} of group {plan.group} in {_count(len(topics), 'topic')} {verb} moved,"
        f" {' and '.join(filter(None, (back, ahead))) or 'to where the group had none'}"
    )


def places_of(places: Sequence[TopicPartition]) -> str:
    """Partitions in words, the first five by name."""
    some = ", ".join(map(str, places[:5]))
    return f"{some} and {len(places) - 5} more" if len(places) > 5 else some


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
