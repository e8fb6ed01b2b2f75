"""Whose a thing in Kafka is, when more than one object claims it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from sluice.api.objects import Resource

ResourceT = TypeVar("ResourceT", bound=Resource[Any, Any])


def oldest(claims: Iterable[ResourceT]) -> ResourceT:
    """The object that was made first; of those made in one second, the first by namespace and name."""
    return min(claims, key=lambda resource: (resource.created, resource.namespace, resource.name))
