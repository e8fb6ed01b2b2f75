"""StatefulSet of one Kafka node. Its pod template is all that a restart applies; a hash over it is the revision."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sluice.api.cluster import PodTemplate
from sluice.manifests import labels, names
from sluice.manifests.metadata import Body, metadata
from sluice.manifests.node import Node

USER_ID: Final = 1001
"""User and group of the broker image."""
GRACE_SECONDS: Final = 45
"""Leaderships are handed over in seconds; then logs are flushed and closed (one that isn't closed is read again at the
start, and nothing is lost). Not more: a namespace that goes while pods still end is looked at again by Kubernetes only
after half of the longest grace, and is to be gone within a minute."""
CONTROLLER_STAYS_SECONDS: Final = 10
"""How long a controller goes on when it is told to stop. If all nodes are, as when their namespace is deleted, brokers
leave first: one that finds no controller to hand its leaderships over to waits for five minutes (Kafka has no setting
for that), is killed at the end of its grace, and reads its logs again when it is back. (Tried with three of each: with
this delay every broker had ended after 2 s, without it none had after 150 s. A combined node's controller outlives its
broker anyway.)"""
STARTUP_SECONDS: Final = 7200
"""After a crash a broker reads its logs again before it opens its listeners; large disks take long."""
PROBE_SECONDS: Final = 2
_DEFAULT_HEAP: Final = 512 * 2**20
_LARGEST_HEAP: Final = 6 * 2**30


@dataclass(frozen=True)
class Files:
    """Objects that a node's files come from, by name."""

    config_map: str
    tls_secret: str
    identity_secret: str


def node_stateful_set(
    node: Node,
    *,
    image: str,
    files: Files,
    template: PodTemplate,
    client_ports: Mapping[str, int],
    memory_limit: int | None,
    owner: Mapping[str, Any],
) -> Body:
    """The StatefulSet of a node.

    Args:
        node: the node.
        image: broker image.
        files: where its files come from.
        template: what users add to the pod.
        client_ports: port by name of each client listener.
        memory_limit: bytes that the container may use, if limited.
        owner: owner reference of the MessagingCluster.
    """
    pod = _pod(node, image=image, files=files, template=template, client_ports=client_ports, memory_limit=memory_limit)
    revision = names.content_hash(pod)
    pod["metadata"]["annotations"][labels.REVISION_ANNOTATION] = revision
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(
            node.name,
            node.namespace,
            node.labels,
            owner=owner,
            annotations={labels.REVISION_ANNOTATION: revision},
        ),
        "spec": {
            "replicas": 1,
            "serviceName": names.nodes_service(node.cluster),
            "selector": {"matchLabels": labels.node_selector(node.cluster, node.id)},
            # The operator decides when a node goes down: it writes the template and then deletes the pod.
            "updateStrategy": {"type": "OnDelete"},
            "podManagementPolicy": "Parallel",
            "template": pod,
        },
    }


def revision_of(body: Mapping[str, Any] | None) -> str | None:
    """Revision that a StatefulSet or pod was made for."""
    revision = ((body or {}).get("metadata", {}).get("annotations") or {}).get(labels.REVISION_ANNOTATION)
    return None if revision is None else str(revision)


def files_of(stateful_set: Mapping[str, Any]) -> set[str]:
    """Names of ConfigMaps and Secrets that a StatefulSet or a pod mounts."""
    spec = stateful_set.get("spec", {})
    volumes = spec.get("template", {}).get("spec", spec).get("volumes") or ()
    found: set[str] = set()
    for volume in volumes:
        if name := (volume.get("configMap") or {}).get("name"):
            found.add(name)
        if name := (volume.get("secret") or {}).get("secretName"):
            found.add(name)
    return found


def heap(node: Node, memory_limit: int | None) -> str:
    """Heap of a node: as said, or half of its memory and at most 6 GiB (the rest is the page cache's)."""
    if node.pool.jvm.heap:
        return node.pool.jvm.heap
    chosen = _DEFAULT_HEAP if memory_limit is None else min(_LARGEST_HEAP, memory_limit // 2)
    return f"{max(64, chosen // 2**20)}m"


def _pod(
    node: Node,
    *,
    image: str,
    files: Files,
    template: PodTemplate,
    client_ports: Mapping[str, int],
    memory_limit: int | None,
) -> Body:
    size = heap(node, memory_limit)
    ports = {"metrics": names.METRICS_PORT}
    if node.is_controller:
        ports["controller"] = names.CONTROLLER_PORT
    if node.is_broker:
        ports["replication"] = names.REPLICATION_PORT
        ports |= {f"client-{name}"[:15]: port for name, port in client_ports.items()}
    # A broker opens its listeners when it has recovered its logs and caught up with the metadata.
    check = {"tcpSocket": {"port": "replication" if node.is_broker else "controller"}}
    container: Body = {
        "name": "kafka",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": [
            {"name": "NODE_ID", "value": str(node.id)},
            {"name": "PROCESS_ROLES", "value": ",".join(sorted(role.value for role in node.pool.roles))},
            {"name": "KAFKA_HEAP_OPTS", "value": f"-Xms{size} -Xmx{size}"},
        ],
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"}
            for name, port in sorted(ports.items(), key=lambda item: item[1])
        ],
        "startupProbe": {
            **check,
            "periodSeconds": PROBE_SECONDS,
            "timeoutSeconds": 2,
            "failureThreshold": STARTUP_SECONDS // PROBE_SECONDS,
        },
        "readinessProbe": {**check, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 2},
        # Only a process that no longer accepts connections at all is ended: being behind is no reason.
        "livenessProbe": {**check, "periodSeconds": 15, "timeoutSeconds": 10, "failureThreshold": 6},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/kafka"},
            {"name": "config", "mountPath": "/etc/kafka/config", "readOnly": True},
            {"name": "tls", "mountPath": "/etc/kafka/tls", "readOnly": True},
            {"name": "identity", "mountPath": "/etc/kafka/identity", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a path in the container
        ],
    }
    if not node.is_broker:
        container["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", str(CONTROLLER_STAYS_SECONDS)]}}}
    if node.pool.jvm.options:
        container["env"].append({"name": "KAFKA_JVM_OPTS", "value": " ".join(node.pool.jvm.options)})
    if node.pool.resources:
        container["resources"] = dict(node.pool.resources)
    spec: Body = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # Volumes of terabytes aren't walked through at each start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": _affinity(node, template),
        "containers": [container],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": node.volume_claim}},
            {"name": "config", "configMap": {"name": files.config_map}},
            {"name": "tls", "secret": {"secretName": files.tls_secret, "defaultMode": 0o440}},
            {"name": "identity", "secret": {"secretName": files.identity_secret, "defaultMode": 0o440}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
        ],
    }
    if template.node_selector:
        spec["nodeSelector"] = dict(template.node_selector)
    if template.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in template.tolerations]
    if template.topology_spread_constraints:
        spec["topologySpreadConstraints"] = [dict(c) for c in template.topology_spread_constraints]
    if template.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in template.image_pull_secrets]
    if template.priority_class_name:
        spec["priorityClassName"] = template.priority_class_name
    return {
        "metadata": {"labels": {**template.labels, **node.labels}, "annotations": dict(template.annotations)},
        "spec": spec,
    }


def _affinity(node: Node, template: PodTemplate) -> Body:
    """The user's affinity, or nodes spread over hosts; a rack is required in both cases."""
    if template.affinity is not None:
        affinity: Body = copy.deepcopy(dict(template.affinity))
    else:
        affinity = {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 100,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchLabels": labels.nodes_selector(node.cluster)},
                        },
                    }
                ]
            }
        }
    if node.pool.rack is not None:
        in_rack = {"key": node.pool.rack_topology_key, "operator": "In", "values": [node.pool.rack]}
        required = affinity.setdefault("nodeAffinity", {}).setdefault(
            "requiredDuringSchedulingIgnoredDuringExecution", {}
        )
        # Terms are alternatives: the rack goes into each.
        terms: Sequence[Body] = required.get("nodeSelectorTerms") or [{}]
        required["nodeSelectorTerms"] = [
            {**term, "matchExpressions": [*(term.get("matchExpressions") or ()), in_rack]} for term in terms
        ]
    return affinity
