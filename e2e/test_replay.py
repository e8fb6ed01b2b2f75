"""A replay happens exactly once, whoever is killed while it runs."""

from __future__ import annotations

import random
import time
from collections import Counter
from datetime import UTC, datetime

from e2e.support import kafka, objects
from e2e.support.cluster import KafkaCluster, numbered
from e2e.support.environment import SYSTEM_NAMESPACE
from e2e.support.kubectl import Body, Kubectl, KubectlError, condition

PARTITIONS = 4
RECORDS = 300_000
"""Of a kilobyte each: enough for some seconds of copying."""
FINISHED = ("Completed", "AlreadyCompleted", "Failed", "Refused")


def topics(space: Kubectl, cluster: KafkaCluster, *names: str) -> None:
    space.apply([objects.topic(name, cluster.reference, partitions=PARTITIONS) for name in names])
    for name in names:
        space.wait_ready("topic", name, timeout=60)


def finished(body: Body | None) -> bool:
    return body is not None and (body.get("status") or {}).get("phase") in FINISHED


def completed(space: Kubectl, name: str, timeout: float = 180) -> Body:
    """Wait until the replay has ended, and well."""
    body = space.wait("replayjob", name, finished, timeout=timeout)
    assert body is not None
    assert body["status"]["phase"] == "Completed", condition(body, "Ready")
    return body


def differences(source: list[kafka.Read], target: list[kafka.Read]) -> list[str]:
    """How ``target`` is other than ``source``, partition by partition; offsets may differ."""
    faults = []
    for partition in range(PARTITIONS):
        theirs = [r.content for r in sorted(source, key=lambda r: r.offset) if r.partition == partition]
        ours = [r.content for r in sorted(target, key=lambda r: r.offset) if r.partition == partition]
        if theirs != ours:
            missing, surplus = Counter(theirs) - Counter(ours), Counter(ours) - Counter(theirs)
            faults.append(
                f"partition {partition}: {len(ours)} records for {len(theirs)}, {sum(missing.values())} missing, "
                f"{sum(surplus.values())} too many"
            )
    return faults


def test_a_range_of_time_is_copied_and_nothing_else(solo: KafkaCluster, space: Kubectl) -> None:
    topics(space, solo, "calls", "calls-again")
    start = int(time.time() * 1000) - 3_600_000
    solo.produce("calls", numbered(5000, timestamp=start))
    first, last = start + 1000, start + 2500
    between = {"from": {"time": _rfc3339(first)}, "to": {"time": _rfc3339(last)}}
    space.apply(objects.replay("hour", solo.reference, "calls", "calls-again", between))
    completed(space, "hour")
    source = [read for read in solo.read("calls") if first <= read.timestamp < last]
    assert len(source) == 1500
    assert differences(source, solo.read("calls-again")) == []


def test_it_is_exactly_once_though_worker_and_operator_are_killed_and_the_worker_once_more(
    solo: KafkaCluster, space: Kubectl
) -> None:
    topics(space, solo, "orders", "orders-again")
    chance = random.Random(7)  # noqa: S311 - bytes that don't compress: there has to be something to do
    solo.produce(
        "orders",
        (
            kafka.Write(b"key-%d" % (n % 50), chance.randbytes(1000), None, (("number", b"%d" % n),))
            for n in range(RECORDS)
        ),
    )
    space.apply(objects.replay("all", solo.reference, "orders", "orders-again", backoffLimit=100))
    _kill_worker(space, solo, "all", "orders-again", 0)  # in the middle of its first transaction
    system = space.within(SYSTEM_NAMESPACE)
    for operator in system.list("pods", labels={"app.kubernetes.io/name": "sluice"}):
        _kill(system, operator["metadata"]["name"])
    left = _offsets(solo, "orders-again")
    # Beyond what the first one left, and the marks of its end: the next one is in the middle of it all.
    _kill_worker(space, solo, "all", "orders-again", left + PARTITIONS + RECORDS // 4)
    body = completed(space, "all", timeout=240)
    assert body["status"]["progress"]["records"] == RECORDS
    assert differences(solo.read("orders"), solo.read("orders-again")) == []


def test_a_job_that_was_deleted_and_applied_again_does_not_run_twice(solo: KafkaCluster, space: Kubectl) -> None:
    topics(space, solo, "bills", "bills-again")
    solo.produce("bills", numbered(1000))
    job = objects.replay("once", solo.reference, "bills", "bills-again")
    space.apply(job)
    completed(space, "once")
    space.delete("replayjob", "once")
    space.apply(job)
    body = space.wait("replayjob", "once", finished, timeout=90)
    assert body is not None
    assert body["status"]["phase"] == "AlreadyCompleted"
    assert len(solo.read("bills-again")) == 1000


def test_a_dry_run_plans_and_moves_nothing(solo: KafkaCluster, space: Kubectl) -> None:
    topics(space, solo, "visits", "visits-again")
    solo.produce("visits", numbered(1000))
    space.apply(objects.replay("try", solo.reference, "visits", "visits-again", dryRun=True))
    body = space.wait("replayjob", "try", lambda b: condition(b, "Planned").get("status") == "True", timeout=60)
    assert body is not None
    assert body["status"]["plan"]["offsets"] == 1000
    assert solo.read("visits-again") == []


def test_a_target_that_does_not_exist_is_said_and_nothing_runs(solo: KafkaCluster, space: Kubectl) -> None:
    topics(space, solo, "words")
    space.apply(objects.replay("nowhere", solo.reference, "words", "no-such-topic"))
    body = space.wait_condition("replayjob", "nowhere", "Ready", "False", timeout=60)
    body = (
        space.wait(
            "replayjob", "nowhere", lambda b: "no-such-topic" in condition(b, "Ready").get("message", ""), timeout=60
        )
        or body
    )
    assert not space.list("jobs")


def _kill_worker(space: Kubectl, cluster: KafkaCluster, name: str, target: str, offsets: int) -> None:
    """Kill the worker of a replay without mercy once ``target`` has more than so many offsets."""
    deadline = time.monotonic() + 120
    running: list[str] = []
    while not running:
        assert time.monotonic() < deadline, f"no worker of {name} runs"
        running = _workers(space, name)
    while (found := _offsets(cluster, target)) <= offsets:
        assert time.monotonic() < deadline, f"{target} has {found} offsets, not above {offsets}"
    assert _workers(space, name) == running, f"it was done too soon ({found} offsets): give it more records"
    for pod in running:
        _kill(space, pod)


def _offsets(cluster: KafkaCluster, topic: str) -> int:
    """How many offsets a topic has, those of open transactions included."""
    return sum(kafka.end_offsets(cluster.client() | {"isolation.level": "read_uncommitted"}, topic).values())


def _workers(space: Kubectl, name: str) -> list[str]:
    pods = space.list("pods", labels={"sluice.dev/replayjob": name})
    living = [pod["metadata"] for pod in pods if pod["status"].get("phase") == "Running"]
    return [metadata["name"] for metadata in living if "deletionTimestamp" not in metadata]


def _kill(space: Kubectl, pod: str) -> None:
    try:
        space.run("delete", "pod", pod, "--grace-period=0", "--force", "--ignore-not-found", "--wait=false")
    except KubectlError as error:
        if "NotFound" not in str(error):
            raise


def _rfc3339(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
