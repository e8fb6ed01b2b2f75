"""Which clusters are probed, and through which brokers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from sluice.api.objects import Cluster, Key, parse
from sluice.engine.errors import ClusterNotReadyError
from sluice.engine.probing import Probing
from sluice.kafka.connection import ConnectionSettings

KEY = Key("MessagingCluster", "ns", "demo")
SETTINGS = ConnectionSettings(("k:9092",))


class Recorder:
    """Stands for the prober, the registry and an admin client."""

    settings = SETTINGS

    def __init__(self) -> None:
        self.updates: list[tuple[Key, ConnectionSettings | None, float, list[int]]] = []
        self.reachable = True

    def update(
        self, cluster: Key, settings: ConnectionSettings | None, interval: float, brokers: Sequence[int]
    ) -> None:
        self.updates.append((cluster, settings, interval, list(brokers)))

    async def admin_of(self, _: Key) -> Any:
        if not self.reachable:
            raise ClusterNotReadyError("ns", "demo", "no Secret")
        return self

    async def describe_cluster(self) -> Any:
        return SimpleNamespace(brokers=[SimpleNamespace(id=7), SimpleNamespace(id=8)])


def cluster(spec: dict[str, Any], nodes: Sequence[dict[str, Any]] = ()) -> Cluster:
    """A MessagingCluster."""
    metadata = {"namespace": "ns", "name": "demo", "uid": "u", "creationTimestamp": "2026-11-23T00:00:00Z"}
    return parse({"kind": KEY.kind, "metadata": metadata, "spec": spec, "status": {"nodes": list(nodes)}})


def node(number: int, pool: str) -> dict[str, Any]:
    return {"id": number, "name": f"n{number}", "pool": pool, "ready": True, "current": True}


async def told(probed: Cluster, *, reachable: bool = True) -> Any:
    """What the prober is told about a cluster."""
    recorder = Recorder()
    recorder.reachable = reachable
    anything: Any = recorder
    probing = Probing(anything, anything)
    probing.update(probed)
    await asyncio.gather(*probing._updates.values())
    return recorder.updates


EXTERNAL: dict[str, Any] = {"external": {"bootstrapServers": ["k:9092"]}}


async def test_own_clusters_are_probed_through_the_brokers_they_should_have() -> None:
    pools = [
        {"name": "ctl", "roles": ["controller"], "replicas": 1, "storage": {"size": "1Gi"}},
        {"name": "brk", "roles": ["broker"], "replicas": 2, "storage": {"size": "1Gi"}},
    ]
    own = cluster({"nodePools": pools}, [node(0, "ctl"), node(100, "brk"), node(101, "brk")])
    assert await told(own) == [(KEY, SETTINGS, 5.0, [100, 101])]


async def test_external_clusters_are_probed_through_the_brokers_they_have() -> None:
    assert await told(cluster({**EXTERNAL, "probe": {"intervalSeconds": 30}})) == [(KEY, SETTINGS, 30.0, [7, 8])]


async def test_who_wants_no_probe_has_none() -> None:
    assert await told(cluster({**EXTERNAL, "probe": {"enabled": False}})) == [(KEY, None, 0.0, [])]


async def test_a_cluster_out_of_reach_is_probed_as_before() -> None:
    assert await told(cluster(EXTERNAL), reachable=False) == []


async def test_a_cluster_that_is_gone_is_probed_no_more() -> None:
    recorder: Any = Recorder()
    probing = Probing(recorder, recorder)
    probing.update(cluster(EXTERNAL))
    probing.forget(KEY)
    await probing.stop()
    assert recorder.updates == [(KEY, None, 0.0, [])]
