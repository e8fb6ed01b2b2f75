"""Identity and keys of a cluster: made once, adopted when they are there, never made over."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Collection, Mapping, Sequence

from sluice.api.base import Reason
from sluice.api.objects import Cluster
from sluice.engine.cluster_objects import ClusterObjects
from sluice.engine.errors import UserError
from sluice.engine.reconciler import Context
from sluice.kube import pki
from sluice.kube.pki import KeyPair
from sluice.manifests import labels, names
from sluice.manifests.metadata import Body, decode, encode, metadata, secret
from sluice.manifests.node import Node
from sluice.plan import certificates, identity
from sluice.plan.cluster import first_version
from sluice.plan.identity import Identity, IdentityError, VolumeRecord
from sluice.plan.observed import kafka_id
from sluice.versions import KAFKA_VERSIONS


async def ensure_identity(context: Context, objects: ClusterObjects) -> Identity:
    """The cluster's identity: read, or made, or recovered from what is written on its volumes.

    Raises:
        UserError: it is damaged, or the volumes belong to another Kafka cluster.
    """
    cluster = objects.cluster
    pools = cluster.spec.node_pools or []
    volumes = _volumes(objects)
    body = objects.get("Secret", names.identity_secret(cluster.name))
    try:
        if body is None:
            if volumes:
                made = identity.recovered(volumes, cluster.spec.version or cluster.status.version)
                context.events.publish(
                    cluster,
                    "Warning",
                    Reason.IDENTITY_MISMATCH,
                    "the identity Secret was gone and has been made anew from what is written on the volumes",
                )
            else:
                version = first_version(cluster.spec)
                made = identity.new(cluster.name, cluster.namespace, pools, version, _random_id)
            body = await objects.create(_retained(objects, names.identity_secret(cluster.name), made.data()))
        else:
            body = await objects.keep_or_own(body)
        found = identity.read(decode(body))
    except IdentityError as error:
        raise UserError(Reason.IDENTITY_MISMATCH, str(error)) from error
    strangers = sorted({volume.cluster_id for volume in volumes if volume.cluster_id != found.cluster_id})
    if strangers:
        raise UserError(
            Reason.IDENTITY_MISMATCH,
            f"the volumes hold data of Kafka cluster {', '.join(strangers)}, and the identity Secret says "
            f"{found.cluster_id}: restore the Secret {names.identity_secret(cluster.name)} of those volumes, or delete "
            "the volumes if their data may be lost",
        )
    firsts = identity.with_pools(found.pools, pools)
    if firsts != found.pools:
        found = await record(objects, identity.changed(found, pools=firsts))
    return found


async def record(objects: ClusterObjects, changed: Identity) -> Identity:
    """Write a change of the identity down before anything is done that relies on it."""
    body = objects.get("Secret", names.identity_secret(objects.cluster.name))
    if body is None:
        raise UserError(Reason.IDENTITY_MISMATCH, "the identity Secret has been deleted meanwhile")
    await objects.patch(body, {"data": encode(changed.data())})
    return changed


class Keys:
    """Authorities and certificates of a cluster; what exists and is still good is used again."""

    def __init__(self, context: Context, objects: ClusterObjects) -> None:
        self._context = context
        self._objects = objects
        self._cluster: Cluster = objects.cluster
        self.cluster_ca = KeyPair("", "")
        self.clients_ca = KeyPair("", "")

    async def ensure_authorities(self) -> None:
        """Both authorities, their public part for clients, and the operator's own certificate.

        Raises:
            UserError: an authority that nodes rely on is gone or can't be used.
        """
        name = self._cluster.name
        self.cluster_ca = await self._authority(names.cluster_ca_secret(name), f"{name} cluster CA")
        self.clients_ca = await self._authority(names.clients_ca_secret(name), f"{name} clients CA")
        await self._objects.ensure(self._owned(names.ca_cert_secret(name), {"ca.crt": self.cluster_ca.cert_pem}))
        held = decode(self._objects.get("Secret", names.operator_secret(name)))
        pair = self._leaf(
            KeyPair(held.get("tls.crt", ""), held.get("tls.key", "")), names.OPERATOR_PRINCIPAL, frozenset()
        )
        data = {"tls.crt": pair.cert_pem, "tls.key": pair.key_pem, "ca.crt": self.cluster_ca.cert_pem}
        await self._objects.ensure(self._owned(names.operator_secret(name), data))

    async def ensure_nodes(
        self, nodes: Sequence[Node], hosts: Mapping[int, frozenset[str]], kept: Collection[int]
    ) -> dict[int, KeyPair]:
        """A certificate for each node, by id.

        Args:
            nodes: the nodes.
            hosts: where outside listeners of brokers are reached.
            kept: ids of other nodes, whose certificates stay as they are.
        """
        secret_name = names.node_tls_secret(self._cluster.name)
        held = decode(self._objects.get("Secret", secret_name))
        pairs: dict[int, KeyPair] = {}
        for node in nodes:
            wanted = certificates.node_names(node, self._cluster.spec.listeners, hosts.get(node.id, frozenset()))
            known = KeyPair(held.get(f"{node.id}.crt", ""), held.get(f"{node.id}.key", ""))
            pairs[node.id] = self._leaf(known, names.NODE_PRINCIPAL, wanted)
        data = {key: value for key, value in held.items() if key.partition(".")[0] in set(map(str, kept))}
        data |= {f"{node_id}.crt": pair.cert_pem for node_id, pair in pairs.items()}
        data |= {f"{node_id}.key": pair.key_pem for node_id, pair in pairs.items()}
        await self._objects.ensure(self._owned(secret_name, data))
        return pairs

    def _leaf(self, known: KeyPair, common_name: str, wanted: frozenset[str]) -> KeyPair:
        now = self._context.clock()
        facts = pki.inspect(known, self.cluster_ca.cert_pem)
        if certificates.why_renew(facts, common_name, wanted, now) is None:
            return known
        try:
            return pki.issue(self.cluster_ca, common_name, wanted, now)
        except pki.AuthorityError as error:
            secret_name = names.cluster_ca_secret(self._cluster.name)
            raise UserError(Reason.IDENTITY_MISMATCH, f"Secret {secret_name}: {error}: restore it") from error

    async def _authority(self, name: str, common_name: str) -> KeyPair:
        body = self._objects.get("Secret", name)
        if body is None:
            if self._objects.get("Secret", names.node_tls_secret(self._cluster.name)) is not None:
                raise UserError(
                    Reason.IDENTITY_MISMATCH,
                    f"Secret {name} with the authority that nodes and clients trust is gone: restore it from a backup. "
                    "Nothing is changed until then, since a new authority would cut every connection; to have one "
                    f"nevertheless, delete Secret {names.node_tls_secret(self._cluster.name)} too",
                )
            pair = pki.make_authority(common_name, self._context.clock())
            body = await self._objects.create(
                _retained(self._objects, name, {"ca.crt": pair.cert_pem, "ca.key": pair.key_pem})
            )
        else:
            body = await self._objects.keep_or_own(body)
        data = decode(body)
        missing = [key for key in ("ca.crt", "ca.key") if not data.get(key)]
        if missing:
            raise UserError(Reason.IDENTITY_MISMATCH, f"Secret {name} has no {' and no '.join(missing)}: restore it")
        return KeyPair(data["ca.crt"], data["ca.key"])

    def _owned(self, name: str, data: Mapping[str, str]) -> Body:
        meta = metadata(
            name, self._cluster.namespace, labels.of_cluster(self._cluster.name), owner=self._cluster.owner_reference()
        )
        return secret(meta, data)


def _retained(objects: ClusterObjects, name: str, data: Mapping[str, str]) -> Body:
    cluster = objects.cluster
    return secret(
        metadata(name, cluster.namespace, labels.of_cluster(cluster.name), owner=objects.retained_owner()), data
    )


def _volumes(objects: ClusterObjects) -> list[VolumeRecord]:
    """What the volumes say; those that Kubernetes is deleting no longer count."""
    found = []
    for body in objects.all("PersistentVolumeClaim"):
        meta = body["metadata"]
        marks, notes = meta.get("labels") or {}, meta.get("annotations") or {}
        if "deletionTimestamp" in meta or labels.CLUSTER_ID_ANNOTATION not in notes:
            continue
        if labels.POOL not in marks or not str(marks.get(labels.NODE_ID, "")).isdigit():
            continue
        found.append(
            VolumeRecord(
                pool=marks[labels.POOL],
                node_id=int(marks[labels.NODE_ID]),
                cluster_id=notes[labels.CLUSTER_ID_ANNOTATION],
                format_version=notes.get(labels.FORMAT_VERSION_ANNOTATION) or KAFKA_VERSIONS[0],
            )
        )
    return found


def _random_id() -> str:
    """A random UUID as Kafka writes it; without a leading dash, which its tools would take for an option."""
    while True:
        made = kafka_id(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
        if not made.startswith("-"):
            return made
