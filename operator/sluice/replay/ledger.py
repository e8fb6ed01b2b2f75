"""The ledger: how far each replay has come, and how it ended, kept in a compacted topic on the target's cluster.

It outlives every object in Kubernetes: a replay that was deleted and applied again, or restored from a backup, finds
here that it is done, or where its frozen plan was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from sluice.api.base import Reason
from sluice.api.replay import ReplayPlan, ReplayProgress
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError, check
from sluice.plan.observed import NewTopic, TopicPartition
from sluice.plan.replay import as_json
from sluice.replay.batch import split
from sluice.replay.cluster import ReplayCluster
from sluice.replay.encoding import (
    FETCH,
    FETCH_VERSIONS,
    PRODUCE,
    PRODUCE_BY_ID,
    BatchToSend,
    WantedPartition,
    fetch_request,
    fetch_response,
    produce_request,
    produce_response,
)
from sluice.replay.errors import DeniedError, DoubtError, ReplayError
from sluice.replay.partition import topic_uuid
from sluice.replay.records import Record, content_of, key_and_value, read_records, write_batch
from sluice.replay.wire import REQUEST_SECONDS

TOPIC: Final = "sluice-replay-ledger"
_PLACE: Final = TopicPartition(TOPIC, 0)
_COPIES: Final = 3
_FETCH_BYTES: Final = 4 * 1024 * 1024
_MAX_ENTRY: Final = 8 * 1024 * 1024
_POLICY: Final = "cleanup.policy"
_CONFIG: Final = (
    (_POLICY, "compact"),
    ("max.message.bytes", str(_MAX_ENTRY)),
    ("retention.ms", "-1"),
    ("unclean.leader.election.enable", "false"),
)


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
        self._admin = admin
        self._fence = fence

    async def read(self, key: str) -> LedgerEntry | None:
        """The entry of a replay's highest state, or None.

        Raises:
            KafkaUnreachableError: it can't be read now.
            ValueError: the entry can't be understood; it needs a person.
        """
        topics = await self._admin.describe_topics([TOPIC])
        if TOPIC not in topics:
            return None
        last = dict(await self._scan(topics[TOPIC].id))
        for state in reversed(LedgerState):
            if value := last.get(_record_key(state, key).encode()):
                return LedgerEntry.from_json(key, value.decode())
        return None

    async def write(self, entry: LedgerEntry) -> None:
        """Write an entry; it is there when this returns.

        Raises:
            KafkaUnreachableError: whether it was written isn't known.
            KafkaRefusedError: the topic is one in which it may get lost.
        """
        topic_id = await self._ensure()
        record = Record(0, int(time.time() * 1000), content_of(entry.record_key.encode(), entry.to_json().encode()))
        batch = write_batch([record])
        try:
            cluster = await self._open(topic_id)
            try:
                connection = await cluster.broker(cluster.leader(_PLACE), "ledger")
                version = min(connection.api_versions[PRODUCE][1], PRODUCE_BY_ID)
                topic = topic_uuid(topic_id) if version >= PRODUCE_BY_ID else TOPIC
                request = produce_request(
                    version, None, [(topic, [BatchToSend(0, batch)])], int(REQUEST_SECONDS * 1000)
                )
                self._fence()  # only now: connecting may have taken longer than the Lease lasts
                (answer,) = produce_response(await connection.send(PRODUCE, version, request, REQUEST_SECONDS), version)
                check(answer.error, f"writing to {TOPIC}", answer.message)
            finally:
                cluster.close()
        except (DoubtError, DeniedError) as error:
            raise KafkaUnreachableError(f"writing to {TOPIC}: {error}") from error

    async def _ensure(self) -> str:
        """Id of the topic, which is made if it isn't there."""
        topics = await self._admin.describe_topics([TOPIC])
        if TOPIC not in topics:
            brokers = (await self._admin.describe_cluster()).active_brokers
            copies = min(_COPIES, len(brokers))
            in_sync = ("min.insync.replicas", str(max(1, copies - 1)))
            made = await self._admin.create_topics([NewTopic(TOPIC, 1, copies, (*_CONFIG, in_sync))])
            problem = made.get(TOPIC)
            if problem is not None and problem.code != "TOPIC_ALREADY_EXISTS":
                raise problem
            topics = await self._admin.describe_topics([TOPIC])
        configs = await self._admin.describe_topic_configs({TOPIC: [_POLICY]})
        if TOPIC not in topics or TOPIC not in configs:
            raise KafkaUnreachableError(f"topic {TOPIC} was made, and brokers don't know it yet")
        # It isn't put right here: what has been forgotten by now, only a person can judge.
        if (policy := configs[TOPIC][_POLICY].value) != "compact":
            raise KafkaRefusedError(
                Reason.KAFKA_REFUSED,
                f"topic {TOPIC} has {_POLICY}={policy}, so it may have forgotten replays that were done, and those"
                f" would be done again: look which are missing in it, then set {_POLICY}=compact",
            )
        return topics[TOPIC].id

    async def _open(self, topic_id: str) -> ReplayCluster:
        cluster = ReplayCluster(lambda: self._admin.settings, "target")
        try:
            await cluster.start()
            await cluster.load([(TOPIC, topic_id)])
        except BaseException:
            cluster.close()
            raise
        return cluster

    async def _scan(self, topic_id: str) -> list[tuple[bytes | None, bytes | None]]:
        """Every record of the topic, in order."""
        found: list[tuple[bytes | None, bytes | None]] = []
        try:
            cluster = await self._open(topic_id)
            try:
                connection = await cluster.broker(cluster.leader(_PLACE), "ledger")
                version = min(connection.api_versions[FETCH][1], FETCH_VERSIONS[1])
                position = (await self._admin.earliest_offsets([_PLACE]))[_PLACE]
                while True:
                    wanted = [(topic_uuid(topic_id), [WantedPartition(0, position, _FETCH_BYTES)])]
                    request = fetch_request(version, wanted, _FETCH_BYTES, 0)
                    error, parts = fetch_response(await connection.send(FETCH, version, (request,), REQUEST_SECONDS))
                    check(error, f"reading {TOPIC}")
                    (part,) = parts
                    check(part.error, f"reading {TOPIC}")
                    for batch in split(part.records, TOPIC):
                        if not batch.control:
                            found += [key_and_value(r.content) for r in read_records(batch) if r.offset >= position]
                        position = max(position, batch.next_offset)
                    if position >= part.high_watermark:
                        return found
            finally:
                cluster.close()
        except (DoubtError, ReplayError) as error:
            raise KafkaUnreachableError(f"reading {TOPIC}: {error}") from error
