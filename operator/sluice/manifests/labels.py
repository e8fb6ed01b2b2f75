"""Labels and annotations of everything that Sluice makes; the only place that builds them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sluice.api.base import GROUP
from sluice.api.cluster import Role

NAME: Final = "app.kubernetes.io/name"
INSTANCE: Final = "app.kubernetes.io/instance"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
CLUSTER: Final = f"{GROUP}/cluster"
POOL: Final = f"{GROUP}/pool"
NODE_ID: Final = f"{GROUP}/node-id"
BROKER: Final = f"{GROUP}/broker"
CONTROLLER: Final = f"{GROUP}/controller"
LISTENER: Final = f"{GROUP}/listener"
REPLAY_JOB: Final = f"{GROUP}/replayjob"
PART: Final = f"{GROUP}/part"
"""What a ConfigMap or Secret of a node holds: ``config`` or ``tls``; those that nothing refers to are deleted."""

REVISION_ANNOTATION: Final = f"{GROUP}/revision"
"""On StatefulSets and their pods: hash of everything that a node is made of. A pod with another one isn't current."""
CLUSTER_ID_ANNOTATION: Final = f"{GROUP}/cluster-id"
"""On volumes: the Kafka cluster whose data is on them."""
FORMAT_VERSION_ANNOTATION: Final = f"{GROUP}/format-version"
"""On volumes: the Kafka version that their cluster was formatted with."""


def of_cluster(cluster: str) -> dict[str, str]:
    """Labels of anything that belongs to a MessagingCluster."""
    return {NAME: "kafka", INSTANCE: cluster, MANAGED_BY: "sluice", CLUSTER: cluster}


def of_node(cluster: str, pool: str, node_id: int, roles: Collection[Role]) -> dict[str, str]:
    """Labels of a Kafka node: of its StatefulSet, pod and volume."""
    labels = {**of_cluster(cluster), POOL: pool, NODE_ID: str(node_id)}
    if Role.BROKER in roles:
        labels[BROKER] = "true"
    if Role.CONTROLLER in roles:
        labels[CONTROLLER] = "true"
    return labels


def nodes_selector(cluster: str) -> dict[str, str]:
    """Selector of the pods of all nodes of a cluster."""
    return {NAME: "kafka", CLUSTER: cluster}


def brokers_selector(cluster: str) -> dict[str, str]:
    """Selector of the pods of a cluster's brokers."""
    return {**nodes_selector(cluster), BROKER: "true"}


def node_selector(cluster: str, node_id: int) -> dict[str, str]:
    """Selector of one node's pod."""
    return {**nodes_selector(cluster), NODE_ID: str(node_id)}


def operator_selector() -> dict[str, str]:
    """Selector of the operator's own pods."""
    return {NAME: "sluice"}
