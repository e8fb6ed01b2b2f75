"""What the kopf handlers call: events go into the index and the queue, objects to be admitted are judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from sluice.api.base import ConditionType
from sluice.api.objects import KINDS, InvalidSpecError, Key, key_of, parse
from sluice.engine.clusters import Clusters
from sluice.engine.index import Change, Index
from sluice.engine.resync import Resync
from sluice.engine.workers import Workers
from sluice.plan.admission import ClusterView, judge

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
_OWNERS: Final = {
    "sluice.dev/cluster": "MessagingCluster",
    "sluice.dev/replayjob": "ReplayJob",
    "sluice.dev/user": "User",
}
_SETTLE: Final = 0.2
"""Seconds for which events of owned objects are gathered: one change of a pod is often several events."""


class Edge:
    """One per process; the handlers get it as ``memo.edge``."""

    def __init__(self, index: Index, workers: Workers, clusters: Clusters, resync: Resync) -> None:
        self._index = index
        self._workers = workers
        self._clusters = clusters
        self._resync = resync
        index.subscribe(self._learned)

    async def event(self, event: Mapping[str, Any]) -> None:
        """Something about an object of ours: ADDED, MODIFIED, DELETED, or None when it was listed."""
        body = event["object"]
        key = key_of(body)
        if event["type"] == "DELETED":
            known = self._index.remove(key, body["metadata"]["uid"])
            if known and key.kind == "MessagingCluster":
                await self._clusters.forget(key)
        else:
            if event["type"] is None:
                self._resync.relisted()
            self._index.put(body)
        await self._workers.room()

    async def owned(self, event: Mapping[str, Any]) -> None:
        """Something about an object that belongs to one of ours: look at its owner."""
        metadata = event["object"]["metadata"]
        labels = metadata.get("labels") or {}
        for label, kind in _OWNERS.items():
            if name := labels.get(label):
                key = Key(kind, metadata["namespace"], name)
                if kind == "MessagingCluster" and event["object"].get("kind") == "Secret":
                    self._clusters.changed(key)
                self._workers.enqueue(key, _SETTLE)
        await self._workers.room()

    def refusals(self, body: Mapping[str, Any], old: Mapping[str, Any] | None) -> list[str]:
        """Sentences that say why an object may not be written; none if it may."""
        metadata = dict(body["metadata"])
        # A name that is yet to be generated can't collide with anything.
        metadata.setdefault("name", metadata.get("generateName", ""))
        seen = {**body, "metadata": metadata}
        return judge(seen, old, self._view(seen))

    def _view(self, body: Mapping[str, Any]) -> ClusterView:
        reference = (body.get("spec") or {}).get("clusterRef") or {}
        if not isinstance(reference, Mapping) or not isinstance(reference.get("name"), str):
            return ClusterView()
        key = Key("MessagingCluster", reference.get("namespace") or body["metadata"]["namespace"], reference["name"])
        known = self._index.get(key)
        try:
            cluster = parse(known) if known is not None else None
        except InvalidSpecError:
            cluster = None
        if body["kind"] != "Topic":
            return ClusterView(cluster)
        # Thousands of topics aren't read into types for one question: only those that could collide.
        name = _kafka_name(body)
        neighbours = []
        for other in self._index.of_cluster(key, "Topic"):
            if _kafka_name(other) == name:
                try:
                    neighbours.append(parse(other))
                except InvalidSpecError:
                    continue
        return ClusterView(cluster, neighbours)

    def _learned(
        self, key: Key, change: Change, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
    ) -> None:
        """The index has news, from an event or from an answer to a request of our own."""
        if key.kind == "MessagingCluster" and _reachability(before) != _reachability(after):
            self._clusters.changed(key)
            self._wake_dependents(key)
        if change is Change.OBJECT:
            self._workers.enqueue(key)

    def _wake_dependents(self, cluster: Key) -> None:
        for kind in KINDS:
            for body in self._index.of_cluster(cluster, kind):
                self._workers.enqueue(key_of(body), _SETTLE)


def _kafka_name(body: Mapping[str, Any]) -> str:
    """Name of a Topic in Kafka, as it stands in the names of metrics."""
    spec = body.get("spec") or {}
    return cast(str, spec.get("topicName") or body["metadata"]["name"]).replace(".", "_")


def _reachability(body: Mapping[str, Any] | None) -> object:
    """What of a cluster decides whether, and how, others can use it."""
    if body is None:
        return None
    status = body.get("status") or {}
    ready = [c.get("status") for c in status.get("conditions") or () if c.get("type") == ConditionType.READY.value]
    nodes = [(n.get("name"), n.get("ready")) for n in status.get("nodes") or ()]
    said = [(body.get("spec") or {}).get(name) for name in ("external", "allowedNamespaces", "replayPolicy")]
    return ready, nodes, said, "deletionTimestamp" in body["metadata"]
