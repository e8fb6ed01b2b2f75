"""Fetch and Produce by hand, against kafka-python's generated classes."""

from __future__ import annotations

import contextlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.protocol.consumer import FetchRequest, FetchResponse
from kafka.protocol.producer import ProduceRequest, ProduceResponse

from sluice.replay.encoding import (
    BatchToSend,
    WantedPartition,
    fetch_request,
    fetch_response,
    produce_request,
    produce_response,
)
from sluice.replay.errors import DoubtError

TOPIC = uuid.UUID(int=77)


@pytest.mark.parametrize("version", [13, 15, 17])
def test_a_fetch_request_says_what_it_should(version: int) -> None:
    data = fetch_request(version, [(TOPIC, [WantedPartition(3, 2**40, 1000), WantedPartition(4, 0, 7)])], 5000, 250)
    read = FetchRequest.decode(data, version=version)
    assert (read.max_wait_ms, read.min_bytes, read.max_bytes, read.isolation_level) == (250, 1, 5000, 1)
    assert (read.session_id, read.session_epoch) == (0, -1)
    (topic,) = read.topics
    assert topic.topic_id == TOPIC
    assert [(p.partition, p.fetch_offset, p.partition_max_bytes) for p in topic.partitions] == [
        (3, 2**40, 1000),
        (4, 0, 7),
    ]


def test_a_fetch_response_gives_writable_records_and_aborted_transactions() -> None:
    topic = FetchResponse.FetchableTopicResponse
    part = topic.PartitionData
    response = FetchResponse(
        error_code=0,
        responses=[
            topic(
                topic_id=TOPIC,
                partitions=[
                    part(
                        partition_index=2,
                        error_code=1,
                        high_watermark=90,
                        last_stable_offset=80,
                        log_start_offset=10,
                        aborted_transactions=[part.AbortedTransaction(producer_id=5, first_offset=6)],
                        records=b"records",
                    ),
                    part(partition_index=3, error_code=0, high_watermark=1, aborted_transactions=None, records=None),
                ],
            )
        ],
    )
    body = memoryview(bytearray(response.encode(version=17)))
    error, (one, two) = fetch_response(body)
    assert error == 0
    assert (one.topic_id, one.partition, one.error, one.high_watermark, one.log_start) == (TOPIC, 2, 1, 90, 10)
    assert list(one.aborted) == [(5, 6)]
    one.records[:2] = b"RE"
    assert bytes(one.records) == b"REcords"
    assert (two.partition, bytes(two.records), list(two.aborted)) == (3, b"", [])


@pytest.mark.parametrize(("version", "topic"), [(9, "orders"), (11, "orders"), (12, "orders"), (13, TOPIC)])
@pytest.mark.parametrize("transactional_id", ["mine", None])
def test_a_produce_request_carries_its_batches(
    version: int, topic: str | uuid.UUID, transactional_id: str | None
) -> None:
    batches = [BatchToSend(1, memoryview(b"a" * 300)), BatchToSend(9, memoryview(b"b"))]
    data = b"".join(produce_request(version, transactional_id, [(topic, batches)], 1234))
    read = ProduceRequest.decode(data, version=version)
    assert (read.transactional_id, read.acks, read.timeout_ms) == (transactional_id, -1, 1234)
    (found,) = read.topic_data
    assert (found.topic_id if version >= 13 else found.name) == topic
    assert [(p.index, bytes(p.records)) for p in found.partition_data] == [(1, b"a" * 300), (9, b"b")]


@pytest.mark.parametrize("version", [9, 13])
def test_a_produce_response_tells_each_partitions_fate(version: int) -> None:
    topic = ProduceResponse.TopicProduceResponse
    part = topic.PartitionProduceResponse
    detail = part.BatchIndexAndErrorMessage(batch_index=0, batch_index_error_message="no key")
    response = ProduceResponse(
        responses=[
            topic(
                name="orders",
                topic_id=TOPIC,
                partition_responses=[
                    part(index=0, error_code=0, base_offset=5),
                    part(index=1, error_code=87, base_offset=-1, record_errors=[detail], error_message=None),
                ],
            )
        ],
        throttle_time_ms=0,
    )
    good, bad = produce_response(memoryview(response.encode(version=version)), version)
    assert good.topic == (TOPIC if version >= 13 else "orders")
    assert (good.error, bad.error, bad.message) == (0, 87, "no key")


@given(st.binary(max_size=200))
def test_no_answer_makes_it_crash_or_hang(noise: bytes) -> None:
    for read in (fetch_response, lambda body: produce_response(body, 13)):
        with contextlib.suppress(DoubtError):
            read(memoryview(noise))
