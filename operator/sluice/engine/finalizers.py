"""Finalizers: held while there are effects outside Kubernetes to undo, and let go when nothing can be undone."""

from __future__ import annotations

from typing import Any

from sluice.api.base import API_VERSION, GROUP
from sluice.api.objects import Key, Resource, parse
from sluice.engine.errors import ChangedError
from sluice.engine.reconciler import Context
from sluice.kube.errors import ConflictError, NotFoundError

AnyResource = Resource[Any, Any]


def finalizer_of(kind: str) -> str:
    """Name of the finalizer of a kind."""
    return f"{GROUP}/{kind.lower()}"


async def hold(context: Context, resource: AnyResource) -> None:
    """Make sure that the object has the finalizer before anything is made for it outside Kubernetes.

    Raises:
        ChangedError: the object is gone, is being deleted, or is another one now.
    """
    name = finalizer_of(resource.key.kind)
    if name not in resource.finalizers:
        await _change(context, resource, add=name)


async def let_go(context: Context, resource: AnyResource) -> None:
    """Remove the finalizer, if the object (still) has it."""
    name = finalizer_of(resource.key.kind)
    if name in resource.finalizers:
        await _change(context, resource, remove=name)


async def fresh(context: Context, resource: AnyResource) -> AnyResource:
    """The object as the API server has it now; to be asked before anything is created or destroyed outside.

    Raises:
        ChangedError: it is gone, is another one of the same name, or its spec or deletion differs from what was known.
        InvalidSpecError: its spec can't be read.
    """
    key = resource.key
    body = await context.kube.get(API_VERSION, key.kind, key.namespace, key.name)
    if body is None or body["metadata"]["uid"] != resource.uid:
        context.index.remove(key, resource.uid)
        raise ChangedError(str(key))
    context.index.put(body)
    current = parse(body)
    if current.generation != resource.generation or current.deleting != resource.deleting:
        raise ChangedError(str(key))
    return current


async def nothing_to_undo(context: Context, cluster: Key, namespace: str) -> bool:
    """Whether the finalizer of an object in ``namespace`` that refers to ``cluster`` should let go as it is.

    That is when the MessagingCluster is gone or being deleted, or when the namespace is terminating: then Kafka may
    be dead already, and waiting for it would wedge the deletion.
    """
    body = await context.kube.get(API_VERSION, cluster.kind, cluster.namespace, cluster.name)
    if body is None or "deletionTimestamp" in body["metadata"]:
        return True
    space = await context.kube.get("v1", "Namespace", None, namespace)
    return space is None or "deletionTimestamp" in space["metadata"]


async def _change(
    context: Context, resource: AnyResource, *, add: str | None = None, remove: str | None = None
) -> None:
    """Change the list of finalizers without touching others', whatever happens at the same time."""
    key = resource.key
    for _ in range(5):
        body = await context.kube.get(API_VERSION, key.kind, key.namespace, key.name)
        if body is None or body["metadata"]["uid"] != resource.uid:
            context.index.remove(key, resource.uid)
            if remove:
                return
            raise ChangedError(str(key))
        context.index.put(body)
        meta = body["metadata"]
        if add and "deletionTimestamp" in meta:
            raise ChangedError(str(key))
        names = [n for n in meta.get("finalizers") or () if n != remove]
        if add and add not in names:
            names.append(add)
        if names == (meta.get("finalizers") or []):
            return
        patch = {"metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"], "finalizers": names}}
        try:
            written = await context.kube.patch(API_VERSION, key.kind, key.namespace, key.name, patch)
        except ConflictError:
            continue
        except NotFoundError:
            context.index.remove(key, resource.uid)
            if remove:
                return
            raise ChangedError(str(key)) from None
        context.index.put(written, quietly=True)
        return
    raise ChangedError(str(key))
