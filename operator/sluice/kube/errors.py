"""What the Kubernetes API answers when it doesn't do what was asked, told apart by what is to be done about it."""

from __future__ import annotations

import json
from typing import Any, Final


class KubeError(Exception):
    """A request that the API server refused or didn't answer.

    Attributes:
        code: HTTP status; 0 if there was no answer.
        reason: the API's word for it, such as ``AlreadyExists``.
        body: the ``Status`` object, where there was one.
    """

    def __init__(self, code: int, reason: str, message: str, body: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.body = body or {}


class NotFoundError(KubeError):
    """The object, or its kind, isn't there (404)."""


class AlreadyExistsError(KubeError):
    """An object of that name is there already (409 on create)."""


class ConflictError(KubeError):
    """The object has changed since it was read, or has another UID than expected (409): read again and retry."""


class InvalidError(KubeError):
    """The API server refuses the object's content (400, 422, some 500): retrying the same doesn't help."""


class ForbiddenError(KubeError):
    """RBAC, an admission webhook or a terminating namespace forbids it (401, 403)."""

    @property
    def namespace_terminating(self) -> bool:
        """Whether the refusal is because the namespace is being deleted."""
        causes = (self.body.get("details") or {}).get("causes") or ()
        return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


class UnavailableError(KubeError):
    """No answer, too many requests, or a failure of the server (408, 429, 5xx): retry later."""


_UNTYPED: Final = "failed to create typed patch object"
"""What server-side apply says of a field that the kind doesn't have, or of a value of a wrong type, as HTTP 500."""


def error_from(code: int, text: str, asked: str) -> KubeError:
    """Classify an answer that isn't a success.

    Args:
        code: HTTP status.
        text: body of the answer: a ``Status`` object as JSON, or anything that a proxy put there.
        asked: what was asked, for the message, such as ``PATCH topics default/orders``.
    """
    body: dict[str, Any] = {}
    try:
        parsed = json.loads(text)
        if isinstance(parsed, dict):
            body = parsed
    except ValueError:
        body = {}
    reason = str(body.get("reason") or "")
    message = f"{asked}: {body.get('message') or text[:500] or 'no message'} (HTTP {code})"
    if code == 404:
        return NotFoundError(code, reason, message, body)
    if code == 409:
        kind = AlreadyExistsError if reason == "AlreadyExists" else ConflictError
        return kind(code, reason, message, body)
    if code in (401, 403):
        return ForbiddenError(code, reason, message, body)
    if code in (400, 405, 406, 413, 415, 422) or (code == 500 and _UNTYPED in message):
        return InvalidError(code, reason, message, body)
    return UnavailableError(code, reason, message, body)
