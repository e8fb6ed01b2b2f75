"""Kubernetes objects of one MessagingCluster: listed once a reconciliation, written only where they differ."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def _refusals(body: Mapping[str, Any]) -> Iterator[None]:
    """What the API server doesn't take comes from the spec: trying it again doesn't help."""
    try:
        yield
    except InvalidError as error:
        raise UserError(
            Reason.INVALID_SPEC,
            f"Kubernetes refuses the {body['kind']} {body['metadata']['name']} that the spec asks for; correct what it "
            f"names: {error}",
        ) from error


class ClusterObjects:
    """What exists of a cluster, and the writes to it."""

    def __init__(self, kube: Kube, cluster: Cluster) -> None:
        self.kube = kube
        self.cluster = cluster
        self._found: dict[tuple[str, str], Body] = {}
        ours = labels.of_cluster(cluster.name)
        self._marks = {key: ours[key] for key in (labels.NAME, labels.MANAGED_BY, labels.CLUSTER)}

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
            for body in filter(self.is_ours, bodies):
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
            UserError: the API server refuses what the spec makes of it, or it is somebody else's.
        """
        kind, name = desired["kind"], desired["metadata"]["name"]
        actual = self.get(kind, name)
        if actual is None:
            # (What was listed has our labels: somebody else's of the same name isn't among it.)
            actual = await self.kube.get(desired["apiVersion"], kind, self.cluster.namespace, name)
        if actual is not None:
            self.refuse_foreign(actual)
            if actual is desired or desired.get("immutable") is True or not differs(desired, actual, FIELD_MANAGER):
                return actual
        with _refusals(desired):
            return self._remember(await self.kube.apply(desired))

    async def create(self, body: Mapping[str, Any]) -> Body:
        """Create an object that is never applied over, or read the one that somebody has made meanwhile.

        Raises:
            WaitingError, UserError: as with ``ensure``.
        """
        with _refusals(body):
            made, _ = await self.kube.create_if_absent(body)
        self.refuse_foreign(made)
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
        self.refuse_foreign(body)
        owner = self.retained_owner()
        references = body["metadata"].get("ownerReferences") or []
        others = [reference for reference in references if reference.get("uid") != self.cluster.uid]
        owned = len(others) != len(references)
        if owned == (owner is not None):
            return body
        return await self.patch(body, {"metadata": {"ownerReferences": [*others, *([owner] if owner else [])] or None}})

    def is_ours(self, body: Mapping[str, Any]) -> bool:
        """Whether an object was made for this cluster or an earlier one of the same name: by its labels or owner."""
        meta = body["metadata"]
        marks = meta.get("labels") or {}
        return self._marks.items() <= marks.items() or any(
            reference.get("uid") == self.cluster.uid for reference in meta.get("ownerReferences") or ()
        )

    def refuse_foreign(self, body: Mapping[str, Any]) -> None:
        """Don't touch what isn't ours, nor what Kubernetes is about to delete together with an earlier cluster.

        Raises:
            WaitingError: it was an earlier cluster's of the same name, and goes.
            UserError: it is somebody else's.
        """
        meta = body["metadata"]
        if not self.is_ours(body):
            what, marks = f"{body['kind']} {meta['name']}", ",".join(f"{k}={v}" for k, v in self._marks.items())
            raise UserError(
                Reason.CONFLICT,
                f"{what} is there already and isn't this cluster's, which needs one of that name; nothing was changed. "
                f"Rename or delete it, or give the cluster another name; if it may be taken over, label it {marks}",
            )
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
