"""Ways to copy a topic, each a process: ``python -m bench.replay.contestants <name> <bootstrap> <from> <to>``.

The last line on stdout is ``{"seconds": …, "rss_mb": …}``; time runs from the first record to the last
acknowledgement, without start-up.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Final

from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.plan.observed import TopicPartition
from sluice.replay.assignment import Access, Assignment, Slice, TopicRoute
from sluice.replay.group_positions import commit_positions
from sluice.replay.rules import NO_RULES, Match, RecordRules
from sluice.replay.wire import Connection

_MAX_BATCH: Final = 2 * 1024 * 1024


_PREFIXES: Final = tuple(f"key-{digit}" for digit in "12345")
"""More than half of the keys begin so."""
_JOB: Final = "bench/opened"


def sluice(bootstrap: str, source: str, target: str) -> float:
    """The replay worker: whole batches, or merged ones, exactly once."""
    return _sluice(bootstrap, source, target, NO_RULES)


def sluice_opened(bootstrap: str, source: str, target: str) -> float:
    """The replay worker, for keys of some beginnings and with provenance in headers, exactly once."""
    rules = RecordRules(key=Match(prefix=_PREFIXES), mark=_JOB)
    return _sluice(bootstrap, source, target, rules)


def _sluice(bootstrap: str, source: str, target: str, rules: RecordRules) -> float:
    from sluice.replay.worker import Worker

    async def prepare() -> Assignment:
        admin = KafkaAdmin(ConnectionSettings((bootstrap,)))
        topics = await admin.describe_topics([source, target])
        places = [TopicPartition(source, p.id) for p in topics[source].partitions]
        ends = await admin.stable_offsets(places)
        name = f"bench-{uuid.uuid4().hex[:8]}"
        await commit_positions(admin, name, dict.fromkeys(places, 0))
        await admin.close()
        access = Access((bootstrap,))
        return Assignment(
            name=name,
            source=access,
            target=access,
            group=name,
            transactional_id_prefix=name,
            routes=(TopicRoute(source, topics[source].id, target, topics[target].id, source, _MAX_BATCH),),
            slices=tuple(Slice(0, place.partition, 0, ends[place], 0) for place in places),
            rules=rules,
        )

    plan = asyncio.run(prepare())
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(Worker(plan, Path(folder), 0).run())
    return time.monotonic() - started


def limit(bootstrap: str, source: str, target: str) -> float:
    """What the broker accepts: the same batches, already in memory, without idempotence or transactions."""
    from sluice.replay.batch import split
    from sluice.replay.encoding import BatchToSend, WantedPartition, fetch_request, fetch_response, produce_request
    from sluice.replay.partition import topic_uuid

    async def run() -> float:
        admin = KafkaAdmin(ConnectionSettings((bootstrap,)))
        topics = await admin.describe_topics([source, target])
        places = [TopicPartition(source, p.id) for p in topics[source].partitions]
        ends = await admin.stable_offsets(places)
        await admin.close()
        host, _, port = bootstrap.rpartition(":")
        connection = await Connection.open(host, int(port), lambda: ConnectionSettings((bootstrap,)))
        queues: dict[int, deque[memoryview]] = {place.partition: deque() for place in places}
        for place in places:
            position = 0
            while position < ends[place]:
                wanted = [(topic_uuid(topics[source].id), [WantedPartition(place.partition, position, 8 << 20)])]
                body = await connection.send(1, 13, (fetch_request(13, wanted, 8 << 20, 100),), 60)
                for batch in split(fetch_response(body)[1][0].records, source):
                    queues[place.partition].append(batch.view)
                    position = batch.next_offset
                    batch.view[:8] = bytes(8)  # brokers take only batches that begin at 0; the CRC doesn't cover it
        started = time.monotonic()
        in_flight: deque[asyncio.Future[memoryview]] = deque()
        while any(queues.values()):
            parts = produce_request(
                9, None, [(target, [BatchToSend(n, queue.popleft()) for n, queue in queues.items() if queue])], 30_000
            )
            in_flight.append(connection.send(0, 9, parts, 60))
            if len(in_flight) >= 5:
                check_produced(await in_flight.popleft())
        while in_flight:
            check_produced(await in_flight.popleft())
        seconds = time.monotonic() - started
        connection.close()
        return seconds

    return asyncio.run(run())


def check_produced(body: memoryview) -> None:
    """Raise if a batch wasn't taken."""
    from sluice.kafka.errors import check
    from sluice.replay.encoding import produce_response

    for part in produce_response(body, 9):
        check(part.error, f"producing to {part.topic}-{part.partition}", part.message)


def librdkafka(bootstrap: str, source: str, target: str) -> float:
    """A consume/produce loop on librdkafka; at least once."""
    return _librdkafka(bootstrap, source, target, opened=False)


def librdkafka_opened(bootstrap: str, source: str, target: str) -> float:
    """The same loop with the filter and the headers of ``sluice_opened``."""
    return _librdkafka(bootstrap, source, target, opened=True)


def _librdkafka(bootstrap: str, source: str, target: str, *, opened: bool) -> float:
    from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer
    from confluent_kafka import TopicPartition as Place

    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"bench-{uuid.uuid4().hex[:8]}",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": 50,
            "batch.size": 1_000_000,
            "batch.num.messages": 100_000,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
            "message.max.bytes": 1_900_000,
        }
    )
    partitions = list(consumer.list_topics(source, timeout=30).topics[source].partitions)
    consumer.assign([Place(source, number, OFFSET_BEGINNING) for number in partitions])
    prefixes = tuple(prefix.encode() for prefix in _PREFIXES)
    started = time.monotonic()
    ended = 0
    while ended < len(partitions):
        for message in consumer.consume(10_000, 0.2):
            if message.error():
                ended += 1
                continue
            headers = message.headers()
            if opened:
                if not message.key().startswith(prefixes):
                    continue
                place = f"{source}/{message.partition()}/{message.offset()}"
                headers = [
                    *(headers or ()),
                    ("sluice-replay-job", _JOB),
                    ("sluice-replay-count", "1"),
                    ("sluice-replay-source", place),
                ]
            while True:
                try:
                    producer.produce(
                        target,
                        key=message.key(),
                        value=message.value(),
                        headers=headers,
                        partition=message.partition(),
                        timestamp=message.timestamp()[1],
                    )
                    break
                except BufferError:
                    producer.poll(0.05)
        producer.poll(0)
    if producer.flush(300):
        raise RuntimeError("not everything was acknowledged")
    seconds = time.monotonic() - started
    consumer.close()
    return seconds


def peak_memory() -> float:
    """Largest resident size of this process so far, in MB."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


CONTESTANTS: Final = {
    "sluice": sluice,
    "limit": limit,
    "librdkafka": librdkafka,
    "sluice-opened": sluice_opened,
    "librdkafka-opened": librdkafka_opened,
}


if __name__ == "__main__":
    taken = CONTESTANTS[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({"seconds": taken, "rss_mb": peak_memory()}))
