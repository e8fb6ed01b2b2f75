"""Record batches: split, sealed, opened and rebuilt; compared with kafka-python's codec, and fed with damage."""

from __future__ import annotations

import contextlib

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from sluice.replay.batch import (
    CONTROL,
    DELETE_HORIZON,
    HEADER,
    HEADER_BYTES,
    LOG_APPEND_TIME,
    MAX_SEQUENCE,
    Batch,
    assemble,
    next_sequence,
    seal,
    split,
)
from sluice.replay.compression import GZIP, LZ4, NONE, SNAPPY, ZSTD, compress, decompress
from sluice.replay.errors import CorruptBatchError
from sluice.replay.records import Record, content_of, control_type, key_and_value, read_records, write_batch

CODECS = (NONE, GZIP, SNAPPY, LZ4, ZSTD)
Row = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]

rows = st.lists(
    st.tuples(
        st.none() | st.binary(max_size=20),
        st.none() | st.binary(max_size=200),
        st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3),
        st.integers(0, 2**41),
    ),
    min_size=1,
    max_size=30,
)


def built(data: list[Row], base_offset: int = 0, codec: int = NONE) -> bytearray:
    """A batch as kafka-python writes it (compressed by ours: it lacks the libraries)."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=9,
        producer_epoch=1,
        base_sequence=5,
        batch_size=10**7,
    )
    for number, (key, value, headers, timestamp) in enumerate(data):
        builder.append(number, timestamp, key, value, headers)
    raw = bytearray(builder.build())
    if codec:
        header = HEADER.unpack_from(raw)
        packed = compress(codec, raw[HEADER_BYTES:])
        raw = bytearray(assemble(packed, codec, header[12], header[7], header[8]))
    raw[0:8] = base_offset.to_bytes(8, "big")
    return raw


def only(raw: bytearray) -> Batch:
    """The one batch in these bytes."""
    (batch,) = split(memoryview(raw), "t-0")
    return batch


def change(raw: bytearray, attributes: int) -> bytearray:
    """With other attributes, and a CRC that fits."""
    raw[21:23] = attributes.to_bytes(2, "big")
    raw[17:21] = crc32c(raw[21:]).to_bytes(4, "big")
    return raw


def read_by_others(raw: bytes | memoryview) -> list[Row]:
    """Records as kafka-python reads them."""
    batch = DefaultRecordBatch(bytes(raw))
    assert batch.validate_crc()
    return [(r.key, r.value, r.headers, r.timestamp) for r in batch]


@given(rows, st.integers(0, 2**60), st.integers(0, 2**15 - 1), st.integers(0, MAX_SEQUENCE))
def test_sealing_changes_the_producer_and_nothing_that_readers_see(
    data: list[Row], producer: int, epoch: int, sequence: int
) -> None:
    raw = built(data, base_offset=77)
    payload = bytes(raw[HEADER_BYTES:])
    seal(only(raw).view, producer, epoch, sequence)
    fields = HEADER.unpack_from(raw)
    assert (fields[0], fields[2]) == (0, -1)
    assert fields[5] == 0x10
    assert fields[9:12] == (producer, epoch, sequence)
    assert raw[HEADER_BYTES:] == payload
    assert read_by_others(raw) == [(key, value, headers, time) for key, value, headers, time in data]


def test_the_delete_horizon_is_cleared_so_that_tombstones_live_as_long_as_they_should() -> None:
    raw = change(built([(b"k", None, [], 5)]), DELETE_HORIZON | ZSTD)
    seal(only(raw).view, 1, 2, 3)
    assert HEADER.unpack_from(raw)[5] == 0x10 | ZSTD


@given(rows, st.sampled_from(CODECS), st.integers(0, 2**40))
def test_records_are_read_and_written_as_others_do(data: list[Row], codec: int, base: int) -> None:
    found = read_records(only(built(data, base, codec)))
    assert [record.offset for record in found] == list(range(base, base + len(data)))
    assert [record.timestamp for record in found] == [row[3] for row in data]
    view = write_batch(found, codec)
    again = only(bytearray(view))
    assert again.records == len(data)
    assert again.codec == codec
    assert again.max_timestamp == max(row[3] for row in data)
    plain = assemble(bytes(decompress(codec, view[HEADER_BYTES:])), NONE, len(data), again.base_timestamp, 0)
    assert read_by_others(plain) == [(key, value, headers, time) for key, value, headers, time in data]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 1, 1000, 65_536, 200_000])
def test_codecs_give_back_what_they_took(codec: int, size: int) -> None:
    data = (b"abcdefgh" * (size // 8 + 1))[: size // 2] + bytes(n * 7919 % 251 for n in range(size - size // 2))
    assert bytes(decompress(codec, memoryview(compress(codec, data)))) == data


def test_lz4_frames_have_independent_blocks_as_kafka_demands() -> None:
    frame = compress(LZ4, b"a" * 100_000)
    assert frame[:4] == b"\x04\x22\x4d\x18"
    assert frame[4] & 0x20


@given(rows, rows, st.integers(0, 10**6))
def test_a_batch_cut_off_at_the_end_is_left_for_the_next_fetch(one: list[Row], two: list[Row], cut: int) -> None:
    first, second = built(one), built(two, len(one))
    whole = first + second
    size = len(first) + cut % len(second)
    found = list(split(memoryview(whole[:size]), "t-0"))
    assert [batch.records for batch in found] == [len(one)]


@settings(max_examples=100)
@given(rows, st.data())
def test_damage_is_told_and_never_copied(data: list[Row], draw: st.DataObject) -> None:
    raw = built(data, codec=draw.draw(st.sampled_from(CODECS)))
    place = draw.draw(st.integers(21, len(raw) - 1))
    raw[place] ^= draw.draw(st.integers(1, 255))
    with pytest.raises(CorruptBatchError, match="t-0"):
        list(split(memoryview(raw), "t-0"))


@settings(max_examples=500)
@given(st.binary(max_size=300), st.booleans(), st.sampled_from(range(8)))
def test_any_bytes_at_all_end_in_a_result_or_in_a_sentence(noise: bytes, framed: bool, codec: int) -> None:
    raw = bytearray(noise)
    if framed:
        raw = bytearray(assemble(noise, codec, max(1, len(noise) // 8), 0, 0))
    with contextlib.suppress(CorruptBatchError):
        for batch in split(memoryview(raw), "t-0"):
            read_records(batch)
            control_type(batch)


def test_old_formats_are_refused_with_what_to_do() -> None:
    raw = built([(b"k", b"v", [], 0)])
    raw[16] = 1
    with pytest.raises(CorruptBatchError, match=r"message format v1.*convert"):
        list(split(memoryview(raw), "t-0"))


def test_under_log_append_time_every_record_has_the_batchs_time() -> None:
    raw = change(built([(b"a", b"1", [], 10), (b"b", b"2", [], 20)]), LOG_APPEND_TIME)
    assert [record.timestamp for record in read_records(only(raw))] == [20, 20]


@pytest.mark.parametrize(("key", "value"), [(b"k", b"v"), (None, b""), (b"", None), (None, None)])
def test_key_and_value_of_a_content(key: bytes | None, value: bytes | None) -> None:
    assert key_and_value(content_of(key, value)) == (key, value)


def test_control_batches_say_what_became_of_a_transaction() -> None:
    for kind in (0, 1):
        marker = content_of((0).to_bytes(2, "big") + kind.to_bytes(2, "big"), b"\0" * 6)
        view = write_batch([Record(0, 0, marker)])
        batch = only(change(bytearray(view), CONTROL | 0x10))
        assert batch.control
        assert control_type(batch) == kind


def test_sequences_wrap_as_kafka_counts_them() -> None:
    assert next_sequence(5, 10) == 15
    assert next_sequence(MAX_SEQUENCE, 1) == 0
    assert next_sequence(MAX_SEQUENCE - 2, 10) == 7
