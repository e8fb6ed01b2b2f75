"""Where a Rewind moves the positions of a group, and where its undoing puts them back: decided from what is there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sluice.api.replay_rewind import RESERVED_GROUPS, Edge, Rewind
from sluice.plan.observed import SHARE, STREAMS, TopicPartition
from sluice.plan.rewind_model import Bounds, Move, Observed, Planned, Positions, RewindPlan, Snapshot, Topics, places_of

MAX_COMMIT_BYTES: Final = 900_000
"""All positions are committed at once, which Kafka writes as one batch of its topic of offsets: 1 MiB by default."""
JUST_MADE: Final = timedelta(seconds=30)
_ENTRY_BYTES: Final = 80
"""One position in it, without the names."""


@dataclass
class _Clamped:
    """Partitions whose position was brought to an end of what there is."""

    to_start: list[TopicPartition] = field(default_factory=list)
    to_end: list[TopicPartition] = field(default_factory=list)
    too_late: list[TopicPartition] = field(default_factory=list)


def snapshot_name(job: str, now: datetime) -> str:
    """Name of the snapshot that a Rewind takes: its own, and the time of its plan."""
    return f"{job}-{now.astimezone(UTC):%Y%m%dt%H%M%Sz}"


def identity(rewind: Rewind) -> dict[str, Any]:
    """What makes two Rewinds the same; how long one would wait doesn't matter."""
    to = rewind.to
    said = rewind.model_copy(
        update={
            "to": to if to.time is None else to.model_copy(update={"time": to.time.astimezone(UTC)}),
            "topics": sorted(
                (t.model_copy(update={"partitions": sorted(set(t.partitions))}) for t in rewind.topics),
                key=lambda t: t.topic,
            ),
        }
    )
    return said.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, exclude={"wait_for_inactive_seconds": True}
    )


def wanted(rewind: Rewind, positions: Positions, snapshot: Snapshot | None, topics: Topics) -> list[TopicPartition]:
    """Partitions that exist, that the Rewind speaks of, and for which there is a position to go from (or back to)."""
    has = snapshot.positions if snapshot is not None else positions
    named = {topic.topic: topic.partitions for topic in rewind.topics}
    return sorted(
        place
        for place in has
        if exists(place, topics) and (not named or place.topic in named) and _named(place, named.get(place.topic, ()))
    )


def refusal(rewind: Rewind, observed: Observed) -> str | None:
    """Why it can't be, whoever waits; None if it can."""
    group, topics = rewind.group, observed.topics
    # The API server says so too (CEL), to those who asked when its rule was there already.
    if group.startswith(RESERVED_GROUPS):
        return f"Sluice keeps groups like {group} for itself: choose another group"
    if observed.group.protocol_type == SHARE:
        return f"{group} is a share group, which has no positions that could be moved: name a consumer group"
    snapshot = observed.snapshot
    if rewind.to.snapshot is not None:
        if snapshot is None:
            return (
                f"there is no snapshot {rewind.to.snapshot} of this namespace in the ledger: take the name from"
                " status.rewind.snapshot of the Rewind that took it"
            )
        if snapshot.group != group:
            return f"snapshot {snapshot.name} is of group {snapshot.group}, not of {group}: name another"
    elif not observed.positions:
        return (
            f"group {group} has no committed position, so there is nothing to move: correct spec.rewind.group, or give"
            " it a first position by spec.startPosition of a ConsumerGroup"
        )
    places = wanted(rewind, observed.positions, snapshot, topics)
    for named in rewind.topics:
        found = topics.get(named.topic)
        if found is None:
            return f"topic {named.topic} doesn't exist: correct spec.rewind.topics"
        if missing := sorted(n for n in named.partitions if n >= len(found.partitions)):
            return (
                f"topic {named.topic} has {len(found.partitions)} partitions, so there is no partition"
                f" {missing[0]}: correct spec.rewind.topics"
            )
        if all(place.topic != named.topic for place in places):
            whose = f"snapshot {snapshot.name}" if snapshot else f"group {group}"
            return f"{whose} has no position in topic {named.topic}: correct spec.rewind.topics"
    if not places:
        return f"no topic exists any more in which group {group} has a position: there is nothing to move"
    anew = {} if snapshot is None else snapshot.topic_ids
    if again := sorted({p.topic for p in places if anew.get(p.topic, topics[p.topic].id) != topics[p.topic].id}):
        return (
            f"topic {again[0]} was deleted and made anew since snapshot {rewind.to.snapshot} was taken, so its offsets"
            " mean other records now: name the others in spec.rewind.topics"
        )
    if sum(_ENTRY_BYTES + len(group) + len(place.topic) for place in places) > MAX_COMMIT_BYTES:
        return (
            f"{len(places):,} positions are more than Kafka can move at once: move them in parts, by several ReplayJobs"
            " with spec.rewind.topics"
        )
    return None


def make(rewind: Rewind, job: str, observed: Observed, now: datetime) -> Planned:
    """The plan of a Rewind that a ReplayJob of this name asks for."""
    if (why := refusal(rewind, observed)) is not None:
        return Planned(None, why)
    clamped = _Clamped()
    places = wanted(rewind, observed.positions, observed.snapshot, observed.topics)
    moves = []
    for place in places:
        before = observed.positions.get(place)
        after = _target(rewind, place, observed, clamped)
        moves.append(Move(place, before, after))
    now = now.replace(microsecond=0)
    warnings = [*_clamped_warnings(rewind, clamped), *_warnings(rewind, observed, places), *_cost(moves)]
    ids = _ids(observed.topics, (move.place for move in moves))
    return Planned(RewindPlan(rewind.group, now, snapshot_name(job, now), tuple(moves), ids, tuple(warnings)))


def undo(done: RewindPlan, observed: Observed, now: datetime) -> RewindPlan:
    """The plan that puts back what ``done`` moved, from wherever the group is now.

    No record is lost by it: what lies before a position of then had been consumed then.
    """
    moves, gone, again, none, cut = [], [], [], [], []
    for move in done.moved:
        place = move.place
        if not _same_topic(place, done.topic_ids, observed.topics):
            gone.append(place)
        elif move.before is None:
            none.append(place)
        else:
            bounds, at = observed.bounds[place], observed.positions.get(place)
            after = max(bounds.start, min(move.before, bounds.latest))
            if after != move.before:
                cut.append(place)
            moves.append(Move(place, at, after))
            if at is not None and at > max(after, move.after):
                again.append(at - max(after, move.after))
    found = []
    if gone:
        found.append(f"{places_of(gone)} were deleted, or made anew, since: left as they are")
    if none:
        found.append(f"the group had no position in {places_of(none)} before: it keeps the one that it has")
    if cut:
        found.append(f"{places_of(cut)} don't have the former offset any more: the nearest that there is is taken")
    if again:
        found.append(f"the group has gone on since: {sum(again):,} offsets will be consumed again")
    ids = _ids(observed.topics, (move.place for move in moves))
    return replace(
        done, planned_at=now.replace(microsecond=0), moves=tuple(moves), topic_ids=ids, warnings=tuple(found)
    )


def holds(plan: RewindPlan, positions: Positions, bounds: Mapping[TopicPartition, Bounds], topics: Topics) -> bool:
    """Whether a plan that was made before is still right: the group is where it was, and what it goes to exists."""
    return all(
        _same_topic(move.place, plan.topic_ids, topics)
        and positions.get(move.place) == move.before
        and move.place in bounds
        and bounds[move.place].start <= move.after <= bounds[move.place].latest
        for move in plan.moves
    )


def restless(plan: RewindPlan, positions: Positions, now: datetime) -> str | None:
    """Whether a group that has no members moves all the same, since a plan that was just made."""
    moved = sorted(move.place for move in plan.moves if positions.get(move.place) != move.before)
    if not moved or now - plan.planned_at > JUST_MADE:
        return None
    return f"group {plan.group} moves in {places_of(moved)}: clients commit for it without being members for long"


def _target(rewind: Rewind, place: TopicPartition, observed: Observed, clamped: _Clamped) -> int:
    to, bounds = rewind.to, observed.bounds[place]
    end = bounds.stable
    if to.at is Edge.EARLIEST:
        return bounds.start
    if to.at is Edge.LATEST:
        return end
    if to.time is not None:
        if bounds.at_time is None:
            clamped.too_late.append(place)
            return end
        asked = bounds.at_time
    elif to.offset is not None:
        asked = to.offset
    elif to.shift is not None:
        asked = observed.positions[place] + to.shift
    elif observed.snapshot is not None:
        asked = observed.snapshot.positions[place]
        end = bounds.latest  # where the group was, it may be again
    else:
        raise LookupError(f"snapshot {to.snapshot} isn't there: make refuses that")
    if asked < bounds.start:
        clamped.to_start.append(place)
    elif asked > end:
        clamped.to_end.append(place)
    return max(bounds.start, min(asked, end))


def _clamped_warnings(rewind: Rewind, clamped: _Clamped) -> Iterable[str]:
    if clamped.to_start:
        yield f"{places_of(clamped.to_start)} begin later than that: the first record that there is is taken"
    if clamped.to_end:
        yield f"{places_of(clamped.to_end)} end before that: the end is taken"
    if clamped.too_late and rewind.to.time is not None:
        time = rewind.to.time.isoformat()
        yield f"{places_of(clamped.too_late)} have no record at or after {time}: the end is taken"


def _warnings(rewind: Rewind, observed: Observed, places: Collection[TopicPartition]) -> Iterable[str]:
    held = [place for place in places if observed.bounds[place].stable < observed.bounds[place].latest]
    if held and rewind.to.snapshot is None:
        yield f"open transactions hold {places_of(held)} back: the last stable offset counts as their end"
    gone = sorted(place for place in observed.positions if not exists(place, observed.topics))
    if gone and not rewind.topics:
        yield f"{places_of(gone)} don't exist any more: left as they are"
    has = observed.snapshot.positions if observed.snapshot is not None else observed.positions
    named = [TopicPartition(t.topic, n) for t in rewind.topics for n in t.partitions]
    if without := sorted(place for place in named if place not in has):
        yield (
            f"there is no position for {places_of(without)}: left alone; where the group starts there, its"
            " ConsumerGroup or its clients' auto.offset.reset decides"
        )
    if observed.snapshot is not None and not rewind.topics:
        newer = sorted(p for p in observed.positions if p not in has and exists(p, observed.topics))
        if newer:
            yield f"the snapshot has no position for {places_of(newer)}: left as they are"
    if observed.group.protocol_type == STREAMS:
        yield (
            "it is a Kafka Streams application: its state stores and internal topics stay as they are; its own reset"
            " tool is for those"
        )


def _cost(moves: Sequence[Move]) -> Iterable[str]:
    ahead = [move for move in moves if move.way > 0]
    if ahead:
        total = sum(move.way for move in ahead)
        yield f"{places_of([move.place for move in ahead])} go ahead: {total:,} offsets will never be consumed"


def _ids(topics: Topics, places: Iterable[TopicPartition]) -> dict[str, str]:
    return {name: topics[name].id for name in sorted({place.topic for place in places})}


def exists(place: TopicPartition, topics: Topics) -> bool:
    """Whether a partition is (still) there."""
    return place.topic in topics and place.partition < len(topics[place.topic].partitions)


def _same_topic(place: TopicPartition, ids: Mapping[str, str], topics: Topics) -> bool:
    return exists(place, topics) and ids.get(place.topic) == topics[place.topic].id


def _named(place: TopicPartition, partitions: Collection[int]) -> bool:
    return not partitions or place.partition in partitions
