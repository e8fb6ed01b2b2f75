"""Events: said once, not too often, and never in the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluice.api.base import Reason
from sluice.api.objects import parse
from sluice.observability.events import Events

TOPIC = parse(
    {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "Topic",
        "metadata": {"namespace": "ns", "name": "a", "uid": "u", "creationTimestamp": "2026-11-23T00:00:00Z"},
        "spec": {"clusterRef": {"name": "demo"}},
    }
)


class Writer:
    """Keeps what is written; may refuse."""

    def __init__(self, error: Exception | None = None) -> None:
        self.written: list[Mapping[str, Any]] = []
        self.error = error

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        if self.error:
            raise self.error
        self.written.append(body)
        return dict(body)


class Clock:
    """Seconds that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_the_same_event_is_said_once_in_ten_minutes() -> None:
    writer, clock = Writer(), Clock()
    events = Events(writer, instance="i", monotonic=clock)
    assert events.publish(TOPIC, "Warning", Reason.CONFLICT, "two")
    assert not events.publish(TOPIC, "Warning", Reason.CONFLICT, "two")
    assert events.publish(TOPIC, "Warning", Reason.CONFLICT, "three")
    clock.now = 601
    assert events.publish(TOPIC, "Warning", Reason.CONFLICT, "two")
    await events.flush()
    assert [body["note"] for body in writer.written] == ["two", "three", "two"]
    assert len({body["metadata"]["name"] for body in writer.written}) == 3


async def test_one_object_cannot_flood() -> None:
    writer, clock = Writer(), Clock()
    events = Events(writer, instance="i", monotonic=clock)
    said = sum(events.publish(TOPIC, "Normal", Reason.READY, str(n)) for n in range(100))
    assert said == 25
    clock.now = 300
    assert events.publish(TOPIC, "Normal", Reason.READY, "later")
    await events.flush()


async def test_an_event_that_cannot_be_written_is_no_error() -> None:
    events = Events(Writer(RuntimeError("down")), instance="i", monotonic=Clock())
    assert events.publish(TOPIC, "Normal", Reason.READY, "x")
    await events.flush()


async def test_it_says_what_it_is_about() -> None:
    writer = Writer()
    events = Events(writer, instance="i", monotonic=Clock())
    events.publish(TOPIC, "Normal", Reason.READY, "x" * 5000)
    await events.flush()
    body = writer.written[0]
    assert body["regarding"]["uid"] == "u"
    assert body["metadata"]["namespace"] == "ns"
    assert len(body["note"]) == 1024
