"""kopf's edge for ReplayJob: events are passed on, objects to be admitted are judged, callers are recorded."""

from __future__ import annotations

from typing import Any

import kopf

from sluice.api.base import GROUP, VERSION
from sluice.handlers.admission import approver, judged, requester


@kopf.on.event(GROUP, VERSION, "replayjobs")
async def on_event(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A replay has been listed, made, changed or deleted."""
    await memo.edge.event(event)


@kopf.on.validate(GROUP, VERSION, "replayjobs", id="validate-replayjobs", operations=["CREATE", "UPDATE"])
async def validate(body: kopf.Body, memo: Any, **kwargs: Any) -> None:
    """Refuse what can't be, with sentences that say what to do."""
    judged(memo.edge, body, kwargs["old"])


@kopf.on.mutate(GROUP, VERSION, "replayjobs", id="mutate-replayjobs", operations=["CREATE", "UPDATE"])
async def mutate(body: kopf.Body, patch: kopf.Patch, **kwargs: Any) -> None:
    """Record who asked for the replay; nobody can say otherwise, then or later."""
    requester(body, kwargs["old"], kwargs["operation"], kwargs["userinfo"], patch)


@kopf.on.mutate(GROUP, VERSION, "replayjobs", id="guard-replayjobs", operations=["CREATE", "UPDATE"])
async def guard(body: kopf.Body, patch: kopf.Patch, memo: Any, **kwargs: Any) -> None:
    """Check and record who approves a replay. The API server asks when what is guarded changes, and insists."""
    requester(body, kwargs["old"], kwargs["operation"], kwargs["userinfo"], patch)
    await approver(memo.operator.own, body, kwargs["old"], kwargs["userinfo"], patch)
