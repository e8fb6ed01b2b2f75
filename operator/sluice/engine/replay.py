"""The ReplayJob reconciler: plan, ledger, credentials, workers, progress, end.

Each step can be seen, so each may be the last before the operator dies: the next one goes on from what it finds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from sluice.api.base import Reason
from sluice.api.objects import Key, ReplayJob
from sluice.api.replay import ENDED, Mode, ReplayPhase, ReplayPlan, ReplayProgress, Wanted
from sluice.engine import status as conditions
from sluice.engine.batching import each
from sluice.engine.finalizers import fresh, hold
from sluice.engine.reconciler import Context, Outcome
from sluice.engine.replay_access import Credentials, ReplayAccess, Route
from sluice.engine.replay_assignment import assignment, starts
from sluice.engine.replay_control import ReplayControl, positions_of
from sluice.engine.replay_end import ReplayEnd, key_of, objects_of, run_of, shard_count
from sluice.engine.replay_guard import ReplayGuard
from sluice.engine.replay_observe import batch_limit, observe
from sluice.engine.replay_rewind import Rewinds
from sluice.engine.replay_status import ReplayReport, plan_sentence
from sluice.engine.replay_trail import ReplayTrail
from sluice.kafka.admin import KafkaAdmin
from sluice.manifests.metadata import decode
from sluice.manifests.replay_job import credentials_secret, plan_config_map, worker_job
from sluice.plan import replay as planning
from sluice.plan.replay_control import wanted
from sluice.plan.replay_progress import (
    FROM_THERE,
    Committed,
    Decision,
    Sample,
    Step,
    Workers,
    complete,
    decide,
    floor_of,
    progress,
    worker_state,
)
from sluice.replay.group_positions import commit_starts
from sluice.replay.ledger import Ledger, LedgerEntry, LedgerState

logger = logging.getLogger(__name__)

_WATCH_SECONDS: Final = 2.0
"""Between two looks at a running replay."""
_RECOMMIT: Final = timedelta(minutes=10)
"""Positions expire from their own commit on, and nobody else commits those of a shard whose worker is done."""


@dataclass
class _Running:
    """What this process remembers of a replay that runs or rests; it can all be found out again.

    ``entry`` is the ledger's, whose plan counts, whatever the status says; ``seen`` has the positions of the last look.
    """

    uid: str
    wish: Wanted
    entry: LedgerEntry
    renew_at: datetime | None
    recommit_at: datetime
    seen: Mapping[int, int] = field(default_factory=dict)
    sample: Sample | None = None


class ReplayJobReconciler:
    """Runs each replay once, from its frozen plan to its last position."""

    kind = "ReplayJob"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._access = ReplayAccess(context)
        self._trail = ReplayTrail(context)
        self._end = ReplayEnd(context, self._access, self._trail)
        self._report = ReplayReport(context, self._trail)
        self._guard = ReplayGuard(context, self._report, self._trail)
        self._control = ReplayControl(context, self._report)
        self._rewinds = Rewinds(context, self._end, self._trail)
        self._running: dict[Key, _Running] = {}

    def lane(self, key: Key) -> str:
        """Replays don't wait for one another."""
        return str(key)

    async def reconcile(self, keys: Sequence[Key]) -> Mapping[Key, Outcome | Exception]:
        """See `sluice.engine.reconciler.Reconciler`."""
        return dict(zip(keys, await each(keys, self._one), strict=True))

    async def _one(self, key: Key) -> Outcome:
        job: ReplayJob | None = self._context.index.resource(key)
        if job is None or job.deleting:
            self._running.pop(key, None)
            self._report.forget(key)
            if job is None:
                self._trail.forget(key)
            return Outcome() if job is None else await self._end.leave(job)
        if job.spec.mode is Mode.REWIND:
            return await self._rewinds.reconcile(job)
        if job.status.phase in ENDED:
            self._running.pop(key, None)
            return await self._end.ended(job)
        if job.spec.dry_run and job.status.plan is not None:
            return await self._end.expire(job)
        if not job.spec.dry_run:  # which moves nothing, so that there is nothing to stop
            job = await self._control.heed(job)
            await self._control.stop(job)
        return await self._advance(job)

    # -- towards the end ----------------------------------------------------------------------------------------------

    async def _advance(self, job: ReplayJob) -> Outcome:
        admin = await self._context.clusters.connect(job.spec.cluster_ref, job.namespace)
        ledger = Ledger(admin, self._context.fence)
        running, wish = self._running.get(job.key), wanted(job.status.control)
        if running is None or (running.uid, running.wish) != (job.uid, wish):
            await self._trail.asked(job)
            entry = await ledger.read(key_of(job)) or await self._entered_again(job, ledger)
            if entry is None and wish is Wanted.CANCEL:
                entry = self._entry(job, LedgerState.PLANNED, planning.nothing(self._context.clock()))
            if entry is None:
                return await self._plan(job, admin, ledger)
            if entry.state is LedgerState.COMPLETED:
                return await self._complete_by_ledger(job, entry)
            if entry.state is LedgerState.LOST:
                return await self._lost_before(job, entry)
            if wish is Wanted.CANCEL:
                return await self._cancel(job, admin, ledger, entry)
            if entry.state is LedgerState.CANCELLED:
                return await self._cancelled_before(job, entry)
            if job.spec.dry_run:
                await self._report.planned(job, entry.plan)
                return Outcome(requeue_after=0.0)
            if wish is Wanted.RUN:
                if entry.state is LedgerState.PLANNED:
                    await self._trail.planned(job, entry.plan)
                    planned = plan_sentence(job, entry.plan)
                    job, waiting = await self._guard.begin(job, planned, [job.spec.target.topic], plan=entry.plan)
                    if waiting is not None:
                        return waiting
                job, running = await self._prepare(job, admin, ledger, entry)
            elif entry.state is LedgerState.PLANNED:
                return await self._control.rest(job, entry.plan, None)
            else:
                running = self._rest(job, entry)
        return await self._watch(job, running, admin, ledger)

    async def _plan(self, job: ReplayJob, admin: KafkaAdmin, ledger: Ledger) -> Outcome:
        route = await self._route(job)
        now = self._context.clock()
        observed = await observe(admin, job, [route.note] if route.note else [], now)
        planned = planning.make(job.spec, observed, now)
        if planned.plan is None:
            await self._report.refused(job, planned.refusal or "")
            return Outcome(requeue_after=0.0)
        if not job.spec.dry_run:
            await hold(self._context, job)
            await fresh(self._context, job)
            # From here on the range can't become another one: whoever comes next finds it in the ledger.
            await ledger.write(self._entry(job, LedgerState.PLANNED, planned.plan, planned.max_batch_bytes))
            await self._trail.planned(job, planned.plan)
        await self._report.planned(job, planned.plan)
        return Outcome(requeue_after=0.0)

    async def _entered_again(self, job: ReplayJob, ledger: Ledger) -> LedgerEntry | None:
        """The entry of a replay that the ledger has lost, from the object's status; None if it wasn't planned yet.

        To plan it anew might copy twice. To go on can't: how far it is, the group's positions say, not the ledger, and
        without them it fails.
        """
        if job.status.plan is None:
            return None
        await hold(self._context, job)
        await fresh(self._context, job)
        begun = job.status.phase is ReplayPhase.RUNNING or job.status.start_time is not None
        state = LedgerState.STARTED if begun else LedgerState.PLANNED
        entry = self._entry(job, state, job.status.plan)
        await ledger.write(entry)
        message = "its entry in the ledger was gone, and has been written again from status.plan"
        self._report.tell(job, Reason.RUNNING, message, "Warning")
        return entry

    async def _prepare(
        self, job: ReplayJob, admin: KafkaAdmin, ledger: Ledger, entry: LedgerEntry
    ) -> tuple[ReplayJob, _Running]:
        """Start positions, credentials, rights, and the objects that workers mount. All of it may be there already."""
        await hold(self._context, job)
        await fresh(self._context, job)
        if job.status.start_time is None:  # of an object that goes on with what another began, too
            await self._trail.started(job, entry.plan.hash)
        if entry.state is LedgerState.PLANNED:
            await commit_starts(admin, self._context.fence, run_of(job), starts(job, entry.plan))
            entry = replace(entry, state=LedgerState.STARTED)
            await ledger.write(entry)
        route = await self._route(job)
        made = await self._let_in(job, admin, route)
        if made.note and made.note not in entry.plan.warnings:
            warnings = [*entry.plan.warnings, made.note]
            entry = replace(entry, plan=entry.plan.model_copy(update={"warnings": warnings}))
            self._report.tell(job, Reason.RUNNING, made.note, "Warning")
        limit = await batch_limit(admin, job.spec.target.topic)
        plan = assignment(job, entry.plan, route, limit)
        await self._context.kube.create_if_absent(plan_config_map(objects_of(job), plan.to_json()))
        job = await self._report.started(job, entry.plan)
        running = self._running[job.key] = _Running(job.uid, Wanted.RUN, entry, made.renew_at, self._context.clock())
        return job, running

    def _rest(self, job: ReplayJob, entry: LedgerEntry) -> _Running:
        """A suspended replay needs nothing, and its workers have just committed, unless we don't know since when."""
        now = self._context.clock()
        keep_at = now if job.status.phase is ReplayPhase.SUSPENDED else now + _RECOMMIT
        running = self._running[job.key] = _Running(job.uid, Wanted.SUSPEND, entry, None, keep_at)
        return running

    async def _route(self, job: ReplayJob) -> Route:
        return await self._access.route(self._context.clusters.resolve(job.spec.cluster_ref, job.namespace))

    async def _let_in(self, job: ReplayJob, admin: KafkaAdmin, route: Route) -> Credentials:
        objects, name = objects_of(job), run_of(job)
        found = await self._context.kube.get("v1", "Secret", job.namespace, objects.job)
        present = decode(found)
        made = await self._access.credentials(admin, name, route, present)
        if made.own:
            await self._access.allow(admin, name, job.spec.source.topic, job.spec.target.topic)
        # Without any credentials it is empty, and mounted all the same.
        if found is None or dict(made.files) != present:
            await self._context.kube.apply(credentials_secret(objects, made.files))
        return made

    async def _watch(self, job: ReplayJob, running: _Running, admin: KafkaAdmin, ledger: Ledger) -> Outcome:
        now, plan = self._context.clock(), running.entry.plan
        rests = running.wish is Wanted.SUSPEND
        if job.status.plan != plan and not rests:  # edited, or told by somebody who didn't lead any more
            job = await self._report.started(job, plan)
        if running.renew_at is not None and now >= running.renew_at:
            running.renew_at = (await self._let_in(job, admin, await self._route(job))).renew_at
        positions = await positions_of(admin, job)
        floor = floor_of(plan, job.status.progress.positions if job.status.progress else (), running.seen)
        workers = await self._workers(job)
        deadline = None if rests else job.spec.active_deadline_seconds
        decision = decide(plan, positions, floor, workers, job.status.start_time, deadline, now)
        match decision.step:
            case Step.COMPLETE:
                return await self._complete(job, running.entry, ledger, positions)
            case Step.FAIL:
                return await self._fail(job, running.entry, ledger, positions, decision)
            case Step.START if not rests:
                await self._start(job, plan)
            case Step.RESUME if not rests:
                await self._control.resume(job)
            case _:
                pass
        running.seen = {number: position.offset for number, position in positions.items()}
        if now >= running.recommit_at:
            await self._control.keep(job, admin, plan, positions)
            running.recommit_at = now + _RECOMMIT
        if rests:
            return await self._control.rest(job, plan, positions)
        measured, sample = progress(plan, positions, running.sample, now)
        if await self._report.progress(job, measured):
            running.sample = sample
        return Outcome(requeue_after=_WATCH_SECONDS)

    async def _start(self, job: ReplayJob, plan: ReplayPlan) -> None:
        await fresh(self._context, job)
        shards, image = shard_count(plan), self._context.settings.operator_image
        secrets = self._context.settings.image_pull_secrets
        body = worker_job(objects_of(job), image, shards, job.spec.backoff_limit, secrets)
        await self._context.kube.create_if_absent(body)
        self._report.tell(job, Reason.RUNNING, f"{shards} {'worker' if shards == 1 else 'workers'} started")

    async def _workers(self, job: ReplayJob) -> Workers:
        kube, name = self._context.kube, objects_of(job).job
        found = await kube.get("batch/v1", "Job", job.namespace, name)
        state = worker_state(found, ())
        if state.failure is None:
            return state
        return worker_state(found, await kube.list("v1", "Pod", job.namespace, {"batch.kubernetes.io/job-name": name}))

    # -- ends ---------------------------------------------------------------------------------------------------------

    async def _complete(
        self, job: ReplayJob, entry: LedgerEntry, ledger: Ledger, positions: Mapping[int, Committed]
    ) -> Outcome:
        measured, _ = progress(entry.plan, positions, None, self._context.clock())
        await self._close(job, entry, ledger, LedgerState.COMPLETED, measured)
        await self._report.completed(job, entry.plan, measured)
        return Outcome(requeue_after=0.0)

    async def _complete_by_ledger(self, job: ReplayJob, entry: LedgerEntry) -> Outcome:
        """The ledger says it is done: by this object, whose status wasn't written any more, or by an earlier one."""
        if entry.uid == job.uid:
            whole = {p.partition: Committed(p.end, 0, 0) for p in entry.plan.partitions}
            measured, _ = progress(entry.plan, whole, None, self._context.clock())
            counted = measured.model_copy(
                update={"records": entry.records, "bytes": entry.bytes, "filtered": entry.filtered}
            )
            await self._report.completed(job, entry.plan, counted)
        else:
            await self._report.already_completed(job, entry.plan, entry.at, entry.records)
        return Outcome(requeue_after=0.0)

    async def _fail(
        self,
        job: ReplayJob,
        entry: LedgerEntry,
        ledger: Ledger,
        positions: Mapping[int, Committed],
        decision: Decision,
    ) -> Outcome:
        if decision.for_good:  # whoever makes it again, perhaps a GitOps tool after its TTL, has to know
            await self._close(job, entry, ledger, LedgerState.LOST)
        measured = job.status.progress  # of positions that are lost, nothing can be told
        if decision.reason is not Reason.POSITION_LOST:
            measured, _ = progress(entry.plan, positions, None, self._context.clock())
        await self._report.failed(job, decision.reason, decision.message, measured)
        return Outcome(requeue_after=0.0)

    async def _cancel(self, job: ReplayJob, admin: KafkaAdmin, ledger: Ledger, entry: LedgerEntry) -> Outcome:
        """Give it up, unless it had come to its end before its workers could be stopped."""
        positions = await self._control.fence(job, admin, entry.plan)
        if entry.plan.partitions and complete(entry.plan, positions):
            return await self._complete(job, entry, ledger, positions)
        await self._control.cancel(job, ledger, entry, positions)
        return Outcome(requeue_after=0.0)

    async def _cancelled_before(self, job: ReplayJob, entry: LedgerEntry) -> Outcome:
        plan = entry.plan if entry.plan.partitions else None
        await self._report.cancelled_before(job, plan, entry.at, entry.records)
        return Outcome(requeue_after=0.0)

    async def _lost_before(self, job: ReplayJob, entry: LedgerEntry) -> Outcome:
        message = f"a committed position of this replay was lost at {entry.at}; {FROM_THERE}"
        await self._report.failed(job, Reason.POSITION_LOST, message, job.status.progress)
        return Outcome(requeue_after=0.0)

    async def _close(
        self,
        job: ReplayJob,
        entry: LedgerEntry,
        ledger: Ledger,
        state: LedgerState,
        measured: ReplayProgress | None = None,
    ) -> None:
        at = conditions.stamp(self._context.clock())
        await ledger.write(entry.ended(state, job.uid, at, measured))

    def _entry(
        self,
        job: ReplayJob,
        state: LedgerState,
        plan: ReplayPlan,
        max_batch_bytes: int = planning.DEFAULT_MAX_BATCH_BYTES,
    ) -> LedgerEntry:
        return LedgerEntry(key_of(job), state, job.uid, plan, max_batch_bytes, conditions.stamp(self._context.clock()))
