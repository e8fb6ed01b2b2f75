"""A node that lost its disk comes back empty, joins the quorum by a new directory, and copies its replicas back."""

from __future__ import annotations

import time

from kafka.errors import KafkaError

from e2e.support import kafka, objects
from e2e.support.cluster import KafkaCluster, numbered
from e2e.support.kafka import Traffic
from e2e.support.quorum import Voter, voters


def _until_whole(trio: KafkaCluster, node: int, before: list[Voter], timeout: float) -> list[Voter]:
    """Wait until the lost node votes by another directory, and is near the end of the log."""
    old = next(voter.directory for voter in before if voter.id == node)
    deadline = time.monotonic() + timeout
    now: list[Voter] | KafkaError = []
    while True:
        try:
            now = voters(trio.client())
        except KafkaError as error:  # asked the broker that is still away
            now = error
        else:
            own = [voter for voter in now if voter.id == node]
            whole = [voter.id for voter in now] == [voter.id for voter in before]
            if whole and own[0].directory != old and own[0].lag < 50:
                return now
        assert time.monotonic() < deadline, f"voters after {timeout:.0f} s: {now}"
        time.sleep(1)  # Kafka has no watch for this


def test_a_node_without_its_disk_is_replaced_and_the_voters_are_whole(trio: KafkaCluster) -> None:
    config = {"min.insync.replicas": "2"}
    trio.space.apply(objects.topic("kept", {"name": trio.name}, partitions=3, replicas=3, config=config))
    trio.space.wait_ready("topic", "kept", timeout=60)
    trio.produce("kept", numbered(300))
    before = voters(trio.client())
    node = next(node for node in trio.body()["status"]["nodes"] if node["id"] == before[-1].id)
    pod, claim = f"{node['name']}-0", f"data-{node['name']}"
    lost = trio.space.get("persistentvolumeclaim", claim)
    assert lost is not None

    with Traffic(trio.client(), "kept", rate=50) as traffic:
        trio.space.delete("persistentvolumeclaim", claim, wait=False)
        trio.space.delete("pod", pod, options=["--grace-period=0", "--force"])
        trio.space.wait(
            "persistentvolumeclaim",
            claim,
            lambda body: (
                body is not None
                and body["metadata"]["uid"] != lost["metadata"]["uid"]
                and body["status"].get("phase") == "Bound"
            ),
            timeout=90,
        )
        after = _until_whole(trio, node["id"], before, timeout=120)
        trio.wait_ready(120)
    assert {voter.id for voter in after} == {voter.id for voter in before}
    assert not traffic.failed
    found = trio.read("kept")
    assert kafka.lost_or_disordered(traffic.acknowledged, [r for r in found if not r.headers]) == []
    assert sum(1 for read in found if read.headers) == 300
