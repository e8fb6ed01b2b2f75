"""ReplayJobs in a world: brokers with an authorizer, what a kubelet would do, and operators that die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sluice.api.objects import Key
from sluice.engine import replay as engine
from sluice.engine import replay_control
from sluice.engine.reconciler import Outcome
from sluice.engine.replay import ReplayJobReconciler
from sluice.kafka.admin import KafkaAdmin
from sluice.plan.observed import AclBinding, NewTopic
from sluice.plan.replay import ledger_key, run_name
from sluice.replay.assignment import Assignment
from sluice.replay.audit import Audit
from sluice.replay.ledger import Ledger
from tests.integration.support.replay import KEEP, Replay, write_secret
from tests.integration.support.world import World, world
from tests.support.certificates import _pem as key_pem
from tests.support.kafka import KafkaCluster, start_cluster

POOL = {"name": "kafka", "roles": ["controller", "broker"], "replicas": 1, "storage": {"size": "1Gi"}}


@contextmanager
def guarded_broker(folder: Path) -> Iterator[KafkaCluster]:
    """A broker that allows only what ACLs say."""
    config = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
    }
    with start_cluster(folder, config=config, tls=True) as cluster:
        yield cluster


@asynccontextmanager
async def guarded_world(kubeconfig: Path, guarded: KafkaCluster) -> AsyncIterator[World]:
    """A namespace with a cluster that runs in Sluice's way."""
    spec = {"nodePools": [POOL], "listeners": [{"name": "tls", "port": 9093}]}
    async with world(kubeconfig, guarded, spec) as made:
        assert guarded.ca is not None
        status = {"status": {"listeners": [{"name": "tls", "bootstrapServers": guarded.bootstrap_of("TLS")}]}}
        await made.kube.patch(
            "sluice.dev/v1alpha1", "MessagingCluster", made.namespace, "demo", status, subresource="status"
        )
        await made.make_secret("demo-ca-cert", {"ca.crt": guarded.ca.ca_pem})
        await made.make_secret("demo-clients-ca", {"ca.crt": guarded.ca.ca_pem, "ca.key": key_pem(guarded.ca._key)})
        with_replays(made)
        yield made


def with_replays(made: World) -> None:
    """A reconciler that remembers nothing, as after a restart of the operator."""
    made._reconcilers["ReplayJob"] = ReplayJobReconciler(made.context)


async def topics(here: World, partitions: int = 2, **target: str) -> tuple[str, str]:
    """Source and target of this test."""
    source, goal = f"{here.namespace}.source", f"{here.namespace}.target"
    made = await here.admin.create_topics(
        [NewTopic(source, partitions, 1, KEEP), NewTopic(goal, partitions, 1, (*KEEP, *target.items()))]
    )
    assert set(made.values()) == {None}
    return source, goal


async def apply(here: World, source: str, target: str, name: str = "replay", **spec: Any) -> Key:
    """A ReplayJob."""
    return await here.apply("ReplayJob", name, {"source": {"topic": source}, "target": {"topic": target}, **spec})


async def job_of(here: World, key: Key) -> tuple[str, dict[str, Any] | None]:
    """Name and body of the Kubernetes Job of a replay."""
    uid = (await here.body(key))["metadata"]["uid"].replace("-", "")[:8]
    name = f"{key.name}-{uid}"
    return name, await here.kube.get("batch/v1", "Job", here.namespace, name)


async def pod(here: World, key: Key, folder: Path, kafka: KafkaCluster) -> Replay:
    """The files that a worker's pod would see, in a folder."""
    name, job = await job_of(here, key)
    assert job is not None
    plan = await here.kube.get("v1", "ConfigMap", here.namespace, name)
    secret = await here.kube.get("v1", "Secret", here.namespace, name)
    assert plan is not None
    assert secret is not None
    write_secret(folder, secret.get("data") or {})
    (folder / "plan.json").write_text(plan["data"]["plan.json"])
    return Replay(kafka, folder, Assignment.read(folder / "plan.json"))


async def until(here: World, key: Key, phase: str, *, restart: bool = False) -> dict[str, Any]:
    """Reconcile until a phase is reached; with ``restart``, by a new operator each time."""
    for _ in range(40):
        if restart:
            with_replays(here)
        await here.settle(key)
        status = await here.status(key)
        if status.get("phase") == phase:
            return status
        await asyncio.sleep(0.1)
    raise AssertionError(f"no {phase}: {status}")


async def started(here: World, key: Key, *, restart: bool = False) -> dict[str, Any]:
    """Reconcile until the workers' Job is there."""
    for _ in range(20):
        if restart:
            with_replays(here)
        await here.settle(key)
        if (await job_of(here, key))[1] is not None:
            return await here.status(key)
    raise AssertionError(f"not started: {await here.status(key)}")


async def acls(admin: KafkaAdmin, name: str) -> set[AclBinding]:
    return await admin.describe_acls(f"User:{name}")


def run_of(here: World, key: Key) -> tuple[str, str]:
    """Ledger key and run name of a replay."""
    job = here.index.resource(key)
    assert job is not None
    found = ledger_key(job.namespace, job.name, job.spec)
    return found, run_name(found)


class KilledError(Exception):
    """The operator dies here."""


class Deaths:
    """Every write to Kafka and to Kubernetes is the last one of some operator."""

    def __init__(self, here: World, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
        self._here = here
        self._key = key
        self._left: int | None = None
        for client, names in (
            (here.kube, ("create", "create_if_absent", "apply", "patch", "delete")),
            (here.admin, ("write", "create_acls", "delete_acls_of", "create_topics")),
            (engine, ("commit_starts",)),
            (replay_control, ("keep_positions", "end_transactions")),
        ):
            for name in names:
                monkeypatch.setattr(client, name, self._dying(getattr(client, name)))
        for kept, name in ((Ledger, "put"), (Audit, "write")):
            monkeypatch.setattr(kept, name, self._dying(getattr(kept, name)))

    def _dying(self, call: Any) -> Any:
        async def write(*args: Any, **kwargs: Any) -> Any:
            done = await call(*args, **kwargs)
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    raise KilledError
            return done

        return write

    async def go_on(self, reached: Callable[[dict[str, Any]], Awaitable[bool]]) -> int:
        """Operators, each getting one effect further than the last, until the object is as asked; how many died."""
        here, key = self._here, self._key
        for survived in range(60):
            with_replays(here)
            await here.watch()
            self._left = survived
            for _ in range(4):
                result = (await here._reconcilers[key.kind].reconcile([key]))[key]
                if isinstance(result, KilledError):
                    break
                assert isinstance(result, Outcome), result
                left, self._left = self._left, None
                if await reached(await here.body(key)):
                    return survived
                self._left = left
        raise AssertionError("it never came there")
