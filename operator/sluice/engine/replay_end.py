"""What is left of a replay at its end: its workers, its rights, its open transactions, and at last its object."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from sluice.api.base import API_VERSION
from sluice.api.objects import ReplayJob, cluster_key
from sluice.api.replay import ENDED, ReplayPhase, ReplayPlan, Wanted
from sluice.engine import status as conditions
from sluice.engine.errors import WaitingError
from sluice.engine.finalizers import finalizer_of, let_go
from sluice.engine.reconciler import Context, Outcome
from sluice.engine.replay_access import ReplayAccess
from sluice.engine.replay_trail import ReplayTrail
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaError
from sluice.manifests.metadata import decode
from sluice.manifests.replay_job import ReplayObjects
from sluice.plan.replay import ledger_key, run_name
from sluice.plan.replay_control import heed, wanted
from sluice.replay.group_positions import end_transactions
from sluice.replay.ledger import Ledger, LedgerState

logger = logging.getLogger(__name__)

_LAST_TRY_SECONDS: Final = 10.0
"""How long a namespace that is going waits for a cluster that stays."""


def objects_of(job: ReplayJob) -> ReplayObjects:
    """Names and owner of what a replay has in Kubernetes."""
    return ReplayObjects(job.name, job.namespace, job.uid, job.spec.cluster_ref.name, job.owner_reference())


def key_of(job: ReplayJob) -> str:
    """A replay's key in the ledger."""
    return ledger_key(job.namespace, job.name, job.spec)


def run_of(job: ReplayJob) -> str:
    """A replay's run name."""
    return run_name(key_of(job))


def shard_count(plan: ReplayPlan) -> int:
    """Workers of a plan."""
    return 1 + max((p.shard for p in plan.partitions), default=0)


class ReplayEnd:
    """Takes away what a replay was given; some of it may have been taken away already."""

    def __init__(self, context: Context, access: ReplayAccess, trail: ReplayTrail) -> None:
        self._context = context
        self._access = access
        self._trail = trail

    async def ended(self, job: ReplayJob) -> Outcome:
        """Take credentials away, then wait for the TTL."""
        if finalizer_of(job.key.kind) in job.finalizers:
            if job.status.phase in (ReplayPhase.FAILED, ReplayPhase.CANCELLED):
                await self._stop_workers(job)
            await self._take_back(job)
            await let_go(self._context, job)
        return await self.expire(job)

    async def leave(self, job: ReplayJob) -> Outcome:
        """The object is being deleted."""
        if finalizer_of(job.key.kind) not in job.finalizers:
            return Outcome()
        await self._stop_workers(job)
        if await self._going("v1", "Namespace", None, job.namespace):
            await self._try_to_take_back(job)
        else:
            await self._take_back(job)
        await let_go(self._context, job)
        return Outcome()

    async def expire(self, job: ReplayJob) -> Outcome:
        """Delete the object when its time has come."""
        ttl, ended = job.spec.ttl_seconds_after_finished, job.status.completion_time
        if ttl is None or ended is None:
            return Outcome()
        left = (ended + timedelta(seconds=ttl) - self._context.clock()).total_seconds()
        if left > 0:
            return Outcome(requeue_after=left)
        await self._context.kube.delete(API_VERSION, job.key.kind, job.namespace, job.name, uid=job.uid)
        return Outcome()

    async def _stop_workers(self, job: ReplayJob) -> None:
        await self._context.kube.delete("batch/v1", "Job", job.namespace, objects_of(job).job)

    async def _try_to_take_back(self, job: ReplayJob) -> None:
        """A namespace must not wait for a Kafka that may be dead for good.

        One that lives elsewhere goes on, though, and credentials with it, so that it is worth a moment.
        """
        try:
            async with asyncio.timeout(_LAST_TRY_SECONDS):
                await self._take_back(job)
        except (KafkaError, WaitingError, TimeoutError) as error:
            logger.warning(
                "%s goes with its namespace, and the rights of %s in Kafka are left: %s",
                job.key,
                run_of(job),
                error or f"no answer within {_LAST_TRY_SECONDS:g} s",
            )

    async def _take_back(self, job: ReplayJob) -> None:
        """Rights first, then what workers have left open: afterwards nobody can open anything any more."""
        cluster = cluster_key(job.spec.cluster_ref, job.namespace)
        if await self._going(API_VERSION, cluster.kind, cluster.namespace, cluster.name):
            return
        kube, name = self._context.kube, objects_of(job).job
        admin = await self._context.clusters.connect(job.spec.cluster_ref, job.namespace)
        if job.status.phase not in ENDED and wanted(heed(job.annotations, job.status.control)) is Wanted.CANCEL:
            await self._enter_cancelled(job, admin)
        if job.status.phase not in ENDED:
            await self._trail.deleted(job)
        present = decode(await kube.get("v1", "Secret", job.namespace, name))
        resolved = self._context.clusters.resolve(job.spec.cluster_ref, job.namespace)
        await self._access.revoke(admin, run_of(job), resolved, present)
        if job.status.phase is not ReplayPhase.COMPLETED:
            shards = shard_count(job.status.plan) if job.status.plan else job.spec.parallelism
            await end_transactions(admin, self._context.fence, run_of(job), shards)
        await kube.delete("v1", "Secret", job.namespace, name)

    async def _enter_cancelled(self, job: ReplayJob, admin: KafkaAdmin) -> None:
        """It was deleted before it could be cancelled: who applies it again must not begin it all the same."""
        ledger = Ledger(admin, self._context.fence)
        entry = await ledger.read(key_of(job))
        if entry is not None and entry.state in (LedgerState.PLANNED, LedgerState.STARTED):
            at = conditions.stamp(self._context.clock())
            await ledger.write(replace(entry, state=LedgerState.CANCELLED, uid=job.uid, at=at))

    async def _going(self, api_version: str, kind: str, namespace: str | None, name: str) -> bool:
        body: Mapping[str, Any] | None = await self._context.kube.get(api_version, kind, namespace, name)
        return body is None or "deletionTimestamp" in body["metadata"]
