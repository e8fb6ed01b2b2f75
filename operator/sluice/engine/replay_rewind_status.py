"""What the status of a Rewind says at each step."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sluice.api.base import ConditionType, Reason
from sluice.api.objects import ReplayJob
from sluice.api.replay import ReplayControl, ReplayPhase, Wanted
from sluice.engine import status as conditions
from sluice.engine.replay_status import ReplayReport, holds
from sluice.plan.rewind_model import RewindPlan, sentence, shown
from sluice.replay.rewind_ledger import RewindEntry

_NOT_AGAIN: Final = (
    "it isn't begun again, even if it is deleted and applied again; a job with another spec.runId asks for another run"
)


class RewindReport(ReplayReport):
    """Writes status, Events and metrics of Rewinds."""

    async def asked(self, job: ReplayJob, control: ReplayControl) -> ReplayJob:
        """People want it undone; how long that may wait counts from here."""
        return await self._write(job, job.status.conditions, control=control, start_time=self._now())

    async def waiting(self, job: ReplayJob, who: str, until: datetime) -> None:
        """Its group has members; it waits for them to go."""
        message = f"{who}; it waits until {conditions.stamp(until)} for the group to be empty"
        undoes = job.status.phase in (ReplayPhase.COMPLETED, ReplayPhase.ALREADY_COMPLETED)
        own = [holds(ConditionType.COMPLETE, Reason.COMPLETED, "it is to be undone")] if undoes else []
        if not any(condition.reason == Reason.GROUP_ACTIVE.value for condition in job.status.conditions):
            self.tell(job, Reason.GROUP_ACTIVE, message)
        found = conditions.reconciling(job, self._now(), Reason.GROUP_ACTIVE, message, own=own)
        phase = job.status.phase if undoes else ReplayPhase.PENDING
        await self._write(job, found, phase=phase, start_time=self.begun(job))

    def begun(self, job: ReplayJob) -> datetime:
        """Since when it waits: anew after it was suspended."""
        return (None if job.status.phase is ReplayPhase.SUSPENDED else job.status.start_time) or self._now()

    async def rewind_planned(self, job: ReplayJob, plan: RewindPlan, notes: Sequence[str] = ()) -> None:
        """The plan is frozen, or shown: ``notes`` is what would stand against it."""
        told, status = f"{sentence(plan, done=False)} (plan {plan.hash})", shown(plan, snapshot=False)
        own, ended = [holds(ConditionType.PLANNED, Reason.PLANNED, told)], {}
        if job.spec.dry_run:
            message = f"{told}; it is a dry run, so nothing moves"
            found = conditions.ready(job, self._now(), message, reason=Reason.PLANNED, own=own)
            status = status.model_copy(update={"warnings": [*status.warnings, *notes]})
            ended = {"completion_time": self._now()}
        else:
            found = conditions.reconciling(job, self._now(), Reason.PLANNED, told, own=own)
        warnings = status.warnings
        self.tell(job, Reason.PLANNED, "; ".join([told, *warnings]), "Warning" if warnings else "Normal")
        await self._write(job, found, phase=ReplayPhase.PLANNED, rewind=status, start_time=self.begun(job), **ended)

    async def rewind_suspended(self, job: ReplayJob) -> None:
        """It rests, and nothing has been moved."""
        message = (
            f"nothing has been moved, and it waits for sluice.dev/resume (kubectl sluice replay resume {job.name})"
        )
        if job.status.phase is not ReplayPhase.SUSPENDED:
            self.tell(job, Reason.SUSPENDED, message)
        ready = conditions.condition(ConditionType.READY, False, Reason.SUSPENDED, message)
        own = holds(ConditionType.SUSPENDED, Reason.SUSPENDED, message)
        await self._write(job, conditions.settle(job, self._now(), [ready, own]), phase=ReplayPhase.SUSPENDED)

    async def rewound(self, job: ReplayJob, entry: RewindEntry, plan: RewindPlan) -> None:
        """The positions are where they should be."""
        done = sentence(plan, done=True)
        message = f"{done}; kubectl sluice replay undo {job.name} puts them back" if plan.moved else done
        reason, phase = Reason.COMPLETED, ReplayPhase.COMPLETED
        if entry.uid != job.uid:
            reason, phase = Reason.ALREADY_COMPLETED, ReplayPhase.ALREADY_COMPLETED
            message = (
                f"a Rewind of this name and spec was completed at {entry.at} ({done}), so nothing was moved again;"
                " another spec.runId asks for another run"
            )
        own = [holds(ConditionType.COMPLETE, reason, message)]
        self.tell(job, reason, message)
        self._measure_moved(job, len(plan.moved))
        found = conditions.ready(job, self._now(), message, reason=reason, own=own)
        await self._end(job, found, phase, rewind=shown(plan, snapshot=bool(plan.moved)))

    async def undone(self, job: ReplayJob, entry: RewindEntry, plan: RewindPlan) -> None:
        """The positions are back where they were."""
        message = "; ".join([f"it was undone at {entry.at}: {sentence(plan, done=True)}", *plan.warnings, _NOT_AGAIN])
        own = [holds(ConditionType.COMPLETE, Reason.UNDONE, message)]
        self.tell(job, Reason.UNDONE, message)
        self._measure_moved(job, 0)
        found = conditions.ready(job, self._now(), message, reason=Reason.UNDONE, own=own)
        await self._end(job, found, ReplayPhase.UNDONE)

    async def undo_refused(self, job: ReplayJob, why: str) -> None:
        """It stays as it is, until it is asked for with another token."""
        message = (
            f"it is completed, and wasn't undone: {why}; ask again by kubectl sluice replay undo {job.name} when that"
            " is put right"
        )
        self.tell(job, Reason.REFUSED, message, "Warning")
        own = [holds(ConditionType.COMPLETE, Reason.COMPLETED, message)]
        found = conditions.ready(job, self._now(), message, reason=Reason.COMPLETED, own=own)
        control = job.status.control
        asked = control.model_copy(update={"wanted": Wanted.RUN}) if control else None
        await self._write(job, found, control=asked)

    async def rewind_cancelled(self, job: ReplayJob, entry: RewindEntry) -> None:
        """Somebody gave it up, or an earlier object of this name and spec."""
        what = "it" if entry.uid == job.uid else "a Rewind of this name and spec"
        message = f"{what} was cancelled at {entry.at}, before anything was moved; {_NOT_AGAIN}"
        own = [holds(ConditionType.FAILED, Reason.CANCELLED, message)]
        self.tell(job, Reason.CANCELLED, message)
        found = conditions.stalled(job, self._now(), Reason.CANCELLED, message, own=own)
        await self._end(job, found, ReplayPhase.CANCELLED)

    def _measure_moved(self, job: ReplayJob, positions: int) -> None:
        metrics = self._context.metrics
        metrics.replace(job.key, metrics.replay_positions_moved, {(job.namespace, job.name): positions})
