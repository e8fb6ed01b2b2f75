"""What the webhook and the engine refuse, and in which words."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from sluice.api.base import API_VERSION
from sluice.api.objects import Resource, parse
from sluice.plan.admission import ClusterView, allows_namespace, broker_count, judge

CREATED = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)


def body(
    kind: str, name: str, spec: dict[str, Any], *, namespace: str = "shop", day: int = 1, **more: Any
) -> dict[str, Any]:
    """An object as the API server shows it, made on a day of November."""
    made = CREATED.replace(day=day).isoformat().replace("+00:00", "Z")
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "uid": name, "creationTimestamp": made},
        "spec": spec,
        **more,
    }


def topic(name: str = "orders", *, namespace: str = "shop", day: int = 1, **spec: Any) -> dict[str, Any]:
    return body(
        "Topic", name, {"clusterRef": {"name": "demo", "namespace": "kafka"}} | spec, namespace=namespace, day=day
    )


def cluster(brokers: int = 3, *, allowed: tuple[str, ...] = ("*",), **more: Any) -> Resource[Any, Any]:
    pools = [
        {"name": "c", "roles": ["controller"], "replicas": 3, "storage": {"size": "1Gi"}},
        {"name": "b", "roles": ["broker"], "replicas": brokers, "storage": {"size": "1Gi"}},
    ]
    spec = {"nodePools": pools, "allowedNamespaces": list(allowed)}
    return parse(body("MessagingCluster", "demo", spec, namespace="kafka", **more))


def external(brokers: int | None) -> Resource[Any, Any]:
    spec = {"external": {"bootstrapServers": ["kafka:9092"]}, "allowedNamespaces": ["*"]}
    return parse(body("MessagingCluster", "demo", spec, namespace="kafka", status={"brokers": brokers}))


def test_an_ordinary_topic_is_let_in() -> None:
    assert judge(topic(replicas=3), None, ClusterView(cluster())) == []


def test_more_replicas_than_brokers_are_refused_with_both_numbers() -> None:
    [sentence] = judge(topic(replicas=5), None, ClusterView(cluster(3)))
    assert "spec.replicas 5 is above the 3 brokers of MessagingCluster kafka/demo" in sentence
    assert "lower it, or add brokers first" in sentence


def test_a_cluster_that_does_not_exist_yet_refuses_nothing() -> None:
    assert judge(topic(replicas=99), None, ClusterView(None)) == []


def test_an_external_cluster_counts_once_its_brokers_are_known() -> None:
    assert judge(topic(replicas=3), None, ClusterView(external(None))) == []
    assert "above the 2 brokers" in judge(topic(replicas=3), None, ClusterView(external(2)))[0]


def test_brokers_that_are_only_asked_for_count_too() -> None:
    """So that a cluster's growth and a topic that needs it can be applied in one go."""
    assert broker_count(cluster(5, status={"brokers": 3})) == 5
    assert broker_count(cluster(3, status={"brokers": 5})) == 5


def test_a_topic_that_was_let_in_can_still_be_edited_when_brokers_are_fewer() -> None:
    old, new = topic(replicas=5), topic(replicas=5, config={"retention.ms": "1"})
    assert judge(new, old, ClusterView(cluster(3))) == []
    assert judge(topic(replicas=6), old, ClusterView(cluster(3))) != []


def test_metadata_changes_and_deletions_go_through_whatever_the_world_looks_like() -> None:
    wrong = topic("a" * 250, replicas=99)
    assert judge(wrong, wrong, ClusterView(cluster())) == []
    wrong["metadata"]["deletionTimestamp"] = "2026-11-02T00:00:00Z"
    assert judge(wrong, None, ClusterView(cluster())) == []


def test_an_object_name_too_long_for_kafka_needs_a_topic_name() -> None:
    assert "spec.topicName" in judge(topic("a" * 250), None, ClusterView())[0]
    assert judge(topic("a" * 250, topicName="short"), None, ClusterView()) == []


def test_dot_and_underscore_collide_and_the_younger_topic_is_refused() -> None:
    elder, younger = topic("a.b", day=1), topic("second", topicName="a_b", day=2)
    around = ClusterView(cluster(), [parse(elder), parse(younger)])
    [sentence] = judge(younger, None, around)
    assert "a_b collides with a.b of Topic shop/a.b" in sentence
    assert judge(elder, None, around) == []


def test_a_topic_of_a_namespace_that_the_cluster_refuses_stands_in_nobodys_way() -> None:
    stranger, younger = topic("a.b", namespace="elsewhere", day=1), topic("second", topicName="a_b", day=2)
    assert judge(younger, None, ClusterView(cluster(allowed=("shop",)), [parse(stranger)])) == []


def test_two_objects_for_one_topic_are_the_engines_business() -> None:
    elder, younger = topic("orders", day=1), topic("second", topicName="orders", day=2)
    assert judge(younger, None, ClusterView(cluster(), [parse(elder)])) == []


def test_a_namespace_needs_the_clusters_word() -> None:
    view = ClusterView(cluster(allowed=("billing",)))
    assert judge(topic(namespace="billing"), None, view) == []
    assert judge(topic(namespace="kafka"), None, view) == []
    [sentence] = judge(topic(namespace="shop"), None, view)
    assert "add shop to spec.allowedNamespaces" in sentence


@pytest.mark.parametrize(("allowed", "expected"), [((), False), (("shop",), True), (("*",), True)])
def test_allowed_namespaces(allowed: tuple[str, ...], expected: bool) -> None:
    assert allows_namespace(cluster(allowed=allowed), "shop") is expected


def test_users_cannot_take_the_operators_principals() -> None:
    spec = {"clusterRef": {"name": "demo"}}
    assert "sluice-" in judge(body("User", "sluice-operator", spec), None, ClusterView())[0]
    assert "sluice-" in judge(body("User", "me", spec | {"userName": "sluice-node"}), None, ClusterView())[0]
    assert judge(body("User", "sluice-fan", spec | {"userName": "fan"}), None, ClusterView()) == []


def test_a_principal_has_to_fit_into_a_certificate() -> None:
    spec = {"clusterRef": {"name": "demo"}}
    assert "64 characters" in judge(body("User", "u" * 65, spec), None, ClusterView())[0]
    assert judge(body("User", "u" * 65, spec | {"authentication": "SCRAM-SHA-512"}), None, ClusterView()) == []


def cluster_body(version: str, formatted: str | None = None) -> dict[str, Any]:
    pools = [{"name": "n", "roles": ["controller", "broker"], "replicas": 1, "storage": {"size": "1Gi"}}]
    made = body("MessagingCluster", "demo", {"version": version, "nodePools": pools})
    return made | {"status": {"formatVersion": formatted}} if formatted else made


def test_a_version_below_the_one_of_the_format_is_refused() -> None:
    [sentence] = judge(cluster_body("4.3.1", "4.4.0"), cluster_body("4.4.0", "4.4.0"), ClusterView())
    assert "stay at 4.4.0 or above" in sentence
    assert judge(cluster_body("4.3.1", "4.3.1"), None, ClusterView()) == []
    assert judge(cluster_body("4.3.1"), None, ClusterView()) == []


def test_an_unknown_version_is_refused_even_where_the_crd_is_an_older_one() -> None:
    assert "runs Kafka" in judge(cluster_body("3.9.0"), None, ClusterView())[0]


def test_a_spec_that_this_operator_cannot_read_is_named_by_field() -> None:
    assert judge(topic(novelty=1), None, ClusterView()) == ["spec.novelty: Extra inputs are not permitted"]
