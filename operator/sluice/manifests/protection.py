"""What protects a cluster's nodes: a budget for evictions, and rules for who may connect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sluice.api.cluster import Listener
from sluice.manifests import labels, names
from sluice.manifests.metadata import Body, metadata


def disruption_budget(cluster: str, namespace: str, owner: Mapping[str, Any]) -> Body:
    """Evictions, as of a drained Kubernetes node, take one Kafka node at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(names.disruption_budget(cluster), namespace, labels.of_cluster(cluster), owner=owner),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": labels.nodes_selector(cluster)},
            # A node that is down anyway may be moved.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def network_policy(
    cluster: str,
    namespace: str,
    *,
    operator_namespace: str,
    listeners: Sequence[Listener],
    client_peers: Sequence[Mapping[str, Any]],
    owner: Mapping[str, Any],
) -> Body:
    """Nodes and the operator reach the internal ports; ``client_peers`` (any, if none) the listeners.

    Replay workers, in whatever namespace their jobs are, are clients too. Metrics are open to whoever scrapes.
    """
    nodes = {"podSelector": {"matchLabels": labels.nodes_selector(cluster)}}
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator_namespace}},
        "podSelector": {"matchLabels": labels.operator_selector()},
    }
    workers = {
        "namespaceSelector": {},
        "podSelector": {"matchExpressions": [{"key": labels.REPLAY_JOB, "operator": "Exists"}]},
    }
    for_clients: Body = {"ports": [_port(listener.port) for listener in listeners]}
    if client_peers:
        for_clients["from"] = [*(dict(peer) for peer in client_peers), nodes, operator, workers]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(names.network_policy(cluster), namespace, labels.of_cluster(cluster), owner=owner),
        "spec": {
            "podSelector": {"matchLabels": labels.nodes_selector(cluster)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "ports": [_port(names.CONTROLLER_PORT), _port(names.REPLICATION_PORT)],
                    "from": [nodes, operator],
                },
                for_clients,
                {"ports": [_port(names.METRICS_PORT)]},
            ],
        },
    }


def _port(port: int) -> Body:
    return {"port": port, "protocol": "TCP"}
