"""``sluice status``: every object of Sluice in a namespace, whether it is ready, and if not, why."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from sluice.api.base import API_VERSION
from sluice.api.objects import KINDS
from sluice.cli.access import current_namespace, kubernetes

Body = Mapping[str, Any]


def run(namespace: str | None, everywhere: bool, context: str | None) -> int:
    """Show the objects of a namespace, or of all; the exit code says whether all are ready."""
    scope = None if everywhere else namespace or current_namespace(context)
    found = asyncio.run(_objects(scope, context))
    if not found:
        print("no object of Sluice " + ("anywhere" if scope is None else f"in namespace {scope}"))
        return 0
    Console().print(overview(found, with_namespace=everywhere))
    return 0 if all(ready(body).get("status") == "True" for body in found) else 1


def ready(body: Body) -> Mapping[str, Any]:
    """The condition Ready of an object; empty while there is none."""
    conditions = (body.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == "Ready"), {})


def overview(found: Sequence[Body], *, with_namespace: bool) -> Table:
    """A row for each object."""
    table = Table(*(["NAMESPACE"] if with_namespace else []), "KIND", "NAME", "READY", "REASON", "MESSAGE", box=None)
    for body in found:
        condition = ready(body)
        metadata = body["metadata"]
        table.add_row(
            *([metadata["namespace"]] if with_namespace else []),
            body["kind"],
            metadata["name"],
            condition.get("status", "Unknown"),
            condition.get("reason", "Waiting"),
            condition.get("message", "the operator hasn't looked at it yet"),
        )
    return table


async def _objects(namespace: str | None, context: str | None) -> list[Body]:
    async with kubernetes(context) as kube:
        # One after the other: five small lists, in the order of the kinds.
        return [body for kind in KINDS for body in await kube.list(API_VERSION, kind, namespace)]
