"""The engine on a real API server: what it writes, what it notices, who acts, and what it admits."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sluice.api.base import API_VERSION
from sluice.api.crd import crds
from sluice.api.objects import KINDS
from sluice.engine.index import Index
from sluice.engine.resync import Resync
from sluice.engine.workers import Workers
from sluice.kube.client import Kube
from tests.integration.support.replica import LEASE_SECONDS, Replica, eventually, running_replica

MANY = 200


class World:
    """A namespace on the API server, and the operators that look after it."""

    def __init__(self, kube: Kube, kubeconfig: Path, namespace: str, logs: Path) -> None:
        self.kube = kube
        self.namespace = namespace
        self._kubeconfig = kubeconfig
        self._logs = logs

    def operator(self, identity: str = "one", lease_seconds: int = LEASE_SECONDS) -> AbstractContextManager[Replica]:
        """A replica, ended by SIGTERM if it still runs."""
        return running_replica(self._kubeconfig, self.namespace, self._logs, identity, lease_seconds)

    async def apply(self, *names: str, **spec: Any) -> None:
        """Apply Topics as a user does."""
        limit = asyncio.Semaphore(20)

        async def one(name: str) -> None:
            async with limit:
                await self.kube.apply(
                    {
                        "apiVersion": API_VERSION,
                        "kind": "Topic",
                        "metadata": {"name": name, "namespace": self.namespace},
                        "spec": {"clusterRef": {"name": "demo"}, **spec},
                    }
                )

        await asyncio.gather(*map(one, names))

    async def delete(self, name: str) -> None:
        """Delete a Topic as a user does."""
        await self.kube.delete(API_VERSION, "Topic", self.namespace, name)

    async def topics(self) -> dict[str, dict[str, Any]]:
        """Topics by name."""
        listed = await self.kube.list(API_VERSION, "Topic", self.namespace)
        return {body["metadata"]["name"]: body for body in listed}

    async def versions(self) -> dict[str, str]:
        """Resource version of each Topic."""
        return {name: body["metadata"]["resourceVersion"] for name, body in (await self.topics()).items()}

    async def ready_count(self) -> int:
        """Number of Topics that are Ready."""
        ready = 0
        for body in (await self.topics()).values():
            conditions = body.get("status", {}).get("conditions", [])
            ready += any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        return ready

    async def made_by(self, name: str) -> str | None:
        """Which replica made the ConfigMap of a Topic; None if there is none."""
        found = await self.kube.get("v1", "ConfigMap", self.namespace, name)
        return found["data"]["madeBy"] if found else None


@pytest.fixture
async def world(kubeconfig: Path, tmp_path: Path) -> AsyncIterator[World]:
    """A namespace of this test, with the CRDs served."""
    kube = await Kube.connect(kubeconfig=str(kubeconfig), field_manager="test")
    for body in crds().values():
        await kube.apply(body)

    async def served() -> bool:
        return await kube.served_kinds(API_VERSION) >= set(KINDS)

    await eventually(served, "CRDs are served")
    namespace = f"engine-{os.urandom(4).hex()}"
    await kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    yield World(kube, kubeconfig, namespace, tmp_path)
    await kube.close()


async def test_unchanged_manifests_and_restarts_write_nothing(world: World) -> None:
    names = [f"{'abcd'[n % 4]}-{n}" for n in range(MANY)]
    with world.operator() as replica:
        await eventually(replica.ready, "the operator is ready")
        await world.apply(*names)

        async def all_done() -> bool:
            done = await replica.metric("sluice_reconciles_total", kind="Topic", outcome="success")
            return done >= MANY and await world.ready_count() == MANY

        await eventually(all_done, "all topics are Ready")
        versions, writes = await world.versions(), await replica.writes()
        await world.apply(*names)
        await asyncio.sleep(2)
        assert await world.versions() == versions
        assert await replica.writes() == writes
    assert replica.process.returncode == 0

    with world.operator() as restarted:
        await eventually(restarted.ready, "the operator is ready again")

        async def all_seen() -> bool:
            return await restarted.metric("sluice_reconciles_total", kind="Topic", outcome="success") >= MANY

        await eventually(all_seen, "all topics are looked at again")
        assert await restarted.writes() == 0
        assert await world.versions() == versions


async def test_a_deletion_while_no_operator_runs_is_noticed(world: World) -> None:
    with world.operator() as replica:
        await eventually(replica.ready, "the operator is ready")
        await world.apply("kept", "gone")

        async def both_ready() -> bool:
            return await world.ready_count() == 2

        await eventually(both_ready, "both are Ready")
    await world.delete("gone")
    assert set(await world.topics()) == {"kept", "gone"}, "the finalizer waits for the operator"
    with world.operator() as replica:

        async def undone() -> bool:
            return set(await world.topics()) == {"kept"} and await world.made_by("gone") is None

        await eventually(undone, "what was made is undone")
        assert await world.made_by("kept") == "one"


async def test_a_deletion_that_no_event_told_of_is_found_by_the_resync(world: World) -> None:
    await world.apply("kept", "gone")
    index, workers = Index(), Workers(concurrency=1, queue_limit=10)
    resync = Resync(world.kube, index, workers, namespaces=[world.namespace], interval=600)
    await resync.first()
    assert {key.name for key in index.keys("Topic")} == {"kept", "gone"}
    await world.delete("gone")
    assert await resync.once() == 1
    assert {key.name for key in index.keys("Topic")} == {"kept"}


async def test_only_the_leader_acts_and_another_follows_within_the_lease(world: World) -> None:
    with world.operator("one") as one, world.operator("two") as two:
        for replica in (one, two):
            await eventually(replica.ready, "both replicas are ready")

        async def somebody_leads() -> bool:
            return await one.leads() or await two.leads()

        await eventually(somebody_leads, "somebody leads")
        leader, follower = (one, two) if await one.leads() else (two, one)
        name = "one" if leader is one else "two"
        assert not await follower.leads()
        await world.apply(*(f"a-{n}" for n in range(10)))

        async def all_ready() -> bool:
            return await world.ready_count() == 10

        await eventually(all_ready, "all topics are Ready")
        assert {await world.made_by(f"a-{n}") for n in range(10)} == {name}
        assert await follower.writes() == 0 or await follower.metric(
            "sluice_kubernetes_requests_total", verb="POST", kind="Secret"
        )

        leader.process.kill()
        leader.process.wait()
        await world.apply("b-after")

        async def taken_over() -> str | None:
            return await world.made_by("b-after")

        actor = await eventually(taken_over, "the other replica acts")
        assert actor == ("two" if name == "one" else "one")


async def test_a_leader_that_stops_hands_over_at_once(world: World) -> None:
    patience = 30  # of a follower whose leader went without a word
    with world.operator("one", lease_seconds=patience) as one:
        await eventually(one.leads, "the first replica leads")
        with world.operator("two", lease_seconds=patience) as two:
            await eventually(two.ready, "the second one is ready")
            one.process.send_signal(signal.SIGTERM)
            assert one.process.wait(40) == 0
            await eventually(two.leads, "the second one leads", seconds=patience * 2 / 3)


async def test_a_conflict_is_tried_again(world: World) -> None:
    with world.operator() as replica:
        await world.apply("quarrel")

        async def ready() -> bool:
            return await world.ready_count() == 1

        await eventually(ready, "it is Ready in the end")
        assert await replica.metric("sluice_reconciles_total", kind="Topic", outcome="error") == 2


async def test_every_replica_admits_and_refuses_with_a_sentence(world: World) -> None:
    with world.operator("one") as one, world.operator("two") as two:
        for replica in (one, two):
            await eventually(replica.ready, "both replicas are ready")
        await world.apply("orders.eu")
        secret = await world.kube.get("v1", "Secret", world.namespace, "sluice-webhook")
        assert secret is not None
        trust = ssl.create_default_context(cadata=base64.b64decode(secret["data"]["ca.crt"]).decode())
        for replica in (one, two):

            async def collision(at: Replica = replica) -> str | None:
                answer = await review(at, world, trust, "validate-topics", topic(world, "orders_eu"))
                return None if answer["allowed"] else answer["status"]["message"]

            message = await eventually(collision, "the index knows the first topic")
            assert "orders_eu collides with orders.eu" in message
            allowed = await review(replica, world, trust, "validate-topics", topic(world, "other"))
            assert allowed["allowed"] is True
            forged = topic(world, "again", kind="ReplayJob")
            forged["metadata"]["annotations"] = {"sluice.dev/requested-by": "somebody-else"}
            answer = await review(replica, world, trust, "mutate-replayjobs", forged)
            assert b"jane" in base64.b64decode(answer["patch"])


def topic(world: World, name: str, kind: str = "Topic") -> dict[str, Any]:
    """An object as a webhook sees it at CREATE."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": world.namespace,
            "uid": f"uid-{name}",
            "creationTimestamp": "2099-01-01T00:00:00Z",
        },
        "spec": {"clusterRef": {"name": "demo"}},
    }


async def review(
    replica: Replica, world: World, trust: ssl.SSLContext, handler: str, body: dict[str, Any]
) -> dict[str, Any]:
    """Ask a replica's webhook as the API server does."""
    group, version = API_VERSION.split("/")
    request = {
        "uid": "r",
        "operation": "CREATE",
        "userInfo": {"username": "jane", "groups": []},
        "resource": {"group": group, "version": version, "resource": KINDS[body["kind"]].plural},
        "namespace": world.namespace,
        "name": body["metadata"]["name"],
        "object": body,
        "oldObject": None,
        "dryRun": False,
    }
    envelope = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    url = f"https://127.0.0.1:{replica.webhook_port}/{handler}"
    host = f"sluice-webhook.{world.namespace}.svc"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=envelope, ssl=trust, server_hostname=host) as response,
    ):
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = (await response.json())["response"]
        return answer
