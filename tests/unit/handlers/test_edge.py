"""The edge: which events lead to a look, and what admission answers."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import kopf
import pytest
from kopf._core.actions.invocation import invoke

from sluice.api.objects import Key
from sluice.engine.index import Index
from sluice.handlers import clusters, groups, replays, topics, users
from sluice.handlers.admission import judged, requester
from sluice.handlers.edge import Edge
from sluice.plan.replay_approval import REQUESTED_BY

CLUSTER = Key("MessagingCluster", "ns", "demo")


class Recorder:
    """Stands for workers, clusters and resync: remembers what it was asked."""

    def __init__(self) -> None:
        self.looks: list[Key] = []
        self.reconnects: list[Key] = []
        self.relists = 0

    def enqueue(self, key: Key, delay: float = 0.0) -> None:
        self.looks.append(key)

    async def room(self) -> None:
        return None

    def changed(self, key: Key) -> None:
        self.reconnects.append(key)

    async def forget(self, key: Key) -> None:
        self.reconnects.remove(key)

    def relisted(self) -> None:
        self.relists += 1


class Rig:
    """An edge over a recorder."""

    def __init__(self) -> None:
        self.index = Index()
        self.seen = Recorder()
        parts: Any = self.seen
        self.edge = Edge(self.index, parts, parts, parts)

    async def tell(self, type_: str | None, body: dict[str, Any]) -> list[Key]:
        """The looks that an event leads to."""
        self.seen.looks.clear()
        await self.edge.event({"type": type_, "object": body})
        return list(self.seen.looks)


def body(
    kind: str, name: str, version: int = 1, *, spec: Any = None, status: Any = None, **meta: Any
) -> dict[str, Any]:
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": kind,
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": f"u-{name}",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-11-23T00:00:00Z",
            **meta,
        },
        "spec": spec or ({"external": {"bootstrapServers": ["k:9092"]}} if kind == CLUSTER.kind else TOPIC_SPEC),
        "status": status or {},
    }


TOPIC_SPEC: dict[str, Any] = {"clusterRef": {"name": "demo"}}


async def test_news_lead_to_a_look_and_echoes_of_our_own_status_do_not() -> None:
    rig = Rig()
    key = Key("Topic", "ns", "a")
    assert await rig.tell("ADDED", body("Topic", "a")) == [key]
    assert await rig.tell("MODIFIED", body("Topic", "a", 2, status={"topicId": "x"})) == []
    assert await rig.tell("MODIFIED", body("Topic", "a", 3, labels={"x": "y"})) == [key]
    assert await rig.tell("DELETED", body("Topic", "a", 4)) == [key]
    assert await rig.tell("DELETED", body("Topic", "a", 4)) == []


async def test_a_listed_object_tells_of_a_relist() -> None:
    rig = Rig()
    await rig.tell(None, body("Topic", "a"))
    assert rig.seen.relists == 1


async def test_a_cluster_that_becomes_ready_wakes_what_waits_for_it() -> None:
    rig = Rig()
    await rig.tell("ADDED", body("Topic", "a"))
    assert set(await rig.tell("ADDED", body("MessagingCluster", "demo"))) == {CLUSTER, Key("Topic", "ns", "a")}
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    assert await rig.tell("MODIFIED", body("MessagingCluster", "demo", 2, status=ready)) == [Key("Topic", "ns", "a")]
    other = {"conditions": [{"type": "Ready", "status": "True"}], "clusterId": "x"}
    assert await rig.tell("MODIFIED", body("MessagingCluster", "demo", 3, status=other)) == []
    assert rig.seen.reconnects == [CLUSTER, CLUSTER]
    assert CLUSTER in await rig.tell("DELETED", body("MessagingCluster", "demo", 4))


async def test_a_cluster_whose_policy_changes_wakes_replays_that_wait_for_approval() -> None:
    rig = Rig()
    await rig.tell("ADDED", body("ReplayJob", "a"))
    spec = {"external": {"bootstrapServers": ["k:9092"]}}
    await rig.tell("ADDED", body("MessagingCluster", "demo", spec={**spec, "replayPolicy": {"approvals": 1}}))
    assert Key("ReplayJob", "ns", "a") in await rig.tell("MODIFIED", body("MessagingCluster", "demo", 2, spec=spec))


async def test_a_cluster_whose_readiness_the_operator_has_just_written_wakes_what_waits_for_it() -> None:
    rig = Rig()
    await rig.tell("ADDED", body("Topic", "a"))
    await rig.tell("ADDED", body("MessagingCluster", "demo"))
    written = body("MessagingCluster", "demo", 2, status={"conditions": [{"type": "Ready", "status": "True"}]})
    rig.seen.looks.clear()
    rig.index.put(written)
    assert rig.seen.looks == [Key("Topic", "ns", "a")]
    assert await rig.tell("MODIFIED", written) == [], "the echo"


async def test_a_deletion_that_no_event_told_of_wakes_what_it_concerns() -> None:
    rig = Rig()
    await rig.tell("ADDED", body("Topic", "a"))
    await rig.tell("ADDED", body("MessagingCluster", "demo"))
    rig.seen.looks.clear()
    rig.index.replace("MessagingCluster", [], version=9)
    assert set(rig.seen.looks) == {CLUSTER, Key("Topic", "ns", "a")}


@pytest.mark.parametrize(
    ("label", "owner"),
    [
        ("sluice.dev/cluster", "MessagingCluster"),
        ("sluice.dev/replayjob", "ReplayJob"),
        ("sluice.dev/user", "User"),
    ],
)
async def test_an_owned_object_has_its_owner_looked_at(label: str, owner: str) -> None:
    rig = Rig()
    pod = {"kind": "Pod", "metadata": {"namespace": "ns", "name": "p", "labels": {label: "demo"}}}
    await rig.edge.owned({"type": "MODIFIED", "object": pod})
    assert rig.seen.looks == [Key(owner, "ns", "demo")]
    await rig.edge.owned({"type": "MODIFIED", "object": {"kind": "Pod", "metadata": {"namespace": "ns", "name": "p"}}})
    assert len(rig.seen.looks) == 1


async def test_a_changed_secret_of_a_cluster_has_its_credentials_read_again() -> None:
    rig = Rig()
    secret = {"kind": "Secret", "metadata": {"namespace": "ns", "name": "s", "labels": {"sluice.dev/cluster": "demo"}}}
    await rig.edge.owned({"type": "MODIFIED", "object": secret})
    assert rig.seen.reconnects == [CLUSTER]


async def test_admission_knows_the_cluster_and_the_neighbours() -> None:
    rig = Rig()
    await rig.tell("ADDED", body("MessagingCluster", "demo"))
    await rig.tell("ADDED", body("Topic", "orders.eu"))
    colliding = body("Topic", "orders_eu", creationTimestamp="2027-01-01T00:00:00Z")
    with pytest.raises(kopf.AdmissionError, match="collides") as refused:
        judged(rig.edge, colliding, None)
    assert refused.value.code == 422
    judged(rig.edge, body("Topic", "other"), None)
    stranger = body("Topic", "far", spec={"clusterRef": {"name": "demo", "namespace": "ns"}})
    stranger["metadata"]["namespace"] = "apps"
    with pytest.raises(kopf.AdmissionError, match="allowedNamespaces"):
        judged(rig.edge, stranger, None)


async def test_an_object_that_still_gets_its_name_is_judged_too() -> None:
    rig = Rig()
    nameless = body("Topic", "x", generateName="orders-")
    del nameless["metadata"]["name"]
    judged(rig.edge, nameless, None)


@pytest.mark.parametrize(
    ("operation", "claimed", "stored", "expected"),
    [
        ("CREATE", None, None, "jane"),
        ("CREATE", "boss", None, "jane"),
        ("CREATE", "jane", None, "unchanged"),
        ("UPDATE", "boss", "jane", "jane"),
        ("UPDATE", None, "jane", "jane"),
        ("UPDATE", "jane", "jane", "unchanged"),
        ("UPDATE", "boss", None, None),
    ],
)
def test_nobody_can_say_that_another_asked(
    operation: str, claimed: str | None, stored: str | None, expected: str | None
) -> None:
    def job(name: str | None) -> dict[str, Any]:
        return {"metadata": {"annotations": {REQUESTED_BY: name} if name else {}}}

    patch: dict[str, Any] = {}
    requester(job(claimed), job(stored) if operation == "UPDATE" else None, operation, {"username": "jane"}, patch)
    if expected == "unchanged":
        assert patch == {}
    else:
        assert patch == {"metadata": {"annotations": {REQUESTED_BY: expected}}}


@pytest.mark.parametrize("handlers", [clusters, groups, replays, topics, users], ids=lambda module: module.__name__)
async def test_admission_reads_the_index_only_in_the_loops_own_thread(handlers: Any) -> None:
    """In another thread it would meet dictionaries that change while it goes through them."""
    judging: list[int] = []

    class Watched:
        def refusals(self, *_: Any) -> list[str]:
            judging.append(threading.get_ident())
            return []

    # As kopf calls it: what isn't a coroutine function goes to a thread.
    memo = SimpleNamespace(edge=Watched())
    await invoke(handlers.validate, kwargs={"body": body("Topic", "a"), "memo": memo, "old": None})
    assert judging == [threading.get_ident()]
