"""kopf's edge for ConsumerGroup: events are passed on, objects to be admitted are judged."""

from __future__ import annotations

from typing import Any

import kopf

from sluice.api.base import GROUP, VERSION
from sluice.handlers.admission import judged


@kopf.on.event(GROUP, VERSION, "consumergroups")
async def on_event(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A consumer group has been listed, made, changed or deleted."""
    await memo.edge.event(event)


@kopf.on.validate(GROUP, VERSION, "consumergroups", id="validate-consumergroups", operations=["CREATE", "UPDATE"])
async def validate(body: kopf.Body, memo: Any, **kwargs: Any) -> None:
    """Refuse what can't be, with sentences that say what to do."""
    judged(memo.edge, body, kwargs["old"])
