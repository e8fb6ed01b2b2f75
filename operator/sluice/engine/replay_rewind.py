"""Rewinds: the positions of a group are moved once, while it has no members, and may be put back.

Plan, ledger, snapshot, commit, ledger. What was committed is told by a mark that is committed with it, so that each
step may be the last before the operator dies: the next one reads the mark, and goes on or finds it done.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import timedelta
from typing import Final

from sluice.api.base import Reason
from sluice.api.objects import Key, ReplayJob, cluster_key
from sluice.api.replay import ENDED, ReplayPhase, Wanted
from sluice.engine import status as conditions
from sluice.engine.finalizers import fresh
from sluice.engine.group import ACTIVE
from sluice.engine.reconciler import Context, Outcome
from sluice.engine.replay_end import ReplayEnd, key_of
from sluice.engine.replay_guard import ReplayGuard
from sluice.engine.replay_rewind_observe import claimed_elsewhere, observe, observe_again, occupied
from sluice.engine.replay_rewind_status import RewindReport
from sluice.engine.replay_trail import ReplayTrail
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaError
from sluice.plan import rewind as planning
from sluice.plan.replay_control import STEERING, Act, heed, wanted
from sluice.plan.rewind_model import Observed, RewindPlan, Snapshot, busy, sentence, shown
from sluice.replay.ledger import Ledger
from sluice.replay.rewind_ledger import Entries, RewindEntry, RewindLedger, RewindState, snapshot_key
from sluice.replay.rewind_positions import Found, look, move, unmark

_LOOK_SECONDS: Final = 2.0
"""Between two looks at a group that has members."""
_REST_SECONDS: Final = 60.0
_PLANNED: Final = (ReplayPhase.PLANNED, ReplayPhase.AWAITING_APPROVAL)
_COMPLETED: Final = (ReplayPhase.COMPLETED, ReplayPhase.ALREADY_COMPLETED)


class Rewinds:
    """Does what ReplayJobs of mode Rewind ask for."""

    def __init__(self, context: Context, end: ReplayEnd, trail: ReplayTrail) -> None:
        self._context = context
        self._end = end
        self._trail = trail
        self._report = RewindReport(context, trail)
        self._guard = ReplayGuard(context, self._report, trail)
        self._groups: dict[tuple[Key, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        """Rewinds of one group take turns: each has to see what the other did."""

    async def reconcile(self, job: ReplayJob) -> Outcome:
        """Bring one a step further, or all the way."""
        if job.spec.dry_run and job.status.rewind is not None:
            return await self._end.expire(job)
        if job.status.phase in _COMPLETED:
            job = await self._heed(job, undo=True)
        elif job.status.phase not in ENDED and not job.spec.dry_run:
            job = await self._heed(job, undo=False)
        undoes = job.status.phase in _COMPLETED and wanted(job.status.control) is Wanted.UNDO
        if job.status.phase in ENDED and not undoes:
            return await self._end.expire(job)
        async with self._groups[cluster_key(job.spec.cluster_ref, job.namespace), job.spec.rewind.group]:
            return await self._advance(job)

    async def _heed(self, job: ReplayJob, *, undo: bool) -> ReplayJob:
        found = heed(job.annotations, job.status.control, (Act.UNDO,) if undo else STEERING)
        if found is None or found is job.status.control:
            return job
        return await (self._report.asked(job, found) if undo else self._report.wanted(job, found))

    async def _advance(self, job: ReplayJob) -> Outcome:
        admin = await self._context.clusters.connect(job.spec.cluster_ref, job.namespace)
        await self._trail.asked(job)
        if (why := claimed_elsewhere(self._context, job)) is not None:
            return await self._refuse(job, why)
        if (waits := await self._wait_on(job, admin)) is not None:
            return waits
        ledger, group = RewindLedger(Ledger(admin, self._context.fence)), job.spec.rewind.group
        found = await look(admin, group)
        if found.mark is not None:  # somebody died right after the commit
            await ledger.settle(found.mark, self._stamp())
            await unmark(admin, group)
        name = job.spec.rewind.to.snapshot
        entries = await ledger.read(key_of(job), snapshot_key(job.namespace, name) if name else None)
        entry, done, wish = entries.last, entries.done, wanted(job.status.control)
        if entry is not None and entry.state is RewindState.UNDONE and entry.plan is not None:
            await self._report.undone(job, entry, entry.plan)
        elif done is not None and done.plan is not None:
            if wish is Wanted.UNDO:
                return await self._undo(job, admin, ledger, entries, done.plan, found)
            await self._report.rewound(job, done, done.plan)
        elif entry is not None and entry.state is RewindState.CANCELLED:
            await self._report.rewind_cancelled(job, entry)
        elif wish is Wanted.CANCEL:
            cancelled = self._entry(job, RewindState.CANCELLED, entry.plan if entry else None)
            await ledger.write(cancelled)
            await self._report.rewind_cancelled(job, cancelled)
        elif wish is Wanted.SUSPEND:
            await self._report.rewind_suspended(job)
            return Outcome(requeue_after=_REST_SECONDS)
        else:
            return await self._go(job, admin, ledger, entries, found)
        return Outcome(requeue_after=0.0)

    # -- there --------------------------------------------------------------------------------------------------------

    async def _go(
        self, job: ReplayJob, admin: KafkaAdmin, ledger: RewindLedger, entries: Entries, found: Found
    ) -> Outcome:
        rewind, now, entry = job.spec.rewind, self._context.clock(), entries.last
        if self._overdue(job):
            limit = job.spec.active_deadline_seconds
            message = f"it wasn't done within activeDeadlineSeconds ({limit} s), and nothing has been moved"
            await self._report.failed(job, Reason.DEADLINE_EXCEEDED, message, None)
            return Outcome(requeue_after=0.0)
        observed = await observe(admin, rewind, found.positions, entries.snapshot)
        if (why := planning.refusal(rewind, observed)) is not None:
            return await self._refuse(job, why)
        who = busy(observed.group, observed.members)
        if who is None and entry is not None and entry.plan is not None:
            who = planning.restless(entry.plan, observed.positions, now)
        if who is not None and not job.spec.dry_run:
            return await self._wait(job, who) or await self._refuse(job, _stop_them(who))
        plan = _still_right(entry, RewindState.PLANNED, observed)
        if plan is None:
            planned = planning.make(rewind, job.name, observed, now)
            if planned.plan is None:
                return await self._refuse(job, planned.refusal or "")
            plan = planned.plan
        if job.spec.dry_run:
            await self._report.rewind_planned(job, plan, [_stop_them(who)] if who else [])
            return Outcome(requeue_after=0.0)
        current = await fresh(self._context, job)
        if heed(current.annotations, job.status.control) is not job.status.control:
            return Outcome(requeue_after=0.0)  # it is asked for something else meanwhile
        if entry is None or entry.plan is not plan or job.status.phase not in _PLANNED:
            await ledger.write(self._entry(job, RewindState.PLANNED, plan))
            await self._report.rewind_planned(job, plan)
            return Outcome(requeue_after=0.0)
        await self._trail.rewind_planned(job, plan)
        if plan.moved:
            job, waiting = await self._guard.begin(
                job, sentence(plan, done=False), sorted(plan.topic_ids), rewind=shown(plan, snapshot=False)
            )
            if waiting is not None:
                return waiting
            await ledger.keep(snapshot_key(job.namespace, plan.snapshot), self._snapshot(plan, observed))
        return await self._commit(job, admin, ledger, entry, plan)

    def _snapshot(self, plan: RewindPlan, observed: Observed) -> Snapshot:
        names = {place.topic for place in observed.positions} & set(observed.topics)
        ids = {name: observed.topics[name].id for name in sorted(names)}
        kept = {place: offset for place, offset in observed.positions.items() if place.topic in ids}
        return Snapshot(plan.snapshot, plan.group, self._stamp(), ids, kept)

    # -- and back -----------------------------------------------------------------------------------------------------

    async def _undo(
        self,
        job: ReplayJob,
        admin: KafkaAdmin,
        ledger: RewindLedger,
        entries: Entries,
        done: RewindPlan,
        found: Found,
    ) -> Outcome:
        observed = await observe_again(admin, done, found.positions)
        if (who := busy(observed.group, observed.members)) is not None:
            if (waits := await self._wait(job, who)) is not None:
                return waits
            await self._report.undo_refused(job, _stop_them(who))
            return Outcome(requeue_after=0.0)
        entry = entries.last
        plan = _still_right(entry, RewindState.UNDOING, observed)
        await fresh(self._context, job)
        if plan is None or entry is None:
            plan = planning.undo(done, observed, self._context.clock())
            entry = self._entry(job, RewindState.UNDOING, plan)
            await ledger.write(entry)
        await self._trail.rewind_planned(job, plan)
        return await self._commit(job, admin, ledger, entry, plan)

    # -- both ---------------------------------------------------------------------------------------------------------

    async def _commit(
        self, job: ReplayJob, admin: KafkaAdmin, ledger: RewindLedger, entry: RewindEntry, plan: RewindPlan
    ) -> Outcome:
        if plan.moved:
            await self._trail.started(job, plan.hash)
            try:
                await move(admin, plan.group, {m.place: m.after for m in plan.moved}, entry.mark)
            except KafkaError as error:
                if error.code not in ACTIVE:
                    raise
                return Outcome(requeue_after=_LOOK_SECONDS)  # a member has just joined, and nothing was moved
        await ledger.finish(entry, self._stamp())
        # The next look takes the mark away, and says what the ledger has.
        return Outcome(requeue_after=0.0)

    async def _wait_on(self, job: ReplayJob, admin: KafkaAdmin) -> Outcome | None:
        """Wait on, without a look into the ledger, if nothing else is to be done."""
        waits = job.status.phase is ReplayPhase.PENDING and wanted(job.status.control) is Wanted.RUN
        if not waits or self._overdue(job):
            return None
        who = await occupied(admin, job.spec.rewind.group)
        return None if who is None else await self._wait(job, who)

    def _overdue(self, job: ReplayJob) -> bool:
        limit = job.spec.active_deadline_seconds
        return limit is not None and self._context.clock() >= self._report.begun(job) + timedelta(seconds=limit)

    async def _wait(self, job: ReplayJob, who: str) -> Outcome | None:
        """Wait for a group to be empty; None if there is no time left for it."""
        until = self._report.begun(job) + timedelta(seconds=job.spec.rewind.wait_for_inactive_seconds)
        if self._context.clock() >= until:
            return None
        await self._report.waiting(job, who, until)
        return Outcome(requeue_after=_LOOK_SECONDS)

    async def _refuse(self, job: ReplayJob, why: str) -> Outcome:
        if job.status.phase in _COMPLETED:
            await self._report.undo_refused(job, why)
        else:
            await self._report.refused(job, why)
        return Outcome(requeue_after=0.0)

    def _entry(self, job: ReplayJob, state: RewindState, plan: RewindPlan | None) -> RewindEntry:
        return RewindEntry(key_of(job), state, job.uid, plan, self._stamp())

    def _stamp(self) -> str:
        return conditions.stamp(self._context.clock())


def _still_right(entry: RewindEntry | None, state: RewindState, observed: Observed) -> RewindPlan | None:
    """The plan of an entry in this state, if nothing has changed since."""
    if entry is None or entry.state is not state or entry.plan is None:
        return None
    right = planning.holds(entry.plan, observed.positions, observed.bounds, observed.topics)
    return entry.plan if right else None


def _stop_them(who: str) -> str:
    return f"{who}: stop them first, or let it wait by spec.rewind.waitForInactiveSeconds"
