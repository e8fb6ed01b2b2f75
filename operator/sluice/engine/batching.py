"""Doing the same for many objects: side by side, but not all at once, and each with its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from sluice.api.base import API_VERSION
from sluice.api.objects import InvalidSpecError, Key, Resource, key_of
from sluice.engine.errors import ChangedError, NotLeaderError
from sluice.engine.finalizers import fresh
from sluice.engine.reconciler import Context

AnyResource = Resource[Any, Any]
ResourceT = TypeVar("ResourceT", bound=AnyResource)
T = TypeVar("T")
R = TypeVar("R")

SIDE_BY_SIDE: Final = 16
LIST_FROM: Final = 20
"""From this many objects of a namespace on, one LIST is cheaper than a GET for each."""


async def each(items: Iterable[T], call: Callable[[T], Awaitable[R]], limit: int = SIDE_BY_SIDE) -> list[R | Exception]:
    """Results of ``call`` in the order of ``items``, exceptions in their place; at most ``limit`` run at a time.

    Raises:
        NotLeaderError: we may no longer act: nothing else is started.
    """
    gate = asyncio.Semaphore(limit)

    async def one(item: T) -> R | Exception:
        async with gate:
            try:
                return await call(item)
            except NotLeaderError:
                raise
            except Exception as error:  # noqa: BLE001 - it is the outcome of this item, for the caller to report
                return error

    return await asyncio.gather(*(one(item) for item in items))


async def confirm(context: Context, resources: Sequence[AnyResource]) -> dict[Key, Exception]:
    """Ask the API server whether objects still are what we know; those that aren't, with a `ChangedError`.

    To be asked before anything is made or destroyed outside Kubernetes: our index may lag behind.
    """
    changed: dict[Key, Exception] = {}
    by_namespace: dict[str, list[AnyResource]] = {}
    for resource in resources:
        by_namespace.setdefault(resource.namespace, []).append(resource)
    for namespace, mine in by_namespace.items():
        if len(mine) < LIST_FROM:
            answers = await each(mine, lambda resource: fresh(context, resource))
            changed |= {
                resource.key: answer
                for resource, answer in zip(mine, answers, strict=True)
                if isinstance(answer, Exception)
            }
            continue
        listed = {key_of(body): body for body in await context.kube.list(API_VERSION, mine[0].key.kind, namespace)}
        for resource in mine:
            body = listed.get(resource.key)
            metadata = body["metadata"] if body else {}
            if metadata.get("uid") != resource.uid:
                context.index.remove(resource.key, resource.uid)
            elif metadata.get("generation", 1) == resource.generation and (
                ("deletionTimestamp" in metadata) == resource.deleting
            ):
                continue
            if body is not None:
                context.index.put(body)
            changed[resource.key] = ChangedError(str(resource.key))
    return changed


def readable(context: Context, key: Key) -> AnyResource | None:
    """The object as it is known; None if there is none, or if its spec can't be read (the engine tells it then)."""
    try:
        return context.index.resource(key)
    except InvalidSpecError:
        return None


def referred(body: Mapping[str, Any]) -> Key:
    """Key of the MessagingCluster that a body refers to."""
    reference = body["spec"].get("clusterRef") or {}
    namespace = reference.get("namespace") or body["metadata"]["namespace"]
    return Key("MessagingCluster", namespace, reference.get("name", ""))


def lane_of(cluster: Key, body: Mapping[str, Any] | None) -> str:
    """One lane a cluster, and one for objects that go: what waits for a silent broker must not hold them up."""
    leaving = body is not None and "deletionTimestamp" in body["metadata"]
    return f"{cluster}, leaving" if leaving else str(cluster)
