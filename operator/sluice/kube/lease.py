"""Leadership by a Lease: one replica acts, and knows when it no longer may.

The method is client-go's: a candidate takes over when it hasn't seen the Lease change for its whole duration, by its
own clock, so that clocks needn't agree; a leader stops acting when its last renewal is older than two thirds of the
duration, which leaves time between the old leader's last effect and the new one's first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from sluice.kube.client import Kube
from sluice.kube.errors import AlreadyExistsError, ConflictError, KubeError, NotFoundError

_LOG = logging.getLogger(__name__)
_API_VERSION: Final = "coordination.k8s.io/v1"


class Move(Enum):
    """What to do about the Lease."""

    CREATE = "create"
    RENEW = "renew"
    TAKE = "take"
    WAIT = "wait"


@dataclass(frozen=True)
class Seen:
    """The Lease as it was read, and for how many seconds it has been the same, by our own clock."""

    holder: str
    version: str
    transitions: int
    unchanged_for: float


def decide(seen: Seen | None, identity: str, duration: float) -> Move:
    """What ``identity`` does about the Lease; ``duration`` in seconds."""
    if seen is None:
        return Move.CREATE
    if seen.holder == identity:
        return Move.RENEW
    if not seen.holder or seen.unchanged_for >= duration:
        return Move.TAKE
    return Move.WAIT


class Elector:
    """Takes part in the election and tells whether this replica may act.

    Args:
        kube: a client that isn't fenced: every replica reads and writes the Lease.
        duration: seconds after which a silent leader is followed by another.
        on_change: called with whether this replica leads now.
        monotonic: clock; the event loop's unless given.
    """

    def __init__(
        self,
        kube: Kube,
        *,
        namespace: str,
        name: str,
        identity: str,
        duration: float,
        on_change: Callable[[bool], None],
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration = duration
        self._on_change = on_change
        self._monotonic = monotonic or (lambda: asyncio.get_running_loop().time())
        self._renewed: float | None = None  # start of the last successful renewal
        self._version = ""
        self._version_since = 0.0
        self._last_round: float | None = None
        self._leads = False

    def may_act(self) -> bool:
        """Whether this replica leads, and its last renewal is young enough for an effect now."""
        return self._renewed is not None and self._monotonic() - self._renewed < self._duration * 2 / 3

    def stuck(self) -> bool:
        """Whether the election itself has stopped: no round was finished for three durations."""
        return self._last_round is not None and self._monotonic() - self._last_round > 3 * self._duration

    async def run(self) -> None:
        """Take part until cancelled."""
        self._last_round = self._monotonic()
        while True:
            await self.round()
            self._last_round = self._monotonic()
            await asyncio.sleep(self._duration / 5)

    async def round(self) -> None:
        """Look at the Lease once and do what is to be done; no answer from the API server costs the lead in time."""
        try:
            async with asyncio.timeout(self._duration / 3):
                await self._move()
        except (KubeError, TimeoutError) as error:
            _LOG.warning("Lease %s/%s: %s", self._namespace, self._name, error or "no answer in time")
        if self._leads != self.may_act():
            self._leads = self.may_act()
            _LOG.info("leadership: %s", "acquired" if self._leads else "lost", extra={"identity": self._identity})
            self._on_change(self._leads)

    async def release(self) -> None:
        """Give the lead up, so that another replica needn't wait."""
        held = self._renewed is not None
        self._renewed = None
        if not held:
            return
        try:
            async with asyncio.timeout(self._duration / 3):
                await self._write({"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()})
        except (KubeError, TimeoutError) as error:
            _LOG.warning("Lease %s/%s not released: %s", self._namespace, self._name, error or "no answer in time")

    async def _move(self) -> None:
        started = self._monotonic()
        # A leader knows the Lease's version: one conditional write a round, no read.
        if self._renewed is not None:
            try:
                await self._write({"renewTime": _now()})
            except (ConflictError, NotFoundError):
                _LOG.info("Lease %s/%s has changed under its holder", self._namespace, self._name)
            else:
                self._renewed = started
                return
        seen = self._look(await self._kube.get(_API_VERSION, "Lease", self._namespace, self._name))
        move = decide(seen, self._identity, self._duration)
        if move is not Move.RENEW:
            self._renewed = None
        if move is Move.WAIT:
            return
        spec: dict[str, Any] = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._duration)),
            "renewTime": _now(),
        }
        try:
            if move is Move.CREATE:
                spec |= {"acquireTime": _now(), "leaseTransitions": 0}
                meta = {"namespace": self._namespace, "name": self._name}
                self._note(
                    await self._kube.create(
                        {"apiVersion": _API_VERSION, "kind": "Lease", "metadata": meta, "spec": spec}
                    )
                )
            else:
                if move is Move.TAKE and seen is not None:
                    spec |= {"acquireTime": _now(), "leaseTransitions": seen.transitions + 1}
                await self._write(spec)
        except (AlreadyExistsError, ConflictError, NotFoundError):
            return  # another replica was faster; the next round sees how it stands
        self._renewed = started

    def _look(self, lease: Mapping[str, Any] | None) -> Seen | None:
        if lease is None:
            return None
        self._note(lease)
        spec = lease.get("spec") or {}
        return Seen(
            holder=spec.get("holderIdentity") or "",
            version=self._version,
            transitions=spec.get("leaseTransitions") or 0,
            unchanged_for=self._monotonic() - self._version_since,
        )

    def _note(self, lease: Mapping[str, Any]) -> None:
        version = lease["metadata"]["resourceVersion"]
        if version != self._version:
            self._version, self._version_since = version, self._monotonic()

    async def _write(self, spec: Mapping[str, Any]) -> None:
        patch = {"metadata": {"resourceVersion": self._version}, "spec": spec}
        self._note(await self._kube.patch(_API_VERSION, "Lease", self._namespace, self._name, patch))


def _now() -> str:
    """Now, as a ``MicroTime``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
