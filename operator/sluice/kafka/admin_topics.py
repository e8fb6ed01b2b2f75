"""Topics and their partitions, many at once."""

from __future__ import annotations

import base64
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from kafka.protocol.admin import (
    AlterPartitionReassignmentsRequest,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    ListPartitionReassignmentsRequest,
)
from kafka.protocol.metadata import MetadataRequest

from sluice.kafka.errors import Answers, KafkaError, check, code_name, from_code
from sluice.kafka.requests import NAMES_PER_REQUEST, Channel, chunks
from sluice.plan.observed import (
    NewTopic,
    PartitionDescription,
    Reassignment,
    TopicDescription,
    TopicPartition,
    kafka_id,
)

PARTITIONS_PER_REQUEST: Final = 8_000
"""Below the 10,000 records that one request may add to the metadata; a topic's own records count too."""
WRITE_TIMEOUT_MS: Final = 20_000
Results = dict[str, KafkaError | None]
"""Outcome of each thing in a batch, by name: None is success."""


class TopicAdmin(Channel):
    """Describes, makes, changes and deletes topics."""

    async def describe_topics(self, names: Sequence[str] | None = None) -> dict[str, TopicDescription]:
        """Topics by name, all of them if ``names`` is None; those that don't exist are left out.

        Raises:
            KafkaRefusedError: we may not describe one of ``names``, or it can't be a topic's.
        """
        return (await self.each_topic(names)).all()

    async def each_topic(self, names: Sequence[str] | None = None) -> Answers[str, TopicDescription]:
        """As `describe_topics`, each name with its own error."""
        requests = [None] if names is None else chunks(names)
        responses = [await self.read(describe_topics_request(chunk), "topics") for chunk in requests]
        answers: Answers[str, TopicDescription] = Answers()
        for response in responses:
            for described in response.topics:
                error = code_name(described.error_code) if described.error_code else None
                if error in ("UNKNOWN_TOPIC_OR_PARTITION", "UNKNOWN_TOPIC_ID"):
                    continue
                # A topic whose leader is being elected is described all the same.
                if error in (None, "LEADER_NOT_AVAILABLE"):
                    answers.found[described.name] = _topic(described)
                else:
                    answers.errors[described.name] = from_code(described.error_code, f"topic {described.name}")
        return answers

    async def create_topics(self, topics: Sequence[NewTopic], *, validate_only: bool = False) -> Results:
        """Make topics; each succeeds or fails by itself (one that exists: ``TOPIC_ALREADY_EXISTS``)."""
        creatable = CreateTopicsRequest.CreatableTopic
        results: Results = {}
        for batch in _weighed(topics, PARTITIONS_PER_REQUEST):
            request = CreateTopicsRequest(
                topics=[
                    creatable(
                        name=topic.name,
                        num_partitions=topic.partitions,
                        replication_factor=topic.replicas,
                        assignments=[],
                        configs=[
                            creatable.CreatableTopicConfig(name=name, value=value) for name, value in topic.config
                        ],
                    )
                    for topic in batch
                ],
                timeout_ms=WRITE_TIMEOUT_MS,
                validate_only=validate_only,
            )
            response = await self.write(request, "create topics")
            for topic in response.topics:
                results[topic.name] = _result(topic, f"topic {topic.name}")
        return results

    async def create_partitions(self, counts: Mapping[str, int]) -> Results:
        """Raise topics to so many partitions each."""
        item = CreatePartitionsRequest.CreatePartitionsTopic
        results: Results = {}
        for chunk in chunks(list(counts.items())):
            request = CreatePartitionsRequest(
                topics=[item(name=name, count=count, assignments=None) for name, count in chunk],
                timeout_ms=WRITE_TIMEOUT_MS,
                validate_only=False,
            )
            response = await self.write(request, "add partitions")
            for topic in response.results:
                results[topic.name] = _result(topic, f"topic {topic.name}")
        return results

    async def delete_topics(self, topics: Sequence[str] | Mapping[str, str]) -> Results:
        """Delete topics and their records; one that is gone already is a success.

        With ids (name → id) only the topics that have them: another that was made under such a name stays.
        """
        by_id = await self.version_of(DeleteTopicsRequest) >= 6  # Kafka 2.8
        ids = topics if isinstance(topics, Mapping) and by_id else {}
        names = {id_: name for name, id_ in ids.items()}
        state = DeleteTopicsRequest.DeleteTopicState
        results: Results = {}
        for chunk in chunks(list(topics)):
            if by_id:
                states = [
                    state(name=None, topic_id=uuid_of(ids[name])) if ids.get(name) else state(name=name)
                    for name in chunk
                ]
                request = DeleteTopicsRequest(topics=states, timeout_ms=WRITE_TIMEOUT_MS)
            else:
                request = DeleteTopicsRequest(topic_names=list(chunk), timeout_ms=WRITE_TIMEOUT_MS)
            response = await self.write(request, "delete topics")
            for answered in response.responses:
                name = answered.name or names[kafka_id(answered.topic_id)]
                error = _result(answered, f"topic {name}")
                gone = error is not None and error.code in ("UNKNOWN_TOPIC_OR_PARTITION", "UNKNOWN_TOPIC_ID")
                results[name] = None if gone else error
        return results

    async def reassign(
        self, placements: Mapping[TopicPartition, Sequence[int] | None]
    ) -> dict[TopicPartition, KafkaError | None]:
        """Start moving partitions to these brokers, the preferred leader first; None cancels a running move."""
        item = AlterPartitionReassignmentsRequest.ReassignableTopic
        results: dict[TopicPartition, KafkaError | None] = {}
        for chunk in chunks(list(placements.items())):
            by_topic: dict[str, list[Any]] = defaultdict(list)
            for (topic, partition), replicas in chunk:
                by_topic[topic].append(
                    item.ReassignablePartition(
                        partition_index=partition, replicas=None if replicas is None else list(replicas)
                    )
                )
            request = AlterPartitionReassignmentsRequest(
                timeout_ms=WRITE_TIMEOUT_MS,
                topics=[item(name=name, partitions=partitions) for name, partitions in by_topic.items()],
            )
            response = await self.write(request, "reassign partitions")
            if response.error_code:
                error = from_code(response.error_code, "reassign partitions", response.error_message)
                results |= {place: error for place, _ in chunk}
                continue
            for topic in response.responses:
                for partition in topic.partitions:
                    place = TopicPartition(topic.name, partition.partition_index)
                    results[place] = _result(partition, f"partition {place}")
        return results

    async def list_reassignments(self) -> dict[TopicPartition, Reassignment]:
        """Every reassignment that runs."""
        request = ListPartitionReassignmentsRequest(timeout_ms=WRITE_TIMEOUT_MS, topics=None)
        response = await self.read(request, "running reassignments")
        check(response.error_code, "running reassignments", response.error_message)
        return {
            TopicPartition(topic.name, partition.partition_index): Reassignment(
                tuple(partition.replicas), tuple(partition.adding_replicas), tuple(partition.removing_replicas)
            )
            for topic in response.topics
            for partition in topic.partitions
        }


def describe_topics_request(names: Sequence[str] | None) -> MetadataRequest:
    """Ask for topics by name, or for all (None)."""
    topic = MetadataRequest.MetadataRequestTopic
    topics = None if names is None else [topic(name=name) for name in names]
    return MetadataRequest(topics=topics, allow_auto_topic_creation=False)


def uuid_of(topic_id: str) -> uuid.UUID:
    """A topic's id as the protocol has it, from how Kafka prints it."""
    return uuid.UUID(bytes=base64.urlsafe_b64decode(topic_id + "=="))


def _weighed(topics: Iterable[NewTopic], limit: int) -> Iterator[list[NewTopic]]:
    """Batches of at most ``limit`` partitions (a topic above it is one of its own, for Kafka to judge)."""
    batch: list[NewTopic] = []
    weight = 0
    for topic in topics:
        if batch and (weight + topic.partitions > limit or len(batch) == NAMES_PER_REQUEST):
            yield batch
            batch, weight = [], 0
        batch.append(topic)
        weight += topic.partitions
    if batch:
        yield batch


def _result(item: Any, what: str) -> KafkaError | None:
    return from_code(item.error_code, what, getattr(item, "error_message", None)) if item.error_code else None


def _topic(described: Any) -> TopicDescription:
    return TopicDescription(
        name=described.name,
        id=kafka_id(described.topic_id) if described.topic_id else "",
        internal=bool(described.is_internal),
        partitions=tuple(
            PartitionDescription(
                id=partition.partition_index,
                leader=partition.leader_id if partition.leader_id >= 0 else None,
                leader_epoch=partition.leader_epoch,
                replicas=tuple(partition.replica_nodes),
                isr=tuple(partition.isr_nodes),
                offline=tuple(partition.offline_replicas or ()),
            )
            for partition in sorted(described.partitions, key=lambda found: int(found.partition_index))
        ),
    )
