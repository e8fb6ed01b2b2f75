"""What has to be done about a topic: its spec against what Kafka has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sluice.api.base import Reason
from sluice.api.objects import Topic
from sluice.api.topic import TopicSpec
from sluice.plan.assignment import Placement, place
from sluice.plan.observed import Broker, ConfigValue, NewTopic, TopicDescription

BOOLEANS: Final = frozenset({"true", "false"})
RESERVED: Final = ("__", "sluice-")
"""What names of topics start with that are Kafka's own (and its tools'), or Sluice's."""


@dataclass(frozen=True)
class ObservedTopic:
    """A topic as Kafka has it.

    Attributes:
        topic: None if there is none of that name.
        config: values of the keys that matter.
        reassigning: partitions that are being moved.
        written: whether any record was ever written to it; None if that isn't known.
    """

    topic: TopicDescription | None = None
    config: Mapping[str, ConfigValue] = field(default_factory=dict)
    reassigning: frozenset[int] = frozenset()
    written: bool | None = None


@dataclass(frozen=True)
class Problem:
    """Why the topic can't be what the spec says. ``waits``: it can become possible without a change of the spec."""

    reason: Reason
    message: str
    waits: bool = False


@dataclass(frozen=True)
class TopicPlan:
    """What to do; each part is independent of the others. Without ``reasons`` there is nothing to do."""

    create: NewTopic | None = None
    config: Mapping[str, str | None] = field(default_factory=dict)
    partitions: int | None = None
    placements: Mapping[int, Placement] = field(default_factory=dict)
    reassigning: bool = False
    problem: Problem | None = None
    reasons: tuple[str, ...] = ()


def kafka_name(topic: Topic) -> str:
    """Name of the topic in Kafka."""
    return topic.spec.topic_name or topic.name


def config_keys(spec: TopicSpec, managed: Iterable[str]) -> list[str]:
    """Keys of which the values must be known: those of the spec, and those that were set before."""
    return sorted({*spec.config, *managed})


def is_reserved(name: str) -> bool:
    """Whether a topic of this name is nobody's to manage."""
    return name.startswith(RESERVED)


def may_be_moving(spec: TopicSpec, topic: TopicDescription) -> bool:
    """Whether partitions may be on the move: Kafka names new replicas at once, and they are in sync when copied."""
    return any(len(part.replicas) != spec.replicas or len(part.isr) < len(part.replicas) for part in topic.partitions)


def was_written(ends: Iterable[int | None]) -> bool | None:
    """Whether any record was ever written, by the ends of all partitions; None for one that doesn't answer."""
    known = list(ends)
    if any(end for end in known):
        return True
    return None if None in known else False


def wants_partitions(spec: TopicSpec, topic: TopicDescription) -> bool:
    """Whether it must be known if the topic was written to: its partitions are to be raised without consent."""
    return spec.partitions > len(topic.partitions) and not spec.allow_partition_increase


def plan_topic(
    name: str, spec: TopicSpec, managed: Sequence[str], observed: ObservedTopic, brokers: Sequence[Broker]
) -> TopicPlan:
    """Compare a spec with what is observed.

    Args:
        name: the topic's name in Kafka.
        spec: what it should be.
        managed: configuration keys that Sluice has set on it before; the others are left as they are.
        observed: what it is.
        brokers: brokers that serve.
    """
    if is_reserved(name) or (observed.topic is not None and observed.topic.internal):
        return TopicPlan(problem=_not_ours(name))
    if observed.topic is None:
        return _create(name, spec, brokers)
    config = _config_changes(spec, managed, observed.config)
    reasons = [f"{key}: {_said(observed.config.get(key))} → {_new(value)}" for key, value in config.items()]
    problem, partitions = _partition_increase(name, spec, observed)
    if partitions is not None:
        reasons.append(f"partitions: {len(observed.topic.partitions)} → {partitions}")
    settled = [found for found in observed.topic.partitions if found.id not in observed.reassigning]
    placements: Mapping[int, Placement] = {}
    if any(len(found.replicas) != spec.replicas for found in settled):
        if spec.replicas > len(brokers):
            problem = problem or _too_few(name, spec, brokers)
        else:
            placements = place(settled, spec.replicas, brokers)
            reasons.append(f"replicas of {len(placements)} partitions → {spec.replicas}")
    return TopicPlan(
        config=config,
        partitions=partitions,
        placements=placements,
        reassigning=bool(observed.reassigning),
        problem=problem,
        reasons=tuple(reasons),
    )


def _not_ours(name: str) -> Problem:
    return Problem(
        Reason.INVALID_SPEC,
        f"topic {name} is one that Kafka or Sluice has for itself (names with __ or sluice- in front are): nothing is"
        " done to it. Delete this object, and make one with another name",
    )


def _create(name: str, spec: TopicSpec, brokers: Sequence[Broker]) -> TopicPlan:
    if spec.replicas > len(brokers):
        return TopicPlan(problem=_too_few(name, spec, brokers))
    new = NewTopic(name, spec.partitions, spec.replicas, tuple(sorted(spec.config.items())))
    return TopicPlan(create=new, reasons=(f"topic {name} doesn't exist",))


def _too_few(name: str, spec: TopicSpec, brokers: Sequence[Broker]) -> Problem:
    return Problem(
        Reason.TOO_FEW_BROKERS,
        f"topic {name} should have {spec.replicas} replicas, and {len(brokers)} broker(s) serve: lower spec.replicas,"
        " or add brokers (this is looked at again by itself)",
        waits=True,
    )


def _partition_increase(name: str, spec: TopicSpec, observed: ObservedTopic) -> tuple[Problem | None, int | None]:
    """Number of partitions to raise the topic to, or why not."""
    count = len(observed.topic.partitions) if observed.topic else 0
    if spec.partitions == count:
        return None, None
    if spec.partitions < count:
        return Problem(
            Reason.PARTITION_DECREASE,
            f"topic {name} has {count} partitions and Kafka can't remove any: set spec.partitions to {count}, or make"
            " another topic and copy into it with a ReplayJob",
        ), None
    if spec.allow_partition_increase or observed.written is False:
        return None, spec.partitions
    if observed.written is None:
        return Problem(
            Reason.PARTITION_INCREASE_REFUSED,
            f"it isn't known whether topic {name} was ever written to, since not all of its {count} partitions have a"
            " leader that answers: this is looked at again by itself. Set spec.allowPartitionIncrease: true if more"
            " partitions are acceptable in either case",
            waits=True,
        ), None
    return Problem(
        Reason.PARTITION_INCREASE_REFUSED,
        f"topic {name} was written to with {count} partitions: with {spec.partitions}, keys would be placed on"
        " other partitions than before, and their records would no longer be in one order. Set"
        f" spec.allowPartitionIncrease: true if that is acceptable, or spec.partitions back to {count}",
    ), None


def _config_changes(
    spec: TopicSpec, managed: Sequence[str], current: Mapping[str, ConfigValue]
) -> dict[str, str | None]:
    changes: dict[str, str | None] = {}
    for key, value in sorted(spec.config.items()):
        known = current.get(key)
        # A value that only happens to be the default is set all the same: the default may change.
        if known is None or not known.overridden or known.value is None or not same_value(value, known.value):
            changes[key] = value
    for key in sorted(set(managed) - set(spec.config)):
        if key in current and current[key].overridden:
            changes[key] = None
    return changes


def same_value(one: str, other: str) -> bool:
    """Whether two configuration values mean the same: Kafka gives them back in its own notation."""
    one, other = one.strip(), other.strip()
    if one == other:
        return True
    if one.lower() in BOOLEANS or other.lower() in BOOLEANS:
        return one.lower() == other.lower()
    if "," in one or "," in other:
        return [item.strip() for item in one.split(",")] == [item.strip() for item in other.split(",")]
    try:
        return int(one) == int(other)
    except ValueError:
        try:
            return float(one) == float(other)
        except ValueError:
            return False


def _said(value: ConfigValue | None) -> str:
    if value is None:
        return "not set"
    return f"{value.value}" if value.overridden else f"{value.value} (default)"


def _new(value: str | None) -> str:
    return "default" if value is None else value
