"""The ConsumerGroup reconciler: start positions before the first use, and lag; all groups of a cluster in one go."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from sluice.api.base import Condition, ConditionType, Reason
from sluice.api.group import ConsumerGroupStatus
from sluice.api.objects import ConsumerGroup, Key
from sluice.engine import status as conditions
from sluice.engine.batching import confirm, each
from sluice.engine.errors import UserError, WaitingError
from sluice.engine.reconciler import Context, Outcome
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaRefusedError
from sluice.plan.group import StartPlan, group_id, initialized_topics, partitions_of, plan_start
from sluice.plan.lag import BatchTime, Lag, judge, lag_of
from sluice.plan.observed import GroupDescription, TopicDescription, TopicPartition
from sluice.plan.ownership import oldest

logger = logging.getLogger(__name__)

REFRESH_SECONDS: Final = 15.0
"""How often lag is measured."""
ACTIVE: Final = frozenset({"UNKNOWN_MEMBER_ID", "ILLEGAL_GENERATION", "STALE_MEMBER_EPOCH", "REBALANCE_IN_PROGRESS"})
"""What Kafka answers a commit from outside while the group has members."""
BATCHES_LOOKED_AT: Final = 200
"""Partitions of a group of which the time of the oldest unread record is looked up in one refresh, the most at once."""

Results = dict[Key, Outcome | Exception]
Committed = Mapping[TopicPartition, int]
Topics = Mapping[str, TopicDescription]


class ConsumerGroupReconciler:
    """Commits where a group starts before its first member connects, and measures how far it is behind."""

    kind = "ConsumerGroup"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[Key, Key] = {}
        """Cluster of each object seen, for when it is gone."""
        self._batches: dict[Key, dict[TopicPartition, BatchTime]] = {}
        """The batch that each group last stood at: it needn't be asked for again while the group stands there."""

    def lane(self, key: Key) -> str:
        """One lane a cluster."""
        body = self._context.index.get(key)
        if body is not None:
            reference = body["spec"].get("clusterRef") or {}
            self._known[key] = Key(
                "MessagingCluster", reference.get("namespace") or key.namespace, reference.get("name", "")
            )
        return str(self._known.get(key, key))

    async def reconcile(self, keys: Sequence[Key]) -> Mapping[Key, Outcome | Exception]:
        """See `sluice.engine.reconciler.Reconciler`."""
        results: Results = {key: Outcome() for key in keys}
        groups: list[ConsumerGroup] = []
        for key in keys:
            group = self._context.index.resource(key)
            if group is None or group.deleting:
                self._forget(key)
                continue
            try:
                self._check(group)
                admin = await self._context.clusters.connect(group.spec.cluster_ref, group.namespace)
                groups.append(group)
            except (UserError, WaitingError) as error:
                results[key] = error
        if not groups:
            return results
        names = sorted({name for group in groups for name in group.spec.topics})
        topics = await admin.describe_topics(names)
        ids = [group_id(group) for group in groups]
        committed = await admin.list_group_offsets(dict.fromkeys(ids))
        unstarted = [
            group_id(group)
            for group in groups
            if any(place not in committed[group_id(group)] for place in partitions_of(group.spec.topics, topics))
        ]
        described = await admin.describe_groups(unstarted) if unstarted else {}
        started = dict(
            zip(
                ids,
                await each(
                    groups,
                    lambda group: self._start(
                        admin, group, topics, committed[group_id(group)], described.get(group_id(group))
                    ),
                ),
                strict=True,
            )
        )
        positions = {name: offsets for name, offsets in started.items() if not isinstance(offsets, Exception)}
        ends = await admin.latest_offsets(_leading(groups, topics), topics)

        async def report(group: ConsumerGroup) -> Outcome:
            found = started[group_id(group)]
            if isinstance(found, Exception):
                raise found
            lags = await self._lag(admin, group, topics, positions[group_id(group)], ends)
            return await self._report(group, topics, positions[group_id(group)], lags)

        for group, outcome in zip(groups, await each(groups, report), strict=True):
            results[group.key] = outcome
        return results

    def _forget(self, key: Key) -> None:
        self._batches.pop(key, None)
        cluster = self._known.pop(key, None)
        if cluster is not None:
            for body in self._context.index.of_cluster(cluster, self.kind):  # one may have waited for the group id
                other = Key(self.kind, body["metadata"]["namespace"], body["metadata"]["name"])
                if other != key and Reason.CONFLICT.value in str(body.get("status")):
                    self._context.enqueue(other)

    def _check(self, group: ConsumerGroup) -> None:
        """Raise if another object has this group id."""
        cluster = self._context.clusters.resolve(group.spec.cluster_ref, group.namespace).key
        claims = [group]
        for body in self._context.index.of_cluster(cluster, self.kind):
            key = Key(self.kind, body["metadata"]["namespace"], body["metadata"]["name"])
            if key != group.key and (body["spec"].get("groupId") or key.name) == group_id(group):
                rival = self._context.index.resource(key)
                if rival is not None and not rival.deleting:
                    claims.append(rival)
        first = oldest(claims)
        if first.key != group.key:
            raise UserError(
                Reason.CONFLICT,
                f"group {group_id(group)} belongs to ConsumerGroup {first.namespace}/{first.name}, which is older:"
                " delete one of the two, or give this one another spec.groupId",
            )

    # Where it starts

    async def _start(
        self,
        admin: KafkaAdmin,
        group: ConsumerGroup,
        topics: Topics,
        committed: Committed,
        described: GroupDescription | None,
    ) -> Committed:
        """Commit start positions where there are none, if the group is empty; the committed offsets afterwards."""
        places = partitions_of(group.spec.topics, topics)
        plan = plan_start(group.spec, places, committed, group.status.initialized_topics)
        if not plan.partitions or described is None or not described.empty:
            return committed
        if changed := (await confirm(self._context, [group])).get(group.key):
            raise changed
        offsets = await self._start_offsets(admin, group, plan, topics)
        try:
            await admin.alter_group_offsets(group_id(group), offsets)
        except KafkaRefusedError as error:
            if error.code in ACTIVE:  # a member has joined meanwhile: it decides
                return committed
            raise
        logger.info("%s: start positions committed in %d partitions", group.key, len(offsets))
        return {**committed, **offsets}

    async def _start_offsets(
        self, admin: KafkaAdmin, group: ConsumerGroup, plan: StartPlan, topics: Topics
    ) -> dict[TopicPartition, int]:
        offsets = await admin.earliest_offsets(plan.earliest, topics)
        offsets |= await admin.latest_offsets(plan.latest, topics)
        time = group.spec.start_position.time
        if plan.at_time and time is not None:
            since = int(time.timestamp() * 1000)
            found = await admin.offsets_for_times(dict.fromkeys(plan.at_time, since), topics)
            later = [place for place, answer in found.items() if answer.offset is None]
            offsets |= {place: answer.offset for place, answer in found.items() if answer.offset is not None}
            offsets |= await admin.latest_offsets(later, topics)  # every record is older
        return offsets

    # How far it is behind

    async def _lag(
        self,
        admin: KafkaAdmin,
        group: ConsumerGroup,
        topics: Topics,
        committed: Committed,
        ends: Mapping[TopicPartition, int],
    ) -> dict[TopicPartition, Lag]:
        known = self._batches.setdefault(group.key, {})
        mine = {
            place: committed[place]
            for place in partitions_of(group.spec.topics, topics)
            if place in committed and place in ends
        }
        behind = {place: position for place, position in mine.items() if position < ends[place]}
        asked = [place for place, at in behind.items() if place not in known or not known[place].covers(at)]
        if asked:
            # The rest is looked up at the next refreshes: those asked for now are known then, as long as they stand.
            some = {place: behind[place] for place in asked[:BATCHES_LOOKED_AT]}
            known |= await admin.batch_times(some, topics)
        for place in [place for place in known if place not in behind]:
            del known[place]
        now_ms = self._context.clock().timestamp() * 1000
        return {
            place: lag_of(position, ends[place], _at(known.get(place), position), now_ms)
            for place, position in mine.items()
        }

    async def _report(
        self, group: ConsumerGroup, topics: Topics, committed: Committed, lags: Mapping[TopicPartition, Lag]
    ) -> Outcome:
        self._measure(group, lags)
        now = self._context.clock()
        missing = [name for name in group.spec.topics if name not in topics]
        initialized = initialized_topics(group.spec.topics, topics, committed)
        own = self._objective(group, lags)
        if missing:
            message = (
                f"topic {missing[0]} doesn't exist"
                + (f" (nor do {len(missing) - 1} others)" if len(missing) > 1 else "")
                + ": create it, or correct spec.topics. Start positions are committed as soon as it is there"
            )
            told = conditions.reconciling(group, now, Reason.TOPIC_NOT_FOUND, message, own=own)
        elif len(initialized) < len(set(group.spec.topics)):
            message = (
                "the group has members, so Kafka takes no start position from outside for partitions without a"
                " committed offset: its members' auto.offset.reset decides there"
            )
            told = conditions.ready(group, now, message, own=own)
        else:
            told = conditions.ready(group, now, own=own)
        written = ConsumerGroupStatus(conditions=told, group_id=group_id(group), initialized_topics=initialized)
        await conditions.write_status(self._context, group, written)
        return Outcome(requeue_after=REFRESH_SECONDS)

    def _measure(self, group: ConsumerGroup, lags: Mapping[TopicPartition, Lag]) -> None:
        metrics = self._context.metrics
        cluster = group.spec.cluster_ref.name
        labels = {
            place: (group.namespace, cluster, group_id(group), place.topic, str(place.partition)) for place in lags
        }
        metrics.replace(
            group.key, metrics.group_lag_records, {labels[place]: float(lag.records) for place, lag in lags.items()}
        )
        metrics.replace(
            group.key,
            metrics.group_lag_seconds,
            {labels[place]: lag.seconds for place, lag in lags.items() if lag.seconds is not None},
        )

    def _objective(self, group: ConsumerGroup, lags: Mapping[TopicPartition, Lag]) -> list[Condition]:
        objective = group.spec.lag_objective
        if objective is None or (objective.max_records is None and objective.max_seconds is None):
            return []
        type_ = ConditionType.LAG_WITHIN_OBJECTIVE
        before = next((found.status for found in group.status.conditions if found.type == type_.value), None)
        verdict = judge(objective, lags, was_within=None if before is None else before == "True")
        reason = Reason.WITHIN_OBJECTIVE if verdict.within else Reason.LAGGING
        if before is not None and (before == "True") != verdict.within:
            self._context.events.publish(group, "Normal" if verdict.within else "Warning", reason, verdict.message)
        return [conditions.condition(type_, verdict.within, reason, verdict.message)]


def _at(batch: BatchTime | None, position: int) -> BatchTime | None:
    """A batch that begins after the position is the next one that exists: compaction has removed those between."""
    return batch if batch is None or position <= batch.last else None


def _leading(groups: Sequence[ConsumerGroup], topics: Topics) -> list[TopicPartition]:
    """Partitions of all groups' topics that have a leader: one without can't say where it ends."""
    names = sorted({name for group in groups for name in group.spec.topics if name in topics})
    return [
        TopicPartition(name, part.id) for name in names for part in topics[name].partitions if part.leader is not None
    ]
