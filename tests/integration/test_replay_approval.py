"""Replays that need approval: a real API server asks the operator's webhook and RBAC about people with real tokens."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.embedded import binaries
from sluice.api.base import API_VERSION
from sluice.api.objects import Key
from sluice.kube.client import Kube
from sluice.kube.errors import ForbiddenError, InvalidError, KubeError
from sluice.plan.replay_approval import APPROVED_BY, REQUESTED_BY
from sluice.replay.audit import TOPIC as AUDIT
from sluice.replay.audit import Audit
from tests.integration.support.admission import Front, admission, people
from tests.integration.support.replay import fill
from tests.integration.support.replay_world import Deaths, apply, job_of, pod, started, topics, until, with_replays
from tests.integration.support.replica import eventually, running_replica
from tests.integration.support.world import World, world
from tests.support.helm import Helm
from tests.support.kafka import KafkaCluster

ROLES = {
    "ann": ["sluice-edit"],
    "bob": ["sluice-replay-approver"],
    "cem": ["sluice-replay-approver"],
    "dee": ["sluice-edit", "sluice-replay-break-glass"],
}
FORGED = '[{"user":"system:serviceaccount:x:bob","planHash":"%s","at":"2026"}]'


@dataclass
class Place:
    """A world whose API server asks a replica; people have a kubeconfig each."""

    here: World
    front: Front
    kubeconfigs: dict[str, Path]

    def user(self, name: str) -> str:
        """As the API server knows them."""
        return f"system:serviceaccount:{self.here.namespace}:{name}"

    async def apply(self, name: str, source: str, target: str, **metadata: Any) -> Key:
        """A ReplayJob that ``name`` makes."""
        body = {
            "apiVersion": API_VERSION,
            "kind": "ReplayJob",
            "metadata": {"name": "replay", "namespace": self.here.namespace, **metadata},
            "spec": {"clusterRef": {"name": "demo"}, "source": {"topic": source}, "target": {"topic": target}},
        }
        kube = await Kube.connect(kubeconfig=str(self.kubeconfigs[name]))
        try:
            await kube.create(body)
        finally:
            await kube.close()
        return Key("ReplayJob", self.here.namespace, "replay")

    async def annotate(self, name: str, key: Key, **annotations: str) -> dict[str, str]:
        """As ``name`` does it with kubectl; the annotations then."""
        named = {f"sluice.dev/{which.replace('_', '-')}": text for which, text in annotations.items()}
        kube = await Kube.connect(kubeconfig=str(self.kubeconfigs[name]), field_manager="kubectl-annotate")
        try:
            patch = {"metadata": {"annotations": named}}
            written = await kube.patch(API_VERSION, key.kind, key.namespace, key.name, patch)
            found: dict[str, str] = written["metadata"]["annotations"]
            return found
        finally:
            await kube.close()

    async def sluice(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``kubectl sluice …`` as ``name`` calls it."""
        program = str(Path(sys.executable).parent / "sluice")
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfigs[name])}
        return await asyncio.to_thread(
            subprocess.run,
            [program, *arguments, "--namespace", self.here.namespace],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    async def facts(self) -> list[dict[str, Any]]:
        """What the audit says of jobs in this namespace."""
        found = await Audit(self.here.admin, lambda: None).read()
        return [fact for fact in found if fact["job"].startswith(f"{self.here.namespace}/")]


@pytest.fixture
async def place(
    kubeconfig: Path, kafka: KafkaCluster, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    """A cluster whose replays need two approvals, in a namespace with people in it."""
    chart = Helm(binaries.helm(), tmp_path_factory.mktemp("helm")).render()
    spec = {"external": {"bootstrapServers": kafka.bootstrap.split(",")}, "replayPolicy": {"approvals": 2}}
    async with world(kubeconfig, kafka, spec) as here:
        with_replays(here)
        with running_replica(kubeconfig, here.namespace, tmp_path) as replica:
            await eventually(replica.ready, "the replica is ready")
            kubeconfigs = await asyncio.to_thread(people, kubeconfig, here.namespace, chart, ROLES, tmp_path)
            async with admission(here.kube, here.namespace, replica, chart, tmp_path) as front:
                yield Place(here, front, kubeconfigs)


async def filled(place: Place, kafka: KafkaCluster) -> tuple[str, str]:
    """Source and target, with something to copy."""
    source, target = await topics(place.here, 1)
    await asyncio.to_thread(fill, kafka, source, 100)
    return source, target


async def test_it_waits_for_two_others_and_the_audit_tells_the_whole_story(
    place: Place, kafka: KafkaCluster, tmp_path: Path
) -> None:
    here = place.here
    source, target = await filled(place, kafka)
    forged = {"sluice.dev/requested-by": "somebody", "sluice.dev/approved-by": FORGED % "x"}
    key = await place.apply("ann", source, target, annotations=forged)
    assert (await here.body(key))["metadata"]["annotations"] == {"sluice.dev/requested-by": place.user("ann")}
    status = await until(here, key, "AwaitingApproval")
    plan = status["plan"]["hash"]
    assert (await job_of(here, key))[1] is None

    with pytest.raises(InvalidError, match="somebody else has to approve it"):
        await place.annotate("ann", key, approve=plan)
    with pytest.raises(InvalidError, match=f"the plan of this replay is {plan}"):
        await place.annotate("bob", key, approve="0000000000")
    with pytest.raises(ForbiddenError, match="the verb approve on replayjobs"):
        await place.annotate("dee", key, approve=plan)
    with pytest.raises(ForbiddenError, match="the verb break-glass on replayjobs"):
        await place.annotate("bob", key, break_glass="I want to")
    found = await place.annotate("dee", key, approved_by=FORGED % plan, requested_by="nobody", resume="one")
    assert "sluice.dev/approved-by" not in found
    assert found["sluice.dev/requested-by"] == place.user("ann")

    approved = await place.sluice("bob", "replay", "approve", "replay", "--plan", plan)
    assert (approved.returncode, approved.stderr) == (0, "")
    await here.settle(key)
    (ready,) = [c for c in (await here.status(key))["conditions"] if c["type"] == "Ready"]
    assert f"and has 1 ({place.user('bob')})" in ready["message"]
    await place.annotate("cem", key, approve=f"{plan} cem")
    status = await started(here, key)
    assert [approver["user"] for approver in status["approval"]["approvers"]] == [place.user("bob"), place.user("cem")]

    replay = await pod(here, key, tmp_path / "pod", kafka)
    assert (await asyncio.to_thread(replay.run))[0] == 0
    # Somebody shortens the audit's retention meanwhile: it is put back with what is written next.
    await here.admin.alter_topic_configs({AUDIT: {"retention.ms": "86400000"}})
    await until(here, key, "Completed", restart=True)
    configs = await here.admin.describe_topic_configs({AUDIT: ["retention.ms", "cleanup.policy"]})
    assert {name: found.value for name, found in configs[AUDIT].items()} == {
        "retention.ms": "-1",
        "cleanup.policy": "delete",
    }
    facts = await place.facts()
    assert [(fact["fact"], fact.get("by", fact.get("requestedBy"))) for fact in facts] == [
        ("Planned", place.user("ann")),
        ("Resume", None),
        ("Approved", place.user("bob")),
        ("Approved", place.user("cem")),
        ("Started", place.user("ann")),
        ("Completed", None),
    ]
    assert {fact["planHash"] for fact in facts if fact["fact"] != "Resume"} == {plan}
    assert (facts[0]["partitions"], facts[-1]["records"]) == ([[0, 0, 100]], 100)

    config = tmp_path / "librdkafka.json"
    config.write_text(json.dumps({"bootstrap.servers": kafka.bootstrap}))
    shown = await place.sluice("ann", "audit", "replay", "--config", str(config), "--json")
    assert [json.loads(line) for line in shown.stdout.splitlines()] == facts, shown.stderr
    report = await place.sluice("ann", "replay", "report", "replay", "--config", str(config))
    assert (report.returncode, report.stderr) == (0, "")
    assert f"Approved: {place.user('cem')} approved plan {plan}" in report.stdout


async def test_while_nobody_answers_nothing_that_is_guarded_can_be_written_and_all_else_can(
    place: Place, kafka: KafkaCluster
) -> None:
    here = place.here
    source, target = await filled(place, kafka)
    await place.front.close()
    with pytest.raises(KubeError, match="failed calling webhook"):
        await place.apply("ann", source, target, annotations={"sluice.dev/requested-by": "somebody"})
    key = await place.apply("ann", source, target)  # nobody knows by whom
    status = await until(here, key, "AwaitingApproval")
    plan = status["plan"]["hash"]
    assert "needs 3 approvals by different people" in status["conditions"][0]["message"]
    for guarded in ({"approve": plan}, {"break_glass": "why"}, {"approved_by": FORGED % plan}, {"requested_by": "x"}):
        with pytest.raises(KubeError, match="failed calling webhook"):
            await place.annotate("dee", key, **guarded)
    forged_by_status = {"metadata": {"annotations": {"sluice.dev/approved-by": FORGED % plan}}}
    await here.kube.patch(API_VERSION, key.kind, key.namespace, key.name, forged_by_status, subresource="status")
    assert "annotations" not in (await here.body(key))["metadata"]
    await place.annotate("dee", key, suspend="one")
    await until(here, key, "Suspended")
    await place.annotate("dee", key, resume="2099-01-01T00:00:00Z")

    await place.front.open()
    broken = await place.sluice("dee", "replay", "approve", "replay", "--break-glass", "the shop is down")
    assert (broken.returncode, broken.stderr) == (0, "")
    status = await started(here, key)
    assert status["approval"]["brokenGlass"]["user"] == place.user("dee")
    assert "broke the glass: the shop is down" in status["conditions"][0]["message"]
    assert [fact["fact"] for fact in await place.facts()][-2:] == ["GlassBroken", "Started"]


async def test_operators_killed_after_each_effect_let_it_begin_once_and_the_audit_has_each_fact_once(
    kubeconfig: Path, kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"external": {"bootstrapServers": kafka.bootstrap.split(",")}, "replayPolicy": {"approvals": 1}}
    async with world(kubeconfig, kafka, spec) as here:
        source, target = await topics(here, 1)
        await asyncio.to_thread(fill, kafka, source, 100)
        key = await apply(here, source, target)
        deaths = Deaths(here, key, monkeypatch)

        async def waits(body: dict[str, Any]) -> bool:
            return body["status"].get("phase") == "AwaitingApproval"

        async def runs(body: dict[str, Any]) -> bool:
            return body["status"]["phase"] == "Running" and (await job_of(here, key))[1] is not None

        assert await deaths.go_on(waits) >= 3
        plan = (await here.status(key))["plan"]["hash"]
        # As admission would record it; no webhook stands before this namespace.
        recorded = {REQUESTED_BY: "ann", APPROVED_BY: json.dumps([{"user": "bob", "planHash": plan, "at": "2026"}])}
        patch = {"metadata": {"annotations": recorded}}
        await here.kube.patch(API_VERSION, key.kind, key.namespace, key.name, patch)
        assert await deaths.go_on(runs) >= 5
        facts = await Audit(here.admin, lambda: None).read()
        told = [fact["fact"] for fact in facts if fact["job"] == f"{here.namespace}/replay"]
        assert told == ["Planned", "Approved", "Started"]
