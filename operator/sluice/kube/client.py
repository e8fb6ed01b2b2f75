"""One small async client of the Kubernetes API: dicts in, dicts out, errors classified, writes fenced.

It stands on ``kubernetes.aio``'s configuration and HTTP layer only: models of the API are never built, which keeps
the operator's memory small.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import load_incluster_config, load_kube_config, refresh_token
from kubernetes.aio.config.kube_config import KubeConfigLoader

from sluice.api.base import FIELD_MANAGER
from sluice.kube.compare import differs
from sluice.kube.errors import AlreadyExistsError, NotFoundError, UnavailableError, error_from

Body = dict[str, Any]

_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)
_PAGE: Final = 500

PLURALS: Final[dict[str, tuple[str, bool]]] = {
    # kind: (plural, namespaced)
    "MessagingCluster": ("messagingclusters", True),
    "Topic": ("topics", True),
    "ConsumerGroup": ("consumergroups", True),
    "ReplayJob": ("replayjobs", True),
    "User": ("users", True),
    "ConfigMap": ("configmaps", True),
    "EndpointSlice": ("endpointslices", True),
    "Event": ("events", True),
    "Job": ("jobs", True),
    "Lease": ("leases", True),
    "NetworkPolicy": ("networkpolicies", True),
    "PersistentVolumeClaim": ("persistentvolumeclaims", True),
    "Pod": ("pods", True),
    "PodDisruptionBudget": ("poddisruptionbudgets", True),
    "Role": ("roles", True),
    "RoleBinding": ("rolebindings", True),
    "Secret": ("secrets", True),
    "Service": ("services", True),
    "ServiceAccount": ("serviceaccounts", True),
    "Deployment": ("deployments", True),
    "StatefulSet": ("statefulsets", True),
    "CustomResourceDefinition": ("customresourcedefinitions", False),
    "MutatingWebhookConfiguration": ("mutatingwebhookconfigurations", False),
    "Namespace": ("namespaces", False),
    "Node": ("nodes", False),
    "PersistentVolume": ("persistentvolumes", False),
    "SelfSubjectAccessReview": ("selfsubjectaccessreviews", False),
    "StorageClass": ("storageclasses", False),
    "SubjectAccessReview": ("subjectaccessreviews", False),
    "TokenReview": ("tokenreviews", False),
    "ValidatingWebhookConfiguration": ("validatingwebhookconfigurations", False),
}
"""Plural and scope of every kind that Sluice touches: a table costs no discovery."""


def path_of(api_version: str, kind: str, namespace: str | None, name: str | None = None) -> str:
    """Path of an object, or of a collection where ``name`` is left out."""
    plural, namespaced = PLURALS[kind]
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    scope = f"/namespaces/{quote(namespace)}" if namespaced and namespace else ""
    return f"{root}{scope}/{plural}" + (f"/{quote(name)}" if name else "")


class Listing(NamedTuple):
    """What a LIST has found, and when: what isn't in it was gone by then, or is newer."""

    bodies: list[Body]
    version: int


def version_of(metadata: Mapping[str, Any]) -> int:
    """Resource version of an object or a list; zero for one that isn't a number.

    Of one kind they can be compared: since Kubernetes 1.35 it is a promise that they are integers in the order of the
    writes (KEP-5504), and it was so before.
    """
    version = metadata.get("resourceVersion", "")
    return int(version) if version.isdigit() else 0


def _no_fence() -> None:
    """For clients that act for a human, not for a leader."""


def _no_count(verb: str, kind: str, code: str) -> None:
    """For clients whose requests nobody counts."""


class Kube:
    """Client of one API server.

    Every request is counted by ``count(verb, kind, code)``; every write asks ``fence()`` first, which raises
    when this process may not act (it isn't the leader).

    All methods raise the errors of :mod:`sluice.kube.errors`.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        fence: Callable[[], None] = _no_fence,
        count: Callable[[str, str, str], None] = _no_count,
        field_manager: str = FIELD_MANAGER,
    ) -> None:
        self._configuration = configuration
        self._rest = RESTClientObject(configuration)
        self._fence = fence
        self._count = count
        self._manager = field_manager
        self._refresher: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        *,
        kubeconfig: str | None = None,
        context: str | None = None,
        fence: Callable[[], None] = _no_fence,
        count: Callable[[str, str, str], None] = _no_count,
        field_manager: str = FIELD_MANAGER,
    ) -> Kube:
        """Client for the cluster that this pod runs in, or that the kubeconfig (``KUBECONFIG``) names."""
        configuration = Configuration()
        loader: KubeConfigLoader | None = None
        if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            load_incluster_config(client_configuration=configuration)
        else:
            loader = await load_kube_config(
                config_file=kubeconfig, context=context, client_configuration=configuration, persist_config=False
            )
        client = cls(configuration, fence=fence, count=count, field_manager=field_manager)
        if loader is not None and "exec" in (loader._user or {}):
            client._refresher = asyncio.create_task(refresh_token(loader, configuration), name="kubeconfig token")
        return client

    async def close(self) -> None:
        """Close the connections."""
        if self._refresher is not None:
            self._refresher.cancel()
        await self._rest.close()

    def fenced(self, fence: Callable[[], None]) -> Kube:
        """This client, over the same connections, with another fence."""
        twin = Kube.__new__(Kube)
        twin.__dict__.update(self.__dict__)
        twin._fence = fence
        return twin

    async def get(self, api_version: str, kind: str, namespace: str | None, name: str) -> Body | None:
        """The object, or None if there is none."""
        try:
            return await self._request("GET", kind, path_of(api_version, kind, namespace, name))
        except NotFoundError:
            return None

    async def list(
        self, api_version: str, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Body]:
        """All objects, of one namespace or of all, that have the labels (value ``*``: the label with any value)."""
        return (await self.listing(api_version, kind, namespace, labels)).bodies

    async def listing(
        self, api_version: str, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Listing:
        """What ``list`` finds, with the version of the whole (which is the same on all its pages)."""
        query: dict[str, str] = {"limit": str(_PAGE)}
        if labels:
            query["labelSelector"] = ",".join(k if v == "*" else f"{k}={v}" for k, v in labels.items())
        bodies = []
        while True:
            page = await self._request("LIST", kind, path_of(api_version, kind, namespace), query=query)
            # Items of a list come without these two.
            bodies += [{"apiVersion": api_version, "kind": kind, **item} for item in page.get("items") or ()]
            token = page["metadata"].get("continue")
            if not token:
                return Listing(bodies, version_of(page["metadata"]))
            query["continue"] = token

    async def create(self, body: Mapping[str, Any]) -> Body:
        """Create the object.

        Raises:
            AlreadyExistsError: one of that name is there.
        """
        self._fence()
        query = {"fieldManager": self._manager}
        return await self._request("POST", body["kind"], self._path(body, named=False), query=query, body=body)

    async def apply(self, body: Mapping[str, Any]) -> Body:
        """Server-side apply, forced: fields in ``body`` become ours, fields that we no longer name are removed."""
        self._fence()
        query = {"fieldManager": self._manager, "force": "true"}
        return await self._request(
            "PATCH", body["kind"], self._path(body), query=query, body=body, content="application/apply-patch+yaml"
        )

    async def ensure(self, desired: Mapping[str, Any]) -> bool:
        """Make the object be as desired; True if something had to be written.

        An object that has everything desired, and nothing of ours that is no longer desired, is left alone.
        """
        meta = desired["metadata"]
        actual = await self.get(desired["apiVersion"], desired["kind"], meta.get("namespace"), meta["name"])
        if actual is not None and not differs(desired, actual, self._manager):
            return False
        written = await self.apply(desired)
        # The server normalises some values (quantities): an apply that changed nothing keeps the version.
        return actual is None or written["metadata"]["resourceVersion"] != actual["metadata"]["resourceVersion"]

    async def patch(
        self,
        api_version: str,
        kind: str,
        namespace: str | None,
        name: str,
        patch: Mapping[str, Any],
        *,
        subresource: str | None = None,
    ) -> Body:
        """JSON merge patch (RFC 7386). ``metadata.uid`` and ``metadata.resourceVersion`` in it are preconditions.

        Raises:
            NotFoundError: there is no such object.
            ConflictError: a precondition doesn't hold.
        """
        self._fence()
        path = path_of(api_version, kind, namespace, name) + (f"/{subresource}" if subresource else "")
        query = {"fieldManager": self._manager}
        return await self._request("PATCH", kind, path, query=query, body=patch, content="application/merge-patch+json")

    async def delete(
        self, api_version: str, kind: str, namespace: str | None, name: str, *, uid: str | None = None
    ) -> bool:
        """Delete the object (and, in the background, what it owns); False if it wasn't there.

        Raises:
            ConflictError: its UID isn't ``uid``.
        """
        self._fence()
        options: Body = {"propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            await self._request("DELETE", kind, path_of(api_version, kind, namespace, name), body=options)
        except NotFoundError:
            return False
        return True

    async def served_kinds(self, api_version: str) -> set[str]:
        """Kinds that the API server serves in this version of a group; none if it doesn't know the group."""
        try:
            resources = await self._request("GET", "APIResourceList", f"/apis/{api_version}")
        except NotFoundError:
            return set()
        return {resource["kind"] for resource in resources.get("resources") or ()}

    async def create_if_absent(self, body: Mapping[str, Any]) -> tuple[Body, bool]:
        """Create the object, or read the one that another has made: (object, whether it was made now)."""
        meta = body["metadata"]
        while True:
            try:
                return await self.create(body), True
            except AlreadyExistsError:
                found = await self.get(body["apiVersion"], body["kind"], meta.get("namespace"), meta["name"])
                if found is not None:
                    return found, False

    def _path(self, body: Mapping[str, Any], *, named: bool = True) -> str:
        meta = body.get("metadata") or {}
        return path_of(body["apiVersion"], body["kind"], meta.get("namespace"), meta["name"] if named else None)

    async def _request(
        self,
        verb: str,
        kind: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> Body:
        method = "GET" if verb == "LIST" else verb
        headers = {"Accept": "application/json", "Content-Type": content, "User-Agent": f"sluice/{self._manager}"}
        # Tokens in files rotate; the configuration's hook reads them again when it is time.
        token = await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            headers["Authorization"] = token
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        code = 0
        try:
            response = await self._rest.request(method, url, headers=headers, body=body, _request_timeout=_TIMEOUT)
            code = response.status
            data: bytes = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            message = f"{verb} {path}: the Kubernetes API server doesn't answer: {error or type(error).__name__}"
            raise UnavailableError(0, "Unreachable", message) from error
        finally:
            self._count(verb, kind, str(code))
        if not 200 <= code < 300:
            raise error_from(code, data.decode("utf-8", "replace"), f"{verb} {path}")
        result: Body = json.loads(data)
        return result
