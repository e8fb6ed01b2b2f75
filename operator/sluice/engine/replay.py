"""The ReplayJob reconciler: plan, ledger, credentials, workers, progress, end.

Each step can be seen, so each may be the last before the operator dies: the next one goes on from what it finds.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from sluice.api.base import Reason
from sluice.api.objects import Key, ReplayJob
from sluice.api.replay import ReplayPhase, ReplayPlan
from sluice.engine import status as conditions
from sluice.engine.batching import each
from sluice.engine.finalizers import fresh, hold
from sluice.engine.reconciler import Context, Outcome
from sluice.engine.replay_access import Credentials, ReplayAccess, Route
from sluice.engine.replay_end import ReplayEnd, objects_of, run_of, shard_count
from sluice.engine.replay_observe import batch_limit, observe
from sluice.engine.replay_status import ReplayReport
from sluice.kafka.admin import KafkaAdmin
from sluice.manifests.metadata import decode
from sluice.manifests.replay_job import credentials_secret, plan_config_map, worker_job
from sluice.plan import replay as planning
from sluice.plan.observed import TopicPartition
from sluice.plan.replay_progress import (
    FROM_THERE,
    Committed,
    Decision,
    Sample,
    Step,
    Workers,
    decide,
    floor_of,
    progress,
    worker_state,
)
from sluice.replay.assignment import Assignment, Slice, TopicRoute
from sluice.replay.group_positions import commit_starts, read_positions, recommit
from sluice.replay.ledger import Ledger, LedgerEntry, LedgerState

logger = logging.getLogger(__name__)

_WATCH_SECONDS: Final = 2.0
"""Between two looks at a running replay."""
_RECOMMIT: Final = timedelta(minutes=10)
"""Positions expire from their own commit on, and nobody else commits those of a shard whose worker is done."""
ENDED: Final = frozenset(
    {ReplayPhase.COMPLETED, ReplayPhase.ALREADY_COMPLETED, ReplayPhase.FAILED, ReplayPhase.REFUSED}
)


@dataclass
class _Running:
    """What this process remembers of a running replay; it can all be found out again.

    ``entry`` is the ledger's, whose plan counts, whatever the status says; ``seen`` has the positions of the last look.
    """

    uid: str
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
        self._end = ReplayEnd(context, self._access)
        self._report = ReplayReport(context)
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
            return Outcome() if job is None else await self._end.leave(job)
        if job.status.phase in ENDED:
            self._running.pop(key, None)
            return await self._end.ended(job)
        if job.spec.dry_run and job.status.plan is not None:
            return await self._end.expire(job)
        return await self._advance(job)

    # -- towards the end ----------------------------------------------------------------------------------------------

    async def _advance(self, job: ReplayJob) -> Outcome:
        admin = await self._context.clusters.connect(job.spec.cluster_ref, job.namespace)
        ledger = Ledger(admin, self._context.fence)
        running = self._running.get(job.key)
        if running is None or running.uid != job.uid:
            entry = await ledger.read(_key(job)) or await self._entered_again(job, ledger)
            if entry is None:
                return await self._plan(job, admin, ledger)
            if entry.state is LedgerState.COMPLETED:
                return await self._complete_by_ledger(job, entry)
            if entry.state is LedgerState.LOST:
                return await self._lost_before(job, entry)
            if job.spec.dry_run:
                await self._report.planned(job, entry.plan)
                return Outcome(requeue_after=0.0)
            job, running = await self._prepare(job, admin, ledger, entry)
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
        state = LedgerState.STARTED if job.status.phase is ReplayPhase.RUNNING else LedgerState.PLANNED
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
        if entry.state is LedgerState.PLANNED:
            await commit_starts(admin, self._context.fence, run_of(job), _starts(job, entry.plan))
            entry = replace(entry, state=LedgerState.STARTED)
            await ledger.write(entry)
        route = await self._route(job)
        made = await self._let_in(job, admin, route)
        if made.note and made.note not in entry.plan.warnings:
            warnings = [*entry.plan.warnings, made.note]
            entry = replace(entry, plan=entry.plan.model_copy(update={"warnings": warnings}))
            self._report.tell(job, Reason.RUNNING, made.note, "Warning")
        limit = await batch_limit(admin, job.spec.target.topic)
        plan = _assignment(job, entry.plan, route, limit)
        await self._context.kube.create_if_absent(plan_config_map(objects_of(job), plan.to_json()))
        job = await self._report.started(job, entry.plan)
        running = self._running[job.key] = _Running(job.uid, entry, made.renew_at, self._context.clock())
        return job, running

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
        if job.status.plan != plan:  # edited, or told by somebody who didn't lead any more
            job = await self._report.started(job, plan)
        if running.renew_at is not None and now >= running.renew_at:
            running.renew_at = (await self._let_in(job, admin, await self._route(job))).renew_at
        positions = await self._positions(job, admin)
        floor = floor_of(plan, job.status.progress.positions if job.status.progress else (), running.seen)
        workers = await self._workers(job)
        deadline = job.spec.active_deadline_seconds
        decision = decide(plan, positions, floor, workers, job.status.start_time, deadline, now)
        match decision.step:
            case Step.COMPLETE:
                return await self._complete(job, running, ledger, positions)
            case Step.FAIL:
                return await self._fail(job, running, ledger, positions, decision)
            case Step.START:
                await self._start(job, plan)
            case Step.WATCH:
                pass
        running.seen = {number: position.offset for number, position in positions.items()}
        if now >= running.recommit_at:
            await self._recommit(job, admin, plan, positions)
            running.recommit_at = now + _RECOMMIT
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

    async def _positions(self, job: ReplayJob, admin: KafkaAdmin) -> dict[int, Committed]:
        found = await read_positions(admin, run_of(job))
        return {place.partition: position for place, position in found.items() if place.topic == job.spec.source.topic}

    async def _recommit(
        self, job: ReplayJob, admin: KafkaAdmin, plan: ReplayPlan, positions: Mapping[int, Committed]
    ) -> None:
        """Keep positions at their ends from expiring. They don't change any more, so that it can't come too late."""
        topic = job.spec.source.topic
        ended = [p.partition for p in plan.partitions if positions[p.partition].offset >= p.end]
        if ended:
            await recommit(admin, run_of(job), {TopicPartition(topic, number): positions[number] for number in ended})

    async def _workers(self, job: ReplayJob) -> Workers:
        kube, name = self._context.kube, objects_of(job).job
        found = await kube.get("batch/v1", "Job", job.namespace, name)
        state = worker_state(found, ())
        if state.failure is None:
            return state
        return worker_state(found, await kube.list("v1", "Pod", job.namespace, {"batch.kubernetes.io/job-name": name}))

    # -- ends ---------------------------------------------------------------------------------------------------------

    async def _complete(
        self, job: ReplayJob, running: _Running, ledger: Ledger, positions: Mapping[int, Committed]
    ) -> Outcome:
        measured, _ = progress(running.entry.plan, positions, None, self._context.clock())
        await self._close(job, running, ledger, LedgerState.COMPLETED, measured.records, measured.bytes)
        await self._report.completed(job, running.entry.plan, measured)
        return Outcome(requeue_after=0.0)

    async def _complete_by_ledger(self, job: ReplayJob, entry: LedgerEntry) -> Outcome:
        """The ledger says it is done: by this object, whose status wasn't written any more, or by an earlier one."""
        if entry.uid == job.uid:
            whole = {p.partition: Committed(p.end, 0, 0) for p in entry.plan.partitions}
            measured, _ = progress(entry.plan, whole, None, self._context.clock())
            counted = measured.model_copy(update={"records": entry.records, "bytes": entry.bytes})
            await self._report.completed(job, entry.plan, counted)
        else:
            await self._report.already_completed(job, entry.plan, entry.at, entry.records)
        return Outcome(requeue_after=0.0)

    async def _fail(
        self,
        job: ReplayJob,
        running: _Running,
        ledger: Ledger,
        positions: Mapping[int, Committed],
        decision: Decision,
    ) -> Outcome:
        if decision.for_good:  # whoever makes it again, perhaps a GitOps tool after its TTL, has to know
            await self._close(job, running, ledger, LedgerState.LOST)
        measured = job.status.progress  # of positions that are lost, nothing can be told
        if decision.reason is not Reason.POSITION_LOST:
            measured, _ = progress(running.entry.plan, positions, None, self._context.clock())
        await self._report.failed(job, decision.reason, decision.message, measured)
        return Outcome(requeue_after=0.0)

    async def _lost_before(self, job: ReplayJob, entry: LedgerEntry) -> Outcome:
        message = f"a committed position of this replay was lost at {entry.at}; {FROM_THERE}"
        await self._report.failed(job, Reason.POSITION_LOST, message, job.status.progress)
        return Outcome(requeue_after=0.0)

    async def _close(
        self,
        job: ReplayJob,
        running: _Running,
        ledger: Ledger,
        state: LedgerState,
        records: int = 0,
        size: int = 0,
    ) -> None:
        at = conditions.stamp(self._context.clock())
        await ledger.write(replace(running.entry, state=state, uid=job.uid, at=at, records=records, bytes=size))

    def _entry(
        self,
        job: ReplayJob,
        state: LedgerState,
        plan: ReplayPlan,
        max_batch_bytes: int = planning.DEFAULT_MAX_BATCH_BYTES,
    ) -> LedgerEntry:
        return LedgerEntry(_key(job), state, job.uid, plan, max_batch_bytes, conditions.stamp(self._context.clock()))


def _key(job: ReplayJob) -> str:
    return planning.ledger_key(job.namespace, job.name, job.spec)


def _starts(job: ReplayJob, plan: ReplayPlan) -> Mapping[int, Mapping[TopicPartition, int]]:
    """Start positions by shard. Within one cluster positions stand under the source topic's own name."""
    found: dict[int, dict[TopicPartition, int]] = defaultdict(dict)
    for p in plan.partitions:
        found[p.shard][TopicPartition(job.spec.source.topic, p.partition)] = p.start
    return found


def _assignment(job: ReplayJob, plan: ReplayPlan, route: Route, max_batch_bytes: int) -> Assignment:
    """What the workers are told."""
    source, target, run = job.spec.source.topic, job.spec.target.topic, run_of(job)
    return Assignment(
        name=f"{job.namespace}/{job.name}",
        source=route.access,
        target=route.access,
        group=run,
        transactional_id_prefix=run,
        routes=(TopicRoute(source, plan.source_topic_id, target, plan.target_topic_id, source, max_batch_bytes),),
        slices=tuple(Slice(0, p.partition, p.start, p.end, p.shard) for p in plan.partitions),
        from_ms=planning.milliseconds_or_none(plan.from_time),
        to_ms=planning.milliseconds_or_none(plan.to_time),
    )
