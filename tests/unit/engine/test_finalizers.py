"""Finalizers: held with certainty, let go without touching others', never in the way of a deletion."""

from __future__ import annotations

import pytest

from sluice.api.objects import Key, parse
from sluice.engine.errors import ChangedError
from sluice.engine.finalizers import finalizer_of, fresh, hold, let_go, nothing_to_undo
from sluice.engine.index import Change
from tests.unit.engine.engine_fakes import FakeKube, make_context, topic, topic_key

OURS = "sluice.dev/topic"
CLUSTER = Key("MessagingCluster", "ns", "demo")


def test_its_name() -> None:
    assert finalizer_of("Topic") == OURS


async def test_it_is_added_once_and_others_stay() -> None:
    kube = FakeKube()
    context = make_context(kube)
    context.index.put(kube.put(topic("a", finalizers=["other/one"])))
    for _ in range(2):
        resource = context.index.resource(topic_key("a"))
        assert resource is not None
        await hold(context, resource)
    assert kube.objects[topic_key("a")]["metadata"]["finalizers"] == ["other/one", OURS]
    assert len(kube.writes) == 1


async def test_another_client_that_writes_at_the_same_time_loses_nothing() -> None:
    kube = FakeKube()
    context = make_context(kube)
    context.index.put(kube.put(topic("a")))
    kube.before_patch = lambda: kube.put(topic("a", finalizers=["just/now"])) and None
    resource = context.index.resource(topic_key("a"))
    assert resource is not None
    await hold(context, resource)
    assert kube.objects[topic_key("a")]["metadata"]["finalizers"] == ["just/now", OURS]


async def test_nothing_is_held_for_an_object_that_is_going_or_gone() -> None:
    kube = FakeKube()
    context = make_context(kube)
    known = parse(topic("a"))
    with pytest.raises(ChangedError):
        await hold(context, known)
    kube.put(topic("a", deletionTimestamp="2026-11-24T00:00:00Z", finalizers=["other/one"]))
    with pytest.raises(ChangedError):
        await hold(context, known)
    assert not kube.writes


async def test_letting_go_of_what_is_gone_is_fine() -> None:
    context = make_context(FakeKube())
    await let_go(context, parse(topic("a", finalizers=[OURS])))


async def test_letting_go_keeps_others() -> None:
    kube = FakeKube()
    context = make_context(kube)
    body = kube.put(topic("a", finalizers=[OURS, "other/one"], deletionTimestamp="2026-11-24T00:00:00Z"))
    await let_go(context, parse(body))
    assert kube.objects[topic_key("a")]["metadata"]["finalizers"] == ["other/one"]


async def test_an_effect_on_an_object_that_was_replaced_or_changed_is_stopped() -> None:
    kube = FakeKube()
    context = make_context(kube)
    known = parse(kube.put(topic("a", uid="old")))
    assert (await fresh(context, known)).uid == "old"
    kube.put(topic("a", uid="old", generation=2))
    with pytest.raises(ChangedError):
        await fresh(context, known)
    kube.put(topic("a", uid="new"))
    with pytest.raises(ChangedError):
        await fresh(context, known)


@pytest.mark.parametrize(
    ("cluster", "terminating", "expected"),
    [("there", False, False), ("going", False, True), ("gone", False, True), ("there", True, True)],
)
async def test_when_there_is_nothing_to_undo(cluster: str, terminating: bool, expected: bool) -> None:
    kube = FakeKube()
    if cluster != "gone":
        meta = {"namespace": "ns", "name": "demo"} | ({"deletionTimestamp": "x"} if cluster == "going" else {})
        kube.put({"kind": "MessagingCluster", "metadata": meta})
    kube.put({"kind": "Namespace", "metadata": {"name": "ns"} | ({"deletionTimestamp": "x"} if terminating else {})})
    assert await nothing_to_undo(make_context(kube), CLUSTER, "ns") is expected


async def test_own_finalizers_are_no_news_and_what_others_changed_meanwhile_is() -> None:
    kube = FakeKube()
    context = make_context(kube)
    context.index.put(kube.put(topic("a")))
    heard: list[Change] = []
    context.index.subscribe(lambda _, change, *__: heard.append(change))
    resource = context.index.resource(topic_key("a"))
    assert resource is not None
    await hold(context, resource)
    assert heard == []
    kube.put(topic("a", finalizers=[OURS], labels={"changed": "by another"}))
    held = context.index.resource(topic_key("a"))
    assert held is not None
    await let_go(context, held)
    assert heard == [Change.OBJECT]


async def test_an_object_that_is_found_gone_is_not_known_any_more() -> None:
    context = make_context(FakeKube())
    context.index.put(topic("a", finalizers=[OURS]))
    await let_go(context, parse(topic("a", finalizers=[OURS])))
    assert context.index.get(topic_key("a")) is None
