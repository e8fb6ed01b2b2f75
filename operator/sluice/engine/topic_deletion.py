"""What becomes of a topic in Kafka when its object is deleted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sluice.api.objects import Key, Topic
from sluice.api.topic import DeletionPolicy
from sluice.engine.batching import confirm
from sluice.engine.finalizers import let_go, nothing_to_undo
from sluice.engine.reconciler import Context
from sluice.kafka.admin import KafkaAdmin
from sluice.plan.topic import kafka_name

logger = logging.getLogger(__name__)


def key_of_topic(body: Mapping[str, Any]) -> Key:
    """Key of a Topic's body."""
    return Key("Topic", body["metadata"]["namespace"], body["metadata"]["name"])


def claimed_name(body: Mapping[str, Any]) -> str:
    """Name in Kafka that a Topic's body claims, without reading the whole object into types."""
    name: str = body["spec"].get("topicName") or body["metadata"]["name"]
    return name


async def leave(context: Context, cluster: Key, topic: Topic) -> None:
    """Delete the topic if that is asked for, its cluster lives and nobody else claims it; then let the object go."""
    if (
        topic.spec.deletion_policy is DeletionPolicy.DELETE
        and not _claimed_by_another(context, cluster, topic)
        and not await nothing_to_undo(context, cluster, topic.namespace)
    ):
        admin = await context.clusters.connect(topic.spec.cluster_ref, topic.namespace)
        await _delete(context, admin, topic)
    await let_go(context, topic)


async def _delete(context: Context, admin: KafkaAdmin, topic: Topic) -> None:
    name = kafka_name(topic)
    found = (await admin.describe_topics([name])).get(name)
    if found is None:
        return
    if found.id != (topic.status.topic_id or ""):
        # Never looked after by this object, or made anew by somebody else since: not ours to delete.
        context.events.publish(
            topic, "Warning", "TopicKept", f"topic {name} with id {found.id} isn't the one that this object made"
        )
        return
    if error := (await confirm(context, [topic])).get(topic.key):
        raise error
    logger.warning("%s: topic %s (id %s) is deleted: deletionPolicy is Delete", topic.key, name, found.id)
    if error := (await admin.delete_topics([name]))[name]:
        raise error


def _claimed_by_another(context: Context, cluster: Key, topic: Topic) -> bool:
    """Whether another object that stays wants the same topic: then it takes it over as it is."""
    name = kafka_name(topic)
    return any(
        claimed_name(body) == name
        for body in context.index.of_cluster(cluster, topic.key.kind)
        if key_of_topic(body) != topic.key and "deletionTimestamp" not in body["metadata"]
    )
