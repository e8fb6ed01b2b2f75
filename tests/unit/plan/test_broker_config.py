"""Configuration of nodes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sluice.api.broker_config import is_owned
from sluice.api.cluster import Listener, NodePool, Role, Storage
from sluice.api.user import AuthenticationType
from sluice.manifests.node import Node
from sluice.plan.broker_config import (
    DYNAMIC_KEYS,
    ClusterConfig,
    defaults,
    dynamic,
    dynamic_changes,
    endpoints,
    in_turn,
    min_insync,
    server_properties,
)
from sluice.plan.observed import ConfigValue

CONTROLLERS = ["demo-c-0-0.demo-nodes.here.svc:9090"]
LISTENERS = [
    Listener(name="tls", port=9093),
    Listener(name="scram", port=9094, authentication=AuthenticationType.SCRAM_SHA_512),
]


def node(*roles: Role, rack: str | None = None) -> Node:
    pool = NodePool(name="p", roles=list(roles), replicas=1, storage=Storage(size="1Gi"), rack=rack)
    return Node("demo", "here", pool, 7)


def properties(of: Node, brokers: int = 3, **config: str) -> dict[str, str]:
    advertised = {"tls": "b.example:9093", "scram": "b.example:9094"}
    keys = {key.replace("_", "."): value for key, value in config.items()}
    text = server_properties(of, endpoints(of, LISTENERS, advertised), ClusterConfig(CONTROLLERS, brokers, keys))
    return dict(line.split("=", 1) for line in text.splitlines())


def test_listeners_of_clients_trust_only_the_clients_authority_and_internal_ones_only_the_cluster_s() -> None:
    found = properties(node(Role.BROKER, Role.CONTROLLER))
    assert found["listener.name.tls.ssl.truststore.location"].endswith("/clients-ca.pem")
    for internal in ("controller", "replication"):
        assert found[f"listener.name.{internal}.ssl.truststore.location"].endswith("/cluster-ca.pem")
        assert found[f"listener.name.{internal}.ssl.client.auth"] == "required"
    assert "listener.name.scram.ssl.client.auth" not in found
    assert found["allow.everyone.if.no.acl.found"] == "false"
    assert "PLAINTEXT" not in found["listener.security.protocol.map"]


def test_a_controller_has_no_client_listeners_and_a_broker_no_vote() -> None:
    controller, broker = properties(node(Role.CONTROLLER)), properties(node(Role.BROKER, rack="zone-a"))
    assert controller["listeners"] == "CONTROLLER://:9090"
    assert controller["process.roles"] == "controller"
    assert "controller.quorum.auto.join.enable" not in broker
    assert "CONTROLLER" not in broker["listeners"]
    assert broker["broker.rack"] == "zone-a"


def test_copies_follow_the_number_of_brokers() -> None:
    assert properties(node(Role.BROKER), brokers=1)["offsets.topic.replication.factor"] == "1"
    assert properties(node(Role.BROKER), brokers=5)["offsets.topic.replication.factor"] == "3"
    assert [min_insync(brokers) for brokers in (1, 2, 3, 9)] == [1, 1, 2, 2]


def test_the_users_word_beats_defaults_but_not_what_the_operator_owns() -> None:
    found = properties(node(Role.BROKER), num_partitions="12", node_id="99", allow_everyone_if_no_acl_found="true")
    assert found["num.partitions"] == "12"
    assert found["node.id"] == "7"
    assert found["allow.everyone.if.no.acl.found"] == "false"


def test_whatever_the_operator_sets_and_the_user_may_not_is_its_own() -> None:
    found = properties(node(Role.BROKER, Role.CONTROLLER, rack="zone-a"))
    assert [key for key in found if key not in defaults(3) and not is_owned(key)] == []


def test_dynamic_keys_never_stand_in_the_file() -> None:
    assert not DYNAMIC_KEYS & set(properties(node(Role.BROKER), log_retention_ms="1"))


def test_dynamic_keys_are_altered_only_where_they_differ_and_removed_when_nobody_asks() -> None:
    wanted = dynamic({"log.cleaner.threads": "2", "num.partitions": "9"}, 3)
    assert "num.partitions" not in wanted
    observed = {key: ConfigValue(value, True) for key, value in wanted.items()}
    assert dynamic_changes(wanted, observed) == {}
    observed["num.io.threads"] = ConfigValue("16", True)
    observed["leader.replication.throttled.rate"] = ConfigValue("1", True)
    assert dynamic_changes(wanted, observed) == {"num.io.threads": None}


def test_what_the_operator_sees_to_is_changed_apart_from_what_the_user_may_have_got_wrong() -> None:
    config = {"log.retention.ms": "for ever"}
    changes = dynamic_changes(dynamic(config, 3), {"num.io.threads": ConfigValue("16", True)})
    assert in_turn(changes, config) == [
        {"min.insync.replicas": "2", "unclean.leader.election.enable": "false", "num.io.threads": None},
        {"log.retention.ms": "for ever"},
    ]
    assert in_turn({"min.insync.replicas": "1"}, {"min.insync.replicas": "1"}) == [{"min.insync.replicas": "1"}]
    assert in_turn({}, config) == []


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_key_or_value_can_smuggle_in_another_line(key: str, value: str) -> None:
    of = node(Role.BROKER)
    plain = server_properties(of, endpoints(of, [], {}), ClusterConfig(CONTROLLERS, 1, {}))
    added = {"some.key": value, f"{key}\nauthorizer.class.name": "", f"super.users{key} ": value}
    text = server_properties(of, endpoints(of, [], {}), ClusterConfig(CONTROLLERS, 1, added))
    # Keys that no Kafka configuration has aren't written at all: Java reads "super.users " as super.users.
    assert text.count("\n") == plain.count("\n") + 1
    assert "\r" not in text
