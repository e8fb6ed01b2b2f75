"""Whose a thing in Kafka is, when more than one object claims it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sluice.api.objects import Cluster, Key, key_of
from sluice.plan.admission import allows_namespace

Body = Mapping[str, Any]


def owners(bodies: Iterable[Body], cluster: Cluster, name_of: Callable[[Body], str]) -> dict[str, Key]:
    """The object that each name in Kafka belongs to: the one that was made first.

    Of those made in one second it is the first by namespace and name. Objects of namespaces that the cluster doesn't
    allow claim nothing. Only metadata is looked at, so an object whose spec can't be read keeps what it has.
    """
    first: dict[str, Body] = {}
    for body in bodies:
        if allows_namespace(cluster, body["metadata"]["namespace"]):
            name = name_of(body)
            first[name] = min(first.get(name, body), body, key=_age)
    return {name: key_of(body) for name, body in first.items()}


def _age(body: Body) -> tuple[str, str, str]:
    metadata = body["metadata"]
    return metadata["creationTimestamp"], metadata["namespace"], metadata["name"]
