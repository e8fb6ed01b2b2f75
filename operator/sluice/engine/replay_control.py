"""What people ask of a replay while it is there: to rest, to go on, to be given up.

What is wanted is written to the status before anything is done. From then on each look brings the replay there, so
that it doesn't matter which of these steps was an operator's last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sluice.api.base import Reason
from sluice.api.objects import ReplayJob
from sluice.api.replay import ReplayPlan, Wanted
from sluice.engine import status as conditions
from sluice.engine.reconciler import Context, Outcome
from sluice.engine.replay_assignment import starts
from sluice.engine.replay_end import objects_of, run_of, shard_count
from sluice.engine.replay_status import ReplayReport
from sluice.kafka.admin import KafkaAdmin
from sluice.plan import replay_control as control
from sluice.plan.observed import TopicPartition
from sluice.plan.replay_progress import Committed, progress
from sluice.replay.group_positions import end_transactions, keep_positions, read_positions, recommit
from sluice.replay.ledger import Ledger, LedgerEntry, LedgerState

_WIND_DOWN_SECONDS: Final = 2.0
"""Between two looks at a suspended replay whose workers were still committing at the last one."""
_REST_SECONDS: Final = 60.0


async def positions_of(admin: KafkaAdmin, job: ReplayJob) -> dict[int, Committed]:
    """Committed positions by partition of the source."""
    found = await read_positions(admin, run_of(job))
    return {place.partition: position for place, position in found.items() if place.topic == job.spec.source.topic}


class ReplayControl:
    """Heeds annotations, and does what they ask for."""

    def __init__(self, context: Context, report: ReplayReport) -> None:
        self._context = context
        self._report = report

    async def heed(self, job: ReplayJob) -> ReplayJob:
        """The job with what is wanted of it in its status, where it is also written if that has changed."""
        found = control.heed(job.annotations, job.status.control)
        if found is None or found is job.status.control:
            return job
        return await self._report.wanted(job, found)

    async def stop(self, job: ReplayJob) -> None:
        """Have the workers stop, if they shouldn't run. It takes Kubernetes alone, and works while Kafka is away."""
        match control.wanted(job.status.control):
            case Wanted.SUSPEND:
                await self._suspend_workers(job, on=True)
            case Wanted.CANCEL:
                await self._context.kube.delete("batch/v1", "Job", job.namespace, objects_of(job).job)
            case Wanted.RUN:
                pass

    async def resume(self, job: ReplayJob) -> None:
        """Let the workers go on."""
        await self._suspend_workers(job, on=False)
        self._report.tell(job, Reason.RUNNING, "resumed: the workers go on from their committed positions")

    async def rest(self, job: ReplayJob, plan: ReplayPlan, positions: Mapping[int, Committed] | None) -> Outcome:
        """Say that it is suspended, and how far it is; ``positions`` are None if it hasn't begun."""
        if positions is None:
            await self._report.suspended(job, plan, None)
            return Outcome(requeue_after=_REST_SECONDS)
        before = job.status.progress.positions if job.status.progress else []
        measured, _ = progress(plan, positions, None, self._context.clock())
        await self._report.suspended(job, plan, measured)
        return Outcome(requeue_after=_REST_SECONDS if measured.positions == before else _WIND_DOWN_SECONDS)

    async def keep(
        self, job: ReplayJob, admin: KafkaAdmin, plan: ReplayPlan, positions: Mapping[int, Committed]
    ) -> None:
        """Keep positions from expiring that no worker commits: all of them, or those that are at their ends.

        The latter don't change any more, so that it can't come too late.
        """
        if control.wanted(job.status.control) is Wanted.SUSPEND:
            await keep_positions(admin, self._context.fence, run_of(job), starts(job, plan))
            return
        topic = job.spec.source.topic
        ended = [p.partition for p in plan.partitions if positions[p.partition].offset >= p.end]
        if ended:
            await recommit(admin, run_of(job), {TopicPartition(topic, number): positions[number] for number in ended})

    async def fence(self, job: ReplayJob, admin: KafkaAdmin, plan: ReplayPlan) -> dict[int, Committed]:
        """Put an end to whatever a worker still does; the positions that stay."""
        if plan.partitions:
            await end_transactions(admin, self._context.fence, run_of(job), shard_count(plan))
        return await positions_of(admin, job)

    async def cancel(
        self, job: ReplayJob, ledger: Ledger, entry: LedgerEntry, positions: Mapping[int, Committed]
    ) -> None:
        """Enter that it was given up, for whoever applies it again, and say so."""
        plan, measured = entry.plan, None
        if plan.partitions and all(p.partition in positions for p in plan.partitions):
            measured, _ = progress(plan, positions, None, self._context.clock())
        if entry.state is not LedgerState.CANCELLED:
            at = conditions.stamp(self._context.clock())
            entry = entry.ended(LedgerState.CANCELLED, job.uid, at, measured)
            await ledger.write(entry)
        await self._report.cancelled(job, entry.at, plan if plan.partitions else None, measured)

    async def _suspend_workers(self, job: ReplayJob, *, on: bool) -> None:
        kube, name = self._context.kube, objects_of(job).job
        found: Mapping[str, Any] | None = await kube.get("batch/v1", "Job", job.namespace, name)
        if found is not None and bool((found.get("spec") or {}).get("suspend")) is not on:
            patch = {"metadata": {"uid": found["metadata"]["uid"]}, "spec": {"suspend": on}}
            await kube.patch("batch/v1", "Job", job.namespace, name, patch)
