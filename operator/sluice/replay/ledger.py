"""The ledger: how far each replay has come, and how it ended, kept in a compacted topic on the target's cluster.

It outlives every object in Kubernetes: a replay that was deleted and applied again, or restored from a backup, finds
here that it is done, or where its frozen plan was.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from sluice.api.base import Reason
from sluice.api.replay import ReplayPlan, ReplayProgress
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaRefusedError
from sluice.plan.replay import as_json
from sluice.replay.internal_topic import InternalTopic

TOPIC: Final = "sluice-replay-ledger"
_POLICY: Final = "cleanup.policy"
_CONFIG: Final = ((_POLICY, "compact"), ("retention.ms", "-1"))


class LedgerState(StrEnum):
    """How far a replay has come, as far as it matters for doing it once: in this order, and never back."""

    PLANNED = "planned"
    """The plan is frozen; start positions may not be committed yet, and no worker has run."""
    STARTED = "started"
    """Start positions are committed: from now on a missing one is a loss."""
    CANCELLED = "cancelled"
    """Somebody didn't want it any more: it isn't begun again, whoever applies it."""
    LOST = "lost"
    """A committed position can't be trusted any more: whoever goes on may copy records twice."""
    COMPLETED = "completed"


@dataclass(frozen=True)
class LedgerEntry:
    """A replay's line. ``uid`` is the object that wrote it; counts are those at completion, or when it was cancelled.

    ``max_batch_bytes`` is the target's limit at planning, for the record; workers are given the present one.
    """

    key: str
    state: LedgerState
    uid: str
    plan: ReplayPlan
    max_batch_bytes: int
    at: str
    records: int = 0
    bytes: int = 0
    filtered: int = 0

    @property
    def record_key(self) -> str:
        """Key in the topic. Each state has its own, so that a stale write of an earlier one takes nothing back."""
        return _record_key(self.state, self.key)

    def ended(self, state: LedgerState, uid: str, at: str, measured: ReplayProgress | None) -> LedgerEntry:
        """The entry of the same replay's end, with the counts at that time (None: they aren't known)."""
        records, size, filtered = (measured.records, measured.bytes, measured.filtered) if measured else (0, 0, 0)
        return replace(self, state=state, uid=uid, at=at, records=records, bytes=size, filtered=filtered)

    def to_json(self) -> str:
        """As it stands in the topic."""
        return as_json(
            {
                "state": self.state.value,
                "uid": self.uid,
                "plan": self.plan.manifest(),
                "maxBatchBytes": self.max_batch_bytes,
                "at": self.at,
                "records": self.records,
                "bytes": self.bytes,
                "filtered": self.filtered,
            }
        )

    @classmethod
    def from_json(cls, key: str, text: str) -> LedgerEntry:
        """Read an entry.

        Raises:
            ValueError: it can't be read.
        """
        value: dict[str, Any] = json.loads(text)
        try:
            return cls(
                key=key,
                state=LedgerState(value["state"]),
                uid=value["uid"],
                plan=ReplayPlan.model_validate(value["plan"]),
                max_batch_bytes=value["maxBatchBytes"],
                at=value["at"],
                records=value["records"],
                bytes=value["bytes"],
                filtered=value.get("filtered", 0),
            )
        except KeyError as error:
            raise ValueError(f"the ledger's entry {key} lacks {error}") from error


def _record_key(state: LedgerState, key: str) -> str:
    return f"{state.value}:{key}"


class Ledger:
    """The ledger of one cluster. Only the leading operator writes to it."""

    def __init__(self, admin: KafkaAdmin, fence: Callable[[], None]) -> None:
        """``fence`` raises if we may not write (any more)."""
        self._topic = InternalTopic(admin, fence, TOPIC, _CONFIG)

    async def read(self, key: str) -> LedgerEntry | None:
        """The entry of a replay's highest state, or None.

        Raises:
            KafkaUnreachableError: it can't be read now.
            ValueError: the entry can't be understood; it needs a person.
        """
        values = await self.values()
        for state in reversed(LedgerState):
            if value := values.get(_record_key(state, key)):
                return LedgerEntry.from_json(key, value)
        return None

    async def write(self, entry: LedgerEntry) -> None:
        """Write an entry; it is there when this returns. Raises as `put`."""
        await self.put(entry.record_key, entry.to_json())

    async def values(self) -> dict[str, str]:
        """The last value of each key in the topic; none if there is no topic yet.

        Raises:
            KafkaUnreachableError: it can't be read now.
        """
        last = dict(await self._topic.read())
        # What isn't text isn't ours, and must not hide what is.
        return {
            key.decode(errors="replace"): value.decode(errors="replace") for key, value in last.items() if key and value
        }

    async def put(self, key: str, value: str) -> None:
        """Write a value; it is there when this returns.

        Raises:
            KafkaUnreachableError: whether it was written isn't known.
            KafkaRefusedError: the topic is one in which it may get lost.
        """
        kept = await self._topic.ensure()
        # It isn't put right here: what has been forgotten by now, only a person can judge.
        if (policy := kept.config[_POLICY]) != "compact":
            raise KafkaRefusedError(
                Reason.KAFKA_REFUSED,
                f"topic {TOPIC} has {_POLICY}={policy}, so it may have forgotten replays that were done, and those"
                f" would be done again: look which are missing in it, then set {_POLICY}=compact",
            )
        await self._topic.append(kept.topic_id, [(key.encode(), value.encode())])
