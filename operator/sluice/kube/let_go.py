"""``python -m sluice.kube.let_go``: removes the operator's finalizers from every object, once the operator is gone.

The chart runs it after `helm uninstall`. Without it, an object deleted later, and its namespace with it, would wait for
ever for an operator that no longer exists. Nothing in Kafka is touched; an operator that is installed again puts its
finalizers back.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any, Final

from sluice.api.base import API_VERSION, GROUP
from sluice.api.objects import KINDS, key_of
from sluice.kube.client import Kube
from sluice.kube.errors import ConflictError, NotFoundError

_LOG: Final = logging.getLogger(__name__)
_PREFIX: Final = f"{GROUP}/"


async def let_go(kube: Kube, namespaces: tuple[str, ...] = ()) -> int:
    """Remove the finalizers from the objects of some namespaces, or of all; returns how many objects had one."""
    count = 0
    for kind in KINDS:
        for namespace in namespaces or (None,):
            for body in await kube.list(API_VERSION, kind, namespace):
                count += await _let_one_go(kube, body)
    return count


async def _let_one_go(kube: Kube, body: dict[str, Any]) -> bool:
    key = key_of(body)
    current: dict[str, Any] | None = body
    while current is not None:
        metadata = current["metadata"]
        finalizers = metadata.get("finalizers") or []
        kept = [name for name in finalizers if not name.startswith(_PREFIX)]
        if kept == finalizers:
            return False
        # The version makes sure that nobody else's finalizer, added meanwhile, is removed.
        patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": kept}}
        try:
            await kube.patch(API_VERSION, key.kind, key.namespace, key.name, patch)
        except ConflictError:
            current = await kube.get(API_VERSION, key.kind, key.namespace, key.name)
            continue
        except NotFoundError:
            return False
        _LOG.info("%s has no finalizer of the operator any more", key)
        return True
    return False


async def main() -> None:
    """Entry of the command; namespaces come from ``SLUICE_WATCH_NAMESPACES``, as the operator's do."""
    watched = os.environ.get("SLUICE_WATCH_NAMESPACES", "")
    kube = await Kube.connect()
    try:
        count = await let_go(kube, tuple(name for name in watched.split(",") if name))
    finally:
        await kube.close()
    _LOG.info("%d objects let go", count)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asyncio.run(main())
