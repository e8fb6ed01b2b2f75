"""The scan of a cluster for topics that were changed behind our back: when it is due, and whether a close look is."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from sluice.api.objects import Key
from sluice.engine.batching import readable
from sluice.engine.errors import WaitingError
from sluice.engine.reconciler import Context
from sluice.engine.topic_deletion import claimed_name, key_of_topic
from sluice.kafka.admin import KafkaAdmin

SCAN_SECONDS: Final = 60.0
"""How often a cluster is scanned."""
VERIFIED_SECONDS: Final = 1.5 * SCAN_SECONDS
FINGERPRINTS_KEPT: Final = 32


class Scan:
    """Scans of one cluster.

    A timer wakes one topic of the cluster, whichever can be reconciled then; with it, a fingerprint is taken of all
    topics and of their objects' versions. Only if it isn't one under which all was well are they looked at.
    """

    def __init__(self, context: Context, cluster: Key) -> None:
        self._context = context
        self._cluster = cluster
        self._timer: asyncio.TimerHandle | None = None
        self._good: set[bytes] = set()
        self._verified_until = 0.0
        self.due = False
        """Whether the next reconciliation of any topic is to scan."""

    @property
    def verified(self) -> bool:
        """Whether a scan has just found all well."""
        return _now() < self._verified_until

    def arm(self) -> None:
        """See to it that the next scan comes."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SCAN_SECONDS, self._rouse)

    async def suspicious(self, admin: KafkaAdmin) -> bytes | None:
        """Scan: the fingerprint of what has to be looked at closely; None if all is known to be well as it is."""
        fingerprint = await self._fingerprint(admin)
        self.due = False
        if fingerprint in self._good:
            self._verified_until = _now() + VERIFIED_SECONDS
            return None
        self._verified_until = 0.0
        return fingerprint

    def trust(self, fingerprint: bytes) -> None:
        """Under this fingerprint, nothing was to be done."""
        if len(self._good) >= FINGERPRINTS_KEPT:
            self._good.clear()
        self._good.add(fingerprint)
        self._verified_until = _now() + VERIFIED_SECONDS

    def _rouse(self) -> None:
        self._timer = None
        key = self._somebody()
        if key is not None:  # else the next topic that comes arms it again
            self.due = True
            self._context.enqueue(key)
            self.arm()

    def _somebody(self) -> Key | None:
        """A topic whose turn can be the scan's."""
        for body in self._context.index.of_cluster(self._cluster, "Topic"):
            topic = readable(self._context, key_of_topic(body))
            if topic is None or topic.deleting or topic.paused:
                continue
            try:
                self._context.clusters.resolve(topic.spec.cluster_ref, topic.namespace)
            except WaitingError:
                continue
            return topic.key
        return None

    async def _fingerprint(self, admin: KafkaAdmin) -> bytes:
        """What Kafka has, and what it was compared with: objects that were changed aren't well as they were."""
        keys: dict[str, list[str]] = {}
        versions: list[str] = []
        for body in self._context.index.of_cluster(self._cluster, "Topic"):  # bodies: reading a thousand costs
            metadata = body["metadata"]
            versions.append(f"{metadata['uid']} {metadata.get('generation')}")
            keys[claimed_name(body)] = _config_keys(body)
        objects = hashlib.sha256("\n".join(sorted(versions)).encode()).digest()
        return objects + await admin.topics_fingerprint(dict(sorted(keys.items())))


def _config_keys(body: Mapping[str, Any]) -> list[str]:
    named = body["spec"].get("config")
    managed = (body.get("status") or {}).get("configKeys") or ()
    return sorted({*(named if isinstance(named, Mapping) else ()), *managed})


def _now() -> float:
    return asyncio.get_running_loop().time()
