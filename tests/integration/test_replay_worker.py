"""The replay worker on a real Kafka: whatever is in the source, and whatever happens, each record arrives once."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.structs import TopicPartition as KafkaPlace

from sluice.plan.observed import NewTopic, TopicPartition
from sluice.replay.assignment import Access, Limits
from sluice.replay.errors import DoubtError, ExitCode
from sluice.replay.rules import Match, RecordRules
from sluice.replay.transaction import Position, Transactions
from sluice.replay.worker import Worker
from tests.integration.support.replay import (
    JANUARY_2013,
    Replay,
    Seen,
    fill,
    make_replay,
    make_topic,
    on_kafka,
    outcome,
    producer,
    read_back,
    records,
    smaller,
    transaction,
)
from tests.support.kafka import KafkaCluster, start_cluster
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A broker that compacts at once, and wants credentials again every two seconds."""
    config = {
        "log.cleaner.backoff.ms": "100",
        "log.initial.task.delay.ms": "100",
        "connections.max.reauth.ms": "4000",
    }
    with start_cluster(tmp_path_factory.mktemp("replay") / "cluster", config=config, tls=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A broker without KIP-890 part 2."""
    features = {"transaction.version": 1}
    with start_cluster(tmp_path_factory.mktemp("old") / "cluster", features=features) as cluster:
        client = KafkaAdminClient(bootstrap_servers=cluster.bootstrap)
        assert client.describe_features()["transaction.version"]["finalized"] == (1, 1)
        client.close()
        yield cluster


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_copies_all_codecs_whole_and_opened_at_the_edges(broker: KafkaCluster, tmp_path: Path, codec: str) -> None:
    source, target = make_topic(broker, 2), make_topic(broker, 2)
    fill(broker, source, 3000, 2, codec)
    ranges = {0: (7, 1400), 1: (0, 1500)}
    replay = make_replay(broker, tmp_path, source, target, ranges=ranges)
    code, summary = replay.run()
    assert (code, summary["records"]) == (0, 1393 + 1500)
    expected = {
        partition: [seen for offset, seen in of if ranges[partition][0] <= offset < ranges[partition][1]]
        for partition, of in read_back(broker, source, 2).items()
    }
    assert records(read_back(broker, target, 2)) == expected


def test_aborted_data_and_markers_stay_behind(broker: KafkaCluster, tmp_path: Path) -> None:
    source, target = make_topic(broker), make_topic(broker)
    fill(broker, source, 100)
    transaction(broker, source, range(50), commit=False)
    transaction(broker, source, range(50, 60), commit=True)
    fill(broker, source, 100, start=100)
    transaction(broker, source, range(60, 70), commit=False)
    replay = make_replay(broker, tmp_path, source, target)
    code, summary = replay.run()
    assert (code, summary["records"]) == (0, 210)
    assert records(read_back(broker, target)) == records(read_back(broker, source))
    end = replay.plan.slices[0].end
    assert replay.positions()[TopicPartition(source, 0)].offset == end


def test_gaps_of_a_compacted_source_and_its_tombstones(broker: KafkaCluster, tmp_path: Path) -> None:
    compact = [("cleanup.policy", "compact"), ("segment.ms", "100"), ("min.cleanable.dirty.ratio", "0.01")]
    source, target = make_topic(broker, 1, compact), make_topic(broker)
    client = producer(broker, **{"batch.num.messages": 20})
    for round_ in range(5):
        for number in range(100):
            value = None if (round_, number % 10) == (4, 0) else f"{round_}-{number}".encode()
            client.produce(source, key=str(number % (20 * (5 - round_))).encode(), value=value, partition=0)
        client.flush(30)
        time.sleep(0.15)  # so that the next round rolls the segment
    client.produce(source, key=b"last", value=b"1", partition=0)
    client.flush(30)
    wait_until(lambda: len(read_back(broker, source)[0]) < 250, 60, "the cleaner")
    seen = read_back(broker, source)[0]
    replay = make_replay(broker, tmp_path, source, target)
    code, summary = replay.run()
    # The cleaner may have gone on meanwhile: what is left in the end was copied, in its order.
    assert code == 0
    copied = records(read_back(broker, target))[0]
    after = records(read_back(broker, source))[0]
    assert summary["records"] == len(copied)
    assert len(after) <= len(copied) <= len(seen)
    remaining = iter(copied)
    assert all(record in remaining for record in after)


def test_time_range_leaves_out_what_is_outside_wherever_it_stands(broker: KafkaCluster, tmp_path: Path) -> None:
    source, target = make_topic(broker), make_topic(broker)
    chance = random.Random(7)  # noqa: S311
    client = producer(broker, **{"batch.num.messages": 50, "compression.type": "zstd"})
    for number in range(2000):
        client.produce(
            source, value=str(number).encode(), partition=0, timestamp=JANUARY_2013 + number + chance.randint(-200, 200)
        )
    client.flush(30)
    low, high = JANUARY_2013 + 500, JANUARY_2013 + 1500
    code, _ = make_replay(broker, tmp_path, source, target, from_ms=low, to_ms=high).run()
    assert code == 0
    expected = [seen for _, seen in read_back(broker, source)[0] if low <= seen[2] < high]
    assert records(read_back(broker, target))[0] == expected


def test_batches_larger_than_the_target_takes_are_split(broker: KafkaCluster, tmp_path: Path) -> None:
    source, target = make_topic(broker), make_topic(broker, 1, [("max.message.bytes", "2000")])
    fill(broker, source, 1000, codec="none")
    code, _ = make_replay(broker, tmp_path, source, target, max_batch_bytes=2000).run()
    assert code == 0
    assert records(read_back(broker, target)) == records(read_back(broker, source))


def test_a_record_larger_than_the_target_takes_ends_the_replay_with_its_name(
    broker: KafkaCluster, tmp_path: Path
) -> None:
    source, target = make_topic(broker), make_topic(broker, 1, [("max.message.bytes", "2000")])
    client = producer(broker)
    client.produce(source, value=b"x" * 5000, partition=0)
    client.flush(30)
    code, summary = make_replay(broker, tmp_path, source, target, max_batch_bytes=2000).run()
    assert code == ExitCode.REFUSED
    assert f"{source}-0, offset 0" in summary["error"]
    assert "max.message.bytes" in summary["error"]


def test_log_append_time_becomes_the_records_own_time(broker: KafkaCluster, tmp_path: Path) -> None:
    source = make_topic(broker, 1, [("message.timestamp.type", "LogAppendTime")])
    target = make_topic(broker)
    fill(broker, source, 200)
    assert make_replay(broker, tmp_path, source, target).run()[0] == 0
    assert records(read_back(broker, target)) == records(read_back(broker, source))


@pytest.mark.parametrize("listener", ["TLS", "SCRAM"])
def test_credentials_from_files(broker: KafkaCluster, tmp_path: Path, listener: str) -> None:
    source, target = make_topic(broker, 2), make_topic(broker, 2)
    fill(broker, source, 500, 2)
    access = Access(tuple(broker.bootstrap_of(listener).split(",")), tls=True)
    assert broker.ca is not None
    (tmp_path / "ca.crt").write_text(broker.ca.ca_pem)
    if listener == "TLS":
        pair = broker.certificate("me")
        (tmp_path / "user.crt").write_text(pair.cert_pem)
        (tmp_path / "user.key").write_text(pair.key_pem)
    else:
        on_kafka(broker, lambda admin: admin.upsert_scram("me", "secret"))
        access = Access(access.bootstrap_servers, tls=True, sasl_mechanism="SCRAM-SHA-512")
        (tmp_path / "username").write_text("me")
        (tmp_path / "password").write_text("secret")
    code, summary = make_replay(broker, tmp_path, source, target, access=access).run()
    assert (code, summary["records"]) == (0, 500), summary


def moved(replay: Replay) -> int:
    """How far all positions are, together."""
    return sum(position.offset for position in replay.positions().values())


def test_killed_twenty_times_and_still_once(broker: KafkaCluster, tmp_path: Path) -> None:
    source, target = make_topic(broker, 3), make_topic(broker, 3)
    fill(broker, source, 60_000, 3)
    # Small transactions and buffers, so that death comes at every step.
    limits = Limits(transaction_bytes=10_000, buffer_bytes=60_000, fetch_bytes=30_000, request_bytes=10_000)
    replay = make_replay(broker, tmp_path, source, target, limits=limits)
    chance = random.Random(20)  # noqa: S311
    end = sum(part.end for part in replay.plan.slices)
    reached: list[int] = []
    for _ in range(20):
        before = moved(replay)
        worker = replay.start()
        wait_until(lambda before=before: moved(replay) > before, 60, "a commit of this worker")  # type: ignore[misc]
        time.sleep(chance.random() * 0.03)
        worker.kill()
        worker.communicate()
        reached.append(moved(replay))
        if reached[-1] == end:
            break
    assert sum(0 < position < end for position in reached) >= 5, "kills in the middle of the copy"
    code, summary = replay.run()
    assert (code, summary["records"]) == (0, 60_000)
    assert records(read_back(broker, target, 3)) == records(read_back(broker, source, 3))


def test_filtered_and_marked_once_whatever_is_killed(broker: KafkaCluster, tmp_path: Path) -> None:
    source, target = make_topic(broker, 2), make_topic(broker, 2)
    fill(broker, source, 24_000, 2)
    rules = RecordRules(key=Match(prefix=("key-1", "key-2")), drop=("none",), mark="ns/job")
    limits = Limits(transaction_bytes=10_000, buffer_bytes=60_000, fetch_bytes=30_000, request_bytes=10_000)
    replay = make_replay(broker, tmp_path, source, target, limits=limits, rules=rules)
    end = sum(part.end for part in replay.plan.slices)
    expected: dict[int, list[Seen]] = {}
    for partition, of in read_back(broker, source, 2).items():
        taken = [(offset, seen) for offset, seen in of if (seen[0] or b"").startswith((b"key-1", b"key-2"))]
        expected[partition] = [
            (
                *seen[:3],
                (
                    *(header for header in seen[3] if header[0] != "none"),
                    ("sluice-replay-job", b"ns/job"),
                    ("sluice-replay-count", b"1"),
                    ("sluice-replay-source", f"{source}/{partition}/{offset}".encode()),
                ),
            )
            for offset, seen in taken
        ]
    killed = 0
    while killed < 4 and moved(replay) < end:
        before = moved(replay)
        worker = replay.start()
        wait_until(lambda before=before: moved(replay) > before, 60, "a commit of this worker")  # type: ignore[misc]
        worker.kill()
        worker.communicate()
        killed += 1
    assert killed >= 2, "kills in the middle of the copy"
    code, summary = replay.run()
    written = sum(map(len, expected.values()))
    assert (code, summary["records"], summary["filtered"]) == (0, written, 24_000 - written)
    assert sum(position.filtered for position in replay.positions().values()) == 24_000 - written
    assert records(read_back(broker, target, 2)) == expected


def test_a_badly_batched_source_is_merged_on_the_way(broker: KafkaCluster, tmp_path: Path) -> None:
    count = 20_000
    source, target = make_topic(broker), make_topic(broker)
    client = producer(broker, **{"batch.num.messages": 2, "linger.ms": 1000, "queue.buffering.max.messages": 10**6})
    for number in range(count):
        client.produce(source, value=str(number).encode(), partition=0, timestamp=JANUARY_2013 + number)
    assert client.flush(60) == 0
    code, summary = make_replay(broker, tmp_path, source, target).run()
    assert (code, summary["records"], summary["filtered"]) == (0, count, 0)
    assert records(read_back(broker, target)) == records(read_back(broker, source))
    # The header of a batch alone has 61 bytes, which two records would share.
    assert summary["bytes"] < 25 * count


@pytest.mark.parametrize("version", [1, 2])
def test_a_session_that_fails_with_an_open_transaction_goes_on_in_the_same_process(
    broker: KafkaCluster, old: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    kafka = {1: old, 2: broker}[version]
    source, target = make_topic(kafka), make_topic(kafka)
    fill(kafka, source, 20_000)
    limits = Limits(transaction_bytes=50_000, buffer_bytes=60_000, fetch_bytes=30_000, request_bytes=20_000)
    replay = make_replay(kafka, tmp_path, source, target, limits=limits)
    faults = iter([None, None, DoubtError("on order"), None, DoubtError("on order")])
    commit = Transactions.commit_positions

    async def commit_or_fail(self: Transactions, positions: Mapping[TopicPartition, Position]) -> None:
        if (fault := next(faults, None)) is not None:
            raise fault
        await commit(self, positions)

    monkeypatch.setattr(Transactions, "commit_positions", commit_or_fail)
    counts = asyncio.run(Worker(replay.plan, tmp_path, 0).run())
    assert next(faults, "all met") == "all met"
    assert counts is not None
    assert counts.records == 20_000
    assert records(read_back(kafka, target)) == records(read_back(kafka, source))


def test_credentials_are_shown_again_while_copying(broker: KafkaCluster, tmp_path: Path) -> None:
    count = 200_000
    source, target = make_topic(broker), make_topic(broker)
    client = producer(broker, **{"batch.num.messages": 4, "linger.ms": 1000, "queue.buffering.max.messages": 10**6})
    for number in range(count):
        client.produce(source, value=str(number).encode(), partition=0, timestamp=JANUARY_2013)
    client.flush(60)
    on_kafka(broker, lambda admin: admin.upsert_scram("again", "secret"))
    assert broker.ca is not None
    (tmp_path / "ca.crt").write_text(broker.ca.ca_pem)
    (tmp_path / "username").write_text("again")
    (tmp_path / "password").write_text("secret")
    access = Access(tuple(broker.bootstrap_of("SCRAM").split(",")), tls=True, sasl_mechanism="SCRAM-SHA-512")
    # A small batch a request, so that requests are under way all the time, for longer than a session of SASL lives.
    limits = Limits(transaction_bytes=50_000, request_bytes=1)
    replay = make_replay(broker, tmp_path, source, target, access=access, limits=limits, max_batch_bytes=130)
    worker = replay.start()
    wait_until(lambda: moved(replay) > 0, 60, "the first commit")
    started = time.monotonic()
    wait_until(lambda: time.monotonic() - started > 9, 20, "two proofs of each connection")
    before = moved(replay)
    wait_until(lambda: moved(replay) > before, 60, "it copies all the same")
    assert moved(replay) < count, "it was done too soon: give it more records"
    worker.terminate()
    _, err = worker.communicate(timeout=30)
    assert worker.returncode == ExitCode.STOPPED, err
    assert "closed the connection" not in err
    copied = records(read_back(broker, target))[0]
    assert copied == records(read_back(broker, source))[0][: len(copied)]


def test_a_transaction_that_hangs_in_the_source_is_named_and_not_waited_for(
    broker: KafkaCluster, tmp_path: Path
) -> None:
    source, target = make_topic(broker), make_topic(broker)
    fill(broker, source, 100)
    hanging = producer(broker, **{"transactional.id": f"hanging-{source}"})
    hanging.init_transactions(30)
    hanging.begin_transaction()
    hanging.produce(source, value=b"hanging", partition=0, timestamp=JANUARY_2013)
    assert hanging.flush(30) == 0
    fill(broker, source, 100, start=100)
    frozen = make_replay(broker, tmp_path / "frozen", source, target)
    assert frozen.plan.slices[0].end == 100, "the range ends where the transaction holds it"
    assert frozen.run()[0] == 0
    beyond = make_replay(broker, tmp_path / "beyond", source, target, ranges={0: (100, 201)})
    smaller(beyond, stall_seconds=3)
    code, summary = beyond.run()
    assert code == ExitCode.GAVE_UP
    assert f"{source}-0 at offset 100 of 201" in summary["error"]
    assert "a transaction holds them back" in summary["error"]
    hanging.abort_transaction(30)
    assert beyond.run()[0] == 0
    assert records(read_back(broker, target)) == records(read_back(broker, source))


def test_two_workers_of_one_shard_the_older_is_fenced(broker: KafkaCluster, tmp_path: Path) -> None:
    source, target = make_topic(broker), make_topic(broker)
    fill(broker, source, 60_000)
    replay = make_replay(broker, tmp_path, source, target)
    smaller(replay, transaction_bytes=20_000, buffer_bytes=30_000, fetch_bytes=20_000, request_bytes=20_000)
    older = replay.start()
    wait_until(lambda: replay.positions()[TopicPartition(source, 0)].offset > 0, 30, "the older worker")
    older.send_signal(signal.SIGSTOP)  # a zombie: it wakes up when another one has long taken over
    assert older.poll() is None
    assert replay.run()[0] == 0
    older.send_signal(signal.SIGCONT)
    assert outcome(older)[0] == ExitCode.FENCED
    assert records(read_back(broker, target)) == records(read_back(broker, source))


def test_a_lost_position_is_never_a_new_start(broker: KafkaCluster, tmp_path: Path) -> None:
    source, target = make_topic(broker), make_topic(broker)
    fill(broker, source, 10)
    replay = make_replay(broker, tmp_path, source, target)
    on_kafka(broker, lambda admin: admin.delete_groups([replay.plan.group]))
    code, summary = replay.run()
    assert code == ExitCode.POSITION_LOST
    assert "twice" in summary["error"]
    assert read_back(broker, target) == {}


def test_retention_passing_the_start_is_told_with_what_was_lost(broker: KafkaCluster, tmp_path: Path) -> None:
    source = make_topic(broker)
    target = make_topic(broker)
    fill(broker, source, 1000)
    replay = make_replay(broker, tmp_path, source, target)
    client = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    client.delete_records({KafkaPlace(source, 0): 300})
    client.close()
    code, summary = replay.run()
    assert code == ExitCode.RANGE_LOST
    assert "offsets 0 to 299" in summary["error"]


def test_parallel_workers_share_partitions(broker: KafkaCluster, tmp_path: Path) -> None:
    source, target = make_topic(broker, 4), make_topic(broker, 4)
    fill(broker, source, 8000, 4)
    replay = make_replay(broker, tmp_path, source, target, shards=2)
    workers = [replay.start(shard) for shard in (0, 1)]
    assert [outcome(worker)[0] for worker in workers] == [0, 0]
    assert records(read_back(broker, target, 4)) == records(read_back(broker, source, 4))


def test_a_target_that_is_made_again_is_not_the_planned_one(broker: KafkaCluster, tmp_path: Path) -> None:
    source, target, other = make_topic(broker), make_topic(broker), make_topic(broker)
    fill(broker, source, 10)
    replay = make_replay(broker, tmp_path, source, target)
    plan = replay.plan.to_json().replace(f'"target":"{target}"', f'"target":"{other}"')
    (tmp_path / "plan.json").write_text(plan)
    code, summary = replay.run(timeout=60)
    assert code == ExitCode.REFUSED
    assert "made again" in summary["error"]


def test_a_source_that_is_made_again_under_its_name_is_not_the_planned_one(
    broker: KafkaCluster, tmp_path: Path
) -> None:
    source, target = make_topic(broker), make_topic(broker)
    fill(broker, source, 60_000)
    replay = make_replay(broker, tmp_path, source, target)
    smaller(replay, transaction_bytes=10_000, buffer_bytes=30_000, fetch_bytes=20_000, request_bytes=10_000)
    worker = replay.start()
    wait_until(lambda: moved(replay) > 0, 30, "the first commit")

    on_kafka(broker, lambda admin: admin.delete_topics([source]))
    new = NewTopic(source, 1, 1, ())
    made = lambda: on_kafka(broker, lambda admin: admin.create_topics([new]))[source] is None  # noqa: E731
    wait_until(made, 30, "the old topic's end")
    fill(broker, source, 1000, start=10**6)
    code, summary = outcome(worker)
    assert code == ExitCode.REFUSED
    assert "made again" in summary["error"]
    times = [timestamp for _, _, timestamp, _ in records(read_back(broker, target))[0]]
    assert times
    assert max(times) < JANUARY_2013 + 60_000, "nothing of the new topic"


def test_clusters_without_kip_890_part_two(old: KafkaCluster, tmp_path: Path) -> None:
    source, target = make_topic(old, 2), make_topic(old, 2)
    fill(old, source, 40_000, 2)
    limits = Limits(transaction_bytes=50_000, buffer_bytes=60_000, fetch_bytes=30_000, request_bytes=20_000)
    replay = make_replay(old, tmp_path, source, target, limits=limits)
    for _ in range(3):
        before = moved(replay)
        worker = replay.start()
        wait_until(lambda before=before: moved(replay) > before, 60, "a commit of this worker")  # type: ignore[misc]
        worker.kill()
        worker.communicate()
    assert moved(replay) < sum(part.end for part in replay.plan.slices)
    code, summary = replay.run()
    assert (code, summary["records"]) == (0, 40_000), summary
    assert records(read_back(old, target, 2)) == records(read_back(old, source, 2))


def test_a_leader_that_dies_in_the_middle(tmp_path: Path) -> None:
    with start_cluster(tmp_path / "cluster", brokers=3) as three:
        source, target = make_topic(three, 3), make_topic(three, 3)
        fill(three, source, 60_000, 3)
        limits = Limits(transaction_bytes=40_000, buffer_bytes=60_000, fetch_bytes=30_000, request_bytes=20_000)
        replay = make_replay(three, tmp_path / "plan", source, target, limits=limits)
        worker = replay.start()
        wait_until(lambda: any(p.offset > 0 for p in replay.positions().values()), 30, "the first commit")
        three.kill(0)
        code, summary = outcome(worker, timeout=150)
        assert (code, summary["records"]) == (0, 60_000), summary
        assert records(read_back(three, target, 3)) == records(read_back(three, source, 3))
