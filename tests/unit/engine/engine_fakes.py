"""What the engine's unit tests stand on: an API server of one page, and a context around it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sluice.api.objects import Key, key_of
from sluice.engine.clusters import Clusters
from sluice.engine.index import Index
from sluice.engine.reconciler import Context
from sluice.engine.settings import Settings
from sluice.kube.client import Listing
from sluice.kube.errors import ConflictError, KubeError, NotFoundError, UnavailableError
from sluice.observability.events import Events
from sluice.observability.metrics import Metrics

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def topic(name: str, *, uid: str = "", version: int = 1, generation: int = 1, **meta: Any) -> dict[str, Any]:
    """A Topic as the API server shows it."""
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "Topic",
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
            "generation": generation,
            "creationTimestamp": "2026-11-23T00:00:00Z",
            **meta,
        },
        "spec": {"clusterRef": {"name": "demo"}},
    }


def topic_key(name: str) -> Key:
    """Key of such a Topic."""
    return Key("Topic", "ns", name)


@dataclass
class FakeKube:
    """The few rules of an API server that the engine relies on: versions, preconditions, merge patches."""

    objects: dict[Key, dict[str, Any]] = field(default_factory=dict)
    writes: list[tuple[str, Key, Any]] = field(default_factory=list)
    version: int = 100
    before_patch: Callable[[], None] | None = None
    refused: dict[Key, KubeError] = field(default_factory=dict)
    """What patches of an object are answered."""
    unreachable: int = 0
    """How many of the next LISTs aren't answered."""

    def put(self, body: dict[str, Any]) -> dict[str, Any]:
        """Store an object as another client would."""
        self.version += 1
        body = copy.deepcopy(body)
        body["metadata"]["resourceVersion"] = str(self.version)
        self.objects[_key(body)] = body
        return copy.deepcopy(body)

    async def get(self, api_version: str, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        found = self.objects.get(Key(kind, namespace or "", name))
        return copy.deepcopy(found) if found else None

    async def listing(self, api_version: str, kind: str, namespace: str | None = None) -> Listing:
        found = [copy.deepcopy(b) for k, b in self.objects.items() if k.kind == kind]
        if self.unreachable:
            self.unreachable -= 1
            raise UnavailableError(0, "Unreachable", "no answer")
        return Listing(found, self.version)

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.writes.append(("create", _key(body), body))
        return dict(body)

    async def patch(
        self,
        api_version: str,
        kind: str,
        namespace: str | None,
        name: str,
        patch: Mapping[str, Any],
        *,
        subresource: str | None = None,
    ) -> dict[str, Any]:
        if self.before_patch:
            act, self.before_patch = self.before_patch, None
            act()
        key = Key(kind, namespace or "", name)
        if key in self.refused:
            raise self.refused[key]
        if key not in self.objects:
            raise NotFoundError(404, "NotFound", f"{key} not found")
        stored = self.objects[key]
        for precondition in ("uid", "resourceVersion"):
            wanted = patch.get("metadata", {}).get(precondition)
            if wanted is not None and wanted != stored["metadata"][precondition]:
                raise ConflictError(409, "Conflict", f"{key}: {precondition} differs")
        self.writes.append(("patch", key, patch))
        _merge(stored, {k: v for k, v in patch.items() if k != "metadata"})
        meta = {k: v for k, v in patch.get("metadata", {}).items() if k not in ("uid", "resourceVersion")}
        _merge(stored["metadata"], meta)
        self.version += 1
        stored["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(stored)


def make_context(kube: FakeKube) -> Context:
    """A context over the fake, with everything else real."""
    index = Index()
    client: Any = kube
    return Context(
        kube=client,
        clusters=Clusters(client, index, lambda _: _no_kafka()),
        index=index,
        events=Events(kube, instance="test"),
        metrics=Metrics(),
        settings=Settings(namespace="sluice", identity="test"),
        clock=lambda: NOW,
        enqueue=lambda _: None,
        fence=lambda: None,
    )


async def until(holds: Callable[[], bool]) -> None:
    """Let others run until something holds, which takes no time worth speaking of."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0)


def _no_kafka() -> Any:
    raise AssertionError("no Kafka here")


def _key(body: Mapping[str, Any]) -> Key:
    meta = body["metadata"]
    return key_of(body) if "namespace" in meta else Key(body["kind"], "", meta["name"])


def _merge(target: dict[str, Any], patch: Mapping[str, Any]) -> None:
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        else:
            target[name] = copy.deepcopy(value)
