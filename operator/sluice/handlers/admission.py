"""What the admission handlers of all kinds share.

The handlers are ``async`` without waiting for anything: kopf calls other functions in threads, and the index is read
and changed in the event loop only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, MutableMapping
from typing import Any, Final

import kopf

from sluice.api.base import GROUP
from sluice.handlers.edge import Edge

REQUESTED_BY: Final = f"{GROUP}/requested-by"
"""Annotation of a ReplayJob: the user who made it, as the API server authenticated them."""
_INVALID: Final = 422


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
    claimed = (body["metadata"].get("annotations") or {}).get(REQUESTED_BY)
    if operation == "CREATE":
        actual: str | None = userinfo.get("username", "")
    else:
        actual = ((old or {}).get("metadata", {}).get("annotations") or {}).get(REQUESTED_BY)
    if claimed != actual:
        patch.setdefault("metadata", {}).setdefault("annotations", {})[REQUESTED_BY] = actual


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
