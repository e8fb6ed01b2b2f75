"""The Topic reconciler: all due topics of a cluster in one go, a handful of requests however many there are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sluice.api.base import Reason
from sluice.api.objects import Key, Topic, cluster_key
from sluice.api.topic import DeletionPolicy, TopicStatus
from sluice.engine import status as conditions
from sluice.engine.batching import confirm, each
from sluice.engine.errors import UserError, WaitingError
from sluice.engine.finalizers import finalizer_of, hold, let_go
from sluice.engine.reconciler import Context, Outcome
from sluice.engine.topic_deletion import claimed_name, key_of_topic, leave
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaError, KafkaUnreachableError
from sluice.plan.observed import ClusterDescription, TopicDescription, TopicPartition
from sluice.plan.ownership import oldest
from sluice.plan.topic import (
    ObservedTopic,
    Problem,
    TopicPlan,
    config_keys,
    kafka_name,
    plan_topic,
    wants_partitions,
)

logger = logging.getLogger(__name__)

SCAN_SECONDS: Final = 60.0
"""How often a cluster is scanned for topics that were changed behind our back."""
VERIFIED_SECONDS: Final = 1.5 * SCAN_SECONDS
REASSIGNMENT_SECONDS: Final = 5.0
"""How often a running reassignment is looked at."""
TOO_FEW_BROKERS_SECONDS: Final = 60.0
VISIBLE_ATTEMPTS: Final = 20
VISIBLE_PAUSE_SECONDS: Final = 0.1
FINGERPRINTS_KEPT: Final = 32

Results = dict[Key, Outcome | Exception]


@dataclass
class _Cluster:
    """What is remembered of a cluster: which topic's turn stands for the scan of all, and states known to be good."""

    scout: Key | None = None
    scan_at: float = 0.0
    good: set[bytes] = field(default_factory=set)
    verified_until: float = 0.0
    """Until when the last scan that found all well is taken as the truth."""


class TopicReconciler:
    """Brings topics in Kafka to their specs, and keeps them there.

    One topic of each cluster, the scout, comes back every minute: then a fingerprint of all topics of the cluster is
    taken, and only if it isn't one under which all was well are they looked at.
    """

    kind = "Topic"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._clusters: dict[Key, _Cluster] = {}
        self._known: dict[Key, tuple[Key, str]] = {}
        """Cluster and name in Kafka of each object seen, for when it is gone."""
        self._well: dict[Key, str] = {}
        """Version of each object that was last found to be as its spec says."""

    def lane(self, key: Key) -> str:
        """One lane a cluster."""
        body = self._context.index.get(key)
        if body is not None:
            reference = body["spec"].get("clusterRef") or {}
            cluster = Key("MessagingCluster", reference.get("namespace") or key.namespace, reference.get("name", ""))
            self._known[key] = (cluster, claimed_name(body))
        known = self._known.get(key)
        return str(known[0]) if known else str(key)

    async def reconcile(self, keys: Sequence[Key]) -> Mapping[Key, Outcome | Exception]:
        """See `sluice.engine.reconciler.Reconciler`."""
        topics = self._read(keys)
        results: Results = {key: Outcome() for key in keys}
        if not topics:
            return results
        cluster_id = cluster_key(topics[0].spec.cluster_ref, topics[0].namespace)
        cluster = self._clusters.setdefault(cluster_id, _Cluster())
        live = [topic for topic in topics if not topic.deleting]
        results.update(await self._leave(cluster_id, [topic for topic in topics if topic.deleting]))
        admins, refused = await self._connect(live)
        results.update(refused)
        live = [topic for topic in live if topic.key not in refused]
        if not live:
            return results
        admin = next(iter(admins.values()))
        fingerprint: bytes | None = None
        if cluster.scout in {topic.key for topic in live} and self._now() >= cluster.scan_at - 1:
            fingerprint = await self._fingerprint(cluster_id, admin)
            if fingerprint in cluster.good:
                cluster.verified_until = self._now() + VERIFIED_SECONDS
            else:
                cluster.verified_until = 0.0
                live = self._all(cluster_id, admins, live)
        unsure = [topic for topic in live if not self._verified(cluster, topic)]
        if unsure and fingerprint is None:
            cluster.good.clear()
        brought, idle = await self._bring(cluster_id, admin, unsure)
        if fingerprint is not None and idle:
            if len(cluster.good) >= FINGERPRINTS_KEPT:
                cluster.good.clear()
            cluster.good.add(fingerprint)
            cluster.verified_until = self._now() + VERIFIED_SECONDS
        for key, result in brought.items():
            body = self._context.index.get(key)
            if result == Outcome() and body is not None:
                self._well[key] = body["metadata"]["resourceVersion"]
            if key in results:
                results[key] = result
            elif isinstance(result, Exception):  # found by the scan: let the engine hear of it in the key's own turn
                self._context.enqueue(key)
        self._appoint(cluster, results)
        return results

    # What is due

    def _read(self, keys: Iterable[Key]) -> list[Topic]:
        topics: list[Topic] = []
        for key in keys:
            topic = self._context.index.resource(key)
            if topic is None or topic.deleting:
                self._wake_rivals(key)
            if topic is not None:
                topics.append(topic)
            else:
                self._known.pop(key, None)
                self._well.pop(key, None)
        return topics

    def _wake_rivals(self, key: Key) -> None:
        """Another object may have waited for this topic name."""
        cluster, name = self._known.get(key, (None, None))
        if cluster is None:
            return
        for body in self._context.index.of_cluster(cluster, self.kind):
            if claimed_name(body) == name and "deletionTimestamp" not in body["metadata"]:
                self._context.enqueue(key_of_topic(body))

    async def _connect(self, topics: Iterable[Topic]) -> tuple[dict[str, KafkaAdmin], Results]:
        """The cluster's client, by namespace that may use it, and the topics whose namespace may not."""
        admins: dict[str, KafkaAdmin] = {}
        errors: dict[str, Exception] = {}
        refused: Results = {}
        for topic in topics:
            space = topic.namespace
            if space not in admins and space not in errors:
                try:
                    admins[space] = await self._context.clusters.connect(topic.spec.cluster_ref, space)
                except WaitingError as error:
                    errors[space] = error
            if space in errors:
                refused[topic.key] = errors[space]
        return admins, refused

    def _all(self, cluster: Key, admins: Mapping[str, KafkaAdmin], topics: Sequence[Topic]) -> list[Topic]:
        """``topics``, and all others of the cluster that the same namespaces have and that aren't being deleted."""
        found = {topic.key: topic for topic in topics}
        for body in self._context.index.of_cluster(cluster, self.kind):
            key = key_of_topic(body)
            if key not in found and key.namespace in admins:
                topic = self._context.index.resource(key)
                if topic is not None and not topic.deleting and not topic.paused:
                    found[key] = topic
        return list(found.values())

    def _verified(self, cluster: _Cluster, topic: Topic) -> bool:
        """Whether the object is as it was when it was last found well, and the topic too, as the last scan says."""
        return self._well.get(topic.key) == topic.resource_version and self._now() < cluster.verified_until

    async def _fingerprint(self, cluster: Key, admin: KafkaAdmin) -> bytes:
        keys: dict[str, list[str]] = {}
        for body in self._context.index.of_cluster(cluster, self.kind):  # bodies, since reading a thousand costs
            managed = (body.get("status") or {}).get("configKeys") or ()
            keys[claimed_name(body)] = sorted({*(body["spec"].get("config") or ()), *managed})
        return await admin.topics_fingerprint(dict(sorted(keys.items())))

    def _appoint(self, cluster: _Cluster, results: Results) -> None:
        """Have one topic that is well come back for the next scan."""
        if cluster.scout is not None and cluster.scout not in results:
            body = self._context.index.get(cluster.scout)
            if body is not None and cluster.scan_at + SCAN_SECONDS > self._now():
                return  # its turn is still to come
        well = [key for key, result in results.items() if result == Outcome() and self._context.index.get(key)]
        cluster.scout = min(well, default=None)
        if cluster.scout is not None:
            cluster.scan_at = self._now() + SCAN_SECONDS
            results[cluster.scout] = Outcome(requeue_after=SCAN_SECONDS)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # Objects that live

    async def _bring(self, cluster_id: Key, admin: KafkaAdmin, topics: Sequence[Topic]) -> tuple[Results, bool]:
        """Bring topics to their specs; says also whether there was nothing to do for any."""
        results: Results = {}
        owned: list[Topic] = []
        claims = self._claims(cluster_id)
        for topic in topics:
            rival = self._rival(topic, claims.get(kafka_name(topic), ()))
            if rival is None:
                owned.append(topic)
            else:
                results[topic.key] = UserError(
                    Reason.CONFLICT,
                    f"topic {kafka_name(topic)} belongs to Topic {rival.namespace}/{rival.name}, which is older: delete"
                    " one of the two, or give this one another spec.topicName",
                )
        if not owned:
            return results, True
        description, plans, observed = await self._plan(admin, owned)
        todo = [topic for topic in owned if plans[topic.key].reasons]
        errors = await self._apply(admin, description, [(topic, plans[topic.key]) for topic in todo])
        created = {kafka_name(topic): topic for topic in todo if plans[topic.key].create and topic.key not in errors}
        seen = await self._await_visible(admin, list(created))

        async def report(topic: Topic) -> Outcome:
            if topic.key in errors:
                raise errors[topic.key]
            found = observed[topic.key].topic or seen.get(kafka_name(topic))
            return await self._report(topic, plans[topic.key], found)

        for topic, outcome in zip(owned, await each(owned, report), strict=True):
            results[topic.key] = outcome
        return results, not any(plan.reasons or plan.reassigning for plan in plans.values())

    def _claims(self, cluster: Key) -> dict[str, list[Key]]:
        """Objects by the topic name that they claim; those that are being deleted claim it until they are gone."""
        claims: dict[str, list[Key]] = {}
        for body in self._context.index.of_cluster(cluster, self.kind):
            claims.setdefault(claimed_name(body), []).append(key_of_topic(body))
        return claims

    def _rival(self, topic: Topic, claims: Sequence[Key]) -> Topic | None:
        """The object that this one's topic name belongs to, if it is another."""
        others = [self._context.index.resource(key) for key in claims if key != topic.key]
        first = oldest([topic, *(other for other in others if other is not None)])
        return None if first.key == topic.key else first

    async def _plan(
        self, admin: KafkaAdmin, topics: Sequence[Topic]
    ) -> tuple[ClusterDescription, dict[Key, TopicPlan], dict[Key, ObservedTopic]]:
        names = [kafka_name(topic) for topic in topics]
        cluster, described = await asyncio.gather(admin.describe_cluster(), admin.describe_topics(names))
        wanted = {
            kafka_name(topic): config_keys(topic.spec, topic.status.config_keys)
            for topic in topics
            if kafka_name(topic) in described
        }
        configs = await admin.describe_topic_configs({name: keys for name, keys in wanted.items() if keys})
        moving: dict[str, set[int]] = {}
        if any(_replicas_differ(topic, described.get(kafka_name(topic))) for topic in topics):
            for place in await admin.list_reassignments():
                moving.setdefault(place.topic, set()).add(place.partition)
        written = await self._written(admin, topics, described)
        observed = {
            topic.key: ObservedTopic(
                topic=described.get(name),
                config=configs.get(name, {}),
                reassigning=frozenset(moving.get(name, ())),
                written=written.get(name),
            )
            for topic, name in zip(topics, names, strict=True)
        }
        plans = {
            topic.key: plan_topic(
                kafka_name(topic), topic.spec, topic.status.config_keys, observed[topic.key], cluster.active_brokers
            )
            for topic in topics
        }
        return cluster, plans, observed

    async def _written(
        self, admin: KafkaAdmin, topics: Iterable[Topic], described: Mapping[str, TopicDescription]
    ) -> dict[str, bool]:
        """For topics whose partitions are to be raised without consent: whether they were ever written to."""
        growing = [
            found
            for topic in topics
            if (found := described.get(kafka_name(topic))) is not None and wants_partitions(topic.spec, found)
        ]
        ends = await admin.latest_offsets(
            [TopicPartition(found.name, partition.id) for found in growing for partition in found.partitions]
        )
        return {
            found.name: any(ends[TopicPartition(found.name, partition.id)] > 0 for partition in found.partitions)
            for found in growing
        }

    async def _apply(
        self, admin: KafkaAdmin, cluster: ClusterDescription, todo: Sequence[tuple[Topic, TopicPlan]]
    ) -> dict[Key, Exception]:
        """Do what plans say, all of one sort in one request; returns what failed."""
        errors: dict[Key, Exception] = {}
        if not todo:
            return errors
        errors |= await confirm(self._context, [topic for topic, _ in todo])
        held = [topic for topic, _ in todo if topic.spec.deletion_policy is DeletionPolicy.DELETE]
        for topic, answer in zip(held, await each(held, lambda topic: hold(self._context, topic)), strict=True):
            if isinstance(answer, Exception):
                errors.setdefault(topic.key, answer)
        doing = {kafka_name(topic): (topic, plan) for topic, plan in todo if topic.key not in errors}
        for topic, plan in doing.values():
            logger.info("%s on %s: %s", topic.key, cluster.cluster_id, "; ".join(plan.reasons))

        def fail(answers: Mapping[str, KafkaError | None]) -> None:
            for name, error in answers.items():
                if error is not None:
                    errors.setdefault(doing[name][0].key, error)

        if creates := [plan.create for _, plan in doing.values() if plan.create]:
            fail(await admin.create_topics(creates))
        if changes := {name: plan.config for name, (_, plan) in doing.items() if plan.config}:
            fail(await admin.alter_topic_configs(changes))
        if counts := {name: plan.partitions for name, (_, plan) in doing.items() if plan.partitions}:
            fail(await admin.create_partitions(counts))
        moves = {
            TopicPartition(name, partition): replicas
            for name, (_, plan) in doing.items()
            for partition, replicas in plan.placements.items()
        }
        if moves:
            fail({place.topic: error for place, error in (await admin.reassign(moves)).items() if error is not None})
        return errors

    async def _await_visible(self, admin: KafkaAdmin, names: Sequence[str]) -> dict[str, TopicDescription]:
        """Topics just made, as soon as brokers know them."""
        found: dict[str, TopicDescription] = {}
        for _ in range(VISIBLE_ATTEMPTS):
            missing = [name for name in names if name not in found]
            if not missing:
                break
            found |= await admin.describe_topics(missing)
            if any(name not in found for name in missing):
                await asyncio.sleep(VISIBLE_PAUSE_SECONDS)
        return found

    async def _report(self, topic: Topic, plan: TopicPlan, found: TopicDescription | None) -> Outcome:
        """Write the status, if it says anything new."""
        if plan.create is not None and found is None:
            raise KafkaUnreachableError(f"topic {kafka_name(topic)} was made, but no broker shows it yet")
        # What the finalizer is for may no longer be wanted, or be wanted from now on.
        if topic.spec.deletion_policy is DeletionPolicy.DELETE and not plan.reasons:
            await hold(self._context, topic)
        if topic.spec.deletion_policy is DeletionPolicy.RETAIN:
            await let_go(self._context, topic)
        now = self._context.clock()
        moving = plan.reassigning or bool(plan.placements)
        if plan.problem is not None:
            build = conditions.reconciling if plan.problem.waits else conditions.stalled
            own = build(topic, now, plan.problem.reason, plan.problem.message)
        elif moving:
            message = f"replicas are being moved, so that each partition has {topic.spec.replicas}"
            own = conditions.reconciling(topic, now, Reason.REASSIGNING, message)
        else:
            own = conditions.ready(topic, now)
        written = topic.status.model_copy(update={"conditions": own})
        if found is not None:
            written = TopicStatus(
                conditions=own,
                topic_name=found.name,
                topic_id=found.id or None,
                partitions=plan.partitions or len(found.partitions),
                replicas=found.replication_factor,
                config_keys=sorted(topic.spec.config),
            )
        await conditions.write_status(self._context, topic, written)
        if plan.problem is not None:
            raise _error(plan.problem)
        return Outcome(requeue_after=REASSIGNMENT_SECONDS) if moving else Outcome()

    # Objects that go

    async def _leave(self, cluster: Key, topics: Sequence[Topic]) -> Results:
        """Undo what finalizers stand for."""
        holding = [topic for topic in topics if finalizer_of(self.kind) in topic.finalizers]
        answers = await each(holding, lambda topic: leave(self._context, cluster, topic))
        return {
            topic.key: answer if isinstance(answer, Exception) else Outcome()
            for topic, answer in zip(holding, answers, strict=True)
        }


def _replicas_differ(topic: Topic, found: TopicDescription | None) -> bool:
    return found is not None and any(len(part.replicas) != topic.spec.replicas for part in found.partitions)


def _error(problem: Problem) -> Exception:
    if problem.waits:
        return WaitingError(problem.reason, problem.message, retry_after=TOO_FEW_BROKERS_SECONDS)
    return UserError(problem.reason, problem.message)
