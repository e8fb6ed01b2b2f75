"""The ConsumerGroup reconciler: start positions before the first use, and lag; all groups of a cluster in one go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from sluice.api.base import Condition, ConditionType, Reason
from sluice.api.group import ConsumerGroupStatus
from sluice.api.objects import ConsumerGroup, Key
from sluice.engine import status as conditions
from sluice.engine.batching import confirm, each, readable, referred
from sluice.engine.errors import UserError, WaitingError
from sluice.engine.group_lag import LagMemory
from sluice.engine.reconciler import Context, Outcome
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import Answers, KafkaRefusedError
from sluice.plan.group import StartPlan, claimed_id, group_id, initialized_topics, partitions_of, plan_start
from sluice.plan.lag import UNKNOWN, Ends, Lag, astray, judge
from sluice.plan.observed import SHARE, GroupDescription, TopicDescription, TopicPartition
from sluice.plan.ownership import owners

logger = logging.getLogger(__name__)

REFRESH_SECONDS: Final = 15.0
"""How often lag is measured."""
ACTIVE: Final = frozenset({"UNKNOWN_MEMBER_ID", "ILLEGAL_GENERATION", "STALE_MEMBER_EPOCH", "REBALANCE_IN_PROGRESS"})
"""What Kafka answers a commit from outside while the group has members."""

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
        self._lags: dict[Key, LagMemory] = {}

    def lane(self, key: Key) -> str:
        """One lane a cluster."""
        body = self._context.index.get(key)
        if body is not None:
            self._known[key] = referred(body)
        return str(self._known.get(key, key))

    async def reconcile(self, keys: Sequence[Key]) -> Mapping[Key, Outcome | Exception]:
        """See `sluice.engine.reconciler.Reconciler`."""
        results: Results = {key: Outcome() for key in keys}
        groups, admin, refused = await self._admit(self._read(keys))
        results.update(refused)
        if admin is None:
            return results
        topics = await admin.each_topic(sorted({name for group in groups for name in group.spec.topics}))
        committed = await admin.each_group_offsets({group_id(group): None for group in groups})
        for group in groups:
            errors = [topics.errors[name] for name in group.spec.topics if name in topics.errors]
            if group_id(group) in committed.errors:
                errors.append(committed.errors[group_id(group)])
            if errors:
                results[group.key] = errors[0]
        groups = [group for group in groups if results[group.key] == Outcome()]
        positions, failed = await self._start_all(admin, groups, topics.found, committed.found)
        results.update(failed)
        groups = [group for group in groups if group.key in positions]
        ends = await _ends(admin, groups, topics.found)

        async def tell(group: ConsumerGroup) -> Outcome:
            found = positions[group.key]
            places = partitions_of(group.spec.topics, topics.found)
            memory = self._lags.setdefault(group.key, LagMemory())
            now_ms = self._context.clock().timestamp() * 1000
            stands = {place: found.get(place) for place in places}
            lags = await memory.measure(admin, topics.found, stands, ends, now_ms)
            return await self._report(group, topics.found, found, lags)

        results.update(zip((group.key for group in groups), await each(groups, tell), strict=True))
        return results

    def _read(self, keys: Sequence[Key]) -> list[ConsumerGroup]:
        groups: list[ConsumerGroup] = []
        for key in keys:
            group = readable(self._context, key)
            if group is None or group.deleting:
                self._forget(key)
            else:
                groups.append(group)
        return groups

    def _forget(self, key: Key) -> None:
        self._lags.pop(key, None)
        cluster = self._known.pop(key, None)
        if cluster is not None:
            for body in self._context.index.of_cluster(cluster, self.kind):  # one may have waited for the group id
                other = Key(self.kind, body["metadata"]["namespace"], body["metadata"]["name"])
                if other != key and Reason.CONFLICT.value in str(body.get("status")):
                    self._context.enqueue(other)

    async def _admit(self, groups: Sequence[ConsumerGroup]) -> tuple[list[ConsumerGroup], KafkaAdmin | None, Results]:
        """Groups whose id is theirs, the cluster's client (None without any), and the others' errors."""
        admitted: list[ConsumerGroup] = []
        admin: KafkaAdmin | None = None
        refused: Results = {}
        owner_of: dict[str, Key] | None = None
        for group in groups:
            try:
                cluster = self._context.clusters.resolve(group.spec.cluster_ref, group.namespace)
                if owner_of is None:
                    bodies = self._context.index.of_cluster(cluster.key, self.kind)
                    staying = [body for body in bodies if "deletionTimestamp" not in body["metadata"]]
                    owner_of = owners(staying, cluster, claimed_id)
                _check(group, owner_of.get(group_id(group), group.key))
                admin = await self._context.clusters.connect(group.spec.cluster_ref, group.namespace)
                admitted.append(group)
            except (UserError, WaitingError) as error:
                refused[group.key] = error
        return admitted, admin, refused

    # Where they start

    async def _start_all(
        self, admin: KafkaAdmin, groups: Sequence[ConsumerGroup], topics: Topics, committed: Mapping[str, Committed]
    ) -> tuple[dict[Key, Committed], Results]:
        """Committed offsets of each group after start positions were committed, and what failed."""
        unstarted = [
            group_id(group)
            for group in groups
            if any(place not in committed[group_id(group)] for place in partitions_of(group.spec.topics, topics))
        ]
        described = await admin.each_group(unstarted) if unstarted else Answers[str, GroupDescription]()

        async def start(group: ConsumerGroup) -> Committed:
            if (error := described.errors.get(group_id(group))) is not None:
                raise error
            found = described.found.get(group_id(group))
            if found is not None and found.protocol_type == SHARE:
                raise UserError(
                    Reason.INVALID_SPEC,
                    f"{found.group_id} is a share group, which has no committed offsets: startPosition and lagObjective"
                    " don't apply to it. Its start is the group's configuration share.auto.offset.reset; delete this"
                    " object, or name a consumer group in spec.groupId of another one",
                )
            return await self._start(admin, group, topics, committed[group_id(group)], found)

        answers = dict(zip((group.key for group in groups), await each(groups, start), strict=True))
        failed: Results = {key: answer for key, answer in answers.items() if isinstance(answer, Exception)}
        return {key: answer for key, answer in answers.items() if not isinstance(answer, Exception)}, failed

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

    # How far they are behind

    async def _report(
        self, group: ConsumerGroup, topics: Topics, committed: Committed, lags: Mapping[TopicPartition, Lag]
    ) -> Outcome:
        self._measure(group, lags)
        now = self._context.clock()
        missing = [name for name in group.spec.topics if name not in topics]
        initialized = initialized_topics(group.spec.topics, topics, committed)
        own = self._objective(group, {**lags, **{TopicPartition(name, 0): UNKNOWN for name in missing}})
        strays = sorted({place.topic for place, lag in lags.items() if not lag.in_range})
        if missing:
            message = (
                f"topic {missing[0]} doesn't exist"
                + (f" (nor do {len(missing) - 1} others)" if len(missing) > 1 else "")
                + ": create it, or correct spec.topics. Start positions are committed as soon as it is there"
            )
            told = conditions.reconciling(group, now, Reason.TOPIC_NOT_FOUND, message, own=own)
        elif strays:
            told = conditions.ready(group, now, astray(strays), own=own)
            if astray(strays) not in {condition.message for condition in group.status.conditions}:
                self._context.events.publish(group, "Warning", Reason.POSITION_OUT_OF_RANGE, astray(strays))
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
            group.key,
            metrics.group_lag_records,
            {labels[place]: float(lag.records) for place, lag in lags.items() if lag.records is not None},
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
        verdict = judge(objective, lags, was_within={"True": True, "False": False}.get(before or ""))
        told = conditions.condition(type_, verdict.within, verdict.reason, verdict.message)
        if verdict.within is not None and before is not None and before != told.status:
            type_of_event: Literal["Normal", "Warning"] = "Normal" if verdict.within else "Warning"
            self._context.events.publish(group, type_of_event, verdict.reason, verdict.message)
        return [told]


def _check(group: ConsumerGroup, owner: Key) -> None:
    """Raise if another object has this group id."""
    if owner != group.key:
        raise UserError(
            Reason.CONFLICT,
            f"group {group_id(group)} belongs to {owner}, which is older: delete one of the two, or make one with"
            " another spec.groupId",
        )


async def _ends(admin: KafkaAdmin, groups: Sequence[ConsumerGroup], topics: Topics) -> dict[TopicPartition, Ends]:
    """Starts and ends of all partitions of the groups' topics that tell both."""
    places = partitions_of(sorted({name for group in groups for name in group.spec.topics}), topics)
    starts, ends = await asyncio.gather(
        admin.each_earliest_offset(places, topics), admin.each_latest_offset(places, topics)
    )
    return {place: Ends(starts.found[place], end) for place, end in ends.found.items() if place in starts.found}
