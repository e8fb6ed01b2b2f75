"""Resync: what is known is compared with what the API server lists, so that nothing missed stays missed."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Sequence
from typing import Final

from sluice.api.base import API_VERSION
from sluice.api.objects import KINDS
from sluice.engine.index import Index
from sluice.engine.queue import backoff
from sluice.engine.workers import Workers
from sluice.kube.client import Kube
from sluice.kube.errors import KubeError

_LOG = logging.getLogger(__name__)

_SETTLE: Final = 5.0
"""Seconds after a relist of the watch until the comparison, so that its events are through."""
_STARTUP: Final = 30.0
"""Seconds after the first comparison within which kopf's own first listing is no news. Then comes the second one."""
_LONGEST_PAUSE: Final = 60.0
"""Seconds until a comparison that has failed is tried again, at most."""


class Resync:
    """Lists every kind at intervals, takes in what is new, forgets what is gone, and has everything looked at.

    kopf lists anew when a watch has expired (410) and doesn't tell then which objects are gone: ``relisted`` asks for a
    comparison soon. (Of a kind of which none are left nobody hears then: that waits for the next interval.)

    Args:
        namespaces: namespaces that are looked after; empty: all.
        interval: seconds between two comparisons (with jitter).
    """

    def __init__(
        self,
        kube: Kube,
        index: Index,
        workers: Workers,
        *,
        namespaces: Sequence[str],
        interval: float,
        chance: random.Random | None = None,
    ) -> None:
        self._kube = kube
        self._index = index
        self._workers = workers
        self._namespaces: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._interval = interval
        self._chance = chance or random.Random()  # noqa: S311 - jitter, not secrets
        self._asked = asyncio.Event()
        self._synced_at = 0.0
        self.synced = False
        """Whether the index has been filled once."""

    def relisted(self) -> None:
        """A watch has been started anew: compare soon."""
        if self.synced and asyncio.get_running_loop().time() - self._synced_at > _STARTUP:
            self._asked.set()

    async def first(self) -> None:
        """Fill the index; tried until it succeeds."""
        await self._insist()
        self.synced = True
        self._synced_at = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Compare once soon after the start, then at intervals, and when asked to, until cancelled."""
        await asyncio.sleep(_STARTUP)
        # Of what was deleted after the first comparison and before kopf's first listing no event has told.
        await self._insist()
        while True:
            try:
                async with asyncio.timeout(self._interval * self._chance.uniform(0.8, 1.2)):
                    await self._asked.wait()
                await asyncio.sleep(_SETTLE)
            except TimeoutError:
                _LOG.debug("resync")
            self._asked.clear()
            await self._insist()
            await self._workers.room()
            self._workers.enqueue_all(spread=self._interval / 10)

    async def once(self) -> int:
        """Compare now; returns the number of objects that had gone unnoticed.

        Raises:
            KubeError: the API server doesn't answer, or refuses.
        """
        ghosts = 0
        for kind in KINDS:
            for namespace in self._namespaces:
                found = await self._kube.listing(API_VERSION, kind, namespace)
                within = None if namespace is None else [namespace]
                ghosts += len(self._index.replace(kind, found.bodies, within, found.version))
        return ghosts

    async def _insist(self) -> None:
        """Compare; what fails is tried again, with longer and longer pauses, until it succeeds."""
        for failures in itertools.count(1):
            try:
                ghosts = await self.once()
            except KubeError as error:
                _LOG.warning("resync put off: %s", error)
                await asyncio.sleep(min(_LONGEST_PAUSE, backoff(failures, self._chance)))
                continue
            if ghosts:
                _LOG.info("resync: deletions that no event told of", extra={"count": ghosts})
            return
