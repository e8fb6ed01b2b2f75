"""The audit: what was done about each replay, by whom, in a topic that is only ever appended to.

A fact may be written more than once: whoever comes after an operator that died can't know whether it was written, and
writes it again under the same id. Readers take the first of each id.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from sluice.kafka.admin import KafkaAdmin
from sluice.plan.replay import as_json
from sluice.replay.internal_topic import InternalTopic

logger = logging.getLogger(__name__)

TOPIC: Final = "sluice-replay-audit"
_CONFIG: Final = (("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1"))
_ID_DIGITS: Final = 16


class Fact(StrEnum):
    """What can be said of a replay."""

    PLANNED = "Planned"
    APPROVED = "Approved"
    GLASS_BROKEN = "GlassBroken"
    STARTED = "Started"
    SUSPEND = "Suspend"
    """Somebody asked for it; who, an annotation doesn't tell."""
    RESUME = "Resume"
    CANCEL = "Cancel"
    UNDO = "Undo"
    COMPLETED = "Completed"
    ALREADY_COMPLETED = "AlreadyCompleted"
    FAILED = "Failed"
    REFUSED = "Refused"
    CANCELLED = "Cancelled"
    UNDONE = "Undone"
    DELETED = "Deleted"
    """The object was deleted before the replay had ended."""


@dataclass(frozen=True)
class AuditRecord:
    """One fact. ``job`` is namespace/name, ``run`` the run name; ``distinct`` tells facts of one kind apart."""

    fact: Fact
    at: str
    job: str
    uid: str
    run: str
    plan_hash: str
    distinct: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The same for the same fact, whoever writes it and when."""
        parts = [self.uid, self.run, self.fact.value, self.plan_hash, self.distinct]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_ID_DIGITS]

    def to_json(self) -> str:
        """As it stands in the topic."""
        return as_json(
            {
                **self.detail,
                "id": self.id,
                "fact": self.fact.value,
                "at": self.at,
                "job": self.job,
                "uid": self.uid,
                "run": self.run,
                "planHash": self.plan_hash,
            }
        )


class Audit:
    """The audit of one cluster. Only the leading operator writes to it."""

    def __init__(self, admin: KafkaAdmin, fence: Callable[[], None]) -> None:
        """``fence`` raises if we may not write (any more)."""
        self._admin = admin
        self._topic = InternalTopic(admin, fence, TOPIC, _CONFIG)

    async def write(self, records: Sequence[AuditRecord]) -> str | None:
        """Write facts; they are there when this returns. What somebody did to the topic's retention is undone first.

        Returns:
            A sentence about what was undone; None if nothing was.

        Raises:
            KafkaUnreachableError: whether they were written isn't known.
            KafkaRefusedError: the topic can't be made or kept as it has to be.
        """
        kept = await self._topic.ensure()
        undone = {key: kept.config.get(key) for key, wanted in _CONFIG if kept.config.get(key) != wanted}
        if undone:
            problem = (await self._admin.alter_topic_configs({TOPIC: dict(_CONFIG)})).get(TOPIC)
            if problem is not None:
                raise problem
        await self._topic.append(kept.topic_id, [(r.job.encode(), r.to_json().encode()) for r in records])
        if not undone:
            return None
        said = ", ".join(f"{key}={value}" for key, value in undone.items())
        return f"topic {TOPIC} had {said}, so facts may be missing from it; it keeps all of them again"

    async def read(self) -> list[dict[str, Any]]:
        """All facts, in the order in which they were first written, each once; what isn't one is left out.

        Raises:
            KafkaUnreachableError: it can't be read now.
        """
        return once(value for _, value in await self._topic.read())


def once(values: Iterable[bytes | None]) -> list[dict[str, Any]]:
    """Facts out of the topic's values: the first of each id."""
    found: dict[str, dict[str, Any]] = {}
    for value in values:
        try:
            fact = json.loads(value or b"")
        except ValueError:
            logger.warning("topic %s has a record that is no fact", TOPIC)
            continue
        if isinstance(fact, dict) and isinstance(fact.get("id"), str):
            found.setdefault(fact["id"], fact)
    return list(found.values())
