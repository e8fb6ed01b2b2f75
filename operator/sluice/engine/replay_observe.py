"""Looking at source and target of a replay, before its plan is made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from sluice.api.base import Reason
from sluice.api.objects import ReplayJob
from sluice.engine.errors import WaitingError
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaRefusedError
from sluice.plan.observed import TopicDescription, TopicPartition
from sluice.plan.replay import (
    DEFAULT_MAX_BATCH_BYTES,
    LIVE_WITHIN,
    NO_LIMIT,
    TARGET_CONFIGS,
    Observed,
    OpenTransaction,
    SourcePartition,
    lookup_times,
    milliseconds,
    wanted_partitions,
)

_SECOND_LOOK_SECONDS: Final = 1.0
"""Between two looks at the target's end: producers that aren't idempotent show only by what they write."""
_TOPIC_RETRY: Final = 5.0
_LIMIT: Final = "max.message.bytes"
_OWN_TRANSACTIONS: Final = "sluice-replay-"


async def observe(admin: KafkaAdmin, job: ReplayJob, notes: Sequence[str], now: datetime) -> Observed:
    """What a plan is made from.

    Raises:
        WaitingError: source or target doesn't exist (yet).
    """
    names = (job.spec.source.topic, job.spec.target.topic)
    topics = await admin.describe_topics(names)
    for name in names:
        if name not in topics:
            raise WaitingError(
                Reason.TOPIC_NOT_FOUND,
                f"topic {name} doesn't exist: create it as a Topic, or make another ReplayJob with the right name",
                _TOPIC_RETRY,
            )
    source, target = (topics[name] for name in names)
    known = {partition.id for partition in source.partitions}
    wanted = [TopicPartition(source.name, n) for n in wanted_partitions(job.spec, source) if n in known]
    first_look = await _ends(admin, target)
    configs = (await admin.describe_topic_configs({target.name: TARGET_CONFIGS})).get(target.name, {})
    config = {key: value.value for key, value in configs.items() if value.value is not None}
    partitions = await _partitions(admin, job, wanted, _latest_taken(config, now))
    pinned = [place for place in wanted if (p := partitions[place.partition]).stable < p.latest]
    writers = await _writers(admin, target, now)
    if not writers:
        await asyncio.sleep(_SECOND_LOOK_SECONDS)
        second_look = await _ends(admin, target)
        moved = sorted(place.partition for place, end in second_look.items() if end != first_look.get(place))
        if moved:
            writers = (f"its end moved in partition {moved[0]} while it was looked at",)
    return Observed(
        source=source,
        target=target,
        partitions=partitions,
        target_config=config,
        target_writers=writers,
        open_transactions=await _open_transactions(admin, pinned),
        notes=tuple(notes),
    )


async def batch_limit(admin: KafkaAdmin, topic: str) -> int:
    """The largest batch that a topic takes now: where a replay failed for it, raising it and trying again must help."""
    configs = (await admin.describe_topic_configs({topic: [_LIMIT]})).get(topic, {})
    value = configs[_LIMIT].value if _LIMIT in configs else None
    return DEFAULT_MAX_BATCH_BYTES if value is None else int(value)


def _latest_taken(config: Mapping[str, str], now: datetime) -> int | None:
    """The latest timestamp that the target takes now; None: any."""
    ahead = int(config.get("message.timestamp.after.max.ms", NO_LIMIT))
    return None if ahead == NO_LIMIT else milliseconds(now) + ahead


async def _partitions(
    admin: KafkaAdmin, job: ReplayJob, wanted: Sequence[TopicPartition], latest_taken: int | None
) -> Mapping[int, SourcePartition]:
    from_ms, to_ms = lookup_times(job.spec)
    earliest = await admin.earliest_offsets(wanted)
    starts = await admin.offsets_for_times(dict.fromkeys(wanted, from_ms or 0))
    ends = await admin.offsets_for_times(dict.fromkeys(wanted, to_ms)) if to_ms is not None else {}
    future = await admin.offsets_for_times(dict.fromkeys(wanted, latest_taken + 1)) if latest_taken is not None else {}
    latest = await admin.latest_offsets(wanted)
    # Last: what is stable is before what was there a moment earlier only if a transaction is open.
    stable = await admin.stable_offsets(wanted)
    oldest = {place: found.timestamp_ms for place, found in starts.items()}
    if (first := job.spec.source.range.from_.offset) is not None:
        batches = await admin.batch_times({place: max(first, earliest[place]) for place in wanted})
        oldest = {place: batch.timestamp_ms for place, batch in batches.items()}
    return {
        place.partition: SourcePartition(
            earliest=earliest[place],
            stable=stable[place],
            latest=latest[place],
            from_time=starts[place].offset if from_ms is not None else None,
            to_time=ends[place].offset if place in ends else None,
            oldest_ms=oldest.get(place),
            future=future[place].offset if place in future else None,
        )
        for place in wanted
    }


async def _ends(admin: KafkaAdmin, topic: TopicDescription) -> dict[TopicPartition, int]:
    return await admin.latest_offsets([TopicPartition(topic.name, partition.id) for partition in topic.partitions])


async def _writers(admin: KafkaAdmin, target: TopicDescription, now: datetime) -> tuple[str, ...]:
    """Producers that wrote to the target lately, other than replays'. Clusters that don't tell (before 2.8, or without
    the right) leave it to the second look at the ends."""
    places = [TopicPartition(target.name, partition.id) for partition in target.partitions]
    try:
        producers = await admin.describe_producers(places)
        transactions = await admin.list_transactions()
    except KafkaRefusedError:
        return ()
    own = {t.producer_id for t in transactions if t.transactional_id.startswith(_OWN_TRANSACTIONS)}
    since = (now - LIVE_WITHIN).timestamp() * 1000
    return tuple(
        f"producer {producer.producer_id} in partition {place.partition}"
        for place, found in sorted(producers.items())
        for producer in found
        if producer.producer_id not in own
        and (producer.last_timestamp_ms >= since or producer.transaction_start is not None)
    )


async def _open_transactions(admin: KafkaAdmin, pinned: Sequence[TopicPartition]) -> tuple[OpenTransaction, ...]:
    if not pinned:
        return ()
    try:
        producers = await admin.describe_producers(pinned)
    except KafkaRefusedError:
        return ()
    return tuple(
        OpenTransaction(place.partition, producer.producer_id, producer.transaction_start)
        for place, found in producers.items()
        for producer in found
        if producer.transaction_start is not None
    )
