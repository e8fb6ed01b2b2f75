"""What may not be asked for, beyond what the CRDs' own rules can see.

Rules about one object alone are CEL in the CRDs, judged by the API server even when no operator runs. Here are those
that need other objects or the status. The webhook asks when an object is written. Nobody asks again: what comes in
while no webhook answers is acted on, and reconcilers tell what can't be done of it by themselves.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from sluice.api.base import ClusterReference, Model, problems
from sluice.api.cluster import MessagingClusterSpec, Role
from sluice.api.objects import KINDS, Cluster, Resource, cluster_key, key_of
from sluice.api.topic import TopicSpec
from sluice.api.user import UserSpec
from sluice.plan.user import name_refused
from sluice.versions import KAFKA_VERSIONS

MAX_TOPIC_NAME: Final = 249
"""Kafka's limit, which leaves room for a log folder's suffix."""
EVERY_NAMESPACE: Final = "*"


@dataclass(frozen=True)
class ClusterView:
    """What is known around an object that is judged."""

    cluster: Cluster | None = None
    """The MessagingCluster that it refers to; None while there is none."""
    neighbours: Sequence[Resource[Any, Any]] = field(default=())
    """Objects of the same kind that refer to the same cluster; the judged one may be among them."""


def judge(body: Mapping[str, Any], old_body: Mapping[str, Any] | None, view: ClusterView) -> list[str]:
    """Sentences that say what is wrong with an object and what to do; none if it may be written.

    ``body`` is the object as the API server shows it, ``old_body`` what it was before an update. An object that is
    being deleted, or whose spec stays as it was, is never refused: the world around it may have changed, and finalizers
    and annotations must still go through.
    """
    if "deletionTimestamp" in body["metadata"]:
        return []
    if old_body is not None and old_body.get("spec") == body.get("spec"):
        return []
    kind = KINDS[body["kind"]]
    try:
        spec = kind.spec.model_validate(body.get("spec", {}))
    except ValidationError as error:
        return problems(error)
    found = [*_namespace_refused(body, spec, view)]
    if isinstance(spec, MessagingClusterSpec):
        found += _version_refused(body, spec)
    elif isinstance(spec, TopicSpec):
        found += _topic_refused(body, old_body, spec, view)
    elif isinstance(spec, UserSpec):
        found += _user_refused(body, spec)
    return found


def broker_count(cluster: Cluster) -> int | None:
    """Brokers that a cluster has, or will have by its spec; None if that isn't known yet (external clusters)."""
    pools = cluster.spec.node_pools or ()
    wanted = sum(pool.replicas for pool in pools if Role.BROKER in pool.roles)
    return max(wanted, cluster.status.brokers or 0) or None


def allows_namespace(cluster: Cluster, namespace: str) -> bool:
    """Whether objects of ``namespace`` may refer to ``cluster``."""
    allowed = cluster.spec.allowed_namespaces
    return namespace == cluster.namespace or namespace in allowed or EVERY_NAMESPACE in allowed


def _namespace_refused(body: Mapping[str, Any], spec: Model, view: ClusterView) -> Iterator[str]:
    reference = getattr(spec, "cluster_ref", None)
    if view.cluster is None or not isinstance(reference, ClusterReference):
        return
    namespace = body["metadata"]["namespace"]
    if cluster_key(reference, namespace) == view.cluster.key and not allows_namespace(view.cluster, namespace):
        yield (
            f"{view.cluster.key} doesn't allow objects of namespace {namespace}: "
            f"its owner has to add {namespace} to spec.allowedNamespaces there"
        )


def _version_refused(body: Mapping[str, Any], spec: MessagingClusterSpec) -> Iterator[str]:
    if spec.version is None:
        return
    if spec.version not in KAFKA_VERSIONS:
        yield f"spec.version {spec.version} is unknown: this release of Sluice runs Kafka {', '.join(KAFKA_VERSIONS)}"
        return
    formatted = (body.get("status") or {}).get("formatVersion")
    if formatted and _version(spec.version) < _version(formatted):
        yield (
            f"spec.version {spec.version} is below {formatted}, which this cluster was formatted with: an older Kafka "
            f"can't read its metadata; stay at {formatted} or above, or make another cluster of version {spec.version} "
            "and copy the topics into it"
        )


def _topic_refused(
    body: Mapping[str, Any], old_body: Mapping[str, Any] | None, spec: TopicSpec, view: ClusterView
) -> Iterator[str]:
    name = spec.topic_name or body["metadata"]["name"]
    if name in (".", "..") or len(name) > MAX_TOPIC_NAME:
        yield (
            f"{name} can't be the name of a topic in Kafka (at most {MAX_TOPIC_NAME} characters, not . or ..): "
            "say another one in spec.topicName"
        )
    for other in view.neighbours:
        if view.cluster is not None and not allows_namespace(view.cluster, other.namespace):
            continue  # it gets no topic
        other_name = other.spec.topic_name or other.name
        if other_name != name and _metric_name(other_name) == _metric_name(name) and _is_older(other, body):
            yield (
                f"topic name {name} collides with {other_name} of {other.key}: Kafka takes . and _ for the same in the "
                "names of metrics and refuses one of them; say another name in spec.topicName"
            )
    brokers = broker_count(view.cluster) if view.cluster else None
    unchanged = old_body is not None and old_body.get("spec", {}).get("replicas") == spec.replicas
    if view.cluster and brokers is not None and spec.replicas > brokers and not unchanged:
        yield (
            f"spec.replicas {spec.replicas} is above the {brokers} brokers of {view.cluster.key}: "
            "lower it, or add brokers first"
        )


def _user_refused(body: Mapping[str, Any], spec: UserSpec) -> Iterator[str]:
    if (why := name_refused(spec, spec.user_name or body["metadata"]["name"])) is not None:
        yield why


def _is_older(other: Resource[Any, Any], body: Mapping[str, Any]) -> bool:
    """Whether ``other`` was made before ``body``: of two that collide, only the younger is refused."""
    metadata = body["metadata"]
    if other.key == key_of(body):
        return False
    stamp = metadata.get("creationTimestamp")
    if stamp is None:
        return True
    return (other.created, other.key) < (datetime.datetime.fromisoformat(stamp), key_of(body))


def _metric_name(topic: str) -> str:
    return topic.replace(".", "_")


def _version(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
