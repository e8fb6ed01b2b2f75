"""A Kafka cluster as a worker sees it: who leads what, who coordinates what, and one connection to each broker."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from kafka.protocol.metadata import CoordinatorType, FindCoordinatorRequest, MetadataRequest

from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError, code_name
from sluice.plan.observed import TopicPartition, kafka_id
from sluice.replay.errors import DeniedError, DoubtError
from sluice.replay.wire import Connection

TRANSACTION: Final = CoordinatorType.TRANSACTION
GROUP: Final = CoordinatorType.GROUP

_AUTHORIZATION: Final = frozenset({29, 30, 31, 53})
"""Codes of missing rights on a topic, a group, the cluster and a transactional id."""
_LEADERLESS: Final = frozenset({5, 9})
_UNKNOWN_TOPIC: Final = frozenset({3, 17, 100, 103})


class ReplayCluster:
    """Connections to one cluster, made when they are needed. Each session has its own: in doubt all is thrown away."""

    def __init__(self, settings: Callable[[], ConnectionSettings], role: str) -> None:
        """``settings`` is asked for each connection, since credentials are renewed; ``role`` names it in errors."""
        self._settings = settings
        self._role = role
        self._addresses: dict[int, tuple[str, int]] = {}
        self._connections: dict[tuple[int, str], Connection] = {}
        self._bootstrap: Connection | None = None
        self._coordinators: dict[tuple[int, str], int] = {}
        self._opening: dict[tuple[int, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self.leaders: dict[TopicPartition, int] = {}

    @property
    def features(self) -> Mapping[str, int]:
        """Finalised feature levels, as the first broker told them."""
        return self._bootstrap.features if self._bootstrap else {}

    async def start(self) -> None:
        """Connect to the first bootstrap server that answers.

        Raises:
            KafkaUnreachableError: none does.
            KafkaRefusedError: the credentials aren't accepted.
        """
        problems = []
        for server in self._settings().bootstrap_servers:
            host, _, port = server.rpartition(":")
            try:
                self._bootstrap = await Connection.open(host.strip("[]"), int(port), self._settings)
            except KafkaUnreachableError as error:
                problems.append(str(error))
            else:
                return
        raise KafkaUnreachableError(f"the {self._role} cluster can't be reached: " + "; ".join(problems))

    async def load(self, topics: Iterable[tuple[str, str]]) -> None:
        """Learn the leaders of ``topics``, given as names and ids.

        Raises:
            DeniedError: a topic doesn't exist, has another id than planned, or may not be seen.
            DoubtError: a partition has no leader now.
        """
        ids = dict(topics)
        request = MetadataRequest(
            topics=[MetadataRequest.MetadataRequestTopic(name=name) for name in ids], allow_auto_topic_creation=False
        )
        response = await self._first().call(request)
        self._addresses |= {broker.node_id: (broker.host, broker.port) for broker in response.brokers}
        for topic in response.topics:
            what = f"topic {topic.name} of the {self._role} cluster"
            if topic.error_code in _UNKNOWN_TOPIC:
                raise DeniedError(f"{what} doesn't exist (any more)")
            raise_for(topic.error_code, what)
            if kafka_id(topic.topic_id) != ids[topic.name]:
                raise DeniedError(
                    f"{what} was deleted and made again since the plan was made: its id was {ids[topic.name]} and is"
                    f" {kafka_id(topic.topic_id)}; make another ReplayJob"
                )
            for partition in topic.partitions:
                if partition.leader_id >= 0:
                    self.leaders[TopicPartition(topic.name, partition.partition_index)] = partition.leader_id

    def leader(self, partition: TopicPartition) -> int:
        """Who leads ``partition``.

        Raises:
            DoubtError: nobody does now.
        """
        try:
            return self.leaders[partition]
        except KeyError:
            raise DoubtError(f"{partition} of the {self._role} cluster has no leader") from None

    def _first(self) -> Connection:
        if self._bootstrap is None:
            raise RuntimeError("start() comes first")
        return self._bootstrap

    async def broker(self, node: int, purpose: str) -> Connection:
        """The connection to a broker; requests of different ``purpose`` don't wait for one another."""
        async with self._opening[node, purpose]:
            connection = self._connections.get((node, purpose))
            if connection is None or connection.closed:
                if node not in self._addresses:
                    raise DoubtError(f"broker {node} of the {self._role} cluster has no address")
                connection = await Connection.open(*self._addresses[node], self._settings)
                self._connections[node, purpose] = connection
            return connection

    async def coordinator(self, kind: CoordinatorType, key: str) -> Connection:
        """The connection to the broker that coordinates a group or transactional id.

        Raises:
            DoubtError: it isn't known now.
            DeniedError: a right is missing.
        """
        node = self._coordinators.get((kind, key))
        if node is None:
            request = FindCoordinatorRequest(key=key, key_type=kind, coordinator_keys=[key])
            response = await self._first().call(request)
            found = response.coordinators[0] if response.coordinators else response
            raise_for(found.error_code, f"the coordinator of {key}")
            node = found.node_id
            self._addresses[node] = (found.host, found.port)
            self._coordinators[kind, key] = node
        return await self.broker(node, "coordinator")

    def forget_coordinator(self, kind: CoordinatorType, key: str) -> None:
        """It has moved: look again next time."""
        self._coordinators.pop((kind, key), None)

    def close(self) -> None:
        """End all connections."""
        for connection in (self._bootstrap, *self._connections.values()):
            if connection is not None:
                connection.close()


def raise_for(code: int, what: str) -> None:
    """Turn an error code into what a worker does about it: being denied is waited for a moment, all else is doubt."""
    if not code:
        return
    if code in _AUTHORIZATION:
        raise DeniedError(f"{what}: a right is missing ({code_name(code)})")
    raise DoubtError(f"{what}: Kafka answered {code_name(code)}")


def as_doubt(error: KafkaUnreachableError | KafkaRefusedError) -> Exception:
    """What an error of the connection means for the session."""
    return DeniedError(error.message) if isinstance(error, KafkaRefusedError) else DoubtError(error.message)


Response = Any
"""A response of one of kafka-python's generated classes, which have no static types."""
