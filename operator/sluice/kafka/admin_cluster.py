"""The cluster itself: brokers, the controllers' quorum, disks."""

from __future__ import annotations

import asyncio
from typing import Any

from kafka.protocol.admin import (
    DescribeClusterRequest,
    DescribeLogDirsRequest,
    DescribeQuorumRequest,
)
from kafka.protocol.metadata import MetadataRequest

from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError, check
from sluice.kafka.requests import Channel
from sluice.plan.observed import (
    Broker,
    ClusterDescription,
    LogDirReplica,
    QuorumDescription,
    QuorumReplica,
    kafka_id,
)

METADATA_TOPIC = "__cluster_metadata"


class ClusterAdmin(Channel):
    """What a cluster consists of."""

    async def describe_cluster(self) -> ClusterDescription:
        """Cluster id and brokers, fenced ones included where Kafka tells (KIP-1073, 4.0)."""
        try:
            response = await self.read(DescribeClusterRequest(include_fenced_brokers=True), "cluster")
            check(response.error_code, "cluster", response.error_message)
        except KafkaRefusedError as error:
            if error.code != "UNSUPPORTED_VERSION":
                raise
            response = await self.read(MetadataRequest(topics=[], allow_auto_topic_creation=False), "cluster")
        return ClusterDescription(
            cluster_id=response.cluster_id,
            controller_id=response.controller_id if response.controller_id >= 0 else None,
            brokers=tuple(sorted((_broker(found) for found in response.brokers), key=lambda broker: broker.id)),
        )

    async def describe_quorum(self) -> QuorumDescription:
        """Voters and observers of the metadata log, with directory ids (KIP-853)."""
        topic = DescribeQuorumRequest.TopicData
        request = DescribeQuorumRequest(
            topics=[topic(topic_name=METADATA_TOPIC, partitions=[topic.PartitionData(partition_index=0)])]
        )
        response = await self.read(request, "controller quorum")
        check(response.error_code, "controller quorum", response.error_message)
        partition = response.topics[0].partitions[0]
        check(partition.error_code, "controller quorum", partition.error_message)
        return QuorumDescription(
            leader_id=partition.leader_id,
            leader_epoch=partition.leader_epoch,
            high_watermark=partition.high_watermark,
            voters=tuple(map(_quorum_replica, partition.current_voters)),
            observers=tuple(map(_quorum_replica, partition.observers)),
        )

    async def describe_log_dirs(self) -> list[LogDirReplica]:
        """Size and lag of every replica on every broker that answers; brokers out of reach are left out."""
        brokers = [broker.id for broker in (await self.describe_cluster()).active_brokers]
        answers = await asyncio.gather(*(self._log_dirs(broker) for broker in brokers), return_exceptions=True)
        replicas: list[LogDirReplica] = []
        for answer in answers:
            if isinstance(answer, KafkaUnreachableError):
                continue
            if isinstance(answer, BaseException):
                raise answer
            replicas.extend(answer)
        return replicas

    async def _log_dirs(self, broker: int) -> list[LogDirReplica]:
        response = await self.read(DescribeLogDirsRequest(topics=None), f"disks of broker {broker}", node=broker)
        check(getattr(response, "error_code", 0) or 0, f"disks of broker {broker}")
        return [
            LogDirReplica(broker, topic.name, partition.partition_index, partition.partition_size, partition.offset_lag)
            for directory in response.results
            if directory.error_code == 0
            for topic in directory.topics
            for partition in topic.partitions
            if not partition.is_future_key
        ]


def _broker(found: Any) -> Broker:
    # DescribeCluster says broker_id, Metadata node_id.
    broker_id = found.broker_id if hasattr(found, "broker_id") else found.node_id
    return Broker(broker_id, found.host, found.port, found.rack, bool(getattr(found, "is_fenced", False)))


def _quorum_replica(found: Any) -> QuorumReplica:
    return QuorumReplica(
        id=found.replica_id,
        directory_id=kafka_id(found.replica_directory_id) if found.replica_directory_id else "",
        log_end_offset=found.log_end_offset,
        last_fetch_ms=found.last_fetch_timestamp,
        last_caught_up_ms=found.last_caught_up_timestamp,
    )
