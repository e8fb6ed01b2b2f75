"""Looking at a group and its partitions, before its positions are moved or put back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from sluice.api.objects import ReplayJob
from sluice.api.replay_rewind import Rewind
from sluice.engine.reconciler import Context
from sluice.kafka.admin import KafkaAdmin
from sluice.plan.group import claimed_id
from sluice.plan.observed import TopicPartition
from sluice.plan.ownership import owners
from sluice.plan.replay import milliseconds
from sluice.plan.rewind import exists, wanted
from sluice.plan.rewind_model import Bounds, Observed, Positions, RewindPlan, Snapshot, Topics, busy

_CLAIMS: Final = "ConsumerGroup"


def claimed_elsewhere(context: Context, job: ReplayJob) -> str | None:
    """Why a group isn't the job's namespace's to move, if it isn't: it is that of a ConsumerGroup of another one.

    A group that no object claims is anybody's whom the cluster lets in, as it is for the ConsumerGroup itself.
    """
    cluster = context.clusters.resolve(job.spec.cluster_ref, job.namespace)
    group = job.spec.rewind.group
    bodies = context.index.of_cluster(cluster.key, _CLAIMS)
    staying = [body for body in bodies if "deletionTimestamp" not in body["metadata"]]
    owner = owners(staying, cluster, claimed_id).get(group)
    if owner is None or owner.namespace == job.namespace:
        return None
    return f"group {group} belongs to {owner}: only a ReplayJob of namespace {owner.namespace} may move its positions"


async def occupied(admin: KafkaAdmin, name: str) -> str | None:
    """Who is in a group, in words; None if nobody is."""
    group = (await admin.describe_groups([name]))[name]
    return busy(group, await admin.group_members(group))


async def observe(admin: KafkaAdmin, rewind: Rewind, positions: Positions, snapshot: Snapshot | None) -> Observed:
    """What a plan is made from."""
    names = {place.topic for place in (*positions, *(snapshot.positions if snapshot else ()))}

    def places(topics: Topics) -> Sequence[TopicPartition]:
        return wanted(rewind, positions, snapshot, topics)

    time_ms = None if rewind.to.time is None else milliseconds(rewind.to.time)
    named = names | {topic.topic for topic in rewind.topics}
    return await _observe(admin, rewind.group, positions, named, places, time_ms, snapshot)


async def observe_again(admin: KafkaAdmin, done: RewindPlan, positions: Positions) -> Observed:
    """What the undoing of a plan is planned from."""

    def places(topics: Topics) -> Sequence[TopicPartition]:
        return [move.place for move in done.moved if exists(move.place, topics)]

    return await _observe(admin, done.group, positions, done.topic_ids, places, None, None)


async def _observe(
    admin: KafkaAdmin,
    name: str,
    positions: Positions,
    names: Iterable[str],
    places: Callable[[Topics], Sequence[TopicPartition]],
    time_ms: int | None,
    snapshot: Snapshot | None,
) -> Observed:
    group = (await admin.describe_groups([name]))[name]
    members, topics = await asyncio.gather(admin.group_members(group), admin.describe_topics(sorted(names)))
    chosen = places(topics)
    starts, latest = await asyncio.gather(admin.earliest_offsets(chosen, topics), admin.latest_offsets(chosen, topics))
    times = {} if time_ms is None else await admin.offsets_for_times(dict.fromkeys(chosen, time_ms), topics)
    # Last: what is stable is before what was there a moment earlier only if a transaction is open.
    stable = await admin.stable_offsets(chosen, topics)
    bounds = {
        place: Bounds(
            start=starts[place],
            stable=max(starts[place], stable[place]),
            latest=max(latest[place], stable[place]),
            at_time=times[place].offset if place in times else None,
        )
        for place in chosen
    }
    return Observed(group, members, positions, topics, bounds, snapshot)
