"""The registry of Kafka clusters: from a reference in a spec to one shared admin client a cluster."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sluice.api.base import ClusterReference, Reason
from sluice.api.cluster import ExternalAuthenticationType, ExternalCluster, Role
from sluice.api.objects import Cluster, InvalidSpecError, Key, cluster_key, parse
from sluice.engine.errors import (
    ClusterNotFoundError,
    ClusterNotReadyError,
    ClusterRefusesNamespaceError,
    WaitingError,
)
from sluice.engine.index import Index
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.kube.client import Kube
from sluice.plan.admission import allows_namespace

_LOG = logging.getLogger(__name__)

_TRUST_FOR: Final = 60.0
"""Seconds for which credentials that were read are taken to be the current ones."""
_REPLICATION_PORT: Final = 9091
_NEED_TLS: Final = (ExternalAuthenticationType.TLS, ExternalAuthenticationType.PLAIN)
"""Credentials that mean nothing, or that everybody can read, without encryption."""


@dataclass
class _Connection:
    settings: ConnectionSettings
    admin: KafkaAdmin
    checked: float


class Clusters:
    """Resolves references, checks that the cluster allows the namespace, and keeps one `KafkaAdmin` for each cluster.

    Clients are rebuilt when addresses or credentials change, and closed when their cluster is gone.

    Args:
        make: makes an admin client; it doesn't connect before it is first used.
        monotonic: clock; the event loop's unless given.
    """

    def __init__(
        self,
        kube: Kube,
        index: Index,
        make: Callable[[ConnectionSettings], KafkaAdmin],
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._kube = kube
        self._index = index
        self._make = make
        self._monotonic = monotonic or (lambda: asyncio.get_running_loop().time())
        self._connections: dict[Key, _Connection] = {}
        self._locks: dict[Key, asyncio.Lock] = {}

    def resolve(self, reference: ClusterReference, namespace: str) -> Cluster:
        """The MessagingCluster that an object in ``namespace`` refers to.

        Raises:
            ClusterNotFoundError: there is none.
            ClusterNotReadyError: it is being deleted, or its spec can't be read.
            ClusterRefusesNamespaceError: it doesn't allow objects of that namespace.
        """
        cluster = self._known(cluster_key(reference, namespace))
        if not allows_namespace(cluster, namespace):
            raise ClusterRefusesNamespaceError(cluster.namespace, cluster.name, namespace)
        if cluster.deleting:
            raise ClusterNotReadyError(cluster.namespace, cluster.name, "it is being deleted")
        return cluster

    async def connect(self, reference: ClusterReference, namespace: str) -> KafkaAdmin:
        """The admin client of the cluster that an object in ``namespace`` refers to.

        Raises:
            ClusterNotFoundError: there is none.
            ClusterNotReadyError: none of its brokers is ready yet, or its credentials aren't there.
            ClusterRefusesNamespaceError: it doesn't allow objects of that namespace.
        """
        cluster = self.resolve(reference, namespace)
        if cluster.spec.external is None and not any(node.ready for node in cluster.status.nodes):
            raise ClusterNotReadyError(cluster.namespace, cluster.name, "none of its nodes is ready yet")
        return await self._admin(cluster)

    async def admin_of(self, key: Key) -> KafkaAdmin:
        """The admin client of a cluster, ready or not, for those who look after the cluster itself.

        Raises:
            ClusterNotFoundError: there is no such cluster.
            ClusterNotReadyError: its nodes or credentials aren't there.
        """
        return await self._admin(self._known(key))

    async def settings_of(self, cluster: Cluster) -> ConnectionSettings:
        """Addresses and credentials as they are now.

        Raises:
            ClusterNotReadyError: nodes or credentials aren't there.
        """
        if cluster.spec.external is not None:
            return await self._external(cluster, cluster.spec.external)
        return await self._own(cluster)

    def changed(self, key: Key) -> None:
        """Addresses or credentials of a cluster may have changed: read them again before the next use."""
        if (connection := self._connections.get(key)) is not None:
            connection.checked = float("-inf")

    async def forget(self, key: Key) -> None:
        """The cluster is gone: close its client."""
        self._locks.pop(key, None)
        if (connection := self._connections.pop(key, None)) is not None:
            await connection.admin.close()

    async def close(self) -> None:
        """Close every client."""
        for key in list(self._connections):
            await self.forget(key)

    def _known(self, key: Key) -> Cluster:
        body = self._index.get(key)
        if body is None:
            raise ClusterNotFoundError(key.namespace, key.name)
        try:
            return parse(body)
        except InvalidSpecError as error:
            raise ClusterNotReadyError(key.namespace, key.name, f"its spec can't be read: {error}") from error

    async def _admin(self, cluster: Cluster) -> KafkaAdmin:
        async with self._locks.setdefault(cluster.key, asyncio.Lock()):
            known = self._connections.get(cluster.key)
            now = self._monotonic()
            if known is not None and now - known.checked < _TRUST_FOR:
                return known.admin
            settings = await self.settings_of(cluster)
            if known is not None and known.settings == settings:
                known.checked = now
                return known.admin
            if known is not None:
                _LOG.info("%s: addresses or credentials have changed, connecting anew", cluster.key)
            made = _Connection(settings, self._make(settings), now)
            self._connections[cluster.key] = made
            if known is not None:
                await known.admin.close()
            return made.admin

    async def _own(self, cluster: Cluster) -> ConnectionSettings:
        """Over mTLS to the brokers' internal listener, as the operator's own principal."""
        name, namespace = cluster.name, cluster.namespace
        brokers = {pool.name for pool in cluster.spec.node_pools or () if Role.BROKER in pool.roles}
        addresses = tuple(
            f"{node.name}-0.{name}-nodes.{namespace}.svc:{_REPLICATION_PORT}"
            for node in cluster.status.nodes
            if node.pool in brokers
        )
        if not addresses:
            raise ClusterNotReadyError(namespace, name, "its nodes aren't made yet")
        own = await self._secret(cluster, f"{name}-operator", "tls.crt", "tls.key")
        trusted = await self._secret(cluster, f"{name}-cluster-ca", "ca.crt")
        return ConnectionSettings(
            addresses, tls=True, ca_pem=trusted["ca.crt"], cert_pem=own["tls.crt"], key_pem=own["tls.key"]
        )

    async def _external(self, cluster: Cluster, external: ExternalCluster) -> ConnectionSettings:
        servers = tuple(external.bootstrap_servers)
        ca = cert = key = mechanism = username = password = None
        if external.tls is not None and (trust := external.tls.ca_secret_ref) is not None:
            ca = (await self._secret(cluster, trust.name, trust.key))[trust.key]
        if (login := external.authentication) is not None:
            if external.tls is None and login.type in _NEED_TLS:
                # (The schema refuses it too, but may not always have done so.)
                why = f"authentication {login.type.value} needs spec.external.tls: over plain text nobody is safe"
                raise ClusterNotReadyError(cluster.namespace, cluster.name, why)
            if login.type is ExternalAuthenticationType.TLS:
                data = await self._secret(cluster, login.secret_name, "tls.crt", "tls.key")
                cert, key = data["tls.crt"], data["tls.key"]
            else:
                data = await self._secret(cluster, login.secret_name, "username", "password")
                mechanism, username, password = login.type.value, data["username"], data["password"]
        return ConnectionSettings(
            servers,
            tls=external.tls is not None,
            ca_pem=ca,
            cert_pem=cert,
            key_pem=key,
            sasl_mechanism=mechanism,
            username=username,
            password=password,
        )

    async def _secret(self, cluster: Cluster, name: str, *keys: str) -> dict[str, str]:
        """Values of a Secret in the cluster's namespace."""
        secret = await self._kube.get("v1", "Secret", cluster.namespace, name)
        data = (secret or {}).get("data") or {}
        missing = [key for key in keys if key not in data]
        if secret is None or missing:
            what = f"Secret {name} has no {' and no '.join(missing)}" if secret else f"Secret {name} doesn't exist"
            raise ClusterNotReadyError(cluster.namespace, cluster.name, what)
        try:
            return {key: base64.b64decode(data[key]).decode().strip("\n") for key in keys}
        except UnicodeDecodeError as error:
            raise WaitingError(
                Reason.CLUSTER_NOT_READY,
                f"Secret {name} of MessagingCluster {cluster.namespace}/{cluster.name} holds what isn't text",
            ) from error
