"""What the admission handlers of all kinds share, and how it is known who lets a replay begin.

The handlers are ``async``, and but for one wait for nothing: kopf calls other functions in threads, and the index is
read and changed in the event loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

import kopf

from sluice.api.base import GROUP
from sluice.handlers.edge import Edge
from sluice.kube.access import Attributes, may
from sluice.kube.client import Kube
from sluice.kube.errors import KubeError
from sluice.plan.replay_approval import APPROVED_BY, GLASS_BROKEN_BY, REQUESTED_BY, claims, plan_hash, record, refusal

_INVALID: Final = 422
_FORBIDDEN: Final = 403
_UNKNOWN: Final = 503
_REVIEW_SECONDS: Final = 5.0
"""For the API server to say what somebody may do: less than it waits for us (the chart: ten)."""


def judged(edge: Edge, body: Mapping[str, Any], old: Mapping[str, Any] | None) -> None:
    """Let an object in, or refuse it.

    Raises:
        kopf.AdmissionError: with the sentences that the user sees.
    """
    refusals = edge.refusals(dict(body), dict(old) if old else None)
    if refusals:
        raise kopf.AdmissionError("; ".join(refusals), code=_INVALID)


def requester(
    body: Mapping[str, Any],
    old: Mapping[str, Any] | None,
    operation: str,
    userinfo: Mapping[str, Any],
    patch: MutableMapping[str, Any],
) -> None:
    """Make the annotation say who made the object, whatever the object itself says."""
    made_now = operation == "CREATE"
    _keep(body, patch, REQUESTED_BY, userinfo.get("username", "") if made_now else _annotations(old).get(REQUESTED_BY))


async def approver(
    kube: Kube,
    body: Mapping[str, Any],
    old: Mapping[str, Any] | None,
    userinfo: Mapping[str, Any],
    patch: MutableMapping[str, Any],
) -> None:
    """Let only those approve a replay, or break the glass, who may; keep the record of who did, and of nobody else.

    Raises:
        kopf.AdmissionError: with the sentence that the user sees.
    """
    user, before = userinfo.get("username", ""), _annotations(old)
    made_by = before.get(REQUESTED_BY) if old else user
    planned = plan_hash((old or {}).get("status") or {})
    known = {name: before.get(name) for name in (APPROVED_BY, GLASS_BROKEN_BY)}
    for verb, text in claims(_annotations(body), before).items():
        if (why := refusal(verb, text, user, made_by, planned)) is not None:
            raise kopf.AdmissionError(why, code=_INVALID)
        await _allowed(kube, userinfo, verb.value, body["metadata"])
        name, value = record(verb, text, user, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), planned, before)
        known[name] = value
    for name, found in known.items():
        _keep(body, patch, name, found)


async def _allowed(kube: Kube, userinfo: Mapping[str, Any], verb: str, metadata: Mapping[str, Any]) -> None:
    attributes = Attributes(verb, GROUP, "replayjobs", metadata["namespace"], metadata.get("name", ""))
    try:
        async with asyncio.timeout(_REVIEW_SECONDS):
            allowed = await may(kube, userinfo, attributes)
    except (KubeError, TimeoutError) as error:
        why = str(error) or f"no answer within {_REVIEW_SECONDS:g} s"
        raise kopf.AdmissionError(
            f"whether {userinfo.get('username')} may {verb} isn't known, so nothing was changed; try again: {why}",
            code=_UNKNOWN,
        ) from error
    if not allowed:
        raise kopf.AdmissionError(
            f"{userinfo.get('username')} may not {verb} replayjobs in namespace {metadata['namespace']}: it takes a"
            f" role there with the verb {verb} on replayjobs of {GROUP}",
            code=_FORBIDDEN,
        )


def _annotations(body: Mapping[str, Any] | None) -> Mapping[str, str]:
    return ((body or {}).get("metadata") or {}).get("annotations") or {}


def _keep(body: Mapping[str, Any], patch: MutableMapping[str, Any], name: str, value: str | None) -> None:
    if _annotations(body).get(name) != value:
        patch.setdefault("metadata", {}).setdefault("annotations", {})[name] = value


class AdmissionServer(kopf.WebhookServer):
    """kopf's server, which tells whether it serves."""

    serving = False

    async def __call__(self, fn: Any) -> AsyncIterator[Any]:
        """Serve; yields whenever the server has been started (again, after the certificate was renewed)."""
        try:
            async for config in super().__call__(fn):
                self.serving = True
                yield config
        finally:
            self.serving = False
