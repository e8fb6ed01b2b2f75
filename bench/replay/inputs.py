"""Topics to be copied: records of several sizes, codecs and batch sizes."""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Producer

from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.plan.observed import NewTopic

PARTITIONS: Final = 3
_FIRST_MS: Final = 1_357_000_000_000
_WORDS: Final = 4096


@dataclass(frozen=True)
class Input:
    """One kind of topic; ``batch_records`` is how many records go into a batch (0: as many as fit)."""

    name: str
    record_bytes: int
    codec: str
    share: float = 1.0
    """Of the number of records that was asked for: large records are fewer."""
    batch_records: int = 0

    @property
    def well_batched(self) -> bool:
        """Whether batches are worth copying whole."""
        return not self.batch_records


INPUTS: Final = (
    Input("200 B lz4", 200, "lz4"),
    Input("200 B", 200, "none"),
    Input("1 kB zstd", 1000, "zstd", share=0.5),
    Input("100 kB", 100_000, "none", share=0.005),
    Input("badly batched", 200, "none", share=0.1, batch_records=3),
)


def make_topics(bootstrap: str, names: list[str]) -> None:
    """Make topics that keep everything."""

    async def act() -> None:
        admin = KafkaAdmin(ConnectionSettings((bootstrap,)))
        config = (("retention.ms", "-1"), ("max.message.bytes", str(2 * 1024 * 1024)))
        made = await admin.create_topics([NewTopic(name, PARTITIONS, 1, config) for name in names])
        await admin.close()
        if problems := [str(problem) for problem in made.values() if problem]:
            raise RuntimeError("; ".join(problems))

    asyncio.run(act())


def delete_topics(bootstrap: str, names: list[str]) -> None:
    """Delete topics, so that disks don't fill."""

    async def act() -> None:
        admin = KafkaAdmin(ConnectionSettings((bootstrap,)))
        await admin.delete_topics(names)
        await admin.close()

    asyncio.run(act())


def fill(bootstrap: str, topic: str, kind: Input, records: int) -> None:
    """Produce ``records`` records. Values are half random, so that codecs have something to do."""
    client = Producer(
        {
            "bootstrap.servers": bootstrap,
            "compression.type": kind.codec,
            "linger.ms": 100 if kind.well_batched else 0,
            "batch.size": 1_000_000,
            "batch.num.messages": kind.batch_records or 1_000_000,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 512 * 1024,
            "message.max.bytes": 1_900_000,
        }
    )
    chance = random.Random(1)  # noqa: S311 - the same data in each run
    noise = os.urandom(kind.record_bytes * 64)
    values = []
    for _ in range(64):
        start = chance.randrange(len(noise) - kind.record_bytes)
        half = kind.record_bytes // 2
        values.append(noise[start : start + half].hex().encode()[:half] + b"abcdefghij" * (half // 10 + 1))
    values = [value[: kind.record_bytes].replace(b"\n", b"n") for value in values]
    for number in range(records):
        while True:
            try:
                client.produce(
                    topic,
                    key=b"key-%d" % (number % _WORDS),
                    value=values[number % 64],
                    partition=number % PARTITIONS,
                    timestamp=_FIRST_MS + number,
                )
                break
            except BufferError:
                client.poll(0.05)
    if client.flush(300):
        raise RuntimeError(f"{topic} could not be filled")
