"""What the probe asks of Kafka: a topic with placed partitions, one record written, committed and read back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

from kafka.protocol.admin import CreatePartitionsRequest, CreateTopicsRequest, ElectLeadersRequest
from kafka.protocol.consumer import FetchRequest, OffsetCommitRequest
from kafka.protocol.producer import ProduceRequest
from kafka.record.default_records import DefaultRecordBatchBuilder

from sluice.kafka.admin_topics import TopicAdmin
from sluice.kafka.errors import KafkaUnreachableError, check
from sluice.plan.assignment import Placement
from sluice.plan.observed import TopicDescription, TopicPartition
from sluice.plan.probe import ProbePlan

PROBE_TOPIC: Final = "sluice-probe"
PROBE_GROUP: Final = "sluice-probe"
PROBE_CONFIG: Final = {"cleanup.policy": "delete", "retention.ms": "3600000", "segment.ms": "3600000"}
TOPIC_TIMEOUT_MS: Final = 10_000
PRODUCE_TIMEOUT_MS: Final = 10_000
FETCH_WAIT_MS: Final = 1_000
READ_COMMITTED: Final = 1
PREFERRED: Final = 0
# The last versions that name a topic by its name rather than its id.
PRODUCE_VERSION: Final = 12
FETCH_VERSION: Final = 12
COMMIT_VERSION: Final = 9


class ProbeClient(TopicAdmin):
    """The probe's connection to one cluster; raises what every client raises (`sluice.kafka.errors`)."""

    async def describe(self) -> TopicDescription | None:
        """The probe's topic; None if it doesn't exist."""
        return (await self.describe_topics([PROBE_TOPIC])).get(PROBE_TOPIC)

    async def change(self, plan: ProbePlan, existing: int) -> None:
        """Make the topic as planned; it has ``existing`` partitions. Moves and elections aren't waited for."""
        if plan.create:
            await self._create(plan.create)
        if plan.add:
            await self._add(plan.add, existing)
        if plan.move:
            moves = {TopicPartition(PROBE_TOPIC, partition): replicas for partition, replicas in plan.move.items()}
            for error in (await self.reassign(moves)).values():
                if error is not None:
                    raise error
        if plan.elect:
            topics = [ElectLeadersRequest.TopicPartitions(topic=PROBE_TOPIC, partitions=list(plan.elect))]
            request = ElectLeadersRequest(
                election_type=PREFERRED, topic_partitions=topics, timeout_ms=TOPIC_TIMEOUT_MS, min_version=1
            )
            # Each partition's own error is seen at the next look: it isn't led by whom it should be.
            response = await self.write(request, f"leaders of {PROBE_TOPIC}")
            check(response.error_code, f"leaders of {PROBE_TOPIC}")

    async def produce(self, broker: int, partition: int, value: bytes) -> int:
        """Write one record through ``broker``, acknowledged by all in-sync replicas; its offset."""
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=False,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=-1,
            batch_size=1024,
        )
        builder.append(0, int(time.time() * 1000), None, value, [])
        topic = ProduceRequest.TopicProduceData
        data = topic.PartitionProduceData(index=partition, records=bytes(builder.build()))
        request = ProduceRequest(
            transactional_id=None,
            acks=-1,
            timeout_ms=PRODUCE_TIMEOUT_MS,
            topic_data=[topic(name=PROBE_TOPIC, partition_data=[data])],
            max_version=PRODUCE_VERSION,
        )
        what = f"probe of broker {broker}"
        response = await self.write(request, what, node=broker)
        written = response.responses[0].partition_responses[0]
        check(written.error_code, what)
        return int(written.base_offset)

    async def read_back(self, broker: int, partition: int, offset: int, value: bytes) -> None:
        """Read the record at ``offset`` through ``broker``.

        Raises:
            KafkaUnreachableError: it isn't there, or isn't what was written.
        """
        topic = FetchRequest.FetchTopic
        wanted = topic.FetchPartition(partition=partition, fetch_offset=offset, partition_max_bytes=4096)
        request = FetchRequest(
            max_wait_ms=FETCH_WAIT_MS,
            min_bytes=1,
            max_bytes=4096,
            isolation_level=READ_COMMITTED,
            topics=[topic(topic=PROBE_TOPIC, partitions=[wanted])],
            max_version=FETCH_VERSION,
        )
        what = f"probe of broker {broker}"
        response = await self.read(request, what, node=broker)
        check(response.error_code, what)
        found = response.responses[0].partitions[0] if response.responses else None
        if found is not None:
            check(found.error_code, what)
        if found is None or value not in bytes(found.records or b""):
            raise KafkaUnreachableError(
                f"{what}: the record at {PROBE_TOPIC}-{partition} offset {offset} isn't readable"
            )

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit positions (partition → offset) of the probe's group, in one request to its coordinator."""
        topic = OffsetCommitRequest.OffsetCommitRequestTopic
        partitions = [
            topic.OffsetCommitRequestPartition(
                partition_index=partition, committed_offset=offset, committed_leader_epoch=-1, committed_metadata=""
            )
            for partition, offset in offsets.items()
        ]
        request = OffsetCommitRequest(
            group_id=PROBE_GROUP,
            generation_id_or_member_epoch=-1,
            member_id="",
            group_instance_id=None,
            topics=[topic(name=PROBE_TOPIC, partitions=partitions)],
            max_version=COMMIT_VERSION,
        )
        what = f"probe of the coordinator of {PROBE_GROUP}"
        response = await self.write(request, what, node=await self.coordinator())
        for committed in response.topics[0].partitions:
            check(committed.error_code, what)

    async def coordinator(self) -> int:
        """Broker that coordinates the probe's group."""
        return (await self.coordinators([PROBE_GROUP]))[PROBE_GROUP]

    async def _create(self, placements: Sequence[Placement]) -> None:
        creatable = CreateTopicsRequest.CreatableTopic
        topic = creatable(
            name=PROBE_TOPIC,
            num_partitions=-1,
            replication_factor=-1,
            assignments=[
                creatable.CreatableReplicaAssignment(partition_index=index, broker_ids=list(brokers))
                for index, brokers in enumerate(placements)
            ],
            configs=[creatable.CreatableTopicConfig(name=name, value=value) for name, value in PROBE_CONFIG.items()],
        )
        request = CreateTopicsRequest(topics=[topic], timeout_ms=TOPIC_TIMEOUT_MS, validate_only=False)
        (made,) = (await self.write(request, f"topic {PROBE_TOPIC}")).topics
        check(made.error_code, f"topic {PROBE_TOPIC}", getattr(made, "error_message", None))

    async def _add(self, placements: Sequence[Placement], existing: int) -> None:
        item = CreatePartitionsRequest.CreatePartitionsTopic
        assignment = item.CreatePartitionsAssignment
        topic = item(
            name=PROBE_TOPIC,
            count=existing + len(placements),
            assignments=[assignment(broker_ids=list(brokers)) for brokers in placements],
        )
        request = CreatePartitionsRequest(topics=[topic], timeout_ms=TOPIC_TIMEOUT_MS, validate_only=False)
        (made,) = (await self.write(request, f"topic {PROBE_TOPIC}")).results
        check(made.error_code, f"topic {PROBE_TOPIC}", made.error_message)
