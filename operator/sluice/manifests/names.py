"""Names of everything that Sluice makes; the only place that builds them."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

NODE_PRINCIPAL: Final = "sluice-node"
"""Common name of the certificate of every Kafka node; a super user."""
OPERATOR_PRINCIPAL: Final = "sluice-operator"
"""Common name of the operator's own certificate; a super user."""

CONTROLLER_LISTENER: Final = "CONTROLLER"
CONTROLLER_PORT: Final = 9090
REPLICATION_LISTENER: Final = "REPLICATION"
REPLICATION_PORT: Final = 9091
METRICS_PORT: Final = 9404

LONGEST_NODE_NAME: Final = 52
"""Kubernetes puts a StatefulSet's name and a hash of eleven characters into a label value (at most 63)."""


def node(cluster: str, pool: str, node_id: int) -> str:
    """StatefulSet of a Kafka node."""
    return f"{cluster}-{pool}-{node_id}"


def pod(node_name: str) -> str:
    """The one pod of a node's StatefulSet."""
    return f"{node_name}-0"


def volume_claim(node_name: str) -> str:
    """PersistentVolumeClaim of a node."""
    return f"data-{node_name}"


def config_map(node_name: str, content: str) -> str:
    """Immutable ConfigMap with a node's configuration, named by its content hash."""
    return f"{node_name}-config-{content}"


def tls_secret(node_name: str, content: str) -> str:
    """Immutable Secret with a node's key and the authorities that it trusts, named by its content hash."""
    return f"{node_name}-tls-{content}"


def nodes_service(cluster: str) -> str:
    """Headless Service that gives every node a DNS name."""
    return f"{cluster}-nodes"


def node_host(cluster: str, namespace: str, node_name: str) -> str:
    """DNS name of a node's pod, as resolved anywhere in the Kubernetes cluster."""
    return f"{pod(node_name)}.{nodes_service(cluster)}.{namespace}.svc"


def bootstrap_service(cluster: str, listener: str) -> str:
    """Service of a listener, in front of all brokers."""
    return f"{cluster}-{listener}-bootstrap"


def broker_service(cluster: str, listener: str, node_id: int) -> str:
    """Service of one broker at an outside listener."""
    return f"{cluster}-{listener}-{node_id}"


def bootstrap_host(cluster: str, namespace: str, listener: str) -> str:
    """DNS name of a listener's Service inside the Kubernetes cluster."""
    return f"{bootstrap_service(cluster, listener)}.{namespace}.svc"


def identity_secret(cluster: str) -> str:
    """Secret with what makes the cluster the one that its volumes belong to."""
    return f"{cluster}-identity"


def cluster_ca_secret(cluster: str) -> str:
    """Secret with the authority that signs nodes and operator: ``ca.crt``, ``ca.key``."""
    return f"{cluster}-cluster-ca"


def clients_ca_secret(cluster: str) -> str:
    """Secret with the authority that signs users: ``ca.crt``, ``ca.key``."""
    return f"{cluster}-clients-ca"


def ca_cert_secret(cluster: str) -> str:
    """Secret with the public certificate that clients trust: ``ca.crt``."""
    return f"{cluster}-ca-cert"


def operator_secret(cluster: str) -> str:
    """Secret with the operator's own certificate at this cluster: ``tls.crt``, ``tls.key``."""
    return f"{cluster}-operator"


def node_tls_secret(cluster: str) -> str:
    """Secret with the current certificates of all nodes: ``<node id>.crt``, ``<node id>.key``."""
    return f"{cluster}-node-certificates"


def disruption_budget(cluster: str) -> str:
    """PodDisruptionBudget of all nodes of a cluster."""
    return f"{cluster}-nodes"


def network_policy(cluster: str) -> str:
    """NetworkPolicy of all nodes of a cluster."""
    return f"{cluster}-nodes"


def user_secret(user: str) -> str:
    """Secret with a User's credentials and client configurations, unless its spec says another."""
    return f"{user}-kafka"


def replay_principal(uid: str) -> str:
    """Name of the principal of one ReplayJob, from the job's UID."""
    return f"sluice-replay-{uid.replace('-', '')[:12]}"


def content_hash(content: Any) -> str:
    """Ten hexadecimal digits that stand for a JSON-like content."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]
