"""One Kafka node: what everything about it is derived from."""

from __future__ import annotations

from dataclasses import dataclass

from sluice.api.cluster import NodePool, Role
from sluice.manifests import labels, names


@dataclass(frozen=True)
class Node:
    """A Kafka node that Sluice runs."""

    cluster: str
    namespace: str
    pool: NodePool
    id: int

    @property
    def name(self) -> str:
        """Name of its StatefulSet."""
        return names.node(self.cluster, self.pool.name, self.id)

    @property
    def pod(self) -> str:
        """Name of its pod."""
        return names.pod(self.name)

    @property
    def volume_claim(self) -> str:
        """Name of its PersistentVolumeClaim."""
        return names.volume_claim(self.name)

    @property
    def host(self) -> str:
        """Its DNS name."""
        return names.node_host(self.cluster, self.namespace, self.name)

    @property
    def is_broker(self) -> bool:
        """Whether it holds topics and serves clients."""
        return Role.BROKER in self.pool.roles

    @property
    def is_controller(self) -> bool:
        """Whether it votes in the metadata quorum."""
        return Role.CONTROLLER in self.pool.roles

    @property
    def labels(self) -> dict[str, str]:
        """Labels of its objects."""
        return labels.of_node(self.cluster, self.pool.name, self.id, self.pool.roles)
