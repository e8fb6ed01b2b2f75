"""Kubernetes Events (events.k8s.io/v1) about Sluice's objects: deduplicated and limited in rate."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol

from sluice.api.base import API_VERSION, Reason
from sluice.api.objects import Resource

_LOG = logging.getLogger(__name__)
_REPEAT_AFTER: Final = 600.0
"""Seconds within which the same Event about the same object isn't written again."""
_BURST: Final = 25
_REFILL: Final = 300.0
"""Each object may have 25 Events at once, and one more in each five minutes (the measure of client-go's recorder)."""
_REMEMBERED: Final = 4096
_MESSAGE_LIMIT: Final = 1024


class Creator(Protocol):
    """The one thing that is needed of a Kubernetes client."""

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object."""
        ...


class Events:
    """Writes Events in the background; one that can't be written is logged, never an error of what it tells of."""

    def __init__(self, kube: Creator, *, instance: str, monotonic: Callable[[], float] | None = None) -> None:
        self._kube = kube
        self._instance = instance
        self._monotonic = monotonic or (lambda: asyncio.get_running_loop().time())
        self._sent: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def publish(
        self,
        resource: Resource[Any, Any],
        type_: Literal["Normal", "Warning"],
        reason: Reason | str,
        message: str,
        *,
        action: str = "Reconcile",
    ) -> bool:
        """Tell about an object; False if it was just said, or if too much is said about this object."""
        now = self._monotonic()
        word = reason.value if isinstance(reason, Reason) else reason
        same = (resource.uid, word, message)
        if now - self._sent.get(same, float("-inf")) < _REPEAT_AFTER or not self._allowed(resource.uid, now):
            return False
        self._sent[same] = now
        self._sent.move_to_end(same)
        while len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)
        body = self._body(resource, type_, word, message, action)
        task = asyncio.get_running_loop().create_task(self._write(body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def flush(self) -> None:
        """Wait until everything published is written (at the end of the process)."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _allowed(self, uid: str, now: float) -> bool:
        tokens, since = self._tokens.get(uid, (float(_BURST), now))
        tokens = min(float(_BURST), tokens + (now - since) / _REFILL)
        allowed = tokens >= 1.0
        self._tokens[uid] = (tokens - 1.0 if allowed else tokens, now)
        self._tokens.move_to_end(uid)
        while len(self._tokens) > _REMEMBERED:
            self._tokens.popitem(last=False)
        return allowed

    def _body(self, resource: Resource[Any, Any], type_: str, reason: str, message: str, action: str) -> dict[str, Any]:
        time = datetime.now(UTC)
        digest = hashlib.sha256(f"{resource.uid}{reason}{message}{time.isoformat()}".encode()).hexdigest()[:16]
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{resource.name[:200]}.{digest}", "namespace": resource.namespace},
            "type": type_,
            "reason": reason,
            "note": message[:_MESSAGE_LIMIT],
            "action": action,
            "eventTime": time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "sluice.dev/operator",
            "reportingInstance": self._instance[:128],
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": resource.key.kind,
                "namespace": resource.namespace,
                "name": resource.name,
                "uid": resource.uid,
            },
        }

    async def _write(self, body: dict[str, Any]) -> None:
        try:
            await self._kube.create(body)
        except Exception as error:  # noqa: BLE001 - an Event is only a message: what it tells of must go on
            _LOG.warning("Event %s about %s not written: %s", body["reason"], body["regarding"]["name"], error)
