"""Status: conditions built by one rule, and written only when something has changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from sluice.api.base import API_VERSION, PAUSED_ANNOTATION, Condition, ConditionType, Reason, Status
from sluice.api.objects import KINDS, Resource, key_of
from sluice.engine.reconciler import Context
from sluice.kube.errors import NotFoundError

AnyResource = Resource[Any, Any]


def condition(type_: ConditionType, holds: bool | None, reason: Reason, message: str = "") -> Condition:
    """A condition of a kind's own, to be passed as ``own`` to the functions below (which fill in its times)."""
    status = "Unknown" if holds is None else "True" if holds else "False"
    return Condition.model_validate(
        {"type": type_.value, "status": status, "reason": reason.value, "message": message, "lastTransitionTime": ""}
    )


def ready(
    resource: AnyResource,
    now: datetime,
    message: str = "",
    *,
    reason: Reason = Reason.READY,
    own: Sequence[Condition] = (),
) -> list[Condition]:
    """Conditions of an object that is as it should be."""
    return settle(resource, now, [condition(ConditionType.READY, True, reason, message), *own])


def reconciling(
    resource: AnyResource, now: datetime, reason: Reason, message: str, *, own: Sequence[Condition] = ()
) -> list[Condition]:
    """Conditions of an object that is on its way, or waits for something (kstatus: InProgress)."""
    return settle(
        resource,
        now,
        [
            condition(ConditionType.READY, False, reason, message),
            condition(ConditionType.RECONCILING, True, reason, message),
            *own,
        ],
    )


def stalled(
    resource: AnyResource, now: datetime, reason: Reason, message: str, *, own: Sequence[Condition] = ()
) -> list[Condition]:
    """Conditions of an object that needs its user (kstatus: Failed)."""
    return settle(
        resource,
        now,
        [
            condition(ConditionType.READY, False, reason, message),
            condition(ConditionType.STALLED, True, reason, message),
            *own,
        ],
    )


def settle(resource: AnyResource, now: datetime, conditions: Sequence[Condition]) -> list[Condition]:
    """Fill in generation and ``lastTransitionTime``, which stays the same as long as ``status`` does.

    ``Reconciling`` and ``Stalled`` are only there while they hold, as kstatus has it.
    """
    before = {c.type: c for c in resource.status.conditions}
    settled = []
    for new in conditions:
        old = before.get(new.type)
        since = old.last_transition_time if old is not None and old.status == new.status else stamp(now)
        settled.append(
            new.model_copy(update={"last_transition_time": since, "observed_generation": resource.generation})
        )
    return settled


def stamp(now: datetime) -> str:
    """A time as Kubernetes writes it."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


async def write_status(context: Context, resource: AnyResource, status: Status) -> bool:
    """Write the status if it differs from the object's last known one; True if it was written.

    ``observedGeneration`` is filled in. What was written is put into the index at once, so that the next
    reconciliation compares with it. An object that is gone, or another of the same name, is left alone.

    Raises:
        ConflictError: there is another object of that name now.
    """
    return await _write(context, resource, status.model_copy(update={"observed_generation": resource.generation}))


async def _write(context: Context, resource: AnyResource, status: Status) -> bool:
    key = resource.key
    body = context.index.get(key)
    known = body if body is not None and body["metadata"]["uid"] == resource.uid else None
    old = (known or {}).get("status") or {}
    # An empty list says nothing that its absence doesn't: a new field of the model must not rewrite every object.
    new = {name: value for name, value in status.manifest().items() if name in old or value not in ([], {})}
    if known is not None and old == new:
        return False
    patch = {"metadata": {"uid": resource.uid}, "status": merge_patch(old, new)}
    try:
        written = await context.kube.patch(API_VERSION, key.kind, key.namespace, key.name, patch, subresource="status")
    except NotFoundError:
        context.index.remove(key, resource.uid)
        return False
    context.index.put(written)
    return True


async def write_conditions(context: Context, resource: AnyResource, conditions: Sequence[Condition]) -> bool:
    """Write conditions only: those of other types that the object has are kept, but Reconciling and Stalled."""
    types = {c.type for c in conditions} | {ConditionType.RECONCILING.value, ConditionType.STALLED.value}
    kept = [c for c in resource.status.conditions if c.type not in types]
    status = resource.status.model_copy(update={"conditions": [*conditions, *kept]})
    return await write_status(context, resource, status)


async def write_paused(context: Context, resource: AnyResource) -> bool:
    """Say that reconciliation is suspended: ``Ready`` keeps its status and says so by its reason.

    The observed generation stays: whatever has changed in the spec has not been acted upon.
    """
    message = f"reconciliation is suspended by the annotation {PAUSED_ANNOTATION}: remove it to go on"
    old = {c.type: c for c in resource.status.conditions}
    ready_before = old.pop(ConditionType.READY.value, None)
    for gone in (ConditionType.RECONCILING.value, ConditionType.STALLED.value):
        old.pop(gone, None)
    if ready_before is None:
        fresh = condition(ConditionType.READY, None, Reason.PAUSED, message)
        paused = fresh.model_copy(update={"last_transition_time": stamp(context.clock())})
    else:
        paused = ready_before.model_copy(update={"reason": Reason.PAUSED.value, "message": message})
    new = resource.status.model_copy(update={"conditions": [paused, *old.values()]})
    return await _write(context, resource, new)


def without_spec(body: Mapping[str, Any]) -> AnyResource:
    """An object whose spec can't be read, for its status's sake: spec is None."""
    metadata = body["metadata"]
    kind = KINDS[body["kind"]]
    try:
        status = kind.status.model_validate(body.get("status") or {})
    except ValidationError:
        status = kind.status()
    return Resource(
        key=key_of(body),
        uid=metadata["uid"],
        generation=metadata.get("generation", 1),
        resource_version=metadata.get("resourceVersion", ""),
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        spec=None,
        status=status,
        deleting="deletionTimestamp" in metadata,
        finalizers=tuple(metadata.get("finalizers", ())),
    )


def with_status(resource: AnyResource, status: Status) -> AnyResource:
    """The resource as it is after a status was written, for what follows in the same reconciliation."""
    return dataclasses.replace(resource, status=status)


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that makes ``new`` of ``old``."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old:
            patch[key] = value
        elif isinstance(value, Mapping) and isinstance(old[key], Mapping):
            inner = merge_patch(old[key], value)
            if inner:
                patch[key] = inner
        elif old[key] != value:
            patch[key] = value
    return patch
