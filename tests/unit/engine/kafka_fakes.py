"""A Kafka in memory, as the reconcilers of topics, users and groups see one, and a world of objects around it."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from sluice.api.base import ClusterReference, Reason
from sluice.api.objects import Key
from sluice.engine.clusters import Clusters
from sluice.engine.reconciler import Context, Outcome, Reconciler
from sluice.kafka.errors import Answers, KafkaError, KafkaRefusedError, KafkaUnreachableError
from sluice.plan.lag import BatchTime
from sluice.plan.observed import (
    AclBinding,
    Broker,
    ClusterDescription,
    ConfigValue,
    GroupDescription,
    NewTopic,
    PartitionDescription,
    Reassignment,
    TopicDescription,
    TopicPartition,
)
from tests.unit.engine.engine_fakes import FakeKube, make_context

CLUSTER = Key("MessagingCluster", "kafka", "demo")
BROKERS = tuple(Broker(number, "host", 9092) for number in range(3))


class MemoryKube(FakeKube):
    """The fake API server, with lists, server-side apply and deletion."""

    async def list(self, api_version: str, kind: str, namespace: str | None = None) -> list[dict[str, Any]]:
        return [
            copy.deepcopy(body)
            for key, body in self.objects.items()
            if key.kind == kind and namespace in (None, key.namespace)
        ]

    async def patch(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        patched = await super().patch(*args, **kwargs)
        metadata = patched["metadata"]
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            del self.objects[Key(patched["kind"], metadata["namespace"], metadata["name"])]
        return patched

    async def ensure(self, desired: dict[str, Any]) -> bool:
        key = Key(desired["kind"], desired["metadata"]["namespace"], desired["metadata"]["name"])
        found = self.objects.get(key)
        if found is not None and found["data"] == desired["data"]:
            return False
        self.writes.append(("apply", key, desired))
        metadata = {"uid": f"uid-{key.name}", **desired["metadata"]}
        if found is not None:
            metadata["annotations"] = {**found["metadata"].get("annotations", {}), **metadata["annotations"]}
        self.version += 1
        self.objects[key] = {**copy.deepcopy(desired), "metadata": {**metadata, "resourceVersion": str(self.version)}}
        return True

    async def delete(self, api_version: str, kind: str, namespace: str, name: str, *, uid: str | None = None) -> bool:
        self.writes.append(("delete", Key(kind, namespace, name), uid))
        return self.objects.pop(Key(kind, namespace, name), None) is not None


@dataclass
class MemoryKafka:
    """One cluster. ``refused`` has errors by the name of a topic or group; ``silent`` lets nobody answer any more."""

    topics: dict[str, TopicDescription] = field(default_factory=dict)
    configs: dict[str, dict[str, str]] = field(default_factory=dict)
    ends: dict[TopicPartition, int] = field(default_factory=dict)
    starts: dict[TopicPartition, int] = field(default_factory=dict)
    batches: dict[TopicPartition, BatchTime] = field(default_factory=dict)
    moving: dict[TopicPartition, Reassignment] = field(default_factory=dict)
    acls: set[AclBinding] = field(default_factory=set)
    scram: dict[str, set[str]] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    quotas: dict[str, dict[str, float]] = field(default_factory=dict)
    offsets: dict[str, dict[TopicPartition, int]] = field(default_factory=dict)
    groups: dict[str, GroupDescription] = field(default_factory=dict)
    refused: dict[str, KafkaError] = field(default_factory=dict)
    cluster_refused: KafkaError | None = None
    settings: Any = field(default_factory=lambda: SimpleNamespace(own_names=frozenset({"admin"})))
    silent: bool = False
    asked: Counter[str] = field(default_factory=Counter)
    deleted: list[str] = field(default_factory=list)
    made: int = 0

    def _count(self, what: str) -> None:
        self.asked[what] += 1
        if self.silent:
            raise KafkaUnreachableError("nobody answers")

    def add_topic(self, name: str, partitions: int = 1, replicas: int = 1, **config: str) -> TopicDescription:
        """A topic as somebody else makes it."""
        self.made += 1
        placement = tuple(range(replicas))
        parts = tuple(PartitionDescription(n, 0, 0, placement, placement) for n in range(partitions))
        self.topics[name] = TopicDescription(name, f"id-{self.made}", parts, internal=name == "__consumer_offsets")
        self.configs[name] = dict(config)
        return self.topics[name]

    def leaderless(self, name: str, partition: int) -> None:
        """Take a partition's leader away."""
        found = self.topics[name]
        parts = [dataclasses.replace(part, leader=None) if part.id == partition else part for part in found.partitions]
        self.topics[name] = dataclasses.replace(found, partitions=tuple(parts))

    # Topics

    async def describe_cluster(self) -> ClusterDescription:
        self._count("describe_cluster")
        return ClusterDescription("cluster", 0, BROKERS)

    async def each_topic(self, names: Sequence[str]) -> Answers[str, TopicDescription]:
        self._count("topics")
        answers: Answers[str, TopicDescription] = Answers()
        for name in names:
            if name in self.refused:
                answers.errors[name] = self.refused[name]
            elif name in self.topics:
                answers.found[name] = self.topics[name]
        return answers

    async def each_topic_config(self, keys: Mapping[str, Sequence[str]]) -> Answers[str, dict[str, ConfigValue]]:
        self._count("configs")
        found = {
            name: {key: ConfigValue(self.configs[name].get(key, "default"), key in self.configs[name]) for key in of}
            for name, of in keys.items()
        }
        return Answers(found)

    async def topics_fingerprint(self, keys: Mapping[str, Sequence[str]]) -> bytes:
        self._count("fingerprint")
        state = [(name, self.topics.get(name), sorted(self.configs.get(name, {}).items())) for name in keys]
        return repr((state, dict(keys))).encode()

    async def create_topics(self, topics: Sequence[NewTopic]) -> dict[str, KafkaError | None]:
        self._count("create_topics")
        results = {}
        for new in topics:
            results[new.name] = self.refused.get(f"create {new.name}")
            if results[new.name] is None:
                self.add_topic(new.name, new.partitions, new.replicas, **dict(new.config))
        return results

    async def alter_topic_configs(
        self, changes: Mapping[str, Mapping[str, str | None]]
    ) -> dict[str, KafkaError | None]:
        self._count("alter_configs")
        results: dict[str, KafkaError | None] = {}
        for name, entries in changes.items():
            results[name] = self.refused.get(f"alter {name}")
            for key, value in entries.items() if results[name] is None else ():
                if value is None:
                    self.configs[name].pop(key, None)
                else:
                    self.configs[name][key] = value
        return results

    async def create_partitions(self, counts: Mapping[str, int]) -> dict[str, KafkaError | None]:
        self._count("create_partitions")
        results = {}
        for name, count in counts.items():
            results[name] = self.refused.get(f"grow {name}")
            if results[name] is None:
                found = self.topics[name]
                added = [dataclasses.replace(found.partitions[0], id=n) for n in range(len(found.partitions), count)]
                self.topics[name] = dataclasses.replace(found, partitions=(*found.partitions, *added))
        return results

    async def reassign(self, moves: Mapping[TopicPartition, Sequence[int]]) -> dict[TopicPartition, KafkaError | None]:
        self._count("reassign")
        if self.cluster_refused is not None:
            return dict.fromkeys(moves, self.cluster_refused)
        self.moving |= {place: Reassignment(tuple(to), (), ()) for place, to in moves.items()}
        return dict.fromkeys(moves)

    async def list_reassignments(self) -> dict[TopicPartition, Reassignment]:
        self._count("list_reassignments")
        if self.cluster_refused is not None:
            raise self.cluster_refused
        return dict(self.moving)

    async def delete_topics(self, topics: Mapping[str, str]) -> dict[str, KafkaError | None]:
        self._count("delete_topics")
        for name, id_ in topics.items():
            if name in self.topics and self.topics[name].id == id_:
                del self.topics[name]
                self.deleted.append(name)
        return dict.fromkeys(topics)

    # Offsets and groups

    def _each_offset(self, places: Iterable[TopicPartition], known: Mapping[TopicPartition, int]) -> Any:
        answers: Answers[TopicPartition, int] = Answers()
        for place in places:
            topic = self.topics.get(place.topic)
            if topic is None or topic.partitions[place.partition].leader is None:
                answers.errors[place] = KafkaUnreachableError(f"{place} has no leader")
            else:
                answers.found[place] = known.get(place, 0)
        return answers

    async def each_earliest_offset(self, places: Sequence[TopicPartition], topics: Any = None) -> Any:
        self._count("earliest")
        return self._each_offset(places, self.starts)

    async def each_latest_offset(self, places: Sequence[TopicPartition], topics: Any = None) -> Any:
        self._count("latest")
        return self._each_offset(places, self.ends)

    async def earliest_offsets(self, places: Sequence[TopicPartition], topics: Any = None) -> Any:
        return self._each_offset(places, self.starts).all()

    async def latest_offsets(self, places: Sequence[TopicPartition], topics: Any = None) -> Any:
        return self._each_offset(places, self.ends).all()

    async def each_batch_time(self, positions: Mapping[TopicPartition, int], topics: Any = None) -> Any:
        self.asked.update(f"batch {place}" for place in positions)
        return Answers({place: self.batches[place] for place in positions if place in self.batches})

    async def each_group_offsets(self, groups: Mapping[str, None]) -> Any:
        self._count("group_offsets")
        answers: Answers[str, dict[TopicPartition, int]] = Answers()
        for name in groups:
            if name in self.refused:
                answers.errors[name] = self.refused[name]
            else:
                answers.found[name] = dict(self.offsets.get(name, {}))
        return answers

    async def each_group(self, names: Sequence[str]) -> Any:
        self._count("groups")
        return Answers({name: self.groups.get(name, GroupDescription(name, "Dead", "", 0)) for name in names})

    async def alter_group_offsets(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        self._count("alter_group_offsets")
        self.offsets.setdefault(group, {}).update(offsets)

    # Users

    async def describe_acls(self, principal: str | None = None) -> set[AclBinding]:
        self._count("acls")
        return {acl for acl in self.acls if principal in (None, acl.principal)}

    async def create_acls(self, acls: Sequence[AclBinding]) -> None:
        self.acls.update(acls)

    async def delete_acls(self, acls: Sequence[AclBinding]) -> None:
        self.acls.difference_update(acls)

    async def describe_scram(self, users: Sequence[str]) -> dict[str, frozenset[str]]:
        return {user: frozenset(self.scram[user]) for user in users if self.scram.get(user)}

    async def upsert_scram(self, user: str, password: str, mechanism: str) -> None:
        self.asked["upsert_scram"] += 1
        self.scram.setdefault(user, set()).add(mechanism)
        self.passwords[user] = password

    async def delete_scram(self, user: str, mechanisms: Sequence[str]) -> None:
        self.scram.get(user, set()).difference_update(mechanisms)

    async def describe_user_quotas(self, users: Sequence[str]) -> dict[str, dict[str, float]]:
        return {user: dict(self.quotas[user]) for user in users if self.quotas.get(user)}

    async def alter_user_quotas(self, user: str, changes: Mapping[str, float | None]) -> None:
        known = self.quotas.setdefault(user, {})
        for key, value in changes.items():
            if value is None:
                known.pop(key, None)
            else:
                known[key] = value


class MemoryClusters(Clusters):
    """Leads every allowed namespace to the Kafka in memory."""

    kafka: Any

    async def connect(self, reference: ClusterReference, namespace: str) -> Any:
        """As ``Clusters.connect``."""
        self.resolve(reference, namespace)
        return self.kafka


class World:
    """Objects, a Kafka, and one reconciler that is called by hand; what it wakes is remembered."""

    def __init__(self, make: Any, *, allowed: Sequence[str] = ("ns",), external: bool = True) -> None:
        self.kube, self.kafka = MemoryKube(), MemoryKafka()
        self.woken: list[Key] = []
        self.events: list[tuple[str, str, str]] = []
        self.context: Context = make_context(self.kube)
        clusters = MemoryClusters(self.context.kube, self.context.index, lambda _: self.kafka)  # type: ignore[arg-type,return-value]
        clusters.kafka = self.kafka
        self.context.clusters = clusters
        self.context.enqueue = self.woken.append
        self.context.events.publish = self._event  # type: ignore[method-assign]
        self.reconciler: Reconciler = make(self.context)
        self.cluster(allowed)

    def cluster(self, allowed: Sequence[str]) -> None:
        """The MessagingCluster, and the namespaces that it allows."""
        spec = {"external": {"bootstrapServers": ["a:1"]}, "allowedNamespaces": list(allowed)}
        self.put("MessagingCluster", CLUSTER.name, spec, namespace=CLUSTER.namespace)
        for space in {*allowed, CLUSTER.namespace, "ns"}:
            self.kube.objects[Key("Namespace", "", space)] = {"kind": "Namespace", "metadata": {"name": space}}

    def _event(self, resource: Any, type_: str, reason: Reason | str, message: str, **_: Any) -> bool:
        self.events.append((resource.name, reason.value if isinstance(reason, Reason) else reason, message))
        return True

    def put(
        self, kind: str, name: str, spec: Mapping[str, Any], *, namespace: str = "ns", day: int = 1, **meta: Any
    ) -> Key:
        """Store an object, made on a day of January or changed, as the API server and its watch would."""
        key = Key(kind, namespace, name)
        old = self.kube.objects.get(key)
        full = dict(spec) if kind == "MessagingCluster" else {"clusterRef": CLUSTER._asdict() | {}, **spec}
        full.get("clusterRef", {}).pop("kind", None)
        metadata = {
            "namespace": namespace,
            "name": name,
            "uid": f"uid-{namespace}-{name}",
            "creationTimestamp": f"2026-01-{day:02}T00:00:00Z",
            "generation": (old["metadata"]["generation"] if old else 0) + 1,
            **({"finalizers": old["metadata"]["finalizers"]} if old and "finalizers" in old["metadata"] else {}),
            **meta,
        }
        body = {"apiVersion": "sluice.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": full}
        if old is not None and "status" in old:
            body["status"] = old["status"]
        self.context.index.put(self.kube.put(body))
        return key

    def delete(self, key: Key) -> None:
        """Delete an object as a user does: at once, or as soon as its finalizers have let go."""
        body = self.kube.objects[key]
        if body["metadata"].get("finalizers"):
            body["metadata"]["deletionTimestamp"] = "2026-02-01T00:00:00Z"
            self.context.index.put(self.kube.put(body))
        else:
            del self.kube.objects[key]
            self.context.index.remove(key, body["metadata"]["uid"])

    async def reconcile(self, *keys: Key) -> dict[Key, Outcome | Exception]:
        """Reconcile keys of one lane."""
        assert len({self.reconciler.lane(key) for key in keys}) == 1
        results = dict(await self.reconciler.reconcile(keys))
        for key in keys:  # the watch tells what has let go
            body = self.context.index.get(key)
            if body is not None and "deletionTimestamp" in body["metadata"] and key not in self.kube.objects:
                self.context.index.remove(key, body["metadata"]["uid"])
        return results

    async def settle(self, *keys: Key) -> None:
        """Reconcile, and insist on success."""
        for key, result in (await self.reconcile(*keys)).items():
            assert isinstance(result, Outcome), f"{key}: {result!r}"

    def restart(self) -> None:
        """Forget what is only in memory."""
        self.reconciler = type(self.reconciler)(self.context)  # type: ignore[call-arg]

    def status(self, key: Key) -> dict[str, Any]:
        """Its status."""
        return dict(self.kube.objects[key].get("status") or {})

    def condition(self, key: Key, type_: str = "Ready") -> tuple[str, str]:
        """Status and reason of one of its conditions."""
        found = {c["type"]: (c["status"], c["reason"]) for c in self.status(key).get("conditions", ())}
        return found[type_]

    def message(self, key: Key, type_: str = "Ready") -> str:
        """Message of one of its conditions."""
        return str(next(c["message"] for c in self.status(key)["conditions"] if c["type"] == type_))


def refusal(code: str) -> KafkaError:
    """A person's error."""
    return KafkaRefusedError(Reason.KAFKA_REFUSED, f"no: {code}", code=code)


async def pause() -> None:
    """Let timers that are due run."""
    await asyncio.sleep(0.02)
