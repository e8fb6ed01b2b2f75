"""Kubernetes objects of one MessagingCluster: listed once a reconciliation, written only where they differ."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from sluice.api.base import FIELD_MANAGER, Reason
from sluice.api.objects import Cluster
from sluice.api.topic import DeletionPolicy
from sluice.engine.errors import ChangedError, UserError, WaitingError
from sluice.kube.client import Kube
from sluice.kube.compare import differs
from sluice.kube.errors import ConflictError, InvalidError
from sluice.manifests import labels, names
from sluice.manifests.metadata import Body

KINDS: Final = {
    "StatefulSet": "apps/v1",
    "Pod": "v1",
    "PersistentVolumeClaim": "v1",
    "Service": "v1",
    "ConfigMap": "v1",
    "Secret": "v1",
}
_NODE_FILES: Final = ("ConfigMap", "Secret")


class ClusterObjects:
    """What exists of a cluster, and the writes to it."""

    def __init__(self, kube: Kube, cluster: Cluster) -> None:
        self.kube = kube
        self.cluster = cluster
        self._found: dict[tuple[str, str], Body] = {}

    async def load(self) -> None:
        """List everything that belongs to the cluster."""
        name, namespace = self.cluster.name, self.cluster.namespace
        listed = await asyncio.gather(
            *(
                self.kube.list(
                    version,
                    kind,
                    namespace,
                    # Users' Secrets carry the cluster's label too: of Secrets, only the nodes' files are listed.
                    {labels.CLUSTER: name} | ({labels.PART: "*"} if kind in _NODE_FILES else {}),
                )
                for kind, version in KINDS.items()
            )
        )
        held = [
            names.identity_secret(name),
            names.cluster_ca_secret(name),
            names.clients_ca_secret(name),
            names.ca_cert_secret(name),
            names.operator_secret(name),
            names.node_tls_secret(name),
        ]
        named = await asyncio.gather(*(self.kube.get("v1", "Secret", namespace, secret_name) for secret_name in held))
        for bodies in listed:
            for body in bodies:
                self._remember(body)
        for secret in filter(None, named):
            self._remember(secret)

    def get(self, kind: str, name: str) -> Body | None:
        """An object, or None if there is none."""
        return self._found.get((kind, name))

    def all(self, kind: str) -> list[Body]:
        """All objects of a kind, by name."""
        return [body for (found, _), body in sorted(self._found.items()) if found == kind]

    async def ensure(self, desired: Mapping[str, Any]) -> Body:
        """Make an object be as desired, with a write only if it isn't.

        Raises:
            WaitingError: the object still belongs to a deleted predecessor of the cluster, and goes with it.
            UserError: the API server refuses what the spec makes of it.
        """
        kind, name = desired["kind"], desired["metadata"]["name"]
        actual = self.get(kind, name)
        if actual is None and kind not in KINDS:
            actual = await self.kube.get(desired["apiVersion"], kind, self.cluster.namespace, name)
        if actual is not None:
            self.refuse_leftover(actual)
            if desired.get("immutable") is True or not differs(desired, actual, FIELD_MANAGER):
                return actual
        try:
            return self._remember(await self.kube.apply(desired))
        except InvalidError as error:
            raise UserError(
                Reason.INVALID_SPEC,
                f"Kubernetes refuses the {kind} {name} that the spec asks for; correct what it names: {error}",
            ) from error

    async def create(self, body: Mapping[str, Any]) -> Body:
        """Create an object that is never applied over, or read the one that somebody has made meanwhile."""
        made, _ = await self.kube.create_if_absent(body)
        self.refuse_leftover(made)
        return self._remember(made)

    async def patch(self, body: Mapping[str, Any], patch: Mapping[str, Any]) -> Body:
        """Change an object if it is still as it was seen.

        Raises:
            ChangedError: it isn't.
        """
        meta = body["metadata"]
        guarded = {
            **patch,
            "metadata": {
                **patch.get("metadata", {}),
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
            },
        }
        try:
            changed = await self.kube.patch(body["apiVersion"], body["kind"], meta["namespace"], meta["name"], guarded)
        except ConflictError as error:
            raise ChangedError(f"{body['kind']} {meta['name']}") from error
        return self._remember(changed)

    async def delete(self, body: Mapping[str, Any]) -> None:
        """Delete an object, if it is still the one that was seen."""
        meta = body["metadata"]
        try:
            await self.kube.delete(body["apiVersion"], body["kind"], meta["namespace"], meta["name"], uid=meta["uid"])
        except ConflictError:
            return  # another object of that name is there already: the one that was meant is gone
        finally:
            self._found.pop((body["kind"], meta["name"]), None)

    def retained_owner(self) -> dict[str, Any] | None:
        """Owner reference of what outlives the cluster, unless it is told to go with it."""
        delete = self.cluster.spec.deletion_policy is DeletionPolicy.DELETE
        return self.cluster.owner_reference() if delete else None

    async def keep_or_own(self, body: Body) -> Body:
        """Make a retained object follow ``deletionPolicy``, which may have changed since it was made."""
        self.refuse_leftover(body)
        owner = self.retained_owner()
        references = body["metadata"].get("ownerReferences") or []
        others = [reference for reference in references if reference.get("uid") != self.cluster.uid]
        owned = len(others) != len(references)
        if owned == (owner is not None):
            return body
        return await self.patch(body, {"metadata": {"ownerReferences": [*others, *([owner] if owner else [])] or None}})

    def refuse_leftover(self, body: Mapping[str, Any]) -> None:
        """Don't touch what Kubernetes is about to delete together with an earlier cluster of the same name.

        Raises:
            WaitingError: it is such an object.
        """
        meta = body["metadata"]
        stale = any(
            reference.get("kind") == self.cluster.key.kind and reference.get("uid") != self.cluster.uid
            for reference in meta.get("ownerReferences") or ()
        )
        if stale or "deletionTimestamp" in meta:
            raise WaitingError(
                Reason.PROGRESSING,
                f"{body['kind']} {meta['name']} is being deleted; it is made anew when it is gone",
                retry_after=2.0,
            )

    def _remember(self, body: Body) -> Body:
        self._found[(body["kind"], body["metadata"]["name"])] = body
        return body
