"""The reconciler of clusters on a real API server; pods and Kafka are played, as they follow."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

import pytest

from sluice.api.base import API_VERSION, Reason
from sluice.api.crd import crds
from sluice.api.objects import KINDS, Key
from sluice.engine.cluster import ClusterReconciler
from sluice.engine.clusters import Clusters
from sluice.engine.index import Index
from sluice.engine.reconciler import Context, Outcome
from sluice.engine.settings import Settings
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError
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

MADE: Final = (
    ("v1", "Secret"),
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("v1", "PersistentVolumeClaim"),
    ("apps/v1", "StatefulSet"),
    ("policy/v1", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
)
"""What the operator makes for a cluster."""
_HASH: Final = re.compile(r"-[0-9a-f]{10}$")


class Killed(BaseException):
    """The operator's process has ended at this point."""


@dataclass
class PlayedKafka:
    """Answers as a healthy Kafka does whose brokers are the pods that are ready."""

    ready: Callable[[], set[int]]
    defaults: dict[str, ConfigValue] = field(default_factory=dict)
    settings: ConnectionSettings | None = None
    fence: Callable[[], None] = lambda: None
    isr: set[int] | None = None
    directories: dict[int, str] = field(default_factory=dict)
    """Directory ids of the controllers, as their disks were formatted."""
    unheard: set[int] = field(default_factory=set)
    """Controllers that vote, and haven't fetched from the leader yet."""
    refuses: set[str] = field(default_factory=set)
    """Configuration keys whose values it doesn't like."""

    async def describe_cluster(self) -> ClusterDescription:
        if not self.ready():
            raise KafkaUnreachableError("nobody answers")
        brokers = tuple(Broker(i, f"host-{i}", 9091) for i in sorted(self.ready()))
        return ClusterDescription("played", 0, brokers)

    async def describe_quorum(self) -> QuorumDescription:
        now = {i: -1 if i in self.unheard or i not in self.ready() else 100_000 for i in range(3)}
        voters = tuple(QuorumReplica(i, self.directories.get(i, ""), 10, now[i], now[i]) for i in range(3))
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
        if bad := self.refuses & changes.keys():
            raise KafkaRefusedError(Reason.KAFKA_REFUSED, f"all brokers: invalid value for {sorted(bad)[0]}")
        self.fence()
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
        self.kafka = PlayedKafka(self.ready_ids, fence=self.fence)
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

    async def ready(self) -> Body:
        """The condition Ready."""
        [found] = [c for c in (await self.body())["status"]["conditions"] if c["type"] == "Ready"]
        return cast(Body, found)

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
        identity = decode(await self.outside.get("v1", "Secret", self.namespace, "demo-identity"))
        directories = json.loads(identity.get("directories", "{}"))
        self.kafka.directories = {int(node): name for node, name in directories.items()}

    def ready_ids(self) -> set[int]:
        return {int(pod["metadata"]["labels"]["sluice.dev/node-id"]) for pod in self.pods.values()}

    def revisions(self) -> dict[str, str]:
        return {name: pod["metadata"]["uid"] for name, pod in self.pods.items()}

    async def everything(self) -> Sequence[Body]:
        """Everything that the operator makes, and the cluster itself."""
        kinds = [*MADE, (API_VERSION, "MessagingCluster")]
        return [body for version, kind in kinds for body in await self.list(kind, version)]

    async def versions(self) -> dict[str, str]:
        """Resource version of everything that the operator makes."""
        return {
            f"{body['kind']} {body['metadata']['name']}": body["metadata"]["resourceVersion"]
            for body in await self.everything()
        }

    async def shape(self) -> Sequence[str]:
        """What there is, in words that are the same for clusters of the same spec, without what is random."""
        return sorted(
            f"{body['kind']} {_HASH.sub('', meta['name'])} {sorted(meta.get('labels', {}).items())} "
            f"of {[owner['kind'] for owner in meta.get('ownerReferences', ())]}"
            for body in await self.everything()
            for meta in [body["metadata"]]
        )

    async def collect_garbage(self, most: int | None = None) -> int:
        """Delete (at most so many) objects whose owner is gone, and pods with their StatefulSets.

        Returns how many were deleted.
        """
        there = {body["metadata"]["uid"] for body in await self.list("MessagingCluster", API_VERSION)}
        orphans = [
            body
            for body in await self.everything()
            if (owners := body["metadata"].get("ownerReferences")) and not any(o["uid"] in there for o in owners)
        ]
        for body in orphans[:most]:
            name = body["metadata"]["name"]
            await self.outside.delete(body["apiVersion"], body["kind"], self.namespace, name)
            if body["kind"] == "StatefulSet":
                self.pods.pop(f"{name}-0", None)
                await self.outside.delete("v1", "Pod", self.namespace, f"{name}-0")
        return len(orphans[:most])


@asynccontextmanager
async def open_world(kubeconfig: Path) -> AsyncIterator[World]:
    """A namespace of its own, with the CRDs served."""
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


@pytest.fixture
async def world(kubeconfig: Path) -> AsyncIterator[World]:
    """A namespace of this test."""
    async with open_world(kubeconfig) as made:
        yield made
