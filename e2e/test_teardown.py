"""What goes, goes quickly and wedges nothing; what should stay, stays."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from e2e.support import objects
from e2e.support.cluster import KafkaCluster, numbered
from e2e.support.environment import Environment
from e2e.support.kubectl import Body, Kubectl

LIMIT = 60.0
"""Seconds in which a namespace with everything in it must be gone."""
APART = [objects.pool("controllers", "controller"), objects.pool("brokers", "broker")]
"""Nodes that go side by side, though a broker that shuts down wants to tell a controller."""
TOGETHER = [objects.pool("nodes", "controller", "broker")]
OWN = {"name": "doomed"}


def _everything(environment: Environment, pools: Sequence[Body]) -> list[Body]:
    return [
        objects.cluster("doomed", host=environment.node_address, nodePools=pools),
        objects.topic("here", OWN),
        objects.topic("there", OWN, deletionPolicy="Delete"),
        objects.user("someone", OWN),
        objects.group("readers", OWN, ["here"]),
    ]


def _moves(body: Body | None) -> bool:
    return body is not None and (body.get("status") or {}).get("phase") in ("Running", "Completed")


@pytest.mark.parametrize(("state", "pools"), [("alive", APART), ("dead", TOGETHER)], ids=["alive", "dead"])
def test_a_namespace_with_everything_in_it_goes_within_a_minute(
    state: str, pools: Sequence[Body], environment: Environment, space: Kubectl
) -> None:
    space.apply(_everything(environment, pools))
    space.wait_ready("messagingcluster", "doomed")
    for kind, name in (("topic", "here"), ("topic", "there"), ("user.sluice.dev", "someone")):
        space.wait_ready(kind, name, timeout=60)
    KafkaCluster(space, "doomed", "someone").produce("here", numbered(100_000))
    space.apply(objects.replay("copy", OWN, "here", "there"))
    space.wait("replayjob", "copy", _moves, timeout=60)
    if state == "dead":
        _kill_kafka_for_good(space)
    begun = time.monotonic()
    environment.kubectl.delete("namespace", space.namespace, timeout=LIMIT * 2)
    took = time.monotonic() - begun
    print(f"gone after {took:.0f} s")
    assert took <= LIMIT


def _kill_kafka_for_good(space: Kubectl) -> None:
    """Stop the broker in a way that the operator doesn't undo."""
    space.run("annotate", "messagingcluster", "doomed", "sluice.dev/paused=true")
    space.run("scale", "statefulset", "--all", "--replicas=0")
    for pod in space.list("pods", labels={"sluice.dev/cluster": "doomed"}):
        space.run("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--ignore-not-found")


def test_upgrade_uninstall_and_install_of_the_operator_lose_and_restart_nothing(
    environment: Environment, solo: KafkaCluster, space: Kubectl
) -> None:
    space.apply(objects.topic("kept", solo.reference))
    space.wait_ready("topic", "kept")
    solo.produce("kept", numbered(100))
    before = solo.pod_uids()
    crds = _crds(environment.kubectl)

    environment.install({"logLevel": "DEBUG"})
    assert solo.pod_uids() == before

    environment.uninstall()
    assert _crds(environment.kubectl) == crds, "CRDs are kept: deleting them would delete every cluster"
    # Kafka goes on, and objects can still be changed, while no operator runs.
    solo.produce("kept", numbered(100, start=100))
    space.apply(objects.topic("later", solo.reference))

    environment.install()
    space.wait_ready("topic", "later", timeout=60)
    solo.wait_ready(60)
    assert solo.pod_uids() == before
    assert len(solo.read("kept")) == 200


def test_a_namespace_goes_though_the_operator_was_uninstalled(
    environment: Environment, solo: KafkaCluster, space: Kubectl
) -> None:
    space.apply(
        [
            objects.topic("here", solo.reference, deletionPolicy="Delete"),
            objects.user("someone", solo.reference),
            objects.replay("waits", solo.reference, "here", "nowhere"),
        ]
    )
    space.wait_ready("topic", "here")
    space.wait_ready("user.sluice.dev", "someone")
    environment.uninstall()
    try:
        environment.kubectl.delete("namespace", space.namespace, timeout=LIMIT)
    finally:
        environment.install()


def _crds(kubectl: Kubectl) -> dict[str, str]:
    return {
        body["metadata"]["name"]: body["metadata"]["uid"]
        for body in kubectl.list("customresourcedefinitions")
        if body["spec"]["group"] == "sluice.dev"
    }
