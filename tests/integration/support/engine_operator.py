"""The operator's process with one trivial reconciler: a Topic has a ConfigMap of its name, as long as it exists.

It stands for every reconciler: it holds a finalizer, makes something outside, writes status, and undoes what it made.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sluice.api.objects import Key
from sluice.engine import status
from sluice.engine.finalizers import hold, let_go
from sluice.engine.reconciler import Context, Outcome, Reconciler
from sluice.handlers.process import run
from sluice.handlers.startup import Operator
from sluice.kube.errors import ConflictError


class MirrorReconciler:
    """Mirrors Topics by ConfigMaps that name the replica which made them."""

    kind = "Topic"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._quarrels: dict[Key, int] = {}

    def lane(self, key: Key) -> str:
        """One lane for each first letter."""
        return key.name[0]

    async def reconcile(self, keys: Sequence[Key]) -> Mapping[Key, Outcome | Exception]:
        """See `sluice.engine.reconciler.Reconciler`."""
        results: dict[Key, Outcome | Exception] = {}
        for key in keys:
            try:
                results[key] = await self._one(key)
            except Exception as error:  # noqa: BLE001 - as every reconciler: one key's trouble is its own
                results[key] = error
        return results

    async def _one(self, key: Key) -> Outcome:
        kube = self._context.kube
        topic = self._context.index.resource(key)
        if topic is None:
            return Outcome()
        if topic.deleting:
            await kube.delete("v1", "ConfigMap", key.namespace, key.name)
            await let_go(self._context, topic)
            return Outcome()
        if key.name.startswith("quarrel") and self._quarrels.setdefault(key, 0) < 2:
            self._quarrels[key] += 1
            raise ConflictError(409, "Conflict", "somebody else has written")
        await hold(self._context, topic)
        if await kube.get("v1", "ConfigMap", key.namespace, key.name) is None:
            body: dict[str, Any] = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": key.name, "namespace": key.namespace},
                "data": {"madeBy": self._context.settings.identity},
            }
            await kube.create(body)
        conditions = status.ready(topic, self._context.clock())
        await status.write_conditions(self._context, topic, conditions)
        return Outcome()


class MirrorOperator(Operator):
    """The operator with only that reconciler."""

    def reconcilers(self) -> list[Reconciler]:
        """The trivial one."""
        return [MirrorReconciler(self.context)]


if __name__ == "__main__":
    sys.exit(run(MirrorOperator))
