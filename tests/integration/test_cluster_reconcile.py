"""What becomes of a cluster, on a real API server; pods and Kafka are played."""

from __future__ import annotations

import pytest

from sluice.api.base import API_VERSION
from sluice.engine.errors import UserError, WaitingError
from sluice.manifests.metadata import decode
from tests.integration.support.cluster_world import Killed, World, world

__all__ = ["world"]


async def test_a_new_cluster_is_made_and_looking_again_writes_nothing(world: World) -> None:
    await world.apply()
    body = await world.settle()
    status = body["status"]
    assert [node["name"] for node in status["nodes"]] == ["demo-nodes-0", "demo-nodes-1", "demo-nodes-2"]
    assert status["version"] == "4.4.0"
    assert status["brokers"] == 3
    servers = {item["name"]: item["bootstrapServers"] for item in status["listeners"]}
    assert servers["tls"] == f"demo-tls-bootstrap.{world.namespace}.svc:9093"
    assert servers["outside"].startswith("192.0.2.1:3")
    assert world.kafka.settings is not None
    assert world.kafka.settings.bootstrap_servers[0] == f"demo-nodes-0-0.demo-nodes.{world.namespace}.svc:9091"
    assert world.kafka.defaults["min.insync.replicas"].value == "2"
    identity = decode(await world.outside.get("v1", "Secret", world.namespace, "demo-identity"))
    assert identity["bootstrapped"] == "true"
    assert status["clusterId"] == identity["cluster-id"]
    before, writes = await world.versions(), world.writes
    outcome = await world.look()
    assert outcome.requeue_after == 60
    assert await world.versions() == before
    assert world.writes == writes
    text = world.context.metrics.follower_lag.labels(world.namespace, "demo", "1", "orders")._value.get()
    assert text == 7


async def test_static_configuration_rolls_one_node_at_a_time_whenever_the_operator_dies(world: World) -> None:
    await world.apply()
    await world.settle()
    before = world.revisions()
    await world.apply(config={"queued.max.requests": "400", "log.cleaner.threads": "2"})
    world.most_down = 0
    deaths = 0
    for step in range(60):
        world.restart_operator()
        world.writes, world.fence_after = 0, step % 4
        try:
            await world.look()
        except Killed:
            deaths += 1
            await world.play_kubelet()
    world.fence_after = None
    world.restart_operator()
    await world.settle()
    assert deaths > 5
    after = world.revisions()
    assert set(before) == set(after)
    assert all(before[name] != after[name] for name in before)
    assert world.most_down <= 1
    assert world.kafka.defaults["log.cleaner.threads"].value == "2"
    held = [
        body["metadata"]["name"] for body in await world.list("ConfigMap") if "-config-" in body["metadata"]["name"]
    ]
    assert len(held) == 3, "old revisions are deleted when nothing refers to them"


async def test_dynamic_configuration_restarts_nothing_and_goes_when_it_is_no_longer_said(world: World) -> None:
    await world.apply()
    await world.settle()
    before = world.revisions()
    await world.apply(config={"log.cleaner.threads": "2"})
    await world.settle()
    assert world.kafka.defaults["log.cleaner.threads"].value == "2"
    await world.apply()
    await world.settle()
    assert "log.cleaner.threads" not in world.kafka.defaults
    assert world.revisions() == before


async def test_a_roll_waits_while_a_partition_would_lose_too_many_replicas(world: World) -> None:
    await world.apply()
    await world.settle()
    before = world.revisions()
    world.kafka.isr = {0, 1}
    await world.apply(config={"queued.max.requests": "400"})
    for _ in range(5):
        outcome = await world.look()
    [ready] = [c for c in (await world.body())["status"]["conditions"] if c["type"] == "Ready"]
    assert ready["reason"] == "RollBlocked"
    assert "orders-0 (1 of 2)" in ready["message"]
    assert outcome.requeue_after == 3
    # Node 2 isn't in sync, so that nothing is lost by its restart.
    assert {name for name in before if world.revisions()[name] != before[name]} == {"demo-nodes-2-0"}
    world.kafka.isr = None
    await world.settle()


async def test_what_somebody_deletes_is_made_again(world: World) -> None:
    await world.apply()
    await world.settle()
    before = world.revisions()
    identity = decode(await world.outside.get("v1", "Secret", world.namespace, "demo-identity"))
    for version, kind, name in (
        ("v1", "Secret", "demo-identity"),
        ("v1", "Secret", "demo-operator"),
        ("v1", "Service", "demo-tls-bootstrap"),
        ("policy/v1", "PodDisruptionBudget", "demo-nodes"),
        ("apps/v1", "StatefulSet", "demo-nodes-1"),
    ):
        assert await world.outside.delete(version, kind, world.namespace, name)
    await world.settle()
    recovered = decode(await world.outside.get("v1", "Secret", world.namespace, "demo-identity"))
    assert recovered["cluster-id"] == identity["cluster-id"]
    assert recovered["bootstrapped"] == "true"
    assert {body["metadata"]["name"] for body in await world.list("StatefulSet", "apps/v1")} == {
        "demo-nodes-0",
        "demo-nodes-1",
        "demo-nodes-2",
    }
    assert world.revisions() == before


async def test_a_lost_authority_stops_everything_rather_than_cutting_every_connection(world: World) -> None:
    await world.apply()
    await world.settle()
    await world.outside.delete("v1", "Secret", world.namespace, "demo-cluster-ca")
    with pytest.raises(UserError, match="restore it from a backup"):
        await world.look()


async def test_what_kubernetes_refuses_is_told_to_the_user_in_its_words(world: World) -> None:
    await world.apply(template={"tolerations": [{"operator": "Sometimes"}]})
    with pytest.raises(UserError, match="Sometimes"):
        await world.look()


async def test_a_cluster_that_is_deleted_and_applied_again_is_the_same_one(world: World) -> None:
    await world.apply()
    first = await world.settle()
    kept = {name: decode(await world.outside.get("v1", "Secret", world.namespace, name)) for name in _RETAINED}
    claims = {body["metadata"]["uid"] for body in await world.list("PersistentVolumeClaim")}
    await world.outside.delete(API_VERSION, "MessagingCluster", world.namespace, "demo")
    world.restart_operator()
    world.pods.clear()
    await world.apply()
    with pytest.raises(WaitingError, match="is being deleted"):
        await world.look()
    # (No controller collects garbage here.)
    for version, kind in _OWNED:
        for body in await world.list(kind, version):
            if body["metadata"].get("ownerReferences"):
                await world.outside.delete(version, kind, world.namespace, body["metadata"]["name"])
    for pod in await world.list("Pod"):
        await world.outside.delete("v1", "Pod", world.namespace, pod["metadata"]["name"])
    second = await world.settle()
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert second["status"]["clusterId"] == first["status"]["clusterId"]
    for name in _RETAINED:
        assert decode(await world.outside.get("v1", "Secret", world.namespace, name)) == kept[name]
    assert {body["metadata"]["uid"] for body in await world.list("PersistentVolumeClaim")} == claims


async def test_brokers_are_added_without_restarting_any_and_never_taken_away(world: World) -> None:
    await world.apply()
    await world.settle()
    before = world.revisions()
    pools = (await world.body())["spec"]["nodePools"]
    more = {"name": "more", "roles": ["broker"], "replicas": 2, "storage": {"size": "1Gi"}}
    await world.apply(nodePools=[*pools, more])
    body = await world.settle()
    assert [node["id"] for node in body["status"]["nodes"]] == [0, 1, 2, 100, 101]
    assert before.items() <= world.revisions().items()
    await world.apply(nodePools=[*pools, {**more, "replicas": 1}])
    await world.look()
    [ready] = [c for c in (await world.body())["status"]["conditions"] if c["type"] == "Ready"]
    assert ready["reason"] == "ScaleDownRefused"
    assert "demo-more-101" in ready["message"]
    assert len(await world.list("StatefulSet", "apps/v1")) == 5


async def test_deletion_policy_delete_hands_everything_to_the_garbage_collector(world: World) -> None:
    await world.apply()
    body = await world.settle()
    await world.apply(deletionPolicy="Delete")
    await world.settle()
    retained = [*await world.list("PersistentVolumeClaim")]
    for name in _RETAINED:
        secret = await world.outside.get("v1", "Secret", world.namespace, name)
        assert secret is not None
        retained.append(secret)
    assert all(item["metadata"]["ownerReferences"][0]["uid"] == body["metadata"]["uid"] for item in retained)
    await world.apply(deletionPolicy="Retain")
    await world.settle()
    assert not any(item["metadata"].get("ownerReferences") for item in await world.list("PersistentVolumeClaim"))


_RETAINED = ("demo-identity", "demo-cluster-ca", "demo-clients-ca")
_OWNED = (
    ("v1", "Secret"),
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("apps/v1", "StatefulSet"),
    ("policy/v1", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
)
