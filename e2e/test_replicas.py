"""More than one operator: one acts, all judge; and one that may see some namespaces only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.support import objects
from e2e.support.cluster import KafkaCluster
from e2e.support.environment import SYSTEM_NAMESPACE, Environment
from e2e.support.kubectl import Kubectl, documents


@pytest.fixture
def operator(environment: Environment) -> Iterator[Environment]:
    """The installation, which is put back to one replica that sees everything."""
    yield environment
    environment.install()


def _leader(system: Kubectl) -> str:
    (lease,) = (body for body in system.list("leases") if body["spec"].get("holderIdentity"))
    return str(lease["spec"]["holderIdentity"])


def test_the_second_replica_takes_over_when_the_first_is_killed_and_each_of_them_judges(
    operator: Environment, solo: KafkaCluster, space: Kubectl
) -> None:
    operator.install({"replicas": 2})
    system = operator.kubectl.within(SYSTEM_NAMESPACE)
    leader = next(pod for pod in operator.operators() if pod in _leader(system))
    system.run("delete", "pod", leader, "--grace-period=0", "--force", "--wait=false")
    space.apply(objects.topic("after-the-leader", solo.reference))
    space.wait_ready("topic", "after-the-leader", timeout=60)
    assert leader not in _leader(system)
    too_many = objects.topic("after-the-leader", solo.reference, replicas=3)
    said = space.attempt("apply", "-f", "-", stdin=documents(too_many))
    assert "above the 1 brokers" in said.stderr


def test_an_operator_of_some_namespaces_leaves_the_others_alone(
    operator: Environment, solo: KafkaCluster, space: Kubectl
) -> None:
    operator.install({"watchNamespaces": [solo.space.namespace]})
    mine = objects.topic("watched", {"name": "solo"})
    theirs = objects.topic("unwatched", solo.reference)
    solo.space.apply(mine)
    space.apply(theirs)
    solo.space.wait_ready("topic", "watched", timeout=60)
    found = space.get("topic", "unwatched")
    assert found is not None
    assert "status" not in found
