"""Which clusters are probed: follows the MessagingClusters that are looked after."""

from __future__ import annotations

import asyncio
import logging

from sluice.api.cluster import Role
from sluice.api.objects import Cluster, Key
from sluice.engine.clusters import Clusters
from sluice.engine.errors import WaitingError
from sluice.engine.prober import Prober
from sluice.kafka.errors import KafkaError
from sluice.kube.errors import KubeError

_LOG = logging.getLogger(__name__)


class Probing:
    """Tells the prober how each cluster is reached, and through which brokers, as its reconciler goes along."""

    def __init__(self, prober: Prober, clusters: Clusters) -> None:
        self._prober = prober
        self._clusters = clusters
        self._updates: dict[Key, asyncio.Task[None]] = {}

    def update(self, cluster: Cluster) -> None:
        """A cluster is reachable, or its spec has changed."""
        running = self._updates.get(cluster.key)
        if running is None or running.done():
            self._updates[cluster.key] = asyncio.create_task(self._update(cluster), name=f"probe {cluster.key}")

    def forget(self, key: Key) -> None:
        """A cluster is gone."""
        if (running := self._updates.pop(key, None)) is not None:
            running.cancel()
        self._prober.update(key, None, 0.0, ())

    async def stop(self) -> None:
        """End what is under way."""
        for task in self._updates.values():
            task.cancel()
        await asyncio.gather(*self._updates.values(), return_exceptions=True)

    async def _update(self, cluster: Cluster) -> None:
        probe = cluster.spec.probe
        if not probe.enabled:
            self._prober.update(cluster.key, None, 0.0, ())
            return
        try:
            admin = await self._clusters.admin_of(cluster.key)
            if cluster.spec.external is not None:
                brokers = [broker.id for broker in (await admin.describe_cluster()).brokers]
            else:
                pools = {pool.name for pool in cluster.spec.node_pools or () if Role.BROKER in pool.roles}
                brokers = [node.id for node in cluster.status.nodes if node.pool in pools]
        except (KafkaError, KubeError, WaitingError) as error:
            _LOG.info("probe of %s stays as it is: %s", cluster.key, error)
            return
        self._prober.update(cluster.key, admin.settings, float(probe.interval_seconds), brokers)
