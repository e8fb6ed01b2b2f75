"""What a cluster does about what others did, on a real API server; pods and Kafka are played."""

from __future__ import annotations

from typing import Any

import pytest

from sluice.api.base import API_VERSION
from sluice.engine.errors import UserError
from sluice.engine.reconciler import Outcome
from sluice.manifests.metadata import decode
from tests.integration.support.cluster_world import Body, World, world

__all__ = ["world"]


def service(name: str, world: World) -> Body:
    """A Service of somebody who knows nothing of Sluice."""
    meta = {"name": name, "namespace": world.namespace, "labels": {"app": "shop"}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 80}]}}


def policy(world: World) -> Body:
    """A NetworkPolicy of somebody, under the name that the cluster's has."""
    meta = {"name": "demo-nodes", "namespace": world.namespace}
    spec = {"podSelector": {"matchLabels": {"app": "shop"}}}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


async def test_nothing_is_made_for_a_cluster_whose_deletion_was_not_heard_of(world: World) -> None:
    await world.apply()
    await world.settle()
    world.context.index.put(await world.body())
    await world.outside.delete(API_VERSION, "MessagingCluster", world.namespace, "demo")
    for body in await world.list("StatefulSet", "apps/v1"):
        await world.outside.delete("apps/v1", "StatefulSet", world.namespace, body["metadata"]["name"])
    result = (await world.reconciler.reconcile([world.key]))[world.key]
    assert isinstance(result, Outcome)
    assert await world.list("StatefulSet", "apps/v1") == []
    assert world.context.index.get(world.key) is None, "and the next look forgets it"


async def test_a_change_that_somebody_makes_meanwhile_is_looked_at_again_without_a_word(world: World) -> None:
    await world.apply()
    await world.settle()
    world.context.index.put(await world.body())
    before = await world.ready()
    await world.apply(config={"log.cleaner.threads": "2"})
    result = (await world.reconciler.reconcile([world.key]))[world.key]
    assert result == Outcome(requeue_after=1.0)
    assert await world.ready() == before


async def test_somebody_elses_objects_stop_the_cluster_and_stay_as_they_are(world: World) -> None:
    theirs = await world.outside.create(service("demo-tls-bootstrap", world))
    await world.apply()
    with pytest.raises(UserError, match="Service demo-tls-bootstrap is there already"):
        await world.look()
    found = await world.outside.get("v1", "Service", world.namespace, "demo-tls-bootstrap")
    assert found is not None
    assert found["metadata"]["resourceVersion"] == theirs["metadata"]["resourceVersion"]
    await world.outside.delete("v1", "Service", world.namespace, "demo-tls-bootstrap")
    await world.settle()


async def test_a_network_policy_is_deleted_only_if_it_is_the_clusters(world: World) -> None:
    await world.apply()
    await world.settle()
    await world.apply(networkPolicy={"enabled": False})
    await world.settle()
    assert await world.list("NetworkPolicy", "networking.k8s.io/v1") == []
    await world.outside.create(policy(world))
    await world.settle()
    assert len(await world.list("NetworkPolicy", "networking.k8s.io/v1")) == 1


async def test_a_field_that_kubernetes_does_not_know_is_the_users_to_correct(world: World) -> None:
    await world.apply(template={"tolerations": [{"key": "a", "operatr": "Exists"}]})
    with pytest.raises(UserError, match="operatr"):
        await world.look()


async def test_brokers_whose_pool_has_left_the_spec_go_on_as_they_are(world: World) -> None:
    await world.apply()
    pools = (await world.body())["spec"]["nodePools"]
    more = {"name": "more", "roles": ["broker"], "replicas": 2, "storage": {"size": "1Gi"}}
    await world.apply(nodePools=[*pools, more])
    await world.settle()
    before, pods = await world.versions(), world.revisions()
    await world.apply()
    await world.look()
    await world.look()
    ready = await world.ready()
    assert ready["reason"] == "ScaleDownRefused"
    assert "demo-more-100" in ready["message"]
    body = await world.body()
    assert [node["id"] for node in body["status"]["nodes"]] == [0, 1, 2, 100, 101]
    assert all(node["ready"] and node["current"] for node in body["status"]["nodes"])
    after = await world.versions()
    mine = f"MessagingCluster {world.key.name}"
    assert {name for name in before if name != mine and after.get(name) != before[name]} == set()
    assert world.revisions() == pods
    assert world.kafka.defaults["min.insync.replicas"].value == "2"


async def test_a_missing_address_holds_up_only_what_needs_it(world: World) -> None:
    outside = {"name": "lb", "port": 9096, "type": "LoadBalancer"}
    inside = {"name": "tls", "port": 9093}
    controllers = {"name": "c", "roles": ["controller"], "replicas": 3, "storage": {"size": "1Gi"}}
    brokers = {"name": "b", "roles": ["broker"], "replicas": 2, "storage": {"size": "1Gi"}}
    spec: dict[str, Any] = {"nodePools": [controllers, brokers], "listeners": [inside, outside]}
    await world.apply(**spec)
    await world.look()
    assert (await world.look()).requeue_after == 10
    made = {body["metadata"]["name"] for body in await world.list("StatefulSet", "apps/v1")}
    assert made == {"demo-c-0", "demo-c-1", "demo-c-2"}, "a broker without an address can't be made"
    assert len(await world.list("PersistentVolumeClaim")) == 5
    body = await world.body()
    ready = await world.ready()
    assert ready["reason"] == "WaitingForAddress"
    assert "demo-lb-100" in ready["message"]
    assert "Stalled" not in {c["type"] for c in body["status"]["conditions"]}
    assert [node["ready"] for node in body["status"]["nodes"]] == [True, True, True, False, False]

    for number, name in enumerate(("demo-lb-bootstrap", "demo-lb-100", "demo-lb-101")):
        await _assign(world, name, f"192.0.2.{number}")
    body = await world.settle()
    servers = {item["name"]: item["bootstrapServers"] for item in body["status"]["listeners"]}
    assert servers["lb"] == "192.0.2.0:9096"

    # An address that goes for a while restarts nobody, and what needs none goes on.
    pods, secrets = world.revisions(), await world.versions()
    await _assign(world, "demo-lb-101", None)
    await world.apply(**spec, config={"log.cleaner.threads": "2", "queued.max.requests": "400"})
    for _ in range(12):
        await world.look()
    assert (await world.ready())["reason"] == "WaitingForAddress"
    assert world.kafka.defaults["log.cleaner.threads"].value == "2"
    changed = {name for name, uid in world.revisions().items() if pods[name] != uid}
    assert changed == {"demo-c-0-0", "demo-c-1-0", "demo-c-2-0", "demo-b-100-0"}
    assert (await world.versions())["Secret demo-node-certificates"] == secrets["Secret demo-node-certificates"]
    await _assign(world, "demo-lb-101", "192.0.2.2")
    await world.settle()
    assert world.revisions()["demo-b-101-0"] != pods["demo-b-101-0"]


async def _assign(world: World, name: str, address: str | None) -> None:
    ingress = [{"ip": address}] if address else []
    status = {"status": {"loadBalancer": {"ingress": ingress}}}
    await world.outside.patch("v1", "Service", world.namespace, name, status, subresource="status")


async def test_a_value_that_kafka_refuses_keeps_nothing_safe_from_being_set(world: World) -> None:
    world.kafka.refuses = {"log.retention.ms"}
    await world.apply(config={"log.retention.ms": "for ever"})
    for _ in range(4):
        await world.look()
    ready = await world.ready()
    assert ready["reason"] == "KafkaRefused"
    assert "log.retention.ms" in ready["message"]
    assert world.kafka.defaults["min.insync.replicas"].value == "2"
    assert world.kafka.defaults["unclean.leader.election.enable"].value == "false"


async def test_the_first_quorum_is_not_recorded_while_a_controller_has_not_been_heard_of(world: World) -> None:
    async def recorded() -> str:
        return decode(await world.outside.get("v1", "Secret", world.namespace, "demo-identity"))["bootstrapped"]

    world.kafka.unheard = {2}
    await world.apply()
    for _ in range(4):
        await world.look()
    assert await recorded() == "false"
    assert "first quorum isn't complete" in (await world.ready())["message"]
    world.kafka.unheard = set()
    await world.settle()
    assert await recorded() == "true"
