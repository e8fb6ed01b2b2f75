"""Decisions about a cluster as a whole."""

from __future__ import annotations

import pytest

from sluice.api.base import Reason
from sluice.api.cluster import Listener, ListenerType, MessagingClusterSpec, NodePool, Role, Storage
from sluice.manifests.node import Node
from sluice.plan import identity
from sluice.plan.cluster import (
    Leftover,
    ServiceAddress,
    address_problem,
    addresses,
    config_problem,
    first_version,
    fleet,
    target_version,
    too_long,
)
from sluice.versions import DEFAULT_KAFKA_VERSION

POOL = NodePool(name="n", roles=[Role.BROKER, Role.CONTROLLER], replicas=3, storage=Storage(size="1Gi"))
NODES = [Node("demo", "here", POOL, number) for number in range(3)]


def spec(version: str | None = None) -> MessagingClusterSpec:
    return MessagingClusterSpec(version=version, node_pools=[POOL])


def recorded(formatted: str, version: str) -> identity.Identity:
    made = identity.new("demo", "here", [POOL], formatted, lambda: "id")
    return identity.changed(made, version=version)


def test_a_version_that_is_not_said_is_fixed_when_the_cluster_is_made() -> None:
    assert first_version(spec()) == DEFAULT_KAFKA_VERSION
    assert target_version(spec(), recorded("4.3.1", "4.3.1")) == ("4.3.1", None)


def test_a_version_that_cannot_read_the_metadata_changes_nothing() -> None:
    version, problem = target_version(spec("4.3.1"), recorded("4.4.0", "4.4.0"))
    assert version == "4.4.0"
    assert problem is not None
    assert problem.reason is Reason.VERSION_NOT_REACHABLE


def test_going_back_to_the_version_that_the_cluster_was_formatted_with_is_possible() -> None:
    assert target_version(spec("4.3.1"), recorded("4.3.1", "4.4.0")) == ("4.3.1", None)


@pytest.mark.parametrize("key", ["super.users", "super.users ", "x\nauthorizer.class.name", "a=b", ""])
def test_a_configuration_that_an_older_schema_let_in_is_left_out_and_told(key: str) -> None:
    problem = config_problem({"num.partitions": "3", key: "x"})
    assert problem is not None
    assert problem.reason is Reason.INVALID_SPEC
    assert repr(key) in problem.message
    assert "num.partitions" not in problem.message
    assert config_problem({"num.partitions": "3"}) is None


def test_nodes_that_hold_data_are_never_taken_away() -> None:
    existing = {0: "n", 1: "n", 2: "n", 3: "n", 100: "gone"}
    found = fleet("demo", "here", [POOL], {"n": 0, "gone": 100}, existing)
    assert [node.id for node in found.nodes] == [0, 1, 2, 3]
    assert found.leftover == [Leftover(100, "demo-gone-100", "gone")]
    assert found.problem is not None
    assert found.problem.reason is Reason.SCALE_DOWN_REFUSED
    assert "demo-n-3" in found.problem.message


def test_names_that_kubernetes_would_refuse_are_told_before_anything_is_made() -> None:
    problem = too_long("a" * 60, [Node("a" * 60, "here", POOL, 0)])
    assert problem is not None
    assert "may have 52" in problem.message
    assert too_long("demo", NODES) is None


def test_inside_clients_are_sent_to_the_pods_themselves() -> None:
    found = addresses("demo", "here", NODES, [Listener(name="tls", port=9093)], {})
    assert found.bootstrap == {"tls": "demo-tls-bootstrap.here.svc:9093"}
    assert found.advertised[2] == {"tls": "demo-n-2-0.demo-nodes.here.svc:9093"}
    assert not found.missing


def test_node_ports_are_advertised_once_they_are_assigned() -> None:
    listener = Listener(name="out", port=9095, type=ListenerType.NODE_PORT, advertised_host="host.example")
    assert len(addresses("demo", "here", NODES, [listener], {}).missing) == 4
    assert address_problem([], [listener]) is None
    services = {f"demo-out-{number}": ServiceAddress(31000 + number) for number in range(3)}
    found = addresses("demo", "here", NODES, [listener], services | {"demo-out-bootstrap": ServiceAddress(31999)})
    assert found.bootstrap == {"out": "host.example:31999"}
    assert found.advertised[1] == {"out": "host.example:31001"}
    assert found.hosts[1] == frozenset({"host.example"})


def test_with_a_host_of_its_own_for_each_broker_clients_get_all_of_them() -> None:
    listener = Listener(name="out", port=9095, type=ListenerType.NODE_PORT, advertised_host="b{nodeId}.example")
    services = {f"demo-out-{number}": ServiceAddress(31000 + number) for number in range(3)}
    found = addresses("demo", "here", NODES, [listener], services)
    assert found.bootstrap["out"] == "b0.example:31000,b1.example:31001,b2.example:31002"


def test_a_broker_whose_load_balancer_has_no_address_yet_is_the_only_one_that_waits() -> None:
    listener = Listener(name="lb", port=9095, type=ListenerType.LOAD_BALANCER)
    inside = Listener(name="tls", port=9093)
    services = {f"demo-lb-{what}": ServiceAddress(host=f"{what}.example") for what in (0, 1, "bootstrap")}
    found = addresses("demo", "here", NODES, [inside, listener], services)
    assert found.missing == ["demo-lb-2"]
    assert found.incomplete == {2}
    assert found.advertised[0] == {"tls": "demo-n-0-0.demo-nodes.here.svc:9093", "lb": "0.example:9095"}
    problem = address_problem(found.missing, [inside, listener])
    assert problem is not None
    assert problem.reason is Reason.WAITING_FOR_ADDRESS
    assert problem.waiting
    assert "Service demo-lb-2" in problem.message
    assert "listeners from outside: lb" in problem.message


def test_without_the_address_of_all_no_broker_s_certificate_is_complete() -> None:
    listener = Listener(name="lb", port=9095, type=ListenerType.LOAD_BALANCER)
    services = {f"demo-lb-{number}": ServiceAddress(host=f"{number}.example") for number in range(3)}
    found = addresses("demo", "here", NODES, [listener], services)
    assert found.incomplete == {0, 1, 2}
    assert found.bootstrap == {}
    each = Listener(name="lb", port=9095, type=ListenerType.LOAD_BALANCER, advertised_host="b{nodeId}.example")
    assert addresses("demo", "here", NODES, [each], services).incomplete == frozenset()
    assert addresses("demo", "here", NODES, [each], {}).bootstrap == {}


def test_a_load_balancer_is_advertised_by_its_own_address() -> None:
    listener = Listener(name="lb", port=9095, type=ListenerType.LOAD_BALANCER)
    services = {f"demo-lb-{number}": ServiceAddress(host=f"2001:db8::{number}") for number in (0, 1, 2)}
    found = addresses(
        "demo", "here", NODES, [listener], services | {"demo-lb-bootstrap": ServiceAddress(1, "lb.example")}
    )
    assert found.advertised[1]["lb"] == "[2001:db8::1]:9095"
    assert found.bootstrap["lb"] == "lb.example:9095"
    assert found.hosts[0] == frozenset({"2001:db8::0", "lb.example"})
