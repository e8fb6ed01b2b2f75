"""Which certificates a cluster needs, and when one has to be made anew."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sluice.api.cluster import Listener, ListenerType
from sluice.manifests import names
from sluice.manifests.node import Node

AUTHORITY_LIFETIME: Final = timedelta(days=3653)
LIFETIME: Final = timedelta(days=365)
"""Of the certificates of nodes and operator."""
RENEW_AT: Final = 2 / 3
"""Share of its lifetime after which a certificate is renewed."""


@dataclass(frozen=True)
class CertificateFacts:
    """What matters of a certificate that exists. ``names``: DNS names and IP addresses that it is valid for."""

    common_name: str
    names: frozenset[str]
    not_before: datetime
    not_after: datetime
    trusted: bool
    """Whether the present authority has signed it, and its key fits."""


def why_renew(facts: CertificateFacts | None, common_name: str, wanted: Collection[str], now: datetime) -> str | None:
    """Why a certificate has to be made (anew), or None if the present one will do."""
    if facts is None:
        return "there is none that can be read"
    if not facts.trusted:
        return "it isn't from the present authority"
    if facts.common_name != common_name:
        return f"it is for {facts.common_name}, not {common_name}"
    if facts.names != frozenset(wanted):
        changed = sorted(facts.names ^ frozenset(wanted))
        return f"its names have changed: {', '.join(changed[:5])}"
    if now >= facts.not_before + (facts.not_after - facts.not_before) * RENEW_AT:
        return f"it ends on {facts.not_after:%Y-%m-%d}"
    return None


def node_names(node: Node, listeners: Iterable[Listener], outside_hosts: Iterable[str]) -> frozenset[str]:
    """Names at which a node is reached.

    Args:
        node: the node.
        listeners: listeners of the cluster.
        outside_hosts: hosts and addresses at which outside listeners of this node and their bootstraps are reached.
    """
    found = _forms(f"{node.pod}.{names.nodes_service(node.cluster)}", node.namespace)
    if node.is_broker:
        for listener in listeners:
            found |= _forms(names.bootstrap_service(node.cluster, listener.name), node.namespace)
            if listener.type is not ListenerType.CLUSTER_IP:
                found |= _forms(names.broker_service(node.cluster, listener.name, node.id), node.namespace)
        found |= {host for host in outside_hosts if host}
    return frozenset(found)


def _forms(name: str, namespace: str) -> set[str]:
    """A Service's name as it may be written inside a Kubernetes cluster."""
    return {name, f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.cluster.local"}
