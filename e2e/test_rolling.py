"""Day two: static configuration rolls one node at a time under load, dynamic one doesn't roll, brokers are added."""

from __future__ import annotations

import json

from e2e.support import kafka, objects
from e2e.support.cluster import KafkaCluster
from e2e.support.kafka import Traffic
from e2e.support.kubectl import Body, condition


def _load(trio: KafkaCluster, topic: str) -> Traffic:
    trio.space.apply(
        objects.topic(topic, {"name": trio.name}, partitions=6, replicas=3, config={"min.insync.replicas": "2"})
    )
    trio.space.wait_ready("topic", topic, timeout=60)
    return Traffic(trio.client(), topic, rate=200)


def test_a_dynamic_configuration_is_changed_without_a_restart(trio: KafkaCluster) -> None:
    before = trio.pod_uids()
    trio.patch({"config": {"log.cleaner.threads": "2"}})
    trio.wait_ready(60)
    brokers = [node["id"] for node in trio.body()["status"]["nodes"]]
    assert [kafka.broker_config(trio.client(), broker, "log.cleaner.threads") for broker in brokers] == ["2"] * 3
    assert trio.pod_uids() == before


def test_a_static_configuration_rolls_node_by_node_under_load_and_no_write_fails(trio: KafkaCluster) -> None:
    before = trio.pod_uids()
    down_together = 0

    def watch(_: Body | None) -> None:
        nonlocal down_together
        up = sum(condition(pod, "Ready").get("status") == "True" for pod in trio.pods())
        down_together = max(down_together, len(before) - up)

    with _load(trio, "rolling") as traffic:
        trio.patch({"config": {"queued.max.requests": "400"}})
        trio.space.wait(
            "messagingcluster",
            trio.name,
            lambda body: body is not None and not all(node["current"] for node in body["status"]["nodes"]),
            timeout=60,
        )
        trio.wait_ready(300, seen=watch)
    after = trio.pod_uids()
    assert set(before) == set(after)
    assert all(before[name] != after[name] for name in before), "every node was to be restarted"
    assert down_together <= 1
    assert not traffic.failed
    faults = kafka.lost_or_disordered(traffic.acknowledged, trio.read("rolling"))
    assert not faults
    print(f"longest gap between two acknowledgements: {traffic.longest_gap:.1f} s")


def test_brokers_are_added_as_a_pool_of_their_own(trio: KafkaCluster) -> None:
    before = trio.pod_uids()
    pools = trio.body()["spec"]["nodePools"]
    more = {
        "name": "more",
        "roles": ["broker"],
        "replicas": 1,
        "storage": {"size": "1Gi"},
        "jvm": {"heap": "256m"},
        "resources": {"requests": {"cpu": "50m", "memory": "400Mi"}},
    }
    trio.space.run(
        "patch",
        "messagingcluster",
        trio.name,
        "--type=merge",
        "-p",
        json.dumps({"spec": {"nodePools": [*pools, more]}}),
    )
    trio.space.wait(
        "messagingcluster", trio.name, lambda body: body is not None and body["status"]["brokers"] == 4, timeout=120
    )
    trio.wait_ready(120)
    assert before.items() <= trio.pod_uids().items(), "adding a broker was to restart no other"
    trio.space.apply(objects.topic("wide", {"name": trio.name}, partitions=4, replicas=4))
    trio.space.wait_ready("topic", "wide", timeout=60)
