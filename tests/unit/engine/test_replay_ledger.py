"""The ledger: what stands in it isn't taken back by who comes late, and isn't kept where it may get lost."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from sluice.api.replay import PartitionRange, ReplayPlan
from sluice.engine.errors import NotLeaderError
from sluice.kafka.errors import KafkaRefusedError
from sluice.plan.observed import ConfigValue, NewTopic, PartitionDescription, TopicDescription
from sluice.replay.internal_topic import InternalTopic
from sluice.replay.ledger import TOPIC, Ledger, LedgerEntry, LedgerState

KEY = "ns/job/v1/h/planned:run"
TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAQ"


def entry(state: LedgerState, uid: str = "uid") -> LedgerEntry:
    plan = ReplayPlan(
        hash="h",
        planned_at=datetime(2026, 1, 1, tzinfo=UTC),
        source_topic_id="a",
        target_topic_id="b",
        offsets=10,
        partitions=[PartitionRange(partition=0, start=0, end=10, shard=0)],
    )
    return LedgerEntry(KEY, state, uid, plan, 5, "2026")


class Admin:
    """A cluster whose ledger topic has some configuration, or isn't there (None)."""

    settings = None

    def __init__(self, config: dict[str, str] | None, brokers: int = 3) -> None:
        self.config = config
        self.brokers = brokers
        self.made: list[NewTopic] = []

    async def describe_topics(self, names: list[str]) -> dict[str, TopicDescription]:
        if self.config is None:
            return {}
        return {TOPIC: TopicDescription(TOPIC, TOPIC_ID, (PartitionDescription(0, 0, 0, (0,), (0,)),))}

    async def describe_topic_configs(self, keys: dict[str, Any]) -> dict[str, dict[str, ConfigValue]]:
        return {TOPIC: {key: ConfigValue(value, overridden=True) for key, value in (self.config or {}).items()}}

    async def describe_cluster(self) -> Any:
        return SimpleNamespace(active_brokers=[None] * self.brokers)

    async def create_topics(self, topics: list[NewTopic]) -> dict[str, None]:
        self.made += topics
        self.config = dict(topics[0].config)
        return {TOPIC: None}


def ledger(admin: Admin, fence: Any = lambda: None) -> Ledger:
    client: Any = admin
    return Ledger(client, fence)


async def read_of(monkeypatch: pytest.MonkeyPatch, *entries: LedgerEntry) -> LedgerEntry | None:
    """What is read when the entries stand in the topic in this order."""

    async def scan(self: InternalTopic, topic_id: str) -> list[tuple[bytes, bytes]]:
        return [(e.record_key.encode(), e.to_json().encode()) for e in entries]

    monkeypatch.setattr(InternalTopic, "_scan", scan)
    return await ledger(Admin({})).read(KEY)


@pytest.mark.parametrize("order", list(itertools.permutations(LedgerState)))
async def test_an_entry_that_comes_late_takes_nothing_back(
    monkeypatch: pytest.MonkeyPatch, order: tuple[LedgerState, ...]
) -> None:
    written: list[LedgerEntry] = []
    for state in order:
        written.append(entry(state))
        found = await read_of(monkeypatch, *written)
        assert found is not None
        assert found.state is max((e.state for e in written), key=list(LedgerState).index)


async def test_each_state_stands_under_a_key_of_its_own_so_that_compaction_keeps_it() -> None:
    assert len({entry(state).record_key for state in LedgerState}) == len(LedgerState)


async def test_others_entries_are_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await read_of(monkeypatch) is None
    other = LedgerEntry("run", LedgerState.COMPLETED, "uid", entry(LedgerState.PLANNED).plan, 5, "2026")
    assert await read_of(monkeypatch, other) is None


async def test_what_somebody_else_wrote_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = entry(LedgerState.PLANNED)

    async def scan(self: InternalTopic, topic_id: str) -> list[tuple[bytes | None, bytes | None]]:
        return [(b"\xff", b"\xff"), (None, b"x"), (kept.record_key.encode(), kept.to_json().encode())]

    monkeypatch.setattr(InternalTopic, "_scan", scan)
    assert await ledger(Admin({})).read(KEY) == kept


async def test_the_last_of_a_state_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await read_of(monkeypatch, entry(LedgerState.PLANNED, "one"), entry(LedgerState.PLANNED, "two"))
    assert found is not None
    assert found.uid == "two"


async def test_nothing_is_sent_once_another_operator_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting takes its time; the Lease may be lost in it."""
    did: list[str] = []

    class Connection:
        api_versions: Mapping[int, tuple[int, int]] = MappingProxyType({0: (0, 13)})

        def send(self, *_: Any) -> Any:
            did.append("sent")
            raise AssertionError("it must not be sent")

    class Cluster:
        def leader(self, _: Any) -> int:
            return 0

        async def broker(self, *_: Any) -> Connection:
            did.append("connected")
            return Connection()

        def close(self) -> None:
            did.append("closed")

    async def opened(self: InternalTopic, topic_id: str) -> Any:
        return Cluster()

    def fence() -> None:
        if "connected" in did:
            raise NotLeaderError

    monkeypatch.setattr(InternalTopic, "_open", opened)
    with pytest.raises(NotLeaderError):
        await ledger(Admin({"cleanup.policy": "compact"}), fence).write(entry(LedgerState.PLANNED))
    assert did == ["connected", "closed"]


@pytest.mark.parametrize("policy", ["delete", "compact,delete", ""])
async def test_a_topic_that_forgets_is_no_ledger(policy: str) -> None:
    with pytest.raises(KafkaRefusedError, match=r"cleanup\.policy"):
        await ledger(Admin({"cleanup.policy": policy})).write(entry(LedgerState.PLANNED))


@pytest.mark.parametrize(("brokers", "copies", "in_sync"), [(1, 1, "1"), (2, 2, "1"), (3, 3, "2"), (9, 3, "2")])
async def test_what_was_acknowledged_survives_a_broker_and_needs_not_all(
    brokers: int, copies: int, in_sync: str
) -> None:
    admin = Admin(None, brokers)
    await ledger(admin)._topic.ensure()
    (made,) = admin.made
    config = dict(made.config)
    assert (made.partitions, made.replicas, config["min.insync.replicas"]) == (1, copies, in_sync)
    assert (config["cleanup.policy"], config["unclean.leader.election.enable"]) == ("compact", "false")
