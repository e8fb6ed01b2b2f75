"""The reconciler of clusters on a real API server; pods and Kafka are played by the test, as they follow."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from sluice.api.base import API_VERSION
from sluice.api.crd import crds
from sluice.api.objects import KINDS, Key
from sluice.engine.cluster import ClusterReconciler
from sluice.engine.clusters import Clusters
from sluice.engine.errors import UserError, WaitingError
from sluice.engine.index import Index
from sluice.engine.reconciler import Context, Outcome
from sluice.engine.settings import Settings
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaUnreachableError
from sluice.kube.client import Kube
from sluice.manifests.metadata import decode
from sluice.observability.events import Events
from sluice.observability.metrics import Metrics
from sluice.plan.observed import (
    Broker,
    ClusterDescription,
    ConfigValue,
    LogDirReplica,
    PartitionDescription,
    QuorumDescription,
    QuorumReplica,
    TopicDescription,
)

Body = dict[str, Any]


class Killed(BaseException):
    """The operator's process has ended at this point."""


@dataclass
class PlayedKafka:
    """Answers as a healthy Kafka does whose brokers are the pods that are ready."""

    ready: Callable[[], set[int]]
    defaults: dict[str, ConfigValue] = field(default_factory=dict)
    settings: ConnectionSettings | None = None
    isr: set[int] | None = None

    async def describe_cluster(self) -> ClusterDescription:
        if not self.ready():
            raise KafkaUnreachableError("nobody answers")
        brokers = tuple(Broker(i, f"host-{i}", 9091) for i in sorted(self.ready()))
        return ClusterDescription("played", 0, brokers)

    async def describe_quorum(self) -> QuorumDescription:
        voters = tuple(QuorumReplica(i, f"d{i}", 10, 1000, 1000 if i in self.ready() else 0) for i in range(3))
        return QuorumDescription(min(self.ready()), 1, 10, voters, ())

    async def describe_topics(self, names: Any = None) -> dict[str, TopicDescription]:
        isr = tuple(sorted(self.ready() if self.isr is None else self.isr))
        return {"orders": TopicDescription("orders", "id", (PartitionDescription(0, isr[0], 1, (0, 1, 2), isr),))}

    async def describe_topic_configs(self, keys: Any) -> dict[str, dict[str, ConfigValue]]:
        return {"orders": {"min.insync.replicas": ConfigValue("2", False)}}

    async def list_reassignments(self) -> dict[Any, Any]:
        return {}

    async def describe_broker_defaults(self) -> dict[str, ConfigValue]:
        return dict(self.defaults)

    async def alter_broker_configs(self, changes: dict[str, str | None], *, broker: int | None = None) -> None:
        for key, value in changes.items():
            if value is None:
                self.defaults.pop(key, None)
            else:
                self.defaults[key] = ConfigValue(value, True)

    async def describe_log_dirs(self) -> list[LogDirReplica]:
        return [LogDirReplica(1, "orders", 0, 100, 7)]

    async def close(self) -> None:
        pass


class World:
    """One namespace with one cluster, and everything that a reconciliation needs."""

    def __init__(self, kube: Kube, outside: Kube, namespace: str) -> None:
        self.kube, self.outside, self.namespace = kube, outside, namespace
        self.key = Key("MessagingCluster", namespace, "demo")
        self.pods: dict[str, Body] = {}
        self.kafka = PlayedKafka(self.ready_ids)
        self.fence_after: int | None = None
        self.writes = 0
        self.now = datetime.now(UTC)
        self.most_down = 0
        self.restart_operator()

    def fence(self) -> None:
        """Called before each write; where a test wants the operator to die, it does."""
        if self.fence_after is not None and self.writes >= self.fence_after:
            raise Killed
        self.writes += 1

    def restart_operator(self) -> None:
        """A new process: nothing is remembered."""
        index = Index()
        metrics = Metrics()

        def make(settings: ConnectionSettings) -> KafkaAdmin:
            self.kafka.settings = settings
            return cast(KafkaAdmin, self.kafka)

        clusters = Clusters(self.kube, index, make)
        self.context = Context(
            kube=self.kube,
            clusters=clusters,
            index=index,
            events=Events(self.outside, instance="test"),
            metrics=metrics,
            settings=Settings(namespace="sluice-system", identity="test"),
            clock=lambda: self.now,
            enqueue=lambda key: None,
            fence=self.fence,
        )
        self.reconciler = ClusterReconciler(self.context)

    async def apply(self, **changes: Any) -> None:
        spec = {
            "version": "4.4.0",
            "nodePools": [
                {
                    "name": "nodes",
                    "roles": ["controller", "broker"],
                    "replicas": 3,
                    "storage": {"size": "1Gi"},
                    "resources": {"limits": {"memory": "1Gi"}},
                }
            ],
            "listeners": [
                {"name": "tls", "port": 9093},
                {"name": "outside", "port": 9095, "type": "NodePort", "advertisedHost": "192.0.2.1"},
            ],
        } | changes
        meta = {"name": "demo", "namespace": self.namespace}
        await self.outside.apply(
            {"apiVersion": API_VERSION, "kind": "MessagingCluster", "metadata": meta, "spec": spec}
        )

    async def body(self) -> Body:
        found = await self.outside.get(API_VERSION, "MessagingCluster", self.namespace, "demo")
        assert found is not None
        return found

    async def look(self) -> Outcome:
        """One reconciliation, as the queue would have it done."""
        self.context.index.put(await self.body())
        result = (await self.reconciler.reconcile([self.key]))[self.key]
        assert isinstance(result, Outcome)
        await self.play_kubelet()
        return result

    async def settle(self, looks: int = 40) -> Body:
        """Look until the cluster is ready for its present spec."""
        for _ in range(looks):
            await self.look()
            body = await self.body()
            ready = [c for c in body.get("status", {}).get("conditions", []) if c["type"] == "Ready"]
            if (
                ready
                and ready[0]["status"] == "True"
                and body["status"]["observedGeneration"] == body["metadata"]["generation"]
            ):
                return body
        raise AssertionError(f"not ready: {body.get('status')}")

    async def list(self, kind: str, version: str = "v1") -> list[Body]:
        return await self.outside.list(version, kind, self.namespace)

    async def play_kubelet(self) -> None:
        """StatefulSet controller and kubelet: a pod for each StatefulSet, from its template, ready at once."""
        sets = {f"{body['metadata']['name']}-0": body for body in await self.list("StatefulSet", "apps/v1")}
        pods = {body["metadata"]["name"]: body for body in await self.list("Pod")}
        self.most_down = max(self.most_down, len(sets) - len(pods) if pods else 0)
        for name, body in sets.items():
            if name in pods:
                continue
            template = body["spec"]["template"]
            pod = await self.outside.create(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {**template["metadata"], "name": name, "namespace": self.namespace},
                    "spec": template["spec"],
                }
            )
            since = (self.now - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
            condition = {"type": "Ready", "status": "True", "lastTransitionTime": since}
            pods[name] = await self.outside.patch(
                "v1",
                "Pod",
                self.namespace,
                pod["metadata"]["name"],
                {"status": {"phase": "Running", "conditions": [condition]}},
                subresource="status",
            )
        self.pods = pods

    def ready_ids(self) -> set[int]:
        return {int(pod["metadata"]["labels"]["sluice.dev/node-id"]) for pod in self.pods.values()}

    def revisions(self) -> dict[str, str]:
        return {name: pod["metadata"]["uid"] for name, pod in self.pods.items()}

    async def versions(self) -> dict[str, str]:
        """Resource version of everything that the operator makes."""
        kinds = [
            ("v1", "Secret"),
            ("v1", "ConfigMap"),
            ("v1", "Service"),
            ("v1", "PersistentVolumeClaim"),
            ("apps/v1", "StatefulSet"),
            ("policy/v1", "PodDisruptionBudget"),
            ("networking.k8s.io/v1", "NetworkPolicy"),
            (API_VERSION, "MessagingCluster"),
        ]
        return {
            f"{kind} {body['metadata']['name']}": body["metadata"]["resourceVersion"]
            for version, kind in kinds
            for body in await self.list(kind, version)
        }


@pytest.fixture
async def world(kubeconfig: Path) -> AsyncIterator[World]:
    """A namespace of this test, with the CRDs served."""
    outside = await Kube.connect(kubeconfig=str(kubeconfig), field_manager="test")
    for body in crds().values():
        await outside.apply(body)
    while not await outside.served_kinds(API_VERSION) >= set(KINDS):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.1)
    namespace = f"cluster-{os.urandom(4).hex()}"
    await outside.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    account = {"name": "default", "namespace": namespace}
    await outside.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    made: list[World] = []
    kube = await Kube.connect(kubeconfig=str(kubeconfig), fence=lambda: made[0].fence())
    made.append(World(kube, outside, namespace))
    yield made[0]
    await made[0].context.events.flush()
    await kube.close()
    await outside.close()


async def test_a_new_cluster_is_made_and_looking_again_writes_nothing(world: World) -> None:
    await world.apply()
    body = await world.settle()
    status = body["status"]
    assert [node["name"] for node in status["nodes"]] == ["demo-nodes-0", "demo-nodes-1", "demo-nodes-2"]
    assert status["version"] == "4.4.0"
    assert status["brokers"] == 3
    servers = {item["name"]: item["bootstrapServers"] for item in status["listeners"]}
    assert servers["tls"] == f"demo-tls-bootstrap.{world.namespace}.svc:9093"
    assert servers["outside"].startswith("192.0.2.1:3")
    assert world.kafka.settings is not None
    assert world.kafka.settings.bootstrap_servers[0] == f"demo-nodes-0-0.demo-nodes.{world.namespace}.svc:9091"
    assert world.kafka.defaults["min.insync.replicas"].value == "2"
    identity = decode(await world.outside.get("v1", "Secret", world.namespace, "demo-identity"))
    assert identity["bootstrapped"] == "true"
    assert status["clusterId"] == identity["cluster-id"]
    before, writes = await world.versions(), world.writes
    outcome = await world.look()
    assert outcome.requeue_after == 60
    assert await world.versions() == before
    assert world.writes == writes
    text = world.context.metrics.follower_lag.labels(world.namespace, "demo", "1", "orders")._value.get()
    assert text == 7


async def test_static_configuration_rolls_one_node_at_a_time_whenever_the_operator_dies(world: World) -> None:
    await world.apply()
    await world.settle()
    before = world.revisions()
    await world.apply(config={"queued.max.requests": "400", "log.cleaner.threads": "2"})
    world.most_down = 0
    deaths = 0
    for step in range(60):
        world.restart_operator()
        world.writes, world.fence_after = 0, step % 4
        try:
            await world.look()
        except Killed:
            deaths += 1
            await world.play_kubelet()
    world.fence_after = None
    world.restart_operator()
    await world.settle()
    assert deaths > 5
    after = world.revisions()
    assert set(before) == set(after)
    assert all(before[name] != after[name] for name in before)
    assert world.most_down <= 1
    assert world.kafka.defaults["log.cleaner.threads"].value == "2"
    held = [
        body["metadata"]["name"] for body in await world.list("ConfigMap") if "-config-" in body["metadata"]["name"]
    ]
    assert len(held) == 3, "old revisions are deleted when nothing refers to them"


async def test_dynamic_configuration_restarts_nothing_and_goes_when_it_is_no_longer_said(world: World) -> None:
    await world.apply()
    await world.settle()
    before = world.revisions()
    await world.apply(config={"log.cleaner.threads": "2"})
    await world.settle()
    assert world.kafka.defaults["log.cleaner.threads"].value == "2"
    await world.apply()
    await world.settle()
    assert "log.cleaner.threads" not in world.kafka.defaults
    assert world.revisions() == before


async def test_a_roll_waits_while_a_partition_would_lose_too_many_replicas(world: World) -> None:
    await world.apply()
    await world.settle()
    before = world.revisions()
    world.kafka.isr = {0, 1}
    await world.apply(config={"queued.max.requests": "400"})
    for _ in range(5):
        outcome = await world.look()
    [ready] = [c for c in (await world.body())["status"]["conditions"] if c["type"] == "Ready"]
    assert ready["reason"] == "RollBlocked"
    assert "orders-0 (1 of 2)" in ready["message"]
    assert outcome.requeue_after == 3
    # Node 2 isn't in sync, so that nothing is lost by its restart.
    assert {name for name in before if world.revisions()[name] != before[name]} == {"demo-nodes-2-0"}
    world.kafka.isr = None
    await world.settle()


async def test_what_somebody_deletes_is_made_again(world: World) -> None:
    await world.apply()
    await world.settle()
    before = world.revisions()
    identity = decode(await world.outside.get("v1", "Secret", world.namespace, "demo-identity"))
    for version, kind, name in (
        ("v1", "Secret", "demo-identity"),
        ("v1", "Secret", "demo-operator"),
        ("v1", "Service", "demo-tls-bootstrap"),
        ("policy/v1", "PodDisruptionBudget", "demo-nodes"),
        ("apps/v1", "StatefulSet", "demo-nodes-1"),
    ):
        assert await world.outside.delete(version, kind, world.namespace, name)
    await world.settle()
    recovered = decode(await world.outside.get("v1", "Secret", world.namespace, "demo-identity"))
    assert recovered["cluster-id"] == identity["cluster-id"]
    assert recovered["bootstrapped"] == "true"
    assert {body["metadata"]["name"] for body in await world.list("StatefulSet", "apps/v1")} == {
        "demo-nodes-0",
        "demo-nodes-1",
        "demo-nodes-2",
    }
    assert world.revisions() == before


async def test_a_lost_authority_stops_everything_rather_than_cutting_every_connection(world: World) -> None:
    await world.apply()
    await world.settle()
    await world.outside.delete("v1", "Secret", world.namespace, "demo-cluster-ca")
    with pytest.raises(UserError, match="restore it from a backup"):
        await world.look()


async def test_what_kubernetes_refuses_is_told_to_the_user_in_its_words(world: World) -> None:
    await world.apply(template={"tolerations": [{"operator": "Sometimes"}]})
    with pytest.raises(UserError, match="Sometimes"):
        await world.look()


async def test_a_cluster_that_is_deleted_and_applied_again_is_the_same_one(world: World) -> None:
    await world.apply()
    first = await world.settle()
    kept = {name: decode(await world.outside.get("v1", "Secret", world.namespace, name)) for name in _RETAINED}
    claims = {body["metadata"]["uid"] for body in await world.list("PersistentVolumeClaim")}
    await world.outside.delete(API_VERSION, "MessagingCluster", world.namespace, "demo")
    world.restart_operator()
    world.pods.clear()
    await world.apply()
    with pytest.raises(WaitingError, match="is being deleted"):
        await world.look()
    # (No controller collects garbage here.)
    for version, kind in _OWNED:
        for body in await world.list(kind, version):
            if body["metadata"].get("ownerReferences"):
                await world.outside.delete(version, kind, world.namespace, body["metadata"]["name"])
    for pod in await world.list("Pod"):
        await world.outside.delete("v1", "Pod", world.namespace, pod["metadata"]["name"])
    second = await world.settle()
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert second["status"]["clusterId"] == first["status"]["clusterId"]
    for name in _RETAINED:
        assert decode(await world.outside.get("v1", "Secret", world.namespace, name)) == kept[name]
    assert {body["metadata"]["uid"] for body in await world.list("PersistentVolumeClaim")} == claims


async def test_brokers_are_added_without_restarting_any_and_never_taken_away(world: World) -> None:
    await world.apply()
    await world.settle()
    before = world.revisions()
    pools = (await world.body())["spec"]["nodePools"]
    more = {"name": "more", "roles": ["broker"], "replicas": 2, "storage": {"size": "1Gi"}}
    await world.apply(nodePools=[*pools, more])
    body = await world.settle()
    assert [node["id"] for node in body["status"]["nodes"]] == [0, 1, 2, 100, 101]
    assert before.items() <= world.revisions().items()
    await world.apply(nodePools=[*pools, {**more, "replicas": 1}])
    await world.look()
    [ready] = [c for c in (await world.body())["status"]["conditions"] if c["type"] == "Ready"]
    assert ready["reason"] == "ScaleDownRefused"
    assert "demo-more-101" in ready["message"]
    assert len(await world.list("StatefulSet", "apps/v1")) == 5


async def test_deletion_policy_delete_hands_everything_to_the_garbage_collector(world: World) -> None:
    await world.apply()
    body = await world.settle()
    await world.apply(deletionPolicy="Delete")
    await world.settle()
    retained = [*await world.list("PersistentVolumeClaim")]
    for name in _RETAINED:
        secret = await world.outside.get("v1", "Secret", world.namespace, name)
        assert secret is not None
        retained.append(secret)
    assert all(item["metadata"]["ownerReferences"][0]["uid"] == body["metadata"]["uid"] for item in retained)
    await world.apply(deletionPolicy="Retain")
    await world.settle()
    assert not any(item["metadata"].get("ownerReferences") for item in await world.list("PersistentVolumeClaim"))


_RETAINED = ("demo-identity", "demo-cluster-ca", "demo-clients-ca")
_OWNED = (
    ("v1", "Secret"),
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("apps/v1", "StatefulSet"),
    ("policy/v1", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
)
