"""What the ledger has of Rewinds: frozen plans, how each ended, and the snapshots of positions that were moved.

A copy and a Rewind never share a key, so that both stand in one topic, each in a shape of its own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sluice.kafka.errors import KafkaUnreachableError
from sluice.plan.observed import TopicPartition
from sluice.plan.replay import as_json
from sluice.plan.rewind_model import Move, RewindPlan, Snapshot
from sluice.replay.ledger import Ledger

_SNAPSHOT: Final = "snapshot"


class RewindState(StrEnum):
    """How far a Rewind has come, in this order, and never back. What was committed, the group's mark says."""

    PLANNED = "planned"
    """The plan is frozen, and may have been committed."""
    CANCELLED = "cancelled"
    """Somebody didn't want it any more, before anything was committed."""
    COMPLETED = "completed"
    UNDOING = "undoing"
    """The plan that puts the positions back is frozen, and may have been committed."""
    UNDONE = "undone"


@dataclass(frozen=True)
class RewindEntry:
    """A Rewind's line. ``uid`` is the object that wrote it; one that was cancelled early has no ``plan``."""

    key: str
    state: RewindState
    uid: str
    plan: RewindPlan | None
    at: str

    @property
    def mark(self) -> str:
        """What is committed with the plan: who finds it knows that it was, and by whom."""
        planned = f"{self.plan.hash}/{self.plan.planned_at.timestamp():.0f}" if self.plan else ""
        return as_json({"replay": self.key, "state": self.state.value, "plan": planned})

    def to_json(self) -> str:
        """As it stands in the topic."""
        plan = None if self.plan is None else _plan_to(self.plan)
        return as_json({"state": self.state.value, "uid": self.uid, "rewind": plan, "at": self.at})

    @classmethod
    def from_json(cls, key: str, text: str) -> RewindEntry:
        """Read an entry.

        Raises:
            ValueError: it can't be read.
        """
        value: dict[str, Any] = json.loads(text)
        try:
            plan = None if value["rewind"] is None else _plan_from(value["rewind"])
            return cls(key, RewindState(value["state"]), value["uid"], plan, value["at"])
        except KeyError as error:
            raise ValueError(f"the ledger's entry {key} lacks {error}") from error


@dataclass(frozen=True)
class Entries:
    """A Rewind's entries: the highest, and the one of the plan that it was completed by, if it was."""

    last: RewindEntry | None
    done: RewindEntry | None
    snapshot: Snapshot | None
    """The snapshot that was asked for by name."""


_DONE: Final = {RewindState.PLANNED: RewindState.COMPLETED, RewindState.UNDOING: RewindState.UNDONE}
"""What a plan's state is followed by once it was committed."""


class RewindLedger:
    """The ledger of one cluster, as Rewinds use it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def read(self, key: str, snapshot: str | None = None) -> Entries:
        """What is known of a Rewind, and a snapshot by its name in the ledger (`snapshot_key`).

        Raises:
            KafkaUnreachableError: it can't be read now.
            ValueError: an entry can't be understood; it needs a person.
        """
        values = await self._ledger.values()
        found = [
            RewindEntry.from_json(key, value)
            for state in reversed(RewindState)
            if (value := values.get(_entry_key(state, key)))
        ]
        done = next((entry for entry in found if entry.state is RewindState.COMPLETED), None)
        text = values.get(f"{_SNAPSHOT}:{snapshot}") if snapshot else None
        name = snapshot.rsplit("/", 1)[-1] if snapshot else ""
        return Entries(found[0] if found else None, done, _snapshot_from(name, text) if text else None)

    async def write(self, entry: RewindEntry) -> None:
        """Write an entry; it is there when this returns. Raises as `Ledger.put`."""
        await self._ledger.put(_entry_key(entry.state, entry.key), entry.to_json())

    async def finish(self, entry: RewindEntry, at: str) -> RewindEntry:
        """Enter that the plan of an entry was committed; the entry from now on."""
        done = replace(entry, state=_DONE[entry.state], at=at)
        await self.write(done)
        return done

    async def settle(self, mark: str, at: str) -> None:
        """Enter what a mark says, whose ever it is: its operator may have died right after the commit."""
        try:
            key = json.loads(mark)["replay"]
        except (ValueError, KeyError, TypeError):  # somebody else's, and none of ours
            return
        entry = (await self.read(key)).last
        if entry is not None and entry.state in _DONE and entry.mark == mark:
            await self.finish(entry, at)

    async def keep(self, name: str, snapshot: Snapshot) -> None:
        """Write a snapshot under its name in the ledger, and read it back.

        Raises:
            KafkaUnreachableError: it isn't known to be there.
            KafkaRefusedError: the topic is one in which it may get lost.
        """
        key, text = f"{_SNAPSHOT}:{name}", _snapshot_to(snapshot)
        await self._ledger.put(key, text)
        if (await self._ledger.values()).get(key) != text:
            raise KafkaUnreachableError(f"snapshot {name} was written, and isn't there: nothing is moved")


def snapshot_key(namespace: str, name: str) -> str:
    """Name of a snapshot in the ledger: those of one namespace are none of another's business."""
    return f"{namespace}/{name}"


def _entry_key(state: RewindState, key: str) -> str:
    return f"{state.value}:{key}"


def _plan_to(plan: RewindPlan) -> dict[str, Any]:
    moves: dict[str, list[list[int | None]]] = defaultdict(list)
    for move in plan.moves:
        moves[move.place.topic].append([move.place.partition, move.before, move.after])
    return {
        "group": plan.group,
        "plannedAt": plan.planned_at.isoformat(),
        "snapshot": plan.snapshot,
        "moves": moves,
        "topics": dict(plan.topic_ids),
        "warnings": list(plan.warnings),
    }


def _plan_from(value: Mapping[str, Any]) -> RewindPlan:
    return RewindPlan(
        group=value["group"],
        planned_at=datetime.fromisoformat(value["plannedAt"]),
        snapshot=value["snapshot"],
        moves=tuple(
            Move(TopicPartition(topic, partition), before, after)
            for topic, moves in value["moves"].items()
            for partition, before, after in moves
        ),
        topic_ids=value["topics"],
        warnings=tuple(value["warnings"]),
    )


def _snapshot_to(snapshot: Snapshot) -> str:
    positions: dict[str, dict[str, int]] = defaultdict(dict)
    for place, offset in snapshot.positions.items():
        positions[place.topic][str(place.partition)] = offset
    return as_json(
        {
            "group": snapshot.group,
            "takenAt": snapshot.taken_at,
            "topics": dict(snapshot.topic_ids),
            "positions": positions,
        }
    )


def _snapshot_from(name: str, text: str) -> Snapshot:
    value: dict[str, Any] = json.loads(text)
    positions = {
        TopicPartition(topic, int(partition)): offset
        for topic, found in value["positions"].items()
        for partition, offset in found.items()
    }
    return Snapshot(name, value["group"], value["takenAt"], value["topics"], positions)
