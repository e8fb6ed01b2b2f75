"""What becomes of topics in Kafka when their objects are deleted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from sluice.api.objects import Key, Topic
from sluice.api.topic import DeletionPolicy
from sluice.engine import leaving
from sluice.engine.batching import confirm
from sluice.engine.errors import WaitingError
from sluice.engine.leaving import Errors
from sluice.engine.reconciler import Context
from sluice.kafka.admin import KafkaAdmin
from sluice.plan.observed import TopicDescription
from sluice.plan.ownership import owners
from sluice.plan.topic import is_reserved, kafka_name

logger = logging.getLogger(__name__)


def key_of_topic(body: Mapping[str, Any]) -> Key:
    """Key of a Topic's body."""
    return Key("Topic", body["metadata"]["namespace"], body["metadata"]["name"])


def claimed_name(body: Mapping[str, Any]) -> str:
    """Name in Kafka that a Topic's body claims, without reading the whole object into types."""
    name: str = body["spec"].get("topicName") or body["metadata"]["name"]
    return name


async def leave(context: Context, cluster: Key, topics: Sequence[Topic]) -> Errors:
    """Delete topics if that is asked for, their cluster lives and nobody else claims them; then let the objects go.

    Returns what failed, as errors that are tried again soon.
    """
    doomed = [topic for topic in topics if topic.spec.deletion_policy is DeletionPolicy.DELETE]
    return await leaving.leave(context, cluster, topics, take=doomed, undo=lambda wanted: _delete(context, wanted))


async def _delete(context: Context, topics: Sequence[Topic]) -> Errors:
    wanted, errors = _unclaimed(context, topics)
    if not wanted:
        return errors
    admin: KafkaAdmin = await context.clusters.connect(wanted[0].spec.cluster_ref, wanted[0].namespace)
    described = await admin.each_topic([kafka_name(topic) for topic in wanted])
    errors |= {topic.key: described.errors[name] for topic in wanted if (name := kafka_name(topic)) in described.errors}
    ours = [topic for topic in wanted if _is_ours(context, topic, described.found.get(kafka_name(topic)))]
    errors |= await confirm(context, ours)
    ids = {kafka_name(topic): described.found[kafka_name(topic)].id for topic in ours if topic.key not in errors}
    if not ids:
        return errors
    for topic in ours:
        if kafka_name(topic) in ids:
            name = kafka_name(topic)
            logger.warning("%s: topic %s (id %s) is deleted: deletionPolicy is Delete", topic.key, name, ids[name])
    deleted = await admin.delete_topics(ids)
    return errors | {topic.key: error for topic in ours if (error := deleted.get(kafka_name(topic))) is not None}


def _is_ours(context: Context, topic: Topic, found: TopicDescription | None) -> bool:
    """Whether the topic is the one that the object has looked after."""
    if found is None:
        return False
    if found.id == (topic.status.topic_id or "") and not found.internal and not is_reserved(found.name):
        return True
    # Never looked after by this object, or made anew by somebody else since: not ours to delete.
    context.events.publish(
        topic, "Warning", "TopicKept", f"topic {found.name} with id {found.id} isn't the one that this object made"
    )
    return False


def _unclaimed(context: Context, topics: Sequence[Topic]) -> tuple[list[Topic], Errors]:
    """Topics that no object that stays wants: another one would take them over as they are."""
    wanted: list[Topic] = []
    errors: Errors = {}
    heirs: dict[str, Key] | None = None
    for topic in topics:
        try:
            cluster = context.clusters.resolve(topic.spec.cluster_ref, topic.namespace)
        except WaitingError as error:
            errors[topic.key] = error
            continue
        if heirs is None:
            bodies = context.index.of_cluster(cluster.key, topic.key.kind)
            heirs = owners([b for b in bodies if "deletionTimestamp" not in b["metadata"]], cluster, claimed_name)
        if kafka_name(topic) not in heirs:
            wanted.append(topic)
    return wanted, errors
