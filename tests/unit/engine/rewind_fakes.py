"""What unit tests of Rewinds stand on: a group in memory that is moved, marked, joined and left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from sluice.api.base import Reason
from sluice.engine import replay_rewind as engine
from sluice.kafka.errors import KafkaError, KafkaRefusedError
from sluice.plan.observed import (
    GroupDescription,
    GroupMember,
    OffsetAndTime,
    PartitionDescription,
    TopicDescription,
    TopicPartition,
)
from sluice.replay.audit import AuditRecord
from sluice.replay.rewind_positions import Found
from tests.unit.engine.replay_fakes import Stage, stage

GROUP = "billing"
MEMBER = GroupMember("billing-1-abc", "billing-1", "/10.0.0.7")


def place(number: int) -> TopicPartition:
    """A partition of the topic."""
    return TopicPartition("orders", number)


class KilledError(Exception):
    """The operator dies here."""


@dataclass
class GroupKafka:
    """Three partitions with records 10 to 99, and a group that has read them all."""

    positions: dict[TopicPartition, int] = field(default_factory=lambda: {place(n): 100 for n in range(3)})
    mark: str | None = None
    members: tuple[GroupMember, ...] = ()
    kind: str = "consumer"
    topic_id: str = "id"
    values: dict[str, str] = field(default_factory=dict)
    """The ledger."""
    refusal: KafkaError | None = None
    """What is answered to whoever writes to the ledger."""
    audit: list[AuditRecord] = field(default_factory=list)
    audit_refusal: KafkaError | None = None
    did: list[str] = field(default_factory=list)
    left: int | None = None
    """Effects after which the operator dies; None: it lives."""
    before_move: Callable[[], None] | None = None

    def effect(self, what: str) -> None:
        """Something has been done."""
        self.did.append(what)
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KilledError(what)

    @property
    def moves(self) -> int:
        """How often positions were moved."""
        return self.did.count("moved")

    async def describe_groups(self, names: Sequence[str]) -> dict[str, GroupDescription]:
        state = "Stable" if self.members else "Empty"
        return {name: GroupDescription(name, state, self.kind, len(self.members)) for name in names}

    async def group_members(self, _: GroupDescription) -> tuple[GroupMember, ...]:
        return self.members

    async def describe_topics(self, names: Sequence[str]) -> dict[str, TopicDescription]:
        parts = tuple(PartitionDescription(n, 0, 0, (0,), (0,)) for n in range(3))
        return {name: TopicDescription(name, self.topic_id, parts) for name in names if name == "orders"}

    async def earliest_offsets(self, places: Iterable[TopicPartition], _: Any) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 10)

    async def latest_offsets(self, places: Iterable[TopicPartition], _: Any) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 100)

    stable_offsets = latest_offsets

    async def offsets_for_times(self, times: Mapping[TopicPartition, int], _: Any) -> Any:
        return dict.fromkeys(times, OffsetAndTime(50, 0))


class FakeLedger:
    """The ledger as `GroupKafka` has it."""

    def __init__(self, kafka: GroupKafka, _: Any) -> None:
        self._kafka = kafka

    async def values(self) -> dict[str, str]:
        return dict(self._kafka.values)

    async def put(self, key: str, value: str) -> None:
        if self._kafka.refusal is not None:
            raise self._kafka.refusal
        self._kafka.values[key] = value
        self._kafka.effect(key.split(":")[0])


async def _look(kafka: GroupKafka, _: str) -> Found:
    return Found(dict(kafka.positions), kafka.mark)


async def _move(kafka: GroupKafka, _: str, positions: Mapping[TopicPartition, int], mark: str) -> None:
    act, kafka.before_move = kafka.before_move, None
    if act is not None:
        act()
    if kafka.members:
        raise KafkaRefusedError(Reason.KAFKA_REFUSED, "it has members", code="UNKNOWN_MEMBER_ID")
    kafka.positions.update(positions)
    kafka.mark = mark
    kafka.effect("moved")


async def _unmark(kafka: GroupKafka, _: str) -> None:
    kafka.mark = None
    kafka.effect("unmarked")


@dataclass
class RewindStage:
    """A ReplayJob of mode Rewind, and its group."""

    stage: Stage
    kafka: GroupKafka

    def apply(self, to: Mapping[str, Any] | None = None, uid: str = "1", wait: int = 0, **spec: Any) -> None:
        """The job as a user makes it."""
        rewind = {"group": GROUP, "to": to or {"offset": 40}, "waitForInactiveSeconds": wait}
        self.stage.apply(uid=uid, mode="Rewind", rewind=rewind, **spec)

    @property
    def phase(self) -> str:
        """Phase of the job."""
        return str(self.stage.status.get("phase"))

    def message(self, type_: str = "Ready") -> str:
        """What a condition says."""
        return str(next(c for c in self.stage.status["conditions"] if c["type"] == type_)["message"])

    def at(self) -> list[int]:
        """Where the group is."""
        return [self.kafka.positions[place(n)] for n in range(3)]

    async def until(self, phase: str) -> None:
        """Look until a phase is reached."""
        for _ in range(10):
            await self.stage.reconcile()
            if self.phase == phase:
                return
        raise AssertionError(f"no {phase}: {self.stage.status}")

    async def completed(self, **spec: Any) -> None:
        """Apply it, and see it done."""
        self.apply(**spec)
        await self.until("Completed")


def rewind_stage(monkeypatch: pytest.MonkeyPatch) -> RewindStage:
    """Everything in its place."""
    made, kafka = stage(monkeypatch), GroupKafka()
    made.context.clusters._make = lambda _: kafka  # type: ignore[assignment,return-value]
    for name, fake in (("Ledger", FakeLedger), ("look", _look), ("move", _move), ("unmark", _unmark)):
        monkeypatch.setattr(engine, name, fake)
    return RewindStage(made, kafka)
