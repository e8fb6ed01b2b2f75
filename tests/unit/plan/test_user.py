"""What is done about a user."""

from __future__ import annotations

from typing import Any

from sluice.api.user import UserSpec
from sluice.plan.observed import AclBinding
from sluice.plan.user import ObservedUser, acl_changes, desired_acls, quota_changes, scram_mechanisms


def spec(**values: Any) -> UserSpec:
    return UserSpec.model_validate({"clusterRef": {"name": "demo"}, **values})


def acl(operation: str, permission: str = "Allow") -> AclBinding:
    return AclBinding("Topic", "orders", "Literal", "User:alice", "*", operation, permission)


def test_each_operation_is_an_acl() -> None:
    rules = [
        {"resource": "Topic", "name": "orders", "operations": ["Read", "Write"]},
        {"resource": "Cluster", "operations": ["IdempotentWrite"], "permission": "Deny", "host": "10.0.0.1"},
    ]
    assert desired_acls(spec(acls=rules), "alice") == {
        acl("Read"),
        acl("Write"),
        AclBinding("Cluster", "kafka-cluster", "Literal", "User:alice", "10.0.0.1", "IdempotentWrite", "Deny"),
    }


def test_no_moment_allows_more_than_before_or_after() -> None:
    changes = acl_changes({acl("Read"), acl("Write", "Deny")}, {acl("Delete"), acl("Alter", "Deny")})
    assert changes.create == (acl("Write", "Deny"), acl("Read"))
    assert changes.delete == (acl("Delete"), acl("Alter", "Deny"))


def test_quotas_that_the_spec_can_not_say_are_left_alone() -> None:
    current = {"producer_byte_rate": 5.0, "request_percentage": 1.0, "controller_mutation_rate": 3.0}
    wanted = spec(quotas={"producerByteRate": 5, "consumerByteRate": 7})
    assert quota_changes(wanted, current) == {"consumer_byte_rate": 7.0, "request_percentage": None}
    assert quota_changes(spec(), current) == {"producer_byte_rate": None, "request_percentage": None}


def test_only_scram_users_have_a_password() -> None:
    assert scram_mechanisms(spec()) == frozenset()
    assert scram_mechanisms(spec(authentication="SCRAM-SHA-512")) == {"SCRAM-SHA-512"}


def test_traces_of_a_principal_are_named() -> None:
    assert ObservedUser(None, frozenset(), {}).traces == []
    found = ObservedUser(frozenset({acl("Read")}), frozenset({"SCRAM-SHA-256"}), {"producer_byte_rate": 1.0})
    assert found.traces == ["passwords (SCRAM)", "ACLs", "quotas"]
