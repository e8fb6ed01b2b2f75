"""PersistentVolumeClaim of a node: made by the operator, so that it can grow and outlive the StatefulSet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluice.manifests import labels
from sluice.manifests.metadata import Body, metadata
from sluice.manifests.node import Node


def volume_claim(node: Node, *, cluster_id: str, format_version: str, owner: Mapping[str, Any] | None) -> Body:
    """The claim; ``owner`` only if data goes with the MessagingCluster (``deletionPolicy: Delete``).

    What its annotations say is enough to recover the identity Secret.
    """
    storage = node.pool.storage
    spec: Body = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(
            node.volume_claim,
            node.namespace,
            node.labels,
            owner=owner,
            annotations={
                labels.CLUSTER_ID_ANNOTATION: cluster_id,
                labels.FORMAT_VERSION_ANNOTATION: format_version,
            },
        ),
        "spec": spec,
    }
