"""The Topic reconciler: all due topics of a cluster in one go, a handful of requests however many there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sluice.api.base import Reason
from sluice.api.objects import Key, Topic, cluster_key
from sluice.engine.batching import each, lane_of, readable, referred
from sluice.engine.errors import UserError, WaitingError
from sluice.engine.finalizers import finalizer_of
from sluice.engine.reconciler import Context, Outcome
from sluice.engine.topic_apply import apply, await_visible, observe
from sluice.engine.topic_deletion import claimed_name, key_of_topic, leave
from sluice.engine.topic_scan import Scan
from sluice.engine.topic_status import report
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaRefusedError
from sluice.plan.ownership import owners
from sluice.plan.topic import TopicPlan, kafka_name, plan_topic

Results = dict[Key, Outcome | Exception]


class TopicReconciler:
    """Brings topics in Kafka to their specs, and keeps them there (`sluice.engine.topic_scan`)."""

    kind = "Topic"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._scans: dict[Key, Scan] = {}
        self._known: dict[Key, tuple[Key, str]] = {}
        """Cluster and name in Kafka of each object seen, for when it is gone."""
        self._well: dict[Key, str] = {}
        """Version of each object that was last found to be as its spec says."""

    def lane(self, key: Key) -> str:
        """One lane a cluster, and one for objects that are being deleted."""
        body = self._context.index.get(key)
        if body is not None:
            self._known[key] = (referred(body), claimed_name(body))
        known = self._known.get(key)
        return lane_of(known[0], body) if known else str(key)

    async def reconcile(self, keys: Sequence[Key]) -> Mapping[Key, Outcome | Exception]:
        """See `sluice.engine.reconciler.Reconciler`."""
        topics = self._read(keys)
        results: Results = {key: Outcome() for key in keys}
        if not topics:
            return results
        cluster = cluster_key(topics[0].spec.cluster_ref, topics[0].namespace)
        # Only those with our finalizer: it stands for what is to be undone.
        held = [topic for topic in topics if topic.deleting and finalizer_of(self.kind) in topic.finalizers]
        results.update(await leave(self._context, cluster, held))
        live, admin, refused = await self._connect([topic for topic in topics if not topic.deleting])
        results.update(refused)
        if admin is None:
            return results
        scan = self._scans.setdefault(cluster, Scan(self._context, cluster))
        scan.arm()
        suspicious = await scan.suspicious(admin) if scan.due else None
        if suspicious is not None:
            others, _, _ = await self._connect(self._others(cluster, live))
            live += others
        brought, idle = await self._bring(admin, [topic for topic in live if not self._verified(scan, topic)])
        if suspicious is not None and idle:
            scan.trust(suspicious)
        for key, result in brought.items():
            body = self._context.index.get(key)
            if result == Outcome() and body is not None:
                self._well[key] = body["metadata"]["resourceVersion"]
            if key in results:
                results[key] = result
            elif result != Outcome():  # found by the scan: let the engine hear of it in the key's own turn
                self._context.enqueue(key)
        return results

    # What is due

    def _read(self, keys: Iterable[Key]) -> list[Topic]:
        topics: list[Topic] = []
        for key in keys:
            topic = readable(self._context, key)
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

    async def _connect(self, topics: Iterable[Topic]) -> tuple[list[Topic], KafkaAdmin | None, Results]:
        """Topics whose namespace may use the cluster, its client (None without any), and the others' errors."""
        allowed: list[Topic] = []
        admin: KafkaAdmin | None = None
        refused: Results = {}
        answers: dict[str, KafkaAdmin | WaitingError] = {}
        for topic in topics:
            space = topic.namespace
            if space not in answers:
                try:
                    answers[space] = await self._context.clusters.connect(topic.spec.cluster_ref, space)
                except WaitingError as error:
                    answers[space] = error
            answer = answers[space]
            if isinstance(answer, WaitingError):
                refused[topic.key] = answer
            else:
                admin = answer
                allowed.append(topic)
        return allowed, admin, refused

    def _others(self, cluster: Key, topics: Iterable[Topic]) -> list[Topic]:
        """All other topics of the cluster that can be read, and are neither paused nor being deleted."""
        known = {topic.key for topic in topics}
        keys = [key_of_topic(body) for body in self._context.index.of_cluster(cluster, self.kind)]
        others = [readable(self._context, key) for key in keys if key not in known]
        return [topic for topic in others if topic is not None and not topic.deleting and not topic.paused]

    def _verified(self, scan: Scan, topic: Topic) -> bool:
        """Whether the object is as it was when it was last found well, and the topic too, as the last scan says."""
        return scan.verified and self._well.get(topic.key) == topic.resource_version

    # Objects that live

    async def _bring(self, admin: KafkaAdmin, topics: Sequence[Topic]) -> tuple[Results, bool]:
        """Bring topics to their specs; says also whether there was nothing to do for any that can be helped."""
        owned, results = self._owned(topics)
        if not owned:
            return results, True
        seen = await observe(admin, owned)
        results.update(seen.errors)
        owned = [topic for topic in owned if topic.key in seen.topics]
        plans = {
            topic.key: plan_topic(
                kafka_name(topic),
                topic.spec,
                topic.status.config_keys,
                seen.topics[topic.key],
                seen.cluster.active_brokers,
            )
            for topic in owned
        }
        todo = [(topic, plans[topic.key]) for topic in owned if plans[topic.key].reasons]
        errors = await apply(self._context, admin, seen.cluster, todo)
        made = [kafka_name(topic) for topic, plan in todo if plan.create and topic.key not in errors]
        new = await await_visible(admin, made)

        async def tell(topic: Topic) -> Outcome:
            if topic.key in errors:
                raise errors[topic.key]
            found = seen.topics[topic.key].topic or new.get(kafka_name(topic))
            return await report(self._context, topic, plans[topic.key], found)

        for topic, outcome in zip(owned, await each(owned, tell), strict=True):
            results[topic.key] = outcome
        return results, not any(_busy(plan, errors.get(key)) for key, plan in plans.items())

    def _owned(self, topics: Sequence[Topic]) -> tuple[list[Topic], Results]:
        """Topics whose name is theirs, and the others' errors."""
        if not topics:
            return [], {}
        cluster = self._context.clusters.resolve(topics[0].spec.cluster_ref, topics[0].namespace)
        # Objects that are being deleted have their name until they are gone.
        owner_of = owners(self._context.index.of_cluster(cluster.key, self.kind), cluster, claimed_name)
        conflicts: Results = {}
        for topic in topics:
            owner = owner_of.get(kafka_name(topic), topic.key)
            if owner != topic.key:
                conflicts[topic.key] = UserError(
                    Reason.CONFLICT,
                    f"topic {kafka_name(topic)} belongs to {owner}, which is older: delete one of the two, or give this"
                    " one another spec.topicName",
                )
        return [topic for topic in topics if topic.key not in conflicts], conflicts


def _busy(plan: TopicPlan, error: Exception | None) -> bool:
    """Whether there was something to do; what Kafka refuses is no business of the next scan's."""
    return plan.reassigning or (bool(plan.reasons) and not isinstance(error, KafkaRefusedError))
