"""Whose a name in Kafka is."""

from __future__ import annotations

from typing import Any

from sluice.api.objects import Cluster, Key, parse
from sluice.plan.ownership import owners


def cluster(*allowed: str) -> Cluster:
    return parse(
        {
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": "MessagingCluster",
            "metadata": {"namespace": "kafka", "name": "demo", "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"external": {"bootstrapServers": ["a:1"]}, "allowedNamespaces": list(allowed)},
        }
    )


def body(namespace: str, name: str, day: int, **spec: Any) -> dict[str, Any]:
    return {
        "kind": "Topic",
        "metadata": {"namespace": namespace, "name": name, "creationTimestamp": f"2026-01-{day:02}T00:00:00Z"},
        "spec": spec,
    }


def name_of(found: Any) -> str:
    return str(found["metadata"]["name"])


def test_a_name_belongs_to_the_object_that_was_made_first() -> None:
    bodies = [body("b", "x", 2), body("a", "x", 3), body("c", "x", 2), body("a", "y", 9)]
    assert owners(bodies, cluster("*"), name_of) == {"x": Key("Topic", "b", "x"), "y": Key("Topic", "a", "y")}


def test_who_may_not_use_the_cluster_claims_nothing() -> None:
    bodies = [body("stranger", "x", 1), body("friend", "x", 2), body("kafka", "y", 2)]
    assert owners(bodies, cluster("friend"), name_of) == {
        "x": Key("Topic", "friend", "x"),
        "y": Key("Topic", "kafka", "y"),
    }


def test_an_object_whose_spec_can_not_be_read_keeps_what_it_has() -> None:
    bodies = [body("kafka", "x", 1, partitions="many"), body("kafka", "z", 2)]
    assert owners(bodies, cluster(), lambda _: "same") == {"same": Key("Topic", "kafka", "x")}
