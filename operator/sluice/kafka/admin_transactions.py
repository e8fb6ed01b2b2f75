"""Producers and transactions, as needed to find what holds a partition's last stable offset back."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from kafka.protocol.admin import DescribeProducersRequest, ListTransactionsRequest

from sluice.kafka.admin_offsets import OffsetAdmin
from sluice.kafka.errors import check
from sluice.plan.observed import ProducerState, TopicPartition, TransactionListing


class TransactionAdmin(OffsetAdmin):
    """Lists producers of partitions, and transactions of coordinators."""

    async def describe_producers(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, tuple[ProducerState, ...]]:
        """Active idempotent and transactional producers of each partition (KIP-664)."""
        topic_type = DescribeProducersRequest.TopicRequest
        found: dict[TopicPartition, tuple[ProducerState, ...]] = {}
        for leader, mine in (await self.partitions_by_leader(partitions)).items():
            by_topic: dict[str, list[int]] = defaultdict(list)
            for name, number in mine:
                by_topic[name].append(number)
            request = DescribeProducersRequest(
                topics=[topic_type(name=name, partition_indexes=numbers) for name, numbers in by_topic.items()]
            )
            response = await self.read(request, "producers", node=leader)
            for topic in response.topics:
                for partition in topic.partitions:
                    place = TopicPartition(topic.name, partition.partition_index)
                    check(partition.error_code, f"producers of {place}", partition.error_message)
                    found[place] = tuple(
                        ProducerState(
                            producer_id=producer.producer_id,
                            producer_epoch=producer.producer_epoch,
                            last_timestamp_ms=producer.last_timestamp,
                            coordinator_epoch=producer.coordinator_epoch,
                            transaction_start=(
                                producer.current_txn_start_offset if producer.current_txn_start_offset >= 0 else None
                            ),
                        )
                        for producer in partition.active_producers
                    )
        return found

    async def list_transactions(self, states: Sequence[str] = ()) -> list[TransactionListing]:
        """Transactional ids of every coordinator, in ``states`` only (such as ``Ongoing``) if any are named."""
        brokers = await self.broker_ids()
        responses = await asyncio.gather(
            *(
                self.read(
                    ListTransactionsRequest(state_filters=list(states), producer_id_filters=[]),
                    "transactions",
                    node=broker,
                )
                for broker in brokers
            )
        )
        for response in responses:
            check(response.error_code, "transactions")
        return [
            TransactionListing(found.transactional_id, found.producer_id, found.transaction_state)
            for response in responses
            for found in response.transaction_states
        ]
