"""The quickstart: all of it applied in one go and in the wrong order converges, and clients get in from outside."""

from __future__ import annotations

import pytest

from e2e.support import kafka, objects
from e2e.support.cluster import KafkaCluster, numbered
from e2e.support.environment import Environment
from e2e.support.kubectl import Kubectl


def test_everything_becomes_ready_though_the_cluster_came_last(trio: KafkaCluster) -> None:
    for body in objects.quickstart(trio.space.namespace, "unused"):
        trio.space.wait_ready(f"{body['kind'].lower()}.sluice.dev", body["metadata"]["name"], timeout=90)


def test_the_status_says_what_runs_and_where_clients_connect(trio: KafkaCluster) -> None:
    status = trio.body()["status"]
    assert status["brokers"] == 3
    assert status["version"] == "4.4.0"
    assert [node["ready"] for node in status["nodes"]] == [True] * 3
    assert {listener["name"] for listener in status["listeners"]} == {"tls", "scram", "outside"}


def test_a_client_with_a_certificate_gets_in_through_the_node_port(trio: KafkaCluster) -> None:
    assert trio.produce("departures", numbered(500)) == 500
    found = kafka.read_topic(trio.client("auditor"), "departures")
    assert {read.value for read in found} >= {b"%d" % number for number in range(500)}


def test_a_user_may_do_what_its_rules_say_and_nothing_else(trio: KafkaCluster) -> None:
    with pytest.raises(kafka.ProduceError, match=r"(?i)authoriz"):
        kafka.produce(trio.client("auditor"), "departures", numbered(1))


def test_a_client_with_a_password_gets_in_through_the_node_port(solo: KafkaCluster, space: Kubectl) -> None:
    space.apply(
        [
            objects.topic("letters", solo.reference),
            objects.user("writer", solo.reference, authentication="SCRAM-SHA-512"),
        ]
    )
    space.wait_ready("topic", "letters")
    space.wait_ready("user.sluice.dev", "writer")
    by_password = solo.client("writer", listener="password", space=space)
    assert kafka.produce(by_password, "letters", numbered(100)) == 100
    assert len(kafka.read_topic(by_password, "letters")) == 100
    with pytest.raises(Exception, match=r"(?i)auth|timed out|transport"):
        kafka.read_topic({**by_password, "sasl.password": "wrong"}, "letters", timeout=5)


def test_a_group_starts_at_the_first_record_whatever_its_clients_say(trio: KafkaCluster) -> None:
    trio.produce("departures-february", numbered(300))
    trio.space.wait_ready("consumergroup", "departure-board", timeout=60)
    latest = trio.client("auditor") | {"auto.offset.reset": "latest"}
    assert kafka.consume_as_group(latest, "departure-board", "departures-february", 100) == 100


def test_the_examples_are_all_accepted_by_the_api_server(environment: Environment, space: Kubectl) -> None:
    for folder in ("external", "production"):
        space.apply(objects.QUICKSTART.parent / folder, "--dry-run=server")


def test_the_operator_measures_brokers_followers_and_its_own_work(environment: Environment, trio: KafkaCluster) -> None:
    own = {"namespace": trio.space.namespace, "cluster": trio.name}
    for broker in ("0", "1", "2"):
        for measured in ("produce", "end_to_end"):
            name, labels = f"sluice_probe_{measured}_seconds_count", own | {"broker": broker}
            environment.wait_for_metric(name, labels, lambda count: count > 0)
    # One broker coordinates the probe's group.
    environment.wait_for_metric("sluice_probe_commit_seconds_count", own, lambda count: count > 0)
    environment.wait_for_metric("sluice_replication_lag_records", own, lambda lag: lag >= 0)
    environment.wait_for_metric("sluice_reconciles_total", {"kind": "Topic", "outcome": "success"}, lambda n: n > 0)
