"""What a replay will do, decided once: the frozen range, who copies what, what to know before, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from sluice.api.base import Model
from sluice.api.replay import RESERVED_TOPICS, End, Mode, Ordering, PartitionRange, ReplayJobSpec, ReplayPlan, Start
from sluice.manifests.names import content_hash
from sluice.plan import replay_selection as selection
from sluice.plan import rewind
from sluice.plan.observed import TopicDescription

Bound = TypeVar("Bound", Start, End)

Ranges = Mapping[int, tuple[int, int]]
"""Start and end by partition."""
LIVE_WITHIN: Final = timedelta(minutes=5)
"""A producer that wrote this recently counts as a live writer."""
DEFAULT_MAX_BATCH_BYTES: Final = 1_048_588
TARGET_CONFIGS: Final = (
    "cleanup.policy",
    "compression.type",
    "max.message.bytes",
    "message.timestamp.type",
    "message.timestamp.before.max.ms",
    "message.timestamp.after.max.ms",
    "retention.ms",
)
NO_LIMIT: Final = 9223372036854775807
_KEY_FORMAT: Final = "v1"
"""How ledger keys are made. By another way, completed replays would run again, unless both are looked for."""


@dataclass(frozen=True)
class OpenTransaction:
    """A transaction that isn't decided, and holds the last stable offset back."""

    partition: int
    producer_id: int
    first_offset: int


@dataclass(frozen=True)
class SourcePartition:
    """What is known of a source partition. Offsets by time are None where no record is that late.

    ``stable`` is the last stable offset, ``latest`` the high watermark; ``oldest_ms`` the timestamp of the record that
    the range starts with; ``future`` the first record, in the range or not, that is later than the target takes.
    """

    earliest: int
    stable: int
    latest: int
    from_time: int | None = None
    to_time: int | None = None
    oldest_ms: int | None = None
    future: int | None = None


@dataclass(frozen=True)
class Observed:
    """What a plan is made from."""

    source: TopicDescription
    target: TopicDescription
    partitions: Mapping[int, SourcePartition]
    target_config: Mapping[str, str]
    target_writers: tuple[str, ...] = ()
    """Live writers of the target, in words."""
    open_transactions: tuple[OpenTransaction, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """Further warnings, as of the credentials."""


@dataclass(frozen=True)
class Planned:
    """The plan, or why there is none (``refusal``, a sentence)."""

    plan: ReplayPlan | None
    refusal: str | None
    max_batch_bytes: int = DEFAULT_MAX_BATCH_BYTES


def ledger_key(namespace: str, name: str, spec: ReplayJobSpec) -> str:
    """Key of a replay in the ledger; ``runId`` makes another of it."""
    parts = [namespace, name, _KEY_FORMAT, _identity(namespace, spec), *([spec.run_id] if spec.run_id else [])]
    return "/".join(parts)


def _identity(namespace: str, spec: ReplayJobSpec) -> str:
    """Stands for what a replay moves: the same for two specs exactly if running both would copy the same twice.

    Only what differs from its default counts: a field that a later release adds changes no key. ``ordering`` is a
    consent, and the same records are copied with it.
    """
    cluster = [spec.cluster_ref.namespace or namespace, spec.cluster_ref.name]
    if spec.mode is Mode.REWIND:
        return content_hash({"cluster": cluster, "rewind": rewind.identity(spec.rewind)})
    chosen = spec.source.range
    said = chosen.model_copy(
        update={"from_": _in_utc(chosen.from_), "to": _in_utc(chosen.to), "partitions": sorted(set(chosen.partitions))}
    )
    return content_hash(
        {
            "cluster": cluster,
            "source": _differing(spec.source.model_copy(update={"range": said})),
            "target": _differing(spec.target),
            **_records(spec),
        }
    )


def _records(spec: ReplayJobSpec) -> dict[str, Any]:
    """What of single records is asked for, as part of what is hashed; nothing of it hashes as if there were no such."""
    return {"records": asked} if (asked := selection.differing(spec)) else {}


def _in_utc(bound: Bound) -> Bound:
    return bound if bound.time is None else bound.model_copy(update={"time": bound.time.astimezone(UTC)})


def _differing(part: Model) -> dict[str, Any]:
    return part.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def run_name(key: str) -> str:
    """Principal, group and prefix of the transactional ids of a replay.

    They come from the ledger's key rather than from the object's UID, so that an object that was deleted midway and
    applied again goes on where it was.
    """
    return f"sluice-replay-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def milliseconds(time: datetime) -> int:
    """Unix milliseconds."""
    return round(time.timestamp() * 1000)


def milliseconds_or_none(time: datetime | None) -> int | None:
    """Unix milliseconds; None stays None."""
    return None if time is None else milliseconds(time)


def wanted_partitions(spec: ReplayJobSpec, source: TopicDescription) -> list[int]:
    """Partitions of the range."""
    return sorted(set(spec.source.range.partitions)) or [partition.id for partition in source.partitions]


def lookup_times(spec: ReplayJobSpec) -> tuple[int | None, int | None]:
    """Times (Unix milliseconds) whose offsets bound the range; the end allows for records that come late."""
    chosen = spec.source.range
    end = milliseconds_or_none(chosen.to.time)
    return milliseconds_or_none(chosen.from_.time), None if end is None else end + chosen.lateness_seconds * 1000


def make(spec: ReplayJobSpec, observed: Observed, now: datetime) -> Planned:
    """Freeze the range, or say why it is refused."""
    if refusal := _refusal(spec, observed):
        return Planned(None, refusal)
    ranges = {number: _bounds(spec, partition) for number, partition in observed.partitions.items()}
    shards = share_out({number: end - start for number, (start, end) in ranges.items()}, spec.parallelism)
    partitions = [
        PartitionRange(partition=number, start=start, end=end, shard=shards[number])
        for number, (start, end) in sorted(ranges.items())
    ]
    plan = ReplayPlan(
        hash="",
        planned_at=now.replace(microsecond=0),
        source_topic_id=observed.source.id,
        target_topic_id=observed.target.id,
        from_time=spec.source.range.from_.time,
        to_time=spec.source.range.to.time,
        offsets=sum(partition.end - partition.start for partition in partitions),
        partitions=partitions,
        warnings=_warnings(spec, observed, ranges, now),
    )
    content = plan.model_dump(mode="json", exclude={"hash", "planned_at", "warnings"}) | _records(spec)
    limit = int(observed.target_config.get("max.message.bytes", DEFAULT_MAX_BATCH_BYTES))
    return Planned(plan.model_copy(update={"hash": content_hash(content)}), None, limit)


def nothing(now: datetime) -> ReplayPlan:
    """The plan of a replay that is given up before there was one."""
    return ReplayPlan(hash="", planned_at=now.replace(microsecond=0), source_topic_id="", target_topic_id="", offsets=0)


def share_out(sizes: Mapping[int, int], workers: int) -> dict[int, int]:
    """Shard of each partition: the largest first, each to the worker that has least; no worker without work."""
    count = max(1, min(workers, sum(size > 0 for size in sizes.values())))
    loads = [0] * count
    shards: dict[int, int] = {}
    for number, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        shard = loads.index(min(loads)) if size else 0
        shards[number] = shard
        loads[shard] += size
    return shards


def _bounds(spec: ReplayJobSpec, partition: SourcePartition) -> tuple[int, int]:
    chosen = spec.source.range
    if chosen.from_.time is not None:
        start = partition.stable if partition.from_time is None else partition.from_time
    else:
        start = chosen.from_.offset or 0
    end = partition.stable
    if chosen.to.offset is not None:
        end = min(end, chosen.to.offset)
    elif chosen.to.time is not None and partition.to_time is not None:
        end = min(end, partition.to_time)
    start = max(start, partition.earliest)
    # A range that lies wholly before what is kept, or after it, is empty; it has a place all the same.
    return min(start, max(end, partition.earliest)), max(end, min(start, partition.stable), partition.earliest)


def _refusal(spec: ReplayJobSpec, observed: Observed) -> str | None:
    source, target = observed.source, observed.target
    wanted = wanted_partitions(spec, source)
    # The API server says so too (CEL), to those who asked when its rule was there already.
    if spec.target.topic.startswith(RESERVED_TOPICS):
        return f"Kafka and Sluice keep topics like {spec.target.topic} for themselves: choose another target"
    if missing := [number for number in wanted if number >= len(source.partitions)]:
        return (
            f"topic {source.name} has {len(source.partitions)} partitions, so there is no partition"
            f" {', '.join(map(str, missing[:5]))}: correct spec.source.range.partitions"
        )
    if wanted and len(target.partitions) <= wanted[-1]:
        return (
            f"partitions stay the same, and topic {target.name} has {len(target.partitions)} where partition"
            f" {wanted[-1]} of {source.name} is to be copied: give it at least {wanted[-1] + 1}"
        )
    if problem := selection.refusal(spec):
        return problem
    if spec.ordering is Ordering.ACCEPT_REORDERING:
        return None
    remedy = "; if that is right for its consumers, say spec.ordering: AcceptReordering"
    if "compact" in observed.target_config.get("cleanup.policy", ""):
        return f"topic {target.name} is compacted, so old values would come after newer ones and replace them{remedy}"
    if observed.target_writers:
        return (
            f"topic {target.name} is being written to ({'; '.join(observed.target_writers[:5])}), so old values would"
            f" come after newer ones{remedy}"
        )
    return None


def _warnings(spec: ReplayJobSpec, observed: Observed, ranges: Ranges, now: datetime) -> list[str]:
    return [
        *_range_warnings(spec, observed),
        *_age_warnings(observed, ranges, now),
        *_future_warnings(observed, ranges),
        *_config_warnings(observed),
        *selection.warnings(spec),
        *observed.notes,
    ]


def _range_warnings(spec: ReplayJobSpec, observed: Observed) -> list[str]:
    found = []
    wanted = spec.source.range.from_.offset
    gone = [n for n, p in observed.partitions.items() if wanted is not None and wanted < p.earliest and wanted > 0]
    if gone:
        found.append(
            f"offsets from {wanted} on were asked for, and {_numbers(gone)} begin later: what was before is deleted"
        )
    until = spec.source.range.to.offset
    short = [n for n, p in observed.partitions.items() if until is not None and p.stable < until]
    if short:
        found.append(f"{_numbers(short)} end before offset {until}: the range ends where they ended at planning")
    pinned = [n for n, p in observed.partitions.items() if p.stable < p.latest]
    if pinned:
        # The earliest holds a partition back; the last one written into the mapping stays.
        latest_first = sorted(observed.open_transactions, key=lambda t: t.first_offset, reverse=True)
        holders = {t.partition: t for t in latest_first}
        named = [
            f"producer {holders[n].producer_id} in partition {n} since offset {holders[n].first_offset}"
            for n in pinned
            if n in holders
        ]
        by = f" ({'; '.join(named[:5])})" if named else ""
        found.append(
            f"open transactions{by} hold {_numbers(pinned)} back: records after the last stable offset are not"
            " replayed; a transaction that hangs can be ended with kafka-transactions.sh"
        )
    return found


def _age_warnings(observed: Observed, ranges: Ranges, now: datetime) -> list[str]:
    filled = [observed.partitions[number] for number, (start, end) in ranges.items() if start < end]
    oldest = min((p.oldest_ms for p in filled if p.oldest_ms is not None and p.oldest_ms >= 0), default=None)
    if oldest is None:
        return []
    age = milliseconds(now) - oldest
    when = datetime.fromtimestamp(oldest / 1000, UTC).strftime("%Y-%m-%d")
    found = []
    config = observed.target_config
    retention = int(config.get("retention.ms", -1))
    if 0 <= retention < age and "delete" in config.get("cleanup.policy", "delete"):
        found.append(
            f"records are as old as {when}, and topic {observed.target.name} keeps them for"
            f" {timedelta(milliseconds=retention)}: it deletes them at its next retention check; raise its retention"
        )
    if age > int(config.get("message.timestamp.before.max.ms", NO_LIMIT)):
        found.append(
            f"records are as old as {when}, and topic {observed.target.name} refuses such timestamps: raise its"
            " message.timestamp.before.max.ms"
        )
    return found


def _future_warnings(observed: Observed, ranges: Ranges) -> list[str]:
    ahead = [
        number
        for number, (start, end) in ranges.items()
        if (future := observed.partitions[number].future) is not None and start <= future < end
    ]
    if not ahead:
        return []
    return [
        f"{_numbers(ahead)} have records that are later than topic {observed.target.name} takes now: it refuses them;"
        " raise its message.timestamp.after.max.ms"
    ]


def _config_warnings(observed: Observed) -> list[str]:
    name, config = observed.target.name, observed.target_config
    found = []
    if (codec := config.get("compression.type", "producer")) != "producer":
        found.append(
            f"topic {name} compresses with {codec} itself: its brokers decode and encode what comes in another codec"
        )
    if config.get("message.timestamp.type", "CreateTime") != "CreateTime":
        found.append(f"topic {name} has message.timestamp.type LogAppendTime: records get the time of the replay")
    return found


def _numbers(partitions: Sequence[int]) -> str:
    some = ", ".join(map(str, partitions[:5]))
    more = f" and {len(partitions) - 5} more" if len(partitions) > 5 else ""
    return f"{'partition' if len(partitions) == 1 else 'partitions'} {some}{more}"


def as_json(value: Mapping[str, Any]) -> str:
    """Compact JSON with sorted keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
