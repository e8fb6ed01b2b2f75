"""kopf's edge for what belongs to objects of ours: an event of theirs has the owner looked at."""

from __future__ import annotations

from typing import Any, Final

import kopf

OWNED: Final = (
    ("apps", "v1", "statefulsets"),
    ("batch", "v1", "jobs"),
    ("", "v1", "pods"),
    ("", "v1", "persistentvolumeclaims"),
    ("", "v1", "services"),
    ("", "v1", "secrets"),
)
"""Group, version and plural of what is watched, by label: the API server sends nothing else."""


@kopf.on.event("apps", "v1", "statefulsets")
@kopf.on.event("batch", "v1", "jobs")
@kopf.on.event("", "v1", "pods")
@kopf.on.event("", "v1", "persistentvolumeclaims")
@kopf.on.event("", "v1", "services")
@kopf.on.event("", "v1", "secrets")
async def on_event(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """An owned object has been listed, made, changed or deleted."""
    await memo.edge.owned(event)
