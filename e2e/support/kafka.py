"""Kafka clients as users have them: librdkafka on this machine, credentials from a User's Secret.

It is another implementation than the operator's and the replay worker's, so what it reads is an independent witness.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource

from e2e.support.kubectl import Body, Kubectl

Config = dict[str, Any]
Headers = tuple[tuple[str, bytes | None], ...]
Content = tuple[bytes | None, bytes | None, int, Headers]

_BATCH: Final = 10_000


@dataclass(frozen=True, slots=True)
class Read:
    """A record as a client read it; ``timestamp`` in milliseconds since 1970."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: Headers

    @property
    def content(self) -> Content:
        """What a replay must not change."""
        return self.key, self.value, self.timestamp, self.headers


@dataclass(frozen=True, slots=True)
class Write:
    """A record to produce; Kafka's clock is used without ``timestamp`` (milliseconds since 1970)."""

    key: bytes | None
    value: bytes
    timestamp: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class ProduceError(Exception):
    """Records weren't acknowledged; the text has the broker's words and how many."""


class ReadError(Exception):
    """A topic couldn't be read to its end."""


def secret(kubectl: Kubectl, name: str) -> Mapping[str, str]:
    """A Secret's data, decoded.

    Raises:
        LookupError: there is no such Secret.
    """
    body = kubectl.get("secret", name)
    if body is None:
        raise LookupError(f"Secret {kubectl.namespace}/{name} doesn't exist")
    return {key: base64.b64decode(value).decode() for key, value in body.get("data", {}).items()}


def bootstrap_servers(cluster: Body, listener: str) -> str:
    """Where clients connect at a listener, as the cluster's status says."""
    found = {entry["name"]: entry["bootstrapServers"] for entry in cluster["status"]["listeners"]}
    return str(found[listener])


def client_config(kubectl: Kubectl, user_secret: str, servers: str) -> Config:
    """The librdkafka configuration that a User's Secret has ready, with a listener's addresses."""
    config: Config = json.loads(secret(kubectl, user_secret)["librdkafka.json"])
    return config | {"bootstrap.servers": servers, "log_level": 3}  # nothing below an error


def producer_config(config: Config) -> Config:
    """A producer that keeps order, repeats nothing, and places keys as Java clients do."""
    return config | {
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "linger.ms": 20,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 200_000,
    }


def produce(
    config: Config, topic: str, records: Iterable[Write], *, progress: Callable[[int], None] = lambda acknowledged: None
) -> int:
    """Produce all records in order and wait until every one is acknowledged; return how many.

    Raises:
        ProduceError: one wasn't.
    """
    producer = Producer(producer_config(config))
    acknowledged = 0
    failures: list[str] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        nonlocal acknowledged
        if error is None:
            acknowledged += 1
        else:
            failures.append(f"{error.str()} (key {message.key()!r})")

    sent = 0
    for record in records:
        while True:
            try:
                producer.produce(
                    topic,
                    key=record.key,
                    value=record.value,
                    timestamp=record.timestamp or 0,
                    headers=list(record.headers),
                    on_delivery=delivered,
                )
                break
            except BufferError:
                producer.poll(0.1)
        sent += 1
        if sent % _BATCH == 0:
            producer.poll(0)
            progress(acknowledged)
        if failures:
            break
    try:
        unsent = producer.flush(120)
    except KafkaException as error:  # such as a right that an idempotent producer needs at its start
        raise ProduceError(f"{topic}: {acknowledged:,} of {sent:,} records were acknowledged: {error}") from error
    if failures or unsent or acknowledged != sent:
        raise ProduceError(
            f"{topic}: {acknowledged:,} of {sent:,} records were acknowledged"
            + (f", {len(failures):,} refused, first: {failures[0]}" if failures else "")
        )
    progress(acknowledged)
    return acknowledged


def read_topic(
    config: Config,
    topic: str,
    *,
    timeout: float = 120,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Read]:
    """Everything that is committed in a topic, from its beginning to its end as it is now.

    Raises:
        ReadError: the end wasn't reached within ``timeout`` seconds, or the broker refused.
    """
    # librdkafka wants a group's name even when no group is used.
    consumer = Consumer(
        config
        | {
            "group.id": "unused",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
        }
    )
    try:
        partitions = _partitions(consumer, topic, timeout)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        return _read_to_ends(consumer, set(partitions), topic, timeout, progress)
    finally:
        consumer.close()


def _partitions(consumer: Consumer, topic: str, timeout: float = 30) -> list[int]:
    metadata = consumer.list_topics(topic, timeout=min(timeout, 30)).topics[topic]
    if metadata.error is not None:
        raise ReadError(f"{topic}: {metadata.error.str()}")
    return sorted(metadata.partitions)


def _read_to_ends(
    consumer: Consumer, open_partitions: set[int], topic: str, timeout: float, progress: Callable[[int], None]
) -> list[Read]:
    found: list[Read] = []
    deadline = time.monotonic() + timeout
    while open_partitions:
        if time.monotonic() > deadline:
            raise ReadError(f"{topic}: partitions {sorted(open_partitions)} weren't read to the end in {timeout:g} s")
        for message in consumer.consume(_BATCH, timeout=0.2):
            error = message.error()
            if error is None:
                found.append(_read(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                open_partitions.discard(message.partition())
            elif error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED and not error.retriable():
                # librdkafka asks for the coordinator of the group that isn't used: a user needs no right to it.
                raise ReadError(f"{topic}: {error.str()}")
        progress(len(found))
    return found


def _read(message: Message) -> Read:
    return Read(
        partition=message.partition(),
        offset=message.offset(),
        key=message.key(),
        value=message.value(),
        timestamp=message.timestamp()[1],
        headers=tuple(message.headers() or ()),
    )


def consume_as_group(config: Config, group: str, topic: str, count: int, *, timeout: float = 60) -> int:
    """Consume ``count`` records as a member of a group, commit, leave; return how many came."""
    consumer = Consumer(
        config
        | {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
        }
    )
    taken = 0
    deadline = time.monotonic() + timeout
    try:
        consumer.subscribe([topic])
        while taken < count and time.monotonic() < deadline:
            for message in consumer.consume(min(_BATCH, count - taken), timeout=1.0):
                error = message.error()
                if error is None:
                    consumer.store_offsets(message)
                    taken += 1
                elif not error.retriable():
                    raise ReadError(f"{topic}: {error.str()}")
        if taken:
            consumer.commit(asynchronous=False)
    finally:
        consumer.close()
    return taken


def committed_offsets(config: Config, group: str) -> dict[tuple[str, int], int]:
    """Committed offsets of a group by topic and partition."""
    admin = AdminClient(config)
    answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(30)
    return {(found.topic, found.partition): found.offset for found in answer.topic_partitions if found.offset >= 0}


def broker_config(config: Config, broker: int, name: str) -> str | None:
    """The value that a broker itself says it goes by."""
    admin = AdminClient(config)  # held: without it, what it was asked ends
    resource = ConfigResource(ConfigResource.Type.BROKER, str(broker))
    found = admin.describe_configs([resource])[resource].result(30)
    return found[name].value if name in found else None


def end_offsets(config: Config, topic: str) -> dict[int, int]:
    """The end of each partition: what ``read_committed`` consumers reach."""
    consumer = Consumer(config | {"group.id": "unused"})
    try:
        return {
            partition: consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1]
            for partition in _partitions(consumer, topic)
        }
    finally:
        consumer.close()


@dataclass
class Traffic:
    """A producer that goes on until it is stopped, and keeps account of what was acknowledged: load during a fault.

    Keys are few and values count up, so that order per key can be judged afterwards.
    """

    config: Config
    topic: str
    rate: int = 200
    keys: int = 8
    acknowledged: list[bytes] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    longest_gap: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _last: float = 0.0

    def __enter__(self) -> Traffic:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop producing and wait for what is on its way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        now = time.monotonic()
        self.longest_gap = max(self.longest_gap, now - self._last)
        self._last = now
        if error is None:
            value = message.value()
            assert value is not None
            self.acknowledged.append(value)
        else:
            self.failed.append(error.str())

    def _run(self) -> None:
        # Retries for as long as any outage that the scenario allows: a failed record is a fault of the roll.
        producer = Producer(producer_config(self.config) | {"linger.ms": 5, "delivery.timeout.ms": 120_000})
        number = 0
        while not self._stop.is_set():
            for _ in range(max(1, self.rate // 20)):
                value = b"%d" % number
                producer.produce(
                    self.topic, key=b"key-%d" % (number % self.keys), value=value, on_delivery=self._delivered
                )
                number += 1
            producer.poll(0)
            self._stop.wait(0.05)
        producer.flush(120)


def lost_or_disordered(acknowledged: Sequence[bytes], reads: Sequence[Read]) -> list[str]:
    """What is wrong with a topic that :class:`Traffic` wrote to: nothing, or sentences."""
    values = [read.value for read in reads]
    faults = []
    if missing := set(acknowledged) - set(values):
        faults.append(f"{len(missing):,} acknowledged records are gone, such as {sorted(missing)[0]!r}")
    if len(values) != len(set(values)):
        faults.append(f"{len(values) - len(set(values)):,} records are there twice")
    last: dict[bytes | None, int] = {}
    for read in sorted(reads, key=lambda r: (r.partition, r.offset)):
        number = int(read.value or b"0")
        if number < last.get(read.key, -1):
            faults.append(f"key {read.key!r}: {number} comes after {last[read.key]}")
        last[read.key] = number
    return faults
