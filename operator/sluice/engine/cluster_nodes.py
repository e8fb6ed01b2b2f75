"""Everything that a cluster's nodes are made of, except the restart of nodes that run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sluice.api.base import Reason
from sluice.api.cluster import NodePool
from sluice.api.objects import Cluster
from sluice.engine.cluster_identity import Keys
from sluice.engine.cluster_objects import ClusterObjects
from sluice.engine.errors import UserError
from sluice.engine.reconciler import Context
from sluice.kube.errors import ForbiddenError, InvalidError
from sluice.kube.pki import KeyPair
from sluice.manifests import labels, names, node_files, protection, services, statefulset
from sluice.manifests.metadata import Body
from sluice.manifests.node import Node
from sluice.manifests.volume import volume_claim
from sluice.plan import broker_config, storage
from sluice.plan.cluster import Addresses, Fleet, Leftover, Problem, ServiceAddress, address_problem, addresses
from sluice.plan.identity import Identity


@dataclass(frozen=True)
class Desired:
    """What nodes should be.

    Attributes:
        nodes: every node that is looked after.
        stateful_sets: by node id; a broker that lacks an address has the one that is there, or none.
        addresses: where clients reach the brokers.
        leftover: brokers that run though the spec no longer has their pool.
        problems: what of the spec isn't done.
    """

    nodes: Sequence[Node]
    stateful_sets: Mapping[int, Body]
    addresses: Addresses
    leftover: Sequence[Leftover] = ()
    problems: Sequence[Problem] = field(default=())

    @property
    def brokers(self) -> int:
        """Number of brokers."""
        return sum(node.is_broker for node in self.nodes) + len(self.leftover)


class NodeBuilder:
    """Makes what nodes need around them, and says what the nodes themselves should be."""

    def __init__(self, context: Context, objects: ClusterObjects, identity: Identity, keys: Keys) -> None:
        self._context = context
        self._objects = objects
        self._identity = identity
        self._keys = keys
        self._cluster: Cluster = objects.cluster

    async def build(self, planned: Fleet, version: str) -> Desired:
        """Services, volumes, files; new nodes' StatefulSets are for the caller to make."""
        nodes, listeners = planned.nodes, self._cluster.spec.listeners
        leftover = [one for one in planned.leftover if self._objects.get("StatefulSet", one.name) is not None]
        where = await self._services([node for node in nodes if node.is_broker], leftover)
        problems = [*await self._volumes(nodes), *filter(None, [address_problem(where.missing, listeners)])]
        await self._protection()
        complete = [node for node in nodes if node.id not in where.incomplete]
        kept = {*where.incomplete, *(one.id for one in leftover)}
        pairs = await self._keys.ensure_nodes(complete, where.hosts, kept)
        stateful_sets: dict[int, Body] = {}
        desired = Desired(nodes, stateful_sets, where, leftover, problems)
        for node in nodes:
            if node.id not in where.incomplete:
                files = await self._files(node, pairs[node.id], desired)
                stateful_sets[node.id] = self._stateful_set(node, files, version)
            elif (present := self._objects.get("StatefulSet", node.name)) is not None:
                stateful_sets[node.id] = present
        return desired

    def _stateful_set(self, node: Node, files: statefulset.Files, version: str) -> Body:
        spec = self._cluster.spec
        return statefulset.node_stateful_set(
            node,
            image=spec.image or self._context.settings.broker_image_for(version),
            files=files,
            template=node.pool.template or spec.template,
            client_ports={listener.name: listener.port for listener in spec.listeners},
            memory_limit=memory_limit(node.pool),
            owner=self._owner,
        )

    @property
    def _owner(self) -> dict[str, Any]:
        return self._cluster.owner_reference()

    async def _services(self, brokers: Sequence[Node], leftover: Sequence[Leftover]) -> Addresses:
        name, namespace, listeners = self._cluster.name, self._cluster.namespace, self._cluster.spec.listeners
        desired = [
            services.nodes_service(name, namespace, listeners, self._owner),
            *services.listener_services(name, namespace, listeners, brokers, self._owner),
        ]
        observed = {body["metadata"]["name"]: _address(await self._objects.ensure(body)) for body in desired}
        spared = {str(one.id) for one in leftover}
        for body in self._objects.all("Service"):
            meta = body["metadata"]
            if meta["name"] not in observed and (meta.get("labels") or {}).get(labels.NODE_ID) not in spared:
                await self._objects.delete(body)
        return addresses(name, namespace, brokers, listeners, observed)

    async def _volumes(self, nodes: Sequence[Node]) -> list[Problem]:
        problems = []
        for node in nodes:
            body = self._objects.get("PersistentVolumeClaim", node.volume_claim)
            if body is None:
                await self._objects.create(
                    volume_claim(
                        node,
                        cluster_id=self._identity.cluster_id,
                        format_version=self._identity.format_version,
                        owner=self._objects.retained_owner(),
                    )
                )
            elif "deletionTimestamp" not in body["metadata"]:
                # (One that is being deleted goes when its pod does, and is made anew then.)
                problem = await self._resize(node, await self._objects.keep_or_own(body))
                problems += [problem] if problem else []
        return problems

    async def _resize(self, node: Node, claim: Body) -> Problem | None:
        present = claim["spec"]["resources"]["requests"]["storage"]
        match storage.resize(node.volume_claim, present, node.pool.storage.size):
            case storage.Refuse(message):
                return Problem(Reason.INVALID_SPEC, message)
            case storage.Grow(size):
                try:
                    await self._objects.patch(claim, {"spec": {"resources": {"requests": {"storage": size}}}})
                except (ForbiddenError, InvalidError) as error:
                    return Problem(
                        Reason.INVALID_SPEC,
                        f"the volume {node.volume_claim} can't grow to {size}; put storage.size back to {present}, or "
                        f"use a storage class with allowVolumeExpansion for a new pool: {error}",
                    )
        return None

    async def _protection(self) -> None:
        name, namespace, spec = self._cluster.name, self._cluster.namespace, self._cluster.spec
        await self._objects.ensure(protection.disruption_budget(name, namespace, self._owner))
        policy = protection.network_policy(
            name,
            namespace,
            operator_namespace=self._context.settings.namespace,
            listeners=spec.listeners,
            client_peers=spec.network_policy.client_peers,
            owner=self._owner,
        )
        if spec.network_policy.enabled:
            await self._objects.ensure(policy)
        else:
            present = await self._objects.kube.get(
                policy["apiVersion"], policy["kind"], namespace, names.network_policy(name)
            )
            if present is not None and self._objects.is_ours(present):
                await self._objects.delete(present)

    async def _files(self, node: Node, pair: KeyPair, desired: Desired) -> statefulset.Files:
        shared = broker_config.ClusterConfig(
            controllers=[f"{node.host}:{names.CONTROLLER_PORT}" for node in desired.nodes if node.is_controller],
            brokers=desired.brokers,
            config=self._cluster.spec.config,
        )
        advertised = desired.addresses.advertised.get(node.id, {})
        endpoints = broker_config.endpoints(node, self._cluster.spec.listeners, advertised)
        config_map = node_files.config_map(node, broker_config.server_properties(node, endpoints, shared), self._owner)
        tls = node_files.tls_secret(
            node,
            cert_pem=pair.cert_pem,
            key_pem=pair.key_pem,
            cluster_ca_pem=self._keys.cluster_ca.cert_pem,
            clients_ca_pem=self._keys.clients_ca.cert_pem,
            owner=self._owner,
        )
        await self._objects.ensure(config_map)
        await self._objects.ensure(tls)
        return statefulset.Files(
            config_map["metadata"]["name"], tls["metadata"]["name"], names.identity_secret(self._cluster.name)
        )


def nodes_present(objects: ClusterObjects) -> dict[int, str]:
    """Pool by node id of every node that has a StatefulSet or a volume."""
    found = {}
    for kind in ("StatefulSet", "PersistentVolumeClaim"):
        for body in objects.all(kind):
            marks = body["metadata"].get("labels") or {}
            if "deletionTimestamp" not in body["metadata"] and str(marks.get(labels.NODE_ID, "")).isdigit():
                found[int(marks[labels.NODE_ID])] = str(marks.get(labels.POOL, ""))
    return found


async def delete_unused_files(objects: ClusterObjects, desired: Iterable[Body]) -> None:
    """Delete configurations and keys of revisions that neither a StatefulSet, nor a pod, nor the spec refers to."""
    used: set[str] = set()
    for body in (*desired, *objects.all("StatefulSet"), *objects.all("Pod")):
        used |= statefulset.files_of(body)
    for kind in ("ConfigMap", "Secret"):
        for body in objects.all(kind):
            marked = labels.PART in (body["metadata"].get("labels") or {})
            if marked and body["metadata"]["name"] not in used:
                await objects.delete(body)


def memory_limit(pool: NodePool) -> int | None:
    """Bytes that a node's container may use, if it is limited.

    Raises:
        UserError: the limit isn't a quantity.
    """
    limit = ((pool.resources or {}).get("limits") or {}).get("memory")
    try:
        return None if limit is None else storage.quantity(str(limit))
    except ValueError as error:
        raise UserError(Reason.INVALID_SPEC, f"resources.limits.memory of node pool {pool.name}: {error}") from error


def _address(service: Body) -> ServiceAddress:
    ports = service.get("spec", {}).get("ports") or [{}]
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or [{}]
    return ServiceAddress(ports[0].get("nodePort"), ingress[0].get("hostname") or ingress[0].get("ip"))
