"""Services of a cluster: names of its nodes, and listeners for clients inside and outside Kubernetes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sluice.api.cluster import Listener, ListenerType
from sluice.manifests import labels, names
from sluice.manifests.metadata import Body, metadata
from sluice.manifests.node import Node


def nodes_service(cluster: str, namespace: str, listeners: Sequence[Listener], owner: Mapping[str, Any]) -> Body:
    """Headless Service that gives every node its DNS name, ready or not: peers must find those that start."""
    ports = {
        "controller": names.CONTROLLER_PORT,
        "replication": names.REPLICATION_PORT,
        "metrics": names.METRICS_PORT,
    } | {_port_name(listener): listener.port for listener in listeners}
    return _service(
        names.nodes_service(cluster),
        namespace,
        labels.of_cluster(cluster),
        owner,
        {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": labels.nodes_selector(cluster),
            "ports": [_port(name, port) for name, port in sorted(ports.items(), key=lambda item: item[1])],
        },
    )


def listener_services(
    cluster: str, namespace: str, listeners: Iterable[Listener], brokers: Sequence[Node], owner: Mapping[str, Any]
) -> list[Body]:
    """A bootstrap Service for each listener; for those outside, one more for each broker."""
    built: list[Body] = []
    for listener in listeners:
        marked = {**labels.of_cluster(cluster), labels.LISTENER: listener.name}
        name = names.bootstrap_service(cluster, listener.name)
        spec = _spec(listener, labels.brokers_selector(cluster), listener.node_ports.get("bootstrap"))
        built.append(_service(name, namespace, marked, owner, spec, listener.annotations))
        if listener.type is ListenerType.CLUSTER_IP:
            continue
        for node in brokers:
            spec = _spec(listener, labels.node_selector(cluster, node.id), listener.node_ports.get(str(node.id)))
            # Clients are sent to a broker by name: also while it isn't ready yet.
            spec["publishNotReadyAddresses"] = True
            own = {**marked, labels.NODE_ID: str(node.id)}
            name = names.broker_service(cluster, listener.name, node.id)
            built.append(_service(name, namespace, own, owner, spec, listener.annotations))
    return built


def _spec(listener: Listener, selector: Mapping[str, str], node_port: int | None) -> Body:
    port = _port(_port_name(listener), listener.port)
    if node_port is not None and listener.type is ListenerType.NODE_PORT:
        port["nodePort"] = node_port
    return {"type": listener.type.value, "selector": dict(selector), "ports": [port]}


def _port_name(listener: Listener) -> str:
    return f"client-{listener.name}"[:15]


def _port(name: str, port: int) -> Body:
    return {"name": name, "port": port, "targetPort": port, "protocol": "TCP"}


def _service(
    name: str,
    namespace: str,
    marks: Mapping[str, str],
    owner: Mapping[str, Any],
    spec: Body,
    annotations: Mapping[str, str] | None = None,
) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(name, namespace, marks, owner=owner, annotations=annotations),
        "spec": spec,
    }
