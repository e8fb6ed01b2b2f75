"""A Kafka that can't be reached is a condition on what needs it, and nobody else's business."""

from __future__ import annotations

from e2e.support import objects
from e2e.support.cluster import KafkaCluster
from e2e.support.kubectl import Kubectl, condition

# A port of the discard range: nothing listens there.
UNREACHABLE = {"external": {"bootstrapServers": ["127.0.0.1:9"]}}


def external(name: str) -> dict[str, object]:
    return {"apiVersion": objects.API, "kind": "MessagingCluster", "metadata": {"name": name}, "spec": UNREACHABLE}


def test_a_cluster_out_of_reach_is_said_on_it_and_on_what_needs_it(space: Kubectl) -> None:
    space.apply([external("away"), objects.topic("orders", {"name": "away"})])
    found = space.wait_condition("messagingcluster", "away", "Ready", "False", reason="KafkaUnreachable", timeout=90)
    assert "127.0.0.1:9" in condition(found, "Ready")["message"]
    space.wait_condition("topic", "orders", "Ready", "False", reason="KafkaUnreachable", timeout=90)


def test_others_go_on_while_one_cluster_is_out_of_reach(solo: KafkaCluster, space: Kubectl) -> None:
    space.apply([external("away"), *(objects.topic(f"lost-{n}", {"name": "away"}) for n in range(20))])
    space.wait_condition("messagingcluster", "away", "Ready", "False", timeout=90)
    space.apply(objects.topic("unmoved", solo.reference))
    space.wait_ready("topic", "unmoved", timeout=30)


def test_a_cluster_that_does_not_exist_is_waited_for_calmly(space: Kubectl) -> None:
    space.apply(objects.topic("orders", {"name": "later"}))
    found = space.wait_condition("topic", "orders", "Ready", "False", reason="ClusterNotFound", timeout=30)
    assert "later" in condition(found, "Ready")["message"]
    space.apply(external("later"))
    space.wait_condition("topic", "orders", "Ready", "False", reason="KafkaUnreachable", timeout=90)
