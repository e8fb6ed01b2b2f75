"""What is asked of Kafka about topics, and what is done there: many topics in a handful of requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sluice.api.base import API_VERSION, Reason
from sluice.api.objects import Key, Topic
from sluice.api.topic import DeletionPolicy
from sluice.engine.batching import confirm, each
from sluice.engine.finalizers import hold
from sluice.engine.leaving import Errors
from sluice.engine.reconciler import Context
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaError, KafkaRefusedError
from sluice.plan.observed import ClusterDescription, TopicDescription, TopicPartition
from sluice.plan.topic import (
    ObservedTopic,
    TopicPlan,
    config_keys,
    kafka_name,
    may_be_moving,
    wants_partitions,
    was_written,
)

logger = logging.getLogger(__name__)

VISIBLE_ATTEMPTS: Final = 20
VISIBLE_PAUSE_SECONDS: Final = 0.1


@dataclass
class Observation:
    """What Kafka has; a topic is either in ``topics`` or, if it couldn't be looked at, in ``errors``."""

    cluster: ClusterDescription
    topics: dict[Key, ObservedTopic] = field(default_factory=dict)
    errors: Errors = field(default_factory=dict)


async def observe(admin: KafkaAdmin, topics: Sequence[Topic]) -> Observation:
    """Look at topics.

    Raises:
        KafkaUnreachableError: the cluster doesn't answer.
    """
    cluster, described = await asyncio.gather(
        admin.describe_cluster(), admin.each_topic([kafka_name(topic) for topic in topics])
    )
    found = described.found
    existing = [topic for topic in topics if kafka_name(topic) in found]
    wanted = {kafka_name(topic): config_keys(topic.spec, topic.status.config_keys) for topic in existing}
    configs = await admin.each_topic_config({name: keys for name, keys in wanted.items() if keys})
    suspects = any(_was_moving(topic) or may_be_moving(topic.spec, found[kafka_name(topic)]) for topic in existing)
    moving = await _moving(admin) if suspects else {}
    written = await _written(admin, existing, found)
    observation = Observation(cluster)
    for topic in topics:
        name = kafka_name(topic)
        if (error := described.errors.get(name) or configs.errors.get(name)) is not None:
            observation.errors[topic.key] = error
            continue
        observation.topics[topic.key] = ObservedTopic(
            topic=found.get(name),
            config=configs.found.get(name, {}),
            reassigning=frozenset(moving.get(name, ())),
            written=written.get(name),
        )
    return observation


async def _moving(admin: KafkaAdmin) -> dict[str, set[int]]:
    """Partitions that are being moved, by topic."""
    moving: dict[str, set[int]] = {}
    try:
        for place in await admin.list_reassignments():
            moving.setdefault(place.topic, set()).add(place.partition)
    except KafkaRefusedError as error:  # who asks for a move hears of it; others need no such right
        logger.warning("whether partitions are being moved isn't known: %s", error)
    return moving


def _was_moving(topic: Topic) -> bool:
    return any(condition.reason == Reason.REASSIGNING.value for condition in topic.status.conditions)


async def _written(
    admin: KafkaAdmin, topics: Iterable[Topic], described: Mapping[str, TopicDescription]
) -> dict[str, bool | None]:
    """For topics whose partitions are to be raised without consent: whether they were ever written to, if known."""
    growing = {
        found.name: [TopicPartition(found.name, partition.id) for partition in found.partitions]
        for topic in topics
        if wants_partitions(topic.spec, found := described[kafka_name(topic)])
    }
    if not growing:
        return {}
    ends = await admin.each_latest_offset([place for places in growing.values() for place in places])
    return {name: was_written(ends.found.get(place) for place in places) for name, places in growing.items()}


async def apply(
    context: Context, admin: KafkaAdmin, cluster: ClusterDescription, todo: Sequence[tuple[Topic, TopicPlan]]
) -> Errors:
    """Do what plans say, all of one sort in one request; returns what failed."""
    if not todo:
        return {}
    errors = await confirm(context, [topic for topic, _ in todo])
    held = [topic for topic, _ in todo if topic.spec.deletion_policy is DeletionPolicy.DELETE]
    for topic, answer in zip(held, await each(held, lambda topic: hold(context, topic)), strict=True):
        if isinstance(answer, Exception):
            errors.setdefault(topic.key, answer)
    errors |= await _remember_keys(context, [pair for pair in todo if pair[0].key not in errors])
    doing = {kafka_name(topic): (topic, plan) for topic, plan in todo if topic.key not in errors}
    for topic, plan in doing.values():
        logger.info("%s on %s: %s", topic.key, cluster.cluster_id, "; ".join(plan.reasons))

    def fail(answers: Mapping[str, KafkaError | None]) -> None:
        for name, error in answers.items():
            if error is not None:
                errors.setdefault(doing[name][0].key, error)

    if creates := [plan.create for _, plan in doing.values() if plan.create]:
        fail(await admin.create_topics(creates))
    if changes := {name: plan.config for name, (_, plan) in doing.items() if plan.config}:
        fail(await admin.alter_topic_configs(changes))
    if counts := {name: plan.partitions for name, (_, plan) in doing.items() if plan.partitions}:
        fail(await admin.create_partitions(counts))
    moves = {
        TopicPartition(name, partition): replicas
        for name, (_, plan) in doing.items()
        for partition, replicas in plan.placements.items()
    }
    if moves:
        fail({place.topic: error for place, error in (await admin.reassign(moves)).items() if error is not None})
    return errors


async def _remember_keys(context: Context, todo: Iterable[tuple[Topic, TopicPlan]]) -> Errors:
    """Write down which keys are about to be set, so that they are reset some day whatever happens after it.

    A topic that is made gets its keys with it, or not at all: then the status of the topic made is soon enough.
    """
    new = [topic for topic, plan in todo if plan.config and not set(topic.spec.config) <= set(topic.status.config_keys)]

    async def write(topic: Topic) -> None:
        keys = sorted({*topic.status.config_keys, *topic.spec.config})
        patch = {"metadata": {"uid": topic.uid}, "status": {"configKeys": keys}}
        kind, namespace, name = topic.key
        context.index.put(await context.kube.patch(API_VERSION, kind, namespace, name, patch, subresource="status"))

    answers = zip(new, await each(new, write), strict=True)
    return {topic.key: answer for topic, answer in answers if isinstance(answer, Exception)}


async def await_visible(admin: KafkaAdmin, names: Sequence[str]) -> dict[str, TopicDescription]:
    """Topics just made, as soon as brokers know them."""
    found: dict[str, TopicDescription] = {}
    for _ in range(VISIBLE_ATTEMPTS):
        missing = [name for name in names if name not in found]
        if not missing:
            break
        found |= (await admin.each_topic(missing)).found
        if any(name not in found for name in missing):
            await asyncio.sleep(VISIBLE_PAUSE_SECONDS)
    return found
