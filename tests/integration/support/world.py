"""A namespace on a real API server, a real Kafka behind a MessagingCluster in it, and reconcilers called by hand."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sluice.api.base import API_VERSION, ClusterReference
from sluice.api.crd import crds
from sluice.api.objects import KINDS, Key, key_of
from sluice.engine.cluster import ClusterReconciler
from sluice.engine.clusters import Clusters
from sluice.engine.group import ConsumerGroupReconciler
from sluice.engine.index import Index
from sluice.engine.reconciler import Context, Outcome, Reconciler
from sluice.engine.settings import Settings
from sluice.engine.topic import TopicReconciler
from sluice.engine.user import UserReconciler
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.kube.client import Kube
from sluice.observability.events import Events
from sluice.observability.metrics import Metrics
from tests.support.kafka import KafkaCluster

CLUSTER = "demo"
Spec = Mapping[str, Any]


class ReadyClusters(Clusters):
    """Connects to a Kafka on loopback, whatever the MessagingCluster's own pods would be called."""

    admin: KafkaAdmin

    async def connect(self, reference: ClusterReference, namespace: str) -> KafkaAdmin:
        """As ``Clusters.connect``, for a cluster that has no pods."""
        self.resolve(reference, namespace)
        return self.admin


class World:
    """What a test works in."""

    def __init__(
        self, kube: Kube, counting: Counter[str], bootstrap: str, namespace: str, *, connects: bool = False
    ) -> None:
        self.kube = kube
        self.kube_requests = counting
        self.namespace = namespace
        self.kafka_requests: Counter[str] = Counter()
        self.woken: list[Key] = []
        self.index = Index()
        self.clusters: Clusters
        self.now = datetime.now(UTC)
        self.admin = KafkaAdmin(
            ConnectionSettings(tuple(bootstrap.split(","))), on_request=lambda name: self.kafka_requests.update([name])
        )
        if connects:
            self.clusters = Clusters(kube, self.index, KafkaAdmin)
        else:
            self.clusters = ready = ReadyClusters(kube, self.index, lambda _: self.admin)
            ready.admin = self.admin
        self.metrics = Metrics()
        self.events = Events(kube, instance="test")
        context = Context(
            kube=kube,
            clusters=self.clusters,
            index=self.index,
            events=self.events,
            metrics=self.metrics,
            settings=Settings(namespace=namespace, identity="test"),
            clock=lambda: self.now,
            enqueue=self.woken.append,
            fence=lambda: None,
        )
        self.context = context
        self._reconcilers: dict[str, Reconciler] = {}
        self.restart()

    def restart(self) -> None:
        """Forget everything that is only in memory, as a new process of the operator would."""
        self._reconcilers = {
            "MessagingCluster": ClusterReconciler(self.context),
            "Topic": TopicReconciler(self.context),
            "User": UserReconciler(self.context),
            "ConsumerGroup": ConsumerGroupReconciler(self.context),
        }

    async def apply(self, kind: str, name: str, spec: Spec, **metadata: Any) -> Key:
        """Apply an object as a user does; ``clusterRef`` is filled in."""
        full = dict(spec) if kind == "MessagingCluster" else {"clusterRef": {"name": CLUSTER}, **spec}
        body = {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace, **metadata},
            "spec": full,
        }
        return key_of(await self.kube.apply(body))

    async def body(self, key: Key) -> dict[str, Any]:
        """The object as the API server has it."""
        found = await self.kube.get(API_VERSION, key.kind, key.namespace, key.name)
        assert found is not None, f"{key} is gone"
        return found

    async def status(self, key: Key) -> dict[str, Any]:
        """Its status."""
        return dict((await self.body(key)).get("status") or {})

    async def condition(self, key: Key, type_: str = "Ready") -> tuple[str, str]:
        """Status and reason of one of its conditions."""
        found = {c["type"]: (c["status"], c["reason"]) for c in (await self.status(key)).get("conditions", ())}
        return found[type_]

    async def delete(self, key: Key) -> None:
        """Delete it, as a user does."""
        await self.kube.delete(API_VERSION, key.kind, key.namespace, key.name)

    async def watch(self) -> None:
        """Take in what a watch would have told."""
        for kind in KINDS:
            self.index.replace(kind, await self.kube.list(API_VERSION, kind, self.namespace))

    async def reconcile(self, *keys: Key) -> dict[Key, Outcome | Exception]:
        """Reconcile objects of one kind as the engine would, after it has heard of everything."""
        await self.watch()
        reconciler = self._reconcilers[keys[0].kind]
        assert len({reconciler.lane(key) for key in keys}) == 1
        return dict(await reconciler.reconcile(keys))

    async def settle(self, *keys: Key) -> None:
        """Reconcile, and insist on success."""
        for key, result in (await self.reconcile(*keys)).items():
            assert isinstance(result, Outcome), f"{key}: {result!r}"

    async def secret(self, name: str) -> dict[str, str] | None:
        """Values of a Secret, or None."""
        found = await self.kube.get("v1", "Secret", self.namespace, name)
        return None if found is None else {k: base64.b64decode(v).decode() for k, v in found["data"].items()}

    async def make_secret(self, name: str, values: Mapping[str, str]) -> None:
        """A Secret of somebody else's."""
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        await self.kube.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": self.namespace},
                "data": data,
            }
        )

    def writes(self) -> int:
        """Writes to the API server so far."""
        return sum(count for verb, count in self.kube_requests.items() if verb in ("POST", "PATCH", "DELETE"))


@asynccontextmanager
async def world(
    kubeconfig: Path, kafka: KafkaCluster, cluster_spec: Spec | None = None, *, connects: bool = False
) -> AsyncIterator[World]:
    """A world of its own, whose MessagingCluster ``demo`` is ``kafka`` (external, in plain text, unless specified).

    Reconcilers reach Kafka in plain text, whatever the specification, unless they are to connect as it says.
    """
    counting: Counter[str] = Counter()
    kube = await Kube.connect(kubeconfig=str(kubeconfig), count=lambda verb, kind, code: counting.update([verb]))
    for crd in crds().values():
        await kube.ensure(crd)
    namespace = f"w-{uuid.uuid4().hex[:10]}"
    await kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    made = World(kube, counting, kafka.bootstrap, namespace, connects=connects)
    try:
        while not set(KINDS) <= await kube.served_kinds(API_VERSION):
            continue
        spec = cluster_spec or {"external": {"bootstrapServers": kafka.bootstrap.split(",")}}
        await made.apply("MessagingCluster", CLUSTER, spec)
        yield made
    finally:
        await made.events.flush()
        if connects:
            await made.clusters.close()
        await made.admin.close()
        await kube.close()


def failed(results: Mapping[Key, Outcome | Exception], keys: Sequence[Key]) -> list[Exception]:
    """Errors among the results of these keys."""
    return [result for key in keys if isinstance(result := results[key], Exception)]


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Wait until something holds: what is written through one broker, others see a moment later."""
    end = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
