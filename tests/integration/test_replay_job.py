"""ReplayJobs on a real API server and a real Kafka with an authorizer; the test is the kubelet and runs the workers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException
from cryptography import x509

from sluice.api.base import Reason
from sluice.api.objects import Key
from sluice.engine.errors import WaitingError
from sluice.engine.reconciler import Outcome
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError
from sluice.kube.errors import InvalidError
from sluice.plan.observed import AclBinding, NewTopic, TopicPartition
from sluice.plan.replay_progress import Committed
from sluice.replay.assignment import transactional_id
from sluice.replay.audit import TOPIC as AUDIT
from sluice.replay.audit import Audit, AuditRecord, Fact
from sluice.replay.group_positions import commit_starts, read_positions, recommit
from sluice.replay.ledger import TOPIC as LEDGER
from sluice.replay.ledger import Ledger, LedgerState
from sluice.replay.transaction import Transactions
from sluice.replay.worker import connection_settings
from tests.integration.support.replay import (
    JANUARY_2013,
    KEEP,
    fill,
    make_replay,
    producer,
    read_back,
    records,
    transaction,
)
from tests.integration.support.replay_world import (
    Deaths,
    acls,
    apply,
    guarded_broker,
    guarded_world,
    job_of,
    pod,
    run_of,
    started,
    topics,
    until,
    with_replays,
)
from tests.integration.support.world import World, world
from tests.support.kafka import KafkaCluster
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A broker that allows only what ACLs say."""
    with guarded_broker(tmp_path_factory.mktemp("guarded") / "cluster") as cluster:
        yield cluster


@pytest.fixture
async def here(kubeconfig: Path, guarded: KafkaCluster) -> AsyncIterator[World]:
    """A namespace with a cluster that runs in Sluice's way."""
    async with guarded_world(kubeconfig, guarded) as made:
        yield made


@pytest.fixture
async def outside(kubeconfig: Path, kafka: KafkaCluster) -> AsyncIterator[World]:
    """A namespace with an external cluster in plain text, without authorizer."""
    async with world(kubeconfig, kafka) as made:
        with_replays(made)
        yield made


async def test_from_plan_to_completion_with_credentials_of_its_own(
    here: World, guarded: KafkaCluster, tmp_path: Path
) -> None:
    source, target = await topics(here)
    await asyncio.to_thread(fill, guarded, source, 2000, 2)
    key = await apply(here, source, target, parallelism=2)
    status = await started(here, key, restart=True)
    assert status["phase"] == "Running"
    assert status["plan"]["offsets"] == 2000
    assert [p["shard"] for p in status["plan"]["partitions"]] == [0, 1]
    replay = await pod(here, key, tmp_path, guarded)
    _, name = run_of(here, key)
    uid = (await here.body(key))["metadata"]["uid"]
    certificate = x509.load_pem_x509_certificate((tmp_path / "user.crt").read_bytes())
    assert certificate.subject.rfc4514_string() == f"CN={name}"
    assert (certificate.not_valid_after_utc - here.now).total_seconds() <= 3600
    assert {(a.resource, a.operation) for a in await acls(here.admin, name)} == {
        ("Topic", "Read"),
        ("Topic", "Write"),
        ("Topic", "Describe"),
        ("Group", "Read"),
        ("TransactionalId", "Write"),
        ("TransactionalId", "Describe"),
    }
    _, job = await job_of(here, key)
    assert job is not None
    assert (job["spec"]["completions"], job["spec"]["completionMode"]) == (2, "Indexed")
    assert job["metadata"]["ownerReferences"][0]["kind"] == "ReplayJob"
    for shard in (0, 1):
        code, summary = await asyncio.to_thread(replay.run, shard)
        assert code == 0, summary
    status = await until(here, key, "Completed", restart=True)
    assert (status["progress"]["records"], status["progress"]["percent"]) == (2000, 100)
    assert await here.condition(key) == ("True", "Completed")
    await here.settle(key)
    assert await acls(here.admin, name) == set()
    facts = [fact for fact in await Audit(here.admin, lambda: None).read() if fact["uid"] == uid]
    assert [fact["fact"] for fact in facts] == ["Planned", "Started", "Completed"]
    denied = {(acl.name, acl.operation) for acl in await here.admin.describe_acls("User:*")}
    operations = ("Write", "Delete", "Alter", "AlterConfigs")
    assert denied == {(topic, operation) for topic in (AUDIT, LEDGER) for operation in operations}
    assert (await here.body(key))["metadata"].get("finalizers") is None
    same = (
        await asyncio.to_thread(read_back, guarded, source, 2),
        await asyncio.to_thread(read_back, guarded, target, 2),
    )
    assert records(same[0]) == records(same[1])
    writes = here.writes()
    await here.settle(key)
    assert here.writes() == writes


async def test_who_may_do_everything_to_topics_may_read_the_audit_and_the_ledger_and_no_more(
    here: World, guarded: KafkaCluster
) -> None:
    source, target = await topics(here, 1)
    await until(here, await apply(here, source, target), "Completed")  # there is nothing to copy
    everything = AclBinding("Topic", "*", "Literal", "User:mighty", "*", "All", "Allow")
    await here.admin.create_acls([everything])
    assert guarded.ca is not None
    pair = guarded.ca.issue("mighty")
    mighty = KafkaAdmin(
        ConnectionSettings(
            (guarded.bootstrap_of("TLS"),),
            tls=True,
            ca_pem=guarded.ca.ca_pem,
            cert_pem=pair.cert_pem,
            key_pem=pair.key_pem,
        )
    )
    try:
        audit = Audit(mighty, lambda: None)
        assert f"{here.namespace}/replay" in {fact["job"] for fact in await audit.read()}
        with pytest.raises(KafkaRefusedError, match="AUTHORIZATION_FAILED"):
            await audit.write([AuditRecord(Fact.COMPLETED, "", "forged", "", "", "")])
        for name in (AUDIT, LEDGER):
            changed = await mighty.alter_topic_configs({name: {"retention.ms": "1000"}})
            deleted = await mighty.delete_topics([name])
            for problem in (changed[name], deleted[name]):
                assert problem is not None
                assert problem.code == "TOPIC_AUTHORIZATION_FAILED"
    finally:
        await mighty.close()
        await here.admin.delete_acls([everything])


async def test_applied_again_it_is_already_completed_and_another_run_runs(
    outside: World, kafka: KafkaCluster, tmp_path: Path
) -> None:
    source, target = await topics(outside, 1)
    await asyncio.to_thread(fill, kafka, source, 100)
    key = await apply(outside, source, target)
    await started(outside, key)
    replay = await pod(outside, key, tmp_path, kafka)
    assert (await asyncio.to_thread(replay.run))[0] == 0
    await until(outside, key, "Completed")
    await outside.settle(key)
    await outside.delete(key)
    key = await apply(outside, source, target)
    status = await until(outside, key, "AlreadyCompleted")
    assert "100 records" in status["conditions"][0]["message"]
    assert (await job_of(outside, key))[1] is None
    await outside.delete(key)
    key = await apply(outside, source, target, runId="again", ordering="AcceptReordering")
    assert (await started(outside, key))["phase"] == "Running"


async def test_deleted_midway_and_applied_again_it_goes_on_with_the_same_plan(
    here: World, guarded: KafkaCluster, tmp_path: Path
) -> None:
    source, target = await topics(here, 1)
    await asyncio.to_thread(fill, guarded, source, 60_000)
    key = await apply(here, source, target)
    first = await started(here, key)
    replay = await pod(here, key, tmp_path / "one", guarded)
    # Transactions of a few records, so that it can be met in the middle.
    plan = json.loads(replay.plan.to_json())
    plan["limits"] |= {"transaction_bytes": 20_000, "buffer_bytes": 30_000, "fetch_bytes": 20_000}
    (tmp_path / "one" / "plan.json").write_text(json.dumps(plan))
    worker = replay.start()
    await asyncio.to_thread(
        wait_until, lambda: any(p.offset > 0 for p in replay.positions().values()), 30, "the first commit"
    )
    worker.kill()
    worker.communicate()
    here.now += timedelta(seconds=3)
    await here.settle(key)
    assert 0 < (await here.status(key))["progress"]["records"] < 60_000
    _, name = run_of(here, key)
    await here.delete(key)
    await here.settle(key)
    assert await acls(here.admin, name) == set()
    await asyncio.to_thread(fill, guarded, source, 500)  # newer than the frozen range
    key = await apply(here, source, target)
    again = await started(here, key)
    assert again["plan"] == first["plan"]
    replay = await pod(here, key, tmp_path / "two", guarded)
    code, summary = await asyncio.to_thread(replay.run)
    assert (code, summary["records"]) == (0, 60_000), summary
    await until(here, key, "Completed")
    whole = records(await asyncio.to_thread(read_back, guarded, source))[0]
    assert records(await asyncio.to_thread(read_back, guarded, target))[0] == whole[:60_000]


async def test_a_time_range_is_frozen_as_offsets(outside: World, kafka: KafkaCluster, tmp_path: Path) -> None:
    source, target = await topics(outside, 1)
    await asyncio.to_thread(fill, kafka, source, 5000)
    bounds = {"from": {"time": "2013-01-01T00:26:41Z"}, "to": {"time": "2013-01-01T00:26:43Z"}, "latenessSeconds": 1}
    spec = {"source": {"topic": source, "range": bounds}, "target": {"topic": target}}
    key = await outside.apply("ReplayJob", "month", spec)
    status = await started(outside, key)
    assert status["plan"]["partitions"] == [{"partition": 0, "start": 1000, "end": 4000, "shard": 0}]
    replay = await pod(outside, key, tmp_path, kafka)
    code, summary = await asyncio.to_thread(replay.run)
    assert (code, summary["records"]) == (0, 2000)
    low = JANUARY_2013 + 1000
    seen = records(await asyncio.to_thread(read_back, kafka, target))[0]
    assert [record[2] for record in seen] == list(range(low, low + 2000))


async def test_a_dry_run_plans_and_moves_nothing(outside: World, kafka: KafkaCluster) -> None:
    source, target = await topics(outside, 1, **{"retention.ms": "86400000", "compression.type": "zstd"})
    await asyncio.to_thread(fill, kafka, source, 100)
    key = await apply(outside, source, target, dryRun=True)
    status = await until(outside, key, "Planned")
    warnings = " ".join(status["plan"]["warnings"])
    assert "as old as 2013-01-01" in warnings
    assert "zstd" in warnings
    await outside.settle(key)
    assert (await job_of(outside, key))[1] is None
    assert (await outside.body(key))["metadata"].get("finalizers") is None


async def test_warnings_are_of_the_range_and_not_of_the_whole_log(outside: World, kafka: KafkaCluster) -> None:
    source, target = f"{outside.namespace}.source", f"{outside.namespace}.target"
    early = (*KEEP, ("message.timestamp.after.max.ms", str(10**15)))
    strict = (("retention.ms", "86400000"), ("message.timestamp.after.max.ms", "3600000"))
    await outside.admin.create_topics([NewTopic(source, 1, 1, early), NewTopic(target, 1, 1, strict)])
    now = int(outside.now.timestamp() * 1000)
    for time in (JANUARY_2013, now, now + 86_400_000):  # a batch each
        client = producer(kafka)
        client.produce(source, value=b"x", partition=0, timestamp=time)
        client.flush(30)

    async def warnings(name: str, start: int, end: int) -> str:
        range_ = {"from": {"offset": start}, "to": {"offset": end}}
        spec = {"source": {"topic": source, "range": range_}, "target": {"topic": target}, "dryRun": True}
        key = await outside.apply("ReplayJob", name, spec)
        return " ".join((await until(outside, key, "Planned"))["plan"].get("warnings", ()))

    assert "as old as 2013-01-01" in await warnings("old", 0, 2)
    present = await warnings("present", 1, 2)
    assert "as old as" not in present
    assert "max.ms" not in present
    assert "message.timestamp.after.max.ms" in await warnings("future", 1, 3)


async def test_topics_of_sluice_itself_are_no_targets(outside: World) -> None:
    with pytest.raises(InvalidError, match="choose another target"):
        await apply(outside, "source", LEDGER)


async def test_topics_that_are_missing_are_waited_for(outside: World) -> None:
    key = await apply(outside, "nowhere", "nowhere-else")
    outcome = (await outside.reconcile(key))[key]
    assert isinstance(outcome, WaitingError)
    assert outcome.reason is Reason.TOPIC_NOT_FOUND


@pytest.mark.parametrize("live", [True, False])
async def test_live_and_compacted_targets_are_refused(outside: World, kafka: KafkaCluster, live: bool) -> None:
    config = {} if live else {"cleanup.policy": "compact"}
    source, target = await topics(outside, 1, **config)
    await asyncio.to_thread(fill, kafka, source, 10)
    if live:
        client = producer(kafka, **{"enable.idempotence": True})
        client.produce(target, value=b"now", partition=0)
        client.flush(30)
    key = await apply(outside, source, target)
    status = await until(outside, key, "Refused")
    message = next(c["message"] for c in status["conditions"] if c["type"] == "Ready")
    assert "AcceptReordering" in message
    assert ("written to" in message) is live
    other = await apply(outside, source, target, name="accepted", ordering="AcceptReordering")
    assert (await started(outside, other))["phase"] == "Running"


async def test_an_empty_range_is_complete_at_once(outside: World) -> None:
    source, target = await topics(outside)
    key = await apply(outside, source, target)
    status = await until(outside, key, "Completed")
    assert status["progress"]["records"] == 0
    assert (await job_of(outside, key))[1] is None


async def test_markers_and_aborted_records_alone_complete_too(
    outside: World, kafka: KafkaCluster, tmp_path: Path
) -> None:
    source, target = await topics(outside, 1)
    await asyncio.to_thread(transaction, kafka, source, range(20), commit=False)
    key = await apply(outside, source, target)
    await started(outside, key)
    replay = await pod(outside, key, tmp_path, kafka)
    assert (await asyncio.to_thread(replay.run))[0] == 0
    status = await until(outside, key, "Completed")
    assert status["progress"]["records"] == 0


async def fail_job(here: World, key: Key, code: str, sentence: str) -> None:
    """Kubernetes gives up: as the Job controller and the kubelet would show it."""
    name, job = await job_of(here, key)
    assert job is not None
    now = "2026-11-24T00:00:00Z"
    # Written by controllers that this API server hasn't; only what is read matters.
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-0-x",
            "namespace": here.namespace,
            "labels": {"batch.kubernetes.io/job-name": name},
        },
        "spec": {"containers": [{"name": "worker", "image": "none"}], "automountServiceAccountToken": False},
    }
    await here.kube.create(body)
    ended = {
        "exitCode": 12,
        "finishedAt": now,
        "message": json.dumps({"result": "failed", "code": code, "error": sentence}),
    }
    container = {
        "name": "worker",
        "image": "none",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": ended},
    }
    await here.kube.patch(
        "v1",
        "Pod",
        here.namespace,
        f"{name}-0-x",
        {"status": {"phase": "Failed", "containerStatuses": [container]}},
        subresource="status",
    )
    conditions = [
        {"type": type_, "status": "True", "reason": "PodFailurePolicy", "message": "…", "lastTransitionTime": now}
        for type_ in ("FailureTarget", "Failed")
    ]
    await here.kube.patch(
        "batch/v1",
        "Job",
        here.namespace,
        name,
        {"status": {"startTime": now, "conditions": conditions}},
        subresource="status",
    )


@pytest.mark.parametrize(("code", "reason"), [("RANGE_LOST", "RangeLost"), ("REFUSED", "WorkerFailed")])
async def test_the_workers_last_words_become_the_condition(
    here: World, guarded: KafkaCluster, code: str, reason: str
) -> None:
    source, target = await topics(here, 1)
    await asyncio.to_thread(fill, guarded, source, 10)
    key = await apply(here, source, target)
    await started(here, key)
    _, name = run_of(here, key)
    await fail_job(here, key, code, "offsets 0 to 9 are gone")
    status = await until(here, key, "Failed")
    assert await here.condition(key, "Stalled") == ("True", reason)
    assert "offsets 0 to 9 are gone" in next(c["message"] for c in status["conditions"] if c["type"] == "Failed")
    await here.settle(key)
    assert await acls(here.admin, name) == set()
    entry = await Ledger(here.admin, lambda: None).read(run_of(here, key)[0])
    assert entry is not None
    assert entry.state is LedgerState.STARTED


async def test_a_lost_position_fails_and_never_starts_again(outside: World, kafka: KafkaCluster) -> None:
    source, target = await topics(outside, 1)
    await asyncio.to_thread(fill, kafka, source, 10)
    key = await apply(outside, source, target)
    await started(outside, key)
    await outside.admin.delete_groups([run_of(outside, key)[1]])
    with_replays(outside)
    await until(outside, key, "Failed")
    assert await outside.condition(key, "Failed") == ("True", "PositionLost")


async def test_start_positions_that_come_late_do_not_take_back_what_a_worker_has_done(
    outside: World, kafka: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A former leader is held up for as long as it takes, between any two of its requests."""
    source, target = await topics(outside, 1)
    await asyncio.to_thread(fill, kafka, source, 100)
    place = TopicPartition(source, 0)
    for number, step in enumerate(("start", "commit_positions", "end")):
        run = f"late-{number}-{outside.namespace}"

        original = getattr(Transactions, step)

        async def held_up(self: Transactions, *args: Any, original: Any = original, run: str = run) -> Any:
            monkeypatch.undo()
            await commit_starts(outside.admin, lambda: None, run, {0: {place: 0}})
            replay = await asyncio.to_thread(make_replay, kafka, tmp_path / run, source, target, run=run)
            assert (await asyncio.to_thread(replay.run))[0] == 0
            return await original(self, *args)

        monkeypatch.setattr(Transactions, step, held_up)
        with contextlib.suppress(KafkaUnreachableError):
            await commit_starts(outside.admin, lambda: None, run, {0: {place: 0}})
        position = (await read_positions(outside.admin, run))[place]
        assert (position.offset, position.records) == (100, 100), step


async def test_start_positions_are_there_once_they_are_committed(outside: World, kafka: KafkaCluster) -> None:
    source, _ = await topics(outside, 4)
    run, places = f"starts-{outside.namespace}", [TopicPartition(source, number) for number in range(4)]
    await recommit(outside.admin, run, {places[1]: Committed(77, 7, 700)})
    shards = {0: {places[0]: 5, places[1]: 5}, 1: {places[2]: 6, places[3]: 0}}
    await commit_starts(outside.admin, lambda: None, run, shards)
    found = await read_positions(outside.admin, run)
    assert found == {
        places[0]: Committed(5, 0, 0),
        places[1]: Committed(77, 7, 700),
        places[2]: Committed(6, 0, 0),
        places[3]: Committed(0, 0, 0),
    }
    await commit_starts(outside.admin, lambda: None, run, shards)
    assert await read_positions(outside.admin, run) == found


@pytest.mark.parametrize("how", ["deadline", "deleted"])
async def test_what_a_worker_leaves_open_holds_up_no_reader(outside: World, kafka: KafkaCluster, how: str) -> None:
    source, target = await topics(outside, 1)
    await asyncio.to_thread(fill, kafka, source, 10)
    key = await apply(outside, source, target, activeDeadlineSeconds=60)
    await started(outside, key)
    worker = producer(kafka, **{"transactional.id": transactional_id(run_of(outside, key)[1], 0)})
    await asyncio.to_thread(worker.init_transactions, 30)
    worker.begin_transaction()
    worker.produce(target, value=b"half", partition=0)
    await asyncio.to_thread(worker.flush, 30)
    place = TopicPartition(target, 0)
    assert await outside.admin.stable_offsets([place]) == {place: 0}
    if how == "deadline":
        outside.now += timedelta(seconds=61)
        await until(outside, key, "Failed")
    else:
        await outside.delete(key)
    await outside.settle(key)
    assert await outside.admin.stable_offsets([place]) == await outside.admin.latest_offsets([place])
    with pytest.raises(KafkaException):
        await asyncio.to_thread(worker.commit_transaction, 30)
    assert await asyncio.to_thread(read_back, kafka, target) == {}


async def test_deadline_and_time_to_live(outside: World, kafka: KafkaCluster) -> None:
    source, target = await topics(outside, 1)
    await asyncio.to_thread(fill, kafka, source, 10)
    key = await apply(outside, source, target, activeDeadlineSeconds=60, ttlSecondsAfterFinished=5)
    await started(outside, key)
    outside.now += timedelta(seconds=61)
    await until(outside, key, "Failed")
    assert await outside.condition(key, "Failed") == ("True", "DeadlineExceeded")
    await outside.settle(key)
    outside.now += timedelta(seconds=6)
    outcome = (await outside.reconcile(key))[key]
    assert isinstance(outcome, Outcome)
    await outside.watch()
    assert outside.index.get(key) is None


async def test_credentials_are_renewed_while_it_runs(here: World, guarded: KafkaCluster, tmp_path: Path) -> None:
    source, target = await topics(here, 1)
    await asyncio.to_thread(fill, guarded, source, 10)
    key = await apply(here, source, target)
    await started(here, key)
    name, _ = await job_of(here, key)
    before = await here.secret(name)
    await here.settle(key)
    assert await here.secret(name) == before
    here.now += timedelta(minutes=31)
    await here.settle(key)
    after = await here.secret(name)
    assert before is not None
    assert after is not None
    assert after["user.crt"] != before["user.crt"]
    assert after["ca.crt"] == before["ca.crt"]


async def test_progress_is_written_only_when_there_is_some(outside: World, kafka: KafkaCluster) -> None:
    source, target = await topics(outside, 1)
    await asyncio.to_thread(fill, kafka, source, 10)
    key = await apply(outside, source, target)
    await started(outside, key)
    await outside.settle(key)
    writes = outside.writes()
    for _ in range(5):
        await outside.settle(key)
    assert outside.writes() == writes


async def test_a_secret_is_no_secret_in_the_plan(here: World, guarded: KafkaCluster, tmp_path: Path) -> None:
    source, target = await topics(here, 1)
    await asyncio.to_thread(fill, guarded, source, 10)
    key = await apply(here, source, target)
    await started(here, key)
    replay = await pod(here, key, tmp_path, guarded)
    settings = connection_settings(replay.plan.source, tmp_path)
    assert settings.key_pem is not None
    name, job = await job_of(here, key)
    plan = await here.kube.get("v1", "ConfigMap", here.namespace, name)
    body = base64.b64encode(settings.key_pem.encode()).decode()
    for public in (json.dumps(job), json.dumps(plan)):
        assert settings.key_pem.splitlines()[1] not in public
        assert body not in public


async def test_an_operator_killed_after_each_single_effect_goes_on_where_it_was(
    here: World, guarded: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = await topics(here, 1)
    await asyncio.to_thread(fill, guarded, source, 1000)
    key = await apply(here, source, target)
    deaths = Deaths(here, key, monkeypatch)

    async def running(body: dict[str, Any]) -> bool:
        return (body.get("status") or {}).get("phase") == "Running" and (await job_of(here, key))[1] is not None

    async def completed(body: dict[str, Any]) -> bool:
        return body["status"].get("phase") == "Completed" and not body["metadata"].get("finalizers")

    assert await deaths.go_on(running) >= 3
    replay = await pod(here, key, tmp_path, guarded)
    code, summary = await asyncio.to_thread(replay.run)
    assert (code, summary["records"]) == (0, 1000), summary
    assert await deaths.go_on(completed) >= 3
    _, name = run_of(here, key)
    assert await acls(here.admin, name) == set()
    assert (await here.status(key))["progress"]["records"] == 1000
    original, copy = [await asyncio.to_thread(read_back, guarded, topic) for topic in (source, target)]
    assert records(original) == records(copy)
