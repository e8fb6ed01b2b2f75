"""Replays on a real Kafka: topics with every kind of batch, workers as processes, and an independent checker."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place

from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaUnreachableError
from sluice.plan.observed import NewTopic, TopicPartition
from sluice.plan.replay_progress import Committed
from sluice.replay.assignment import Access, Assignment, Limits, Slice, TopicRoute
from sluice.replay.group_positions import commit_positions, read_positions
from sluice.replay.rules import NO_RULES, RecordRules
from tests.support.kafka import KafkaCluster

JANUARY_2013 = 1_357_000_000_000
KEEP = (("retention.ms", "-1"),)

Seen = tuple[bytes | None, bytes | None, int, tuple[tuple[str, bytes | None], ...]]
"""Key, value, timestamp and headers of a record, as librdkafka reads them."""


def on_kafka(kafka: KafkaCluster, act: Callable[[KafkaAdmin], Any]) -> Any:
    """Run something with an admin client."""

    async def run() -> Any:
        admin = KafkaAdmin(ConnectionSettings(tuple(kafka.bootstrap.split(","))))
        try:
            return await act(admin)
        finally:
            await admin.close()

    return asyncio.run(run())


def make_topic(kafka: KafkaCluster, partitions: int = 1, config: Iterable[tuple[str, str]] = ()) -> str:
    """A topic of its own name."""
    name = f"t-{uuid.uuid4().hex[:8]}"

    async def act(admin: KafkaAdmin) -> None:
        replicas = min(3, len(kafka.nodes))
        result = await admin.create_topics([NewTopic(name, partitions, replicas, (*KEEP, *config))])
        assert result[name] is None, result

    on_kafka(kafka, act)
    return name


def producer(kafka: KafkaCluster, **config: Any) -> Producer:
    """A producer that makes batches of some size."""
    return Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 20, **config})


def fill(
    kafka: KafkaCluster, topic: str, records: int, partitions: int = 1, codec: str = "lz4", start: int = 0
) -> None:
    """Records from number ``start`` on: keyed, with headers, a millisecond apart; some keys and values are null."""
    client = producer(kafka, **{"compression.type": codec, "batch.num.messages": 500})
    for number in range(start, start + records):
        client.produce(
            topic,
            key=None if number % 97 == 0 else f"key-{number % 50}".encode(),
            value=None if number % 101 == 0 else f"value {number} ".encode() * (1 + number % 5),
            partition=number % partitions,
            timestamp=JANUARY_2013 + number,
            headers=[("n", str(number).encode()), ("none", None)] if number % 3 == 0 else [],
        )
        client.poll(0)
    assert client.flush(30) == 0


def transaction(kafka: KafkaCluster, topic: str, numbers: Iterable[int], *, commit: bool) -> None:
    """One transaction of records, ended one way or the other."""
    client = producer(kafka, **{"transactional.id": f"other-{uuid.uuid4().hex[:6]}"})
    client.init_transactions(30)
    client.begin_transaction()
    for number in numbers:
        client.produce(topic, key=b"in-transaction", value=str(number).encode(), partition=0, timestamp=JANUARY_2013)
    client.flush(30)
    if commit:
        client.commit_transaction(30)
    else:
        client.abort_transaction(30)


def read_back(kafka: KafkaCluster, topic: str, partitions: int = 1) -> dict[int, list[tuple[int, Seen]]]:
    """Every record that a read_committed consumer sees, with its offset, in order, by partition."""
    client = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": f"checker-{uuid.uuid4().hex[:8]}",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    client.assign([Place(topic, number, 0) for number in range(partitions)])
    found: dict[int, list[tuple[int, Seen]]] = defaultdict(list)
    ended: set[int] = set()
    deadline = time.monotonic() + 60
    while len(ended) < partitions:
        assert time.monotonic() < deadline, "the checker didn't come to the end"
        for message in client.consume(1000, 0.5):
            if message.error():
                ended.add(message.partition())
                continue
            headers = tuple((name, value) for name, value in message.headers() or ())
            seen = (message.key(), message.value(), message.timestamp()[1], headers)
            found[message.partition()].append((message.offset(), seen))
    client.close()
    return dict(found)


def records(found: Mapping[int, Sequence[tuple[int, Seen]]]) -> dict[int, list[Seen]]:
    """Without offsets, which differ in a copy."""
    return {partition: [seen for _, seen in of] for partition, of in found.items()}


@dataclass
class Replay:
    """A replay without an operator: a plan in a file, start positions committed, and workers on demand."""

    kafka: KafkaCluster
    folder: Path
    plan: Assignment

    def save(self) -> None:
        """Write the plan where workers find it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "plan.json").write_text(self.plan.to_json())

    def start(self, shard: int = 0) -> subprocess.Popen[str]:
        """A worker as a process."""
        command = [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from sluice.replay.worker import main;"
            " sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))",
            str(self.folder / "plan.json"),
            str(self.folder),
            str(shard),
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, shard: int = 0, timeout: float = 90) -> tuple[int, dict[str, Any]]:
        """A worker to its end: exit code and summary."""
        return outcome(self.start(shard), timeout)

    def positions(self) -> dict[TopicPartition, Committed]:
        """Committed positions."""
        found: dict[TopicPartition, Committed] = on_kafka(
            self.kafka, lambda admin: read_positions(admin, self.plan.group)
        )
        return found


def outcome(process: subprocess.Popen[str], timeout: float = 90) -> tuple[int, dict[str, Any]]:
    """Exit code and summary of a worker."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the worker didn't end:\n{out}\n{err}") from None
    lines = out.strip().splitlines()
    return process.returncode, json.loads(lines[-1]) if lines else {"error": err}


def make_replay(
    kafka: KafkaCluster,
    folder: Path,
    source: str,
    target: str,
    *,
    ranges: Mapping[int, tuple[int, int]] | None = None,
    shards: int = 1,
    from_ms: int | None = None,
    to_ms: int | None = None,
    max_batch_bytes: int = 1_048_588,
    limits: Limits | None = None,
    access: Access | None = None,
    run: str | None = None,
    rules: RecordRules = NO_RULES,
) -> Replay:
    """A replay of whole partitions, or of the given ranges, ready to be run; ``run`` has its positions already."""

    async def act(admin: KafkaAdmin) -> Assignment:
        topics = await admin.describe_topics([source, target])
        places = [TopicPartition(source, partition.id) for partition in topics[source].partitions]
        ends = await admin.stable_offsets(places)
        bounds = ranges or {place.partition: (0, ends[place]) for place in places}
        name = run or f"replay-{uuid.uuid4().hex[:8]}"
        route = TopicRoute(source, topics[source].id, target, topics[target].id, source, max_batch_bytes)
        plan = Assignment(
            name=name,
            source=access or Access(tuple(kafka.bootstrap.split(","))),
            target=access or Access(tuple(kafka.bootstrap.split(","))),
            group=name,
            transactional_id_prefix=name,
            routes=(route,),
            slices=tuple(
                Slice(0, number, start, end, number % shards) for number, (start, end) in sorted(bounds.items())
            ),
            from_ms=from_ms,
            to_ms=to_ms,
            limits=limits or Limits(stall_seconds=30),
            rules=rules,
        )
        if run:
            return plan
        starts = {TopicPartition(source, number): start for number, (start, _) in bounds.items()}
        deadline = time.monotonic() + 30
        while True:  # the group's coordinator may just be made
            try:
                await commit_positions(admin, name, starts)
            except KafkaUnreachableError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.2)
            else:
                return plan

    made = Replay(kafka, folder, on_kafka(kafka, act))
    made.save()
    return made


def smaller(replay: Replay, **limits: Any) -> None:
    """Change the limits of a replay's plan."""
    replay.plan = replace(replay.plan, limits=replace(replay.plan.limits, **limits))
    replay.save()


def write_secret(folder: Path, data: Mapping[str, str]) -> None:
    """Files of a Kubernetes Secret, as a pod sees them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in data.items():
        (folder / name).write_bytes(base64.b64decode(value))
