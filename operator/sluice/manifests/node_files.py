"""Immutable objects that a node's files come from, named by their content: a crashed node comes back as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sluice.manifests import labels, names
from sluice.manifests.metadata import Body, metadata, secret
from sluice.manifests.node import Node

CONFIG_PART: Final = "config"
TLS_PART: Final = "tls"


def config_map(node: Node, properties: str, owner: Mapping[str, Any]) -> Body:
    """ConfigMap with ``server.properties``."""
    data = {"server.properties": properties}
    name = names.config_map(node.name, names.content_hash(data))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(name, node.namespace, _labels(node, CONFIG_PART), owner=owner),
        "immutable": True,
        "data": data,
    }


def tls_secret(
    node: Node, *, cert_pem: str, key_pem: str, cluster_ca_pem: str, clients_ca_pem: str, owner: Mapping[str, Any]
) -> Body:
    """Secret with the node's key and certificate, and the authorities of its peers and of clients."""
    data = {
        "keystore.pem": f"{key_pem.strip()}\n{cert_pem.strip()}\n",
        "cluster-ca.pem": cluster_ca_pem,
        "clients-ca.pem": clients_ca_pem,
    }
    name = names.tls_secret(node.name, names.content_hash(data))
    return secret(metadata(name, node.namespace, _labels(node, TLS_PART), owner=owner), data, immutable=True)


def _labels(node: Node, part: str) -> dict[str, str]:
    return {**node.labels, labels.PART: part}
