"""Status: what it says, and that it is written only when it says something new."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sluice.api.base import ConditionType, Reason
from sluice.api.objects import parse
from sluice.engine import status
from sluice.engine.index import Change
from sluice.kube.errors import ConflictError
from tests.unit.engine.engine_fakes import NOW, FakeKube, make_context, topic, topic_key


def conditions_of(built: list[status.Condition]) -> dict[str, tuple[str, str]]:
    """Status and reason by type."""
    return {c.type: (c.status, c.reason) for c in built}


def test_a_ready_object_has_neither_reconciling_nor_stalled() -> None:
    built = status.ready(parse(topic("a", generation=3)), NOW)
    assert conditions_of(built) == {"Ready": ("True", "Ready")}
    assert built[0].observed_generation == 3


def test_kstatus_reads_progress_and_failure() -> None:
    resource = parse(topic("a"))
    waiting = conditions_of(status.reconciling(resource, NOW, Reason.CLUSTER_NOT_FOUND, "m"))
    assert waiting == {"Ready": ("False", "ClusterNotFound"), "Reconciling": ("True", "ClusterNotFound")}
    failed = conditions_of(status.stalled(resource, NOW, Reason.INVALID_SPEC, "m"))
    assert failed == {"Ready": ("False", "InvalidSpec"), "Stalled": ("True", "InvalidSpec")}


def test_the_transition_time_stays_as_long_as_the_status_does() -> None:
    body = topic("a")
    first = status.reconciling(parse(body), NOW, Reason.CLUSTER_NOT_FOUND, "none")
    body["status"] = {"conditions": [c.manifest() for c in first]}
    later = NOW + timedelta(hours=1)
    again = status.reconciling(parse(body), later, Reason.KAFKA_UNREACHABLE, "other words")
    assert {c.last_transition_time for c in again} == {"2026-11-24T00:00:00Z"}
    ready = status.ready(parse(body), later)
    assert ready[0].last_transition_time == "2026-11-24T01:00:00Z"


def test_a_condition_of_the_kinds_own_is_dated_too() -> None:
    own = status.condition(ConditionType.PLANNED, True, Reason.PLANNED)
    built = status.ready(parse(topic("a")), NOW, own=[own])
    assert built[1].last_transition_time == "2026-11-24T00:00:00Z"


async def test_the_same_status_is_written_once() -> None:
    kube = FakeKube()
    context = make_context(kube)
    context.index.put(kube.put(topic("a")))
    for expected in (True, False, False):
        resource = context.index.resource(topic_key("a"))
        assert resource is not None
        new = resource.status.model_copy(update={"conditions": status.ready(resource, context.clock())})
        assert await status.write_status(context, resource, new) is expected
    assert len(kube.writes) == 1


async def test_only_what_changed_is_in_the_patch_and_what_is_gone_is_removed() -> None:
    kube = FakeKube()
    context = make_context(kube)
    body = topic("a")
    body["status"] = {"observedGeneration": 1, "topicId": "x", "partitions": 3}
    context.index.put(kube.put(body))
    resource = context.index.resource(topic_key("a"))
    assert resource is not None
    new = resource.status.model_copy(update={"topic_id": None, "partitions": 4})
    assert await status.write_status(context, resource, new)
    assert kube.writes[0][2]["status"] == {"topicId": None, "partitions": 4}


async def test_the_status_of_a_predecessor_is_not_written_on_its_successor() -> None:
    kube = FakeKube()
    context = make_context(kube)
    context.index.put(kube.put(topic("a", uid="old")))
    resource = context.index.resource(topic_key("a"))
    assert resource is not None
    kube.put(topic("a", uid="new"))
    with pytest.raises(ConflictError):
        await status.write_conditions(context, resource, status.ready(resource, context.clock()))


async def test_a_status_of_an_object_that_is_gone_is_nothing() -> None:
    context = make_context(FakeKube())
    resource = parse(topic("a"))
    assert not await status.write_conditions(context, resource, status.ready(resource, context.clock()))


async def test_conditions_of_the_kinds_own_survive_an_error_of_the_engine() -> None:
    kube = FakeKube()
    context = make_context(kube)
    body = topic("a")
    resource = parse(body)
    own = status.condition(ConditionType.PLANNED, True, Reason.PLANNED)
    body["status"] = {"conditions": [c.manifest() for c in status.ready(resource, NOW, own=[own])]}
    context.index.put(kube.put(body))
    known = context.index.resource(topic_key("a"))
    assert known is not None
    await status.write_conditions(context, known, status.stalled(known, NOW, Reason.CONFLICT, "m"))
    after = context.index.resource(topic_key("a"))
    assert after is not None
    assert conditions_of(after.status.conditions) == {
        "Ready": ("False", "Conflict"),
        "Stalled": ("True", "Conflict"),
        "Planned": ("True", "Planned"),
    }


async def test_a_paused_object_keeps_its_readiness_and_its_observed_generation() -> None:
    kube = FakeKube()
    context = make_context(kube)
    body = topic("a", generation=2)
    built = status.ready(parse(topic("a")), NOW)
    body["status"] = {"observedGeneration": 1, "conditions": [c.manifest() for c in built]}
    context.index.put(kube.put(body))
    resource = context.index.resource(topic_key("a"))
    assert resource is not None
    assert await status.write_paused(context, resource)
    after = context.index.resource(topic_key("a"))
    assert after is not None
    assert conditions_of(after.status.conditions) == {"Ready": ("True", "Paused")}
    assert after.status.observed_generation == 1
    assert not await status.write_paused(context, after)


async def test_an_object_that_is_gone_is_not_known_any_more() -> None:
    kube = FakeKube()
    context = make_context(kube)
    context.index.put(topic("a"))
    resource = context.index.resource(topic_key("a"))
    assert resource is not None
    assert not await status.write_conditions(context, resource, status.ready(resource, context.clock()))
    assert context.index.get(topic_key("a")) is None


async def test_an_answer_that_comes_after_the_deletion_does_not_bring_the_object_back() -> None:
    kube = FakeKube()
    context = make_context(kube)
    context.index.put(kube.put(topic("a")))
    resource = context.index.resource(topic_key("a"))
    assert resource is not None
    kube.before_patch = lambda: context.index.remove(topic_key("a"), resource.uid) and None
    assert await status.write_conditions(context, resource, status.ready(resource, context.clock()))
    assert context.index.get(topic_key("a")) is None


async def test_a_change_that_the_answer_to_a_write_tells_of_first_is_news() -> None:
    kube = FakeKube()
    context = make_context(kube)
    context.index.put(kube.put(topic("a")))
    resource = context.index.resource(topic_key("a"))
    assert resource is not None
    heard: list[Change] = []
    context.index.subscribe(lambda _, change, *__: heard.append(change))
    kube.before_patch = lambda: kube.put(topic("a", generation=2, labels={"changed": "meanwhile"})) and None
    await status.write_conditions(context, resource, status.ready(resource, context.clock()))
    assert heard == [Change.OBJECT]
