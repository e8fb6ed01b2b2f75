"""What a replay's status says at each step; progress is written at most every two seconds."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sluice.api.base import Condition, ConditionType, Reason
from sluice.api.objects import Key, ReplayJob
from sluice.api.replay import ReplayApproval, ReplayControl, ReplayJobStatus, ReplayPhase, ReplayPlan, ReplayProgress
from sluice.engine import status as conditions
from sluice.engine.reconciler import Context
from sluice.engine.replay_trail import ReplayTrail

_PROGRESS_EVERY: Final = timedelta(seconds=2)
_NOT_AGAIN: Final = (
    "it isn't begun again, even if it is deleted and applied again; a job with another spec.runId asks for another run,"
    " from the beginning of the range"
)


class ReplayReport:
    """Writes status, Events and metrics of replays; an end is audited before it is told."""

    def __init__(self, context: Context, trail: ReplayTrail) -> None:
        self._context = context
        self._trail = trail
        self._written: dict[Key, datetime] = {}

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._written.pop(key, None)

    def tell(
        self, job: ReplayJob, reason: Reason, message: str, type_: Literal["Normal", "Warning"] = "Normal"
    ) -> None:
        """An Event."""
        self._context.events.publish(job, type_, reason, message, action="Replay")

    async def planned(self, job: ReplayJob, plan: ReplayPlan) -> ReplayJob:
        """The range is frozen."""
        sentence = plan_sentence(job, plan)
        if job.spec.dry_run:
            message = f"{sentence}; it is a dry run, so nothing moves"
            found = conditions.ready(job, self._now(), message, reason=Reason.PLANNED, own=[_planned(sentence)])
            ended: dict[str, Any] = {"completion_time": self._now()}
        else:
            found = conditions.reconciling(job, self._now(), Reason.PLANNED, sentence, own=[_planned(sentence)])
            ended = {}
        self.tell(job, Reason.PLANNED, "; ".join([sentence, *plan.warnings]), "Warning" if plan.warnings else "Normal")
        return await self._write(job, found, phase=ReplayPhase.PLANNED, plan=plan, **ended)

    async def awaiting(self, job: ReplayJob, planned: str, message: str, **plan: Any) -> None:
        """It waits for people to approve its ``plan``, which is ``planned`` in words."""
        own = [_planned(planned)]
        found = conditions.reconciling(job, self._now(), Reason.AWAITING_APPROVAL, message, own=own)
        if job.status.phase is not ReplayPhase.AWAITING_APPROVAL:
            self.tell(job, Reason.AWAITING_APPROVAL, message)
        await self._write(job, found, phase=ReplayPhase.AWAITING_APPROVAL, **plan)

    async def approved(self, job: ReplayJob, approval: ReplayApproval) -> ReplayJob:
        """It has what it needs to begin, and keeps it, whatever becomes of the annotations."""
        if approval.broken_glass is not None:
            self.tell(job, Reason.GLASS_BROKEN, f"it begins {_broken(approval)}", "Warning")
        else:
            users = ", ".join(approver.user for approver in approval.approvers)
            self.tell(job, Reason.APPROVED, f"plan {approval.plan_hash} was approved by {users}")
        return await self._write(job, job.status.conditions, approval=approval)

    async def started(self, job: ReplayJob, plan: ReplayPlan) -> ReplayJob:
        """Workers may run now; the plan is the ledger's, whatever the status said."""
        message = f"records are being copied to {job.spec.target.topic}{_loudly(job)}"
        own = [_planned(plan_sentence(job, plan))]
        found = conditions.reconciling(job, self._now(), Reason.RUNNING, message, own=own)
        # As with a Kubernetes Job: the deadline counts anew when it is resumed.
        begun = None if job.status.phase is ReplayPhase.SUSPENDED else job.status.start_time
        start = begun or self._now()
        return await self._write(job, found, phase=ReplayPhase.RUNNING, plan=plan, start_time=start)

    async def progress(self, job: ReplayJob, measured: ReplayProgress) -> bool:
        """Write progress if there is some, and if the last was written two seconds ago; True if it was written."""
        self._measure(job, measured)
        last, now = self._written.get(job.key), self._context.clock()
        before = job.status.progress
        moved = before is None or (before.positions, before.records) != (measured.positions, measured.records)
        if not moved or (last is not None and now - last < _PROGRESS_EVERY):
            return False
        self._written[job.key] = now
        await self._write(job, job.status.conditions, progress=measured)
        return True

    async def wanted(self, job: ReplayJob, control: ReplayControl) -> ReplayJob:
        """What people want has changed; all else stays as it is until that is done."""
        return await self._write(job, job.status.conditions, control=control)

    async def suspended(self, job: ReplayJob, plan: ReplayPlan, measured: ReplayProgress | None) -> None:
        """It rests. kstatus has no word for that; a condition as a Kubernetes Job's tells it from waiting."""
        message = (
            f"{_how_far(plan, measured)}, and waits for sluice.dev/resume (kubectl sluice replay resume {job.name})"
        )
        own = [_planned(plan_sentence(job, plan)), holds(ConditionType.SUSPENDED, Reason.SUSPENDED, message)]
        ready = conditions.condition(ConditionType.READY, False, Reason.SUSPENDED, message)
        if job.status.phase is not ReplayPhase.SUSPENDED:
            self.tell(job, Reason.SUSPENDED, message)
        if measured is not None:
            self._measure(job, measured)
        found = conditions.settle(job, self._now(), [ready, *own])
        await self._write(job, found, phase=ReplayPhase.SUSPENDED, plan=plan, progress=measured)

    async def completed(self, job: ReplayJob, plan: ReplayPlan, measured: ReplayProgress) -> None:
        """All of it is in the target."""
        self._measure(job, measured)
        message = f"{measured.records:,} records were copied to {job.spec.target.topic}, each once{_loudly(job)}"
        if measured.filtered:
            message += f"; {measured.filtered:,} were left out, as the spec asks"
        own = [_planned(plan_sentence(job, plan)), holds(ConditionType.COMPLETE, Reason.COMPLETED, message)]
        found = conditions.ready(job, self._now(), message, reason=Reason.COMPLETED, own=own)
        self.tell(job, Reason.COMPLETED, message)
        await self._end(job, found, ReplayPhase.COMPLETED, plan=plan, progress=measured)

    async def already_completed(self, job: ReplayJob, plan: ReplayPlan, at: str, records: int) -> None:
        """An earlier object of this name and spec has done it."""
        message = (
            f"a replay of this name and spec was completed at {at} ({records:,} records), so nothing was copied again;"
            " another spec.runId asks for another run"
        )
        own = [holds(ConditionType.COMPLETE, Reason.ALREADY_COMPLETED, message)]
        found = conditions.ready(job, self._now(), message, reason=Reason.ALREADY_COMPLETED, own=own)
        self.tell(job, Reason.ALREADY_COMPLETED, message)
        await self._end(job, found, ReplayPhase.ALREADY_COMPLETED, plan=plan)

    async def refused(self, job: ReplayJob, message: str) -> None:
        """It isn't done, and nothing has moved."""
        own = [holds(ConditionType.FAILED, Reason.REFUSED, message)]
        found = conditions.stalled(job, self._now(), Reason.REFUSED, message, own=own)
        self.tell(job, Reason.REFUSED, message, "Warning")
        await self._end(job, found, ReplayPhase.REFUSED)

    async def cancelled(
        self, job: ReplayJob, at: str, plan: ReplayPlan | None, measured: ReplayProgress | None
    ) -> None:
        """Somebody gave it up. What was committed stays in the target."""
        far = _how_far(plan, measured) if plan else "nothing of it had begun"
        message = f"it was cancelled at {at}: {far}; {_NOT_AGAIN}"
        if measured is not None:
            self._measure(job, measured)
        own = [holds(ConditionType.FAILED, Reason.CANCELLED, message)]
        found = conditions.stalled(job, self._now(), Reason.CANCELLED, message, own=own)
        self.tell(job, Reason.CANCELLED, message)
        # A progress that can't be measured any more is the last one that was.
        await self._end(
            job, found, ReplayPhase.CANCELLED, plan=plan or job.status.plan, progress=measured or job.status.progress
        )

    async def cancelled_before(self, job: ReplayJob, plan: ReplayPlan | None, at: str, records: int) -> None:
        """An earlier object of this name and spec was given up."""
        message = f"a replay of this name and spec was cancelled at {at}, after {records:,} records; {_NOT_AGAIN}"
        own = [holds(ConditionType.FAILED, Reason.CANCELLED, message)]
        found = conditions.stalled(job, self._now(), Reason.CANCELLED, message, own=own)
        self.tell(job, Reason.CANCELLED, message)
        await self._end(job, found, ReplayPhase.CANCELLED, plan=plan)

    async def failed(self, job: ReplayJob, reason: Reason, message: str, measured: ReplayProgress | None) -> None:
        """It can't go on."""
        if measured is not None:
            self._measure(job, measured)
        own = [holds(ConditionType.FAILED, reason, message)]
        found = conditions.stalled(job, self._now(), reason, message, own=own)
        self.tell(job, reason, message, "Warning")
        await self._end(job, found, ReplayPhase.FAILED, progress=measured)

    async def _end(self, job: ReplayJob, found: list[Condition], phase: ReplayPhase, **values: Any) -> None:
        self._written.pop(job.key, None)
        plan = values.get("plan") or values.get("rewind")
        await self._trail.ended(job, phase, found[0].message, plan.hash if plan else None, values.get("progress"))
        await self._write(job, found, phase=phase, completion_time=self._now(), **values)

    async def _write(self, job: ReplayJob, found: list[Condition], **values: Any) -> ReplayJob:
        status: ReplayJobStatus = job.status.model_copy(update={"conditions": found, **values})
        await conditions.write_status(self._context, job, status)
        return dataclasses.replace(job, status=status)

    def _measure(self, job: ReplayJob, measured: ReplayProgress) -> None:
        metrics = self._context.metrics
        labels = (job.namespace, job.name)
        offsets = job.status.plan.offsets if job.status.plan else 0
        metrics.replace(job.key, metrics.replay_offsets, {labels: offsets})
        metrics.replace(job.key, metrics.replay_offsets_done, {labels: measured.offsets_done})
        metrics.replace(job.key, metrics.replay_records, {labels: measured.records})
        metrics.replace(job.key, metrics.replay_bytes, {labels: measured.bytes})

    def _now(self) -> datetime:
        return self._context.clock().replace(microsecond=0)


def _loudly(job: ReplayJob) -> str:
    approval = job.status.approval
    return f"; it began {_broken(approval)}" if approval and approval.broken_glass else ""


def _broken(approval: ReplayApproval) -> str:
    glass = approval.broken_glass
    said = f"{glass.user} broke the glass: {glass.reason}" if glass else ""
    return f"with {len(approval.approvers)} of the {approval.needed} approvals that it needs, since {said}"


def _how_far(plan: ReplayPlan, measured: ReplayProgress | None) -> str:
    if measured is None:
        return "it hasn't begun"
    return (
        f"it has passed {measured.offsets_done:,} of {plan.offsets:,} offsets, and written {measured.records:,} records"
    )


def plan_sentence(job: ReplayJob, plan: ReplayPlan) -> str:
    count = len(plan.partitions)
    return (
        f"{plan.offsets:,} offsets of {count} {'partition' if count == 1 else 'partitions'} of {job.spec.source.topic}"
        f" are to be copied to {job.spec.target.topic} (plan {plan.hash})"
    )


def _planned(message: str) -> Condition:
    return holds(ConditionType.PLANNED, Reason.PLANNED, message)


def holds(type_: ConditionType, reason: Reason, message: str) -> Condition:
    """A condition that is true."""
    return conditions.condition(type_, True, reason, message)
