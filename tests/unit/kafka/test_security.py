"""ACLs between Kafka's numbers and words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kafka.protocol.api_message import ApiMessage

from sluice.api.user import Operation, PatternType, ResourceType
from sluice.kafka import admin_security
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.plan.observed import AclBinding


class OneAcl(KafkaAdmin):
    """A cluster with one ACL, of kinds that are newer than this code."""

    def __init__(self, resource: int, pattern: int, operation: int) -> None:
        super().__init__(ConnectionSettings(("a:1",)))
        self.deleted: list[Any] = []
        self._resource = SimpleNamespace(
            resource_type=resource,
            resource_name="x",
            pattern_type=pattern,
            acls=[SimpleNamespace(principal="User:a", host="*", operation=operation, permission_type=3)],
        )

    async def read(self, request: ApiMessage, what: str, *, node: int | None = None) -> Any:
        return SimpleNamespace(error_code=0, error_message=None, resources=[self._resource])

    async def write(self, request: Any, what: str, *, node: int | None = None) -> Any:
        self.deleted += request.filters
        return SimpleNamespace(filter_results=[])


async def test_an_acl_of_a_kind_that_nobody_here_knows_is_seen_and_can_be_deleted() -> None:
    admin = OneAcl(resource=42, pattern=3, operation=99)
    found = await admin.describe_acls("User:a")
    assert found == {AclBinding("42", "x", "Literal", "User:a", "*", "99", "Allow")}
    await admin.delete_acls(sorted(found))
    (sent,) = admin.deleted
    assert (sent.resource_type_filter, sent.pattern_type_filter, sent.operation) == (42, 3, 99)


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (ResourceType, admin_security.RESOURCES),
        (PatternType, admin_security.PATTERNS),
        (Operation, admin_security.OPERATIONS),
    ],
)
def test_every_word_of_the_spec_has_its_number(words: Any, numbers: dict[str, int]) -> None:
    assert {word.value for word in words} == set(numbers)
