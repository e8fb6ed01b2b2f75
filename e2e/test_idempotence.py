"""Applying what is there already writes nothing, also while data flows."""

from __future__ import annotations

import os
import time

from e2e.support import objects
from e2e.support.cluster import KafkaCluster
from e2e.support.environment import Environment
from e2e.support.kafka import Traffic
from e2e.support.kubectl import Kubectl

SECONDS = float(os.environ.get("SLUICE_E2E_IDLE_SECONDS", "30"))
"""How long nothing may be written."""
KINDS = (
    "sluice,pods,statefulsets,services,configmaps,secrets,persistentvolumeclaims,poddisruptionbudgets,"
    "networkpolicies,jobs,serviceaccounts"
)


def versions(space: Kubectl) -> dict[str, str]:
    """resourceVersion of everything in the namespace."""
    return {
        f"{body['kind']}/{body['metadata']['name']}": body["metadata"]["resourceVersion"] for body in space.list(KINDS)
    }


def test_applying_the_examples_twice_writes_nothing(environment: Environment, trio: KafkaCluster) -> None:
    manifests = objects.quickstart(trio.space.namespace, environment.node_address)
    for body in manifests:
        trio.space.wait_ready(f"{body['kind'].lower()}.sluice.dev", body["metadata"]["name"], timeout=90)
    with Traffic(trio.client(), "departures", rate=500) as traffic:
        before = versions(trio.space)
        trio.space.apply(manifests)
        time.sleep(SECONDS)  # the point is that nothing happens in this time
        assert versions(trio.space) == before
    assert traffic.acknowledged
    assert not traffic.failed
