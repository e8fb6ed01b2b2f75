"""The audit's topic: facts once, however often they are written; kept for good, whatever somebody set."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sluice.api.base import Reason
from sluice.kafka.errors import KafkaError, KafkaRefusedError
from sluice.plan.observed import AclBinding, ConfigValue, NewTopic, PartitionDescription, TopicDescription
from sluice.replay.audit import TOPIC, Audit, AuditRecord, Fact, once
from sluice.replay.internal_topic import InternalTopic, keep_others_out

KEPT = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}


def fact(kind: Fact = Fact.STARTED, at: str = "1", distinct: str = "", **detail: Any) -> AuditRecord:
    return AuditRecord(kind, at, "ns/job", "uid", "run", "hash", distinct, detail)


class Admin:
    """A cluster whose audit topic has some configuration."""

    settings = None

    def __init__(self, problem: KafkaError | None = None, **config: str) -> None:
        self.config = KEPT | {key.replace("_", "."): value for key, value in config.items()}
        self.problem = problem
        self.acls: set[AclBinding] = set()
        self.did: list[str] = []

    async def describe_topics(self, _: list[str]) -> dict[str, TopicDescription]:
        return {TOPIC: TopicDescription(TOPIC, "id", (PartitionDescription(0, 0, 0, (0,), (0,)),))}

    async def describe_topic_configs(self, keys: dict[str, Any]) -> dict[str, dict[str, ConfigValue]]:
        return {TOPIC: {key: ConfigValue(self.config[key], overridden=True) for key in keys[TOPIC]}}

    async def create_topics(self, _: list[NewTopic]) -> dict[str, None]:
        raise AssertionError("it is there")

    async def alter_topic_configs(self, changes: dict[str, dict[str, str]]) -> dict[str, KafkaError | None]:
        if self.problem is None:
            self.config |= changes[TOPIC]
            self.did.append("altered")
        return {TOPIC: self.problem}

    async def describe_acls(self, principal: str) -> set[AclBinding]:
        return {acl for acl in self.acls if acl.principal == principal}

    async def create_acls(self, acls: list[AclBinding]) -> None:
        self.acls |= set(acls)
        self.did.append("denied")


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What has been appended."""
    found: list[dict[str, Any]] = []

    async def append(self: InternalTopic, topic_id: str, records: list[tuple[bytes, bytes]]) -> None:
        assert {key for key, _ in records} == {b"ns/job"}
        found.extend(json.loads(value) for _, value in records)

    monkeypatch.setattr(InternalTopic, "append", append)
    return found


async def write(admin: Admin) -> str | None:
    client: Any = admin
    return await Audit(client, lambda: None).write([fact()])


async def test_a_fact_says_what_of_which_job_and_which_plan(written: list[dict[str, Any]]) -> None:
    assert await write(Admin()) is None
    assert written == [
        {
            "id": fact().id,
            "fact": "Started",
            "at": "1",
            "job": "ns/job",
            "uid": "uid",
            "run": "run",
            "planHash": "hash",
        }
    ]


def test_the_same_fact_is_read_once_as_it_was_first_written_and_others_each() -> None:
    facts = [fact(), fact(at="2"), fact(Fact.COMPLETED), fact(distinct="other"), fact(at="3", records=7)]
    values = [record.to_json().encode() for record in facts]
    found = once([*values, b"no fact", None, b"[]", b'{"id": 1}'])
    assert [(one["fact"], one["at"]) for one in found] == [("Started", "1"), ("Completed", "1"), ("Started", "1")]


@pytest.mark.parametrize("config", [{"retention_ms": "1000"}, {"retention_bytes": "1"}, {"cleanup_policy": "compact"}])
async def test_a_retention_that_somebody_shortened_is_put_back_and_told(
    config: dict[str, str], written: list[dict[str, Any]]
) -> None:
    admin = Admin(**config)
    said = await write(admin)
    ((key, value),) = config.items()
    assert f"had {key.replace('_', '.')}={value}, so facts may be missing" in str(said)
    assert (admin.config, len(written)) == (KEPT, 1)


async def test_what_cannot_be_kept_is_not_written(written: list[dict[str, Any]]) -> None:
    with pytest.raises(KafkaRefusedError):
        await write(Admin(KafkaRefusedError(Reason.KAFKA_REFUSED, "no right"), retention_ms="1"))
    assert written == []


async def test_nobody_else_may_write_it_or_take_it_away() -> None:
    admin: Any = Admin()
    await keep_others_out(admin, [TOPIC])
    assert {(acl.name, acl.principal, acl.operation, acl.permission) for acl in admin.acls} == {
        (TOPIC, "User:*", operation, "Deny") for operation in ("Write", "Delete", "Alter", "AlterConfigs")
    }
    await keep_others_out(admin, [TOPIC])
    assert admin.did == ["denied"]
