"""A topic that Sluice keeps for itself on a cluster: made when it is needed, appended to, read as a whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaUnreachableError, check
from sluice.plan.observed import AclBinding, NewTopic, TopicPartition
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

KeyAndValue = tuple[bytes | None, bytes | None]

_COPIES: Final = 3
_LOOKS: Final = 20
_LOOK_SECONDS: Final = 0.1
"""Until the broker that is asked has heard of a topic that another one has just made."""
_FETCH_BYTES: Final = 4 * 1024 * 1024
_MAX_RECORD: Final = 8 * 1024 * 1024
_CONFIG: Final = (
    ("max.message.bytes", str(_MAX_RECORD)),
    ("unclean.leader.election.enable", "false"),
)
_DENIED: Final = ("Write", "Delete", "Alter", "AlterConfigs")


async def keep_others_out(admin: KafkaAdmin, names: Iterable[str]) -> None:
    """Deny everybody to write to topics, to alter or to delete them; super users, as the operator is one, still may.

    It takes a cluster with an authorizer.
    """
    wanted = {
        AclBinding("Topic", name, "Literal", "User:*", "*", operation, "Deny")
        for name in names
        for operation in _DENIED
    }
    if missing := wanted - await admin.describe_acls("User:*"):
        await admin.create_acls(sorted(missing))


@dataclass(frozen=True)
class Kept:
    """How the topic is kept: its configuration now, and its id."""

    topic_id: str
    config: dict[str, str]


class InternalTopic:
    """One topic, of one partition. Only the leading operator writes to it.

    Args:
        admin: the cluster's client.
        fence: raises if we may not write (any more).
        name: of the topic.
        config: what makes it what it is, beyond what all of them have.
    """

    def __init__(
        self, admin: KafkaAdmin, fence: Callable[[], None], name: str, config: Sequence[tuple[str, str]]
    ) -> None:
        self._admin = admin
        self._fence = fence
        self.name = name
        self._config = tuple(config)
        self._place = TopicPartition(name, 0)

    async def ensure(self) -> Kept:
        """The topic as it is kept, made if it isn't there.

        Raises:
            KafkaUnreachableError: it is made, and brokers don't know it yet, or they don't answer.
            KafkaRefusedError: it can't be made, or be looked at.
        """
        found = await self._look()
        if found is not None:
            return found
        brokers = (await self._admin.describe_cluster()).active_brokers
        copies = min(_COPIES, len(brokers))
        in_sync = ("min.insync.replicas", str(max(1, copies - 1)))
        made = await self._admin.create_topics([NewTopic(self.name, 1, copies, (*self._config, *_CONFIG, in_sync))])
        problem = made.get(self.name)
        if problem is not None and problem.code != "TOPIC_ALREADY_EXISTS":
            raise problem
        for _ in range(_LOOKS):
            if (found := await self._look()) is not None:
                return found
            await asyncio.sleep(_LOOK_SECONDS)
        raise KafkaUnreachableError(f"topic {self.name} was made, and brokers don't know it yet")

    async def _look(self) -> Kept | None:
        topics = await self._admin.describe_topics([self.name])
        if self.name not in topics:
            return None
        configs = await self._admin.describe_topic_configs({self.name: [key for key, _ in self._config]})
        if self.name not in configs:
            return None
        return Kept(topics[self.name].id, {key: found.value or "" for key, found in configs[self.name].items()})

    async def append(self, topic_id: str, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Write records (key and value); they are there, on as many brokers as must be in sync, when this returns.

        Raises:
            KafkaUnreachableError: whether they were written isn't known.
        """
        now = int(time.time() * 1000)
        batches = [write_batch([Record(0, now, content_of(key, value))]) for key, value in records]
        try:
            cluster = await self._open(topic_id)
            try:
                connection = await cluster.broker(cluster.leader(self._place), "records")
                version = min(connection.api_versions[PRODUCE][1], PRODUCE_BY_ID)
                topic = topic_uuid(topic_id) if version >= PRODUCE_BY_ID else self.name
                for batch in batches:
                    request = produce_request(
                        version, None, [(topic, [BatchToSend(0, batch)])], int(REQUEST_SECONDS * 1000)
                    )
                    self._fence()  # only now: connecting may have taken longer than the Lease lasts
                    answer = await connection.send(PRODUCE, version, request, REQUEST_SECONDS)
                    (written,) = produce_response(answer, version)
                    check(written.error, f"writing to {self.name}", written.message)
            finally:
                cluster.close()
        except (DoubtError, DeniedError) as error:
            raise KafkaUnreachableError(f"writing to {self.name}: {error}") from error

    async def read(self) -> list[KeyAndValue]:
        """Every record, in order; none, if there is no such topic.

        Raises:
            KafkaUnreachableError: it can't be read now.
        """
        topics = await self._admin.describe_topics([self.name])
        return await self._scan(topics[self.name].id) if self.name in topics else []

    async def _open(self, topic_id: str) -> ReplayCluster:
        cluster = ReplayCluster(lambda: self._admin.settings, "target")
        try:
            await cluster.start()
            await cluster.load([(self.name, topic_id)])
        except BaseException:
            cluster.close()
            raise
        return cluster

    async def _scan(self, topic_id: str) -> list[KeyAndValue]:
        found: list[KeyAndValue] = []
        try:
            cluster = await self._open(topic_id)
            try:
                connection = await cluster.broker(cluster.leader(self._place), "records")
                version = min(connection.api_versions[FETCH][1], FETCH_VERSIONS[1])
                position = (await self._admin.earliest_offsets([self._place]))[self._place]
                while True:
                    wanted = [(topic_uuid(topic_id), [WantedPartition(0, position, _FETCH_BYTES)])]
                    request = fetch_request(version, wanted, _FETCH_BYTES, 0)
                    error, parts = fetch_response(await connection.send(FETCH, version, (request,), REQUEST_SECONDS))
                    check(error, f"reading {self.name}")
                    (part,) = parts
                    check(part.error, f"reading {self.name}")
                    for batch in split(part.records, self.name):
                        if not batch.control:
                            found += [key_and_value(r.content) for r in read_records(batch) if r.offset >= position]
                        position = max(position, batch.next_offset)
                    if position >= part.high_watermark:
                        return found
            finally:
                cluster.close()
        except (DoubtError, ReplayError) as error:
            raise KafkaUnreachableError(f"reading {self.name}: {error}") from error
