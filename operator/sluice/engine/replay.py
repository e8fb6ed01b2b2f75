"""The ReplayJob reconciler: plan, ledger, credentials, workers, progress, end.

Each step can be seen, so each may be the last before the operator dies: the next one goes on from what it finds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sluice.api.base import Reason
from sluice.api.objects import Key, ReplayJob, cluster_key
from sluice.api.replay import ReplayPhase, ReplayPlan
from sluice.engine import status as conditions
from sluice.engine.batching import each
from sluice.engine.finalizers import finalizer_of, fresh, hold, let_go, nothing_to_undo
from sluice.engine.reconciler import Context, Outcome
from sluice.engine.replay_access import ReplayAccess, Route
from sluice.engine.replay_observe import observe
from sluice.engine.replay_status import ReplayReport
from sluice.kafka.admin import KafkaAdmin
from sluice.manifests.metadata import decode
from sluice.manifests.replay_job import (
    ReplayObjects,
    credentials_secret,
    plan_config_map,
    worker_job,
)
from sluice.plan import replay as planning
from sluice.plan.observed import TopicPartition
from sluice.plan.replay_progress import Committed, Decision, Sample, Step, Workers, decide, progress, worker_state
from sluice.replay.assignment import Assignment, Slice, TopicRoute
from sluice.replay.group_positions import commit_positions, read_positions
from sluice.replay.ledger import Ledger, LedgerEntry, LedgerState

logger = logging.getLogger(__name__)

_WATCH_SECONDS: Final = 1.5
"""Between two looks at a running replay."""
ENDED: Final = frozenset(
    {ReplayPhase.COMPLETED, ReplayPhase.ALREADY_COMPLETED, ReplayPhase.FAILED, ReplayPhase.REFUSED}
)


@dataclass
class _Running:
    """What this process remembers of a running replay; it can all be found out again."""

    uid: str
    renew_at: datetime | None
    prepared: bool = False
    sample: Sample | None = None


class ReplayJobReconciler:
    """Runs each replay once, from its frozen plan to its last position."""

    kind = "ReplayJob"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._access = ReplayAccess(context)
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
        if job is None:
            self._running.pop(key, None)
            self._report.forget(key)
            return Outcome()
        if job.deleting:
            return await self._leave(job)
        if job.status.phase in ENDED:
            return await self._ended(job)
        if job.spec.dry_run and job.status.plan is not None:
            return await self._expire(job)
        return await self._advance(job)

    # -- towards the end ----------------------------------------------------------------------------------------------

    async def _advance(self, job: ReplayJob) -> Outcome:
        admin = await self._context.clusters.connect(job.spec.cluster_ref, job.namespace)
        ledger = Ledger(admin, self._context.fence)
        running = self._running.get(job.key)
        if running is None or running.uid != job.uid or not running.prepared:
            entry = await ledger.read(_key(job))
            if entry is None:
                return await self._plan(job, admin, ledger)
            if entry.state is LedgerState.COMPLETED:
                return await self._complete_by_ledger(job, entry)
            await self._prepare(job, admin, ledger, entry)
            job = await self._report.started(job, entry.plan)
        return await self._watch(job, admin, ledger)

    async def _plan(self, job: ReplayJob, admin: KafkaAdmin, ledger: Ledger) -> Outcome:
        cluster = self._context.clusters.resolve(job.spec.cluster_ref, job.namespace)
        route = await self._access.route(cluster)
        now = self._context.clock()
        observed = await observe(admin, job, [route.note] if route.note else [], now)
        planned = planning.make(job.spec, observed, now)
        if planned.plan is None:
            await self._report.refused(job, planned.refusal or "")
            return Outcome(requeue_after=0.0)
        if job.spec.dry_run:
            await self._report.planned(job, planned.plan)
            return Outcome(requeue_after=0.0)
        await hold(self._context, job)
        await fresh(self._context, job)
        # From here on the range can't become another one: whoever comes next finds it in the ledger.
        entry = LedgerEntry(
            _key(job), LedgerState.PLANNED, job.uid, planned.plan, planned.max_batch_bytes, conditions.stamp(now)
        )
        await ledger.write(entry)
        await self._report.planned(job, planned.plan)
        return Outcome(requeue_after=0.0)

    async def _prepare(self, job: ReplayJob, admin: KafkaAdmin, ledger: Ledger, entry: LedgerEntry) -> None:
        """Start positions, credentials, rights, and the objects that workers mount. All of it may be there already."""
        await hold(self._context, job)
        await fresh(self._context, job)
        name = planning.run_name(entry.key)
        if entry.state is LedgerState.PLANNED:
            starts = {TopicPartition(job.spec.source.topic, p.partition): p.start for p in entry.plan.partitions}
            await commit_positions(admin, name, starts)
            await ledger.write(replace(entry, state=LedgerState.STARTED))
        cluster = self._context.clusters.resolve(job.spec.cluster_ref, job.namespace)
        route = await self._access.route(cluster)
        objects = _objects(job)
        renew_at = await self._let_in(job, admin, name, route, objects)
        await self._context.kube.create_if_absent(plan_config_map(objects, _assignment(job, entry, route).to_json()))
        self._running[job.key] = _Running(job.uid, renew_at, prepared=True)

    async def _let_in(
        self, job: ReplayJob, admin: KafkaAdmin, name: str, route: Route, objects: ReplayObjects
    ) -> datetime | None:
        found = await self._context.kube.get("v1", "Secret", job.namespace, objects.job)
        present = decode(found)
        made = await self._access.credentials(admin, name, route, present)
        await self._access.allow(admin, name, route, job.spec.source.topic, job.spec.target.topic)
        if (
            found is None or dict(made.files) != present
        ):  # without any credentials it is empty, and mounted all the same
            await self._context.kube.apply(credentials_secret(objects, made.files))
        return made.renew_at

    async def _watch(self, job: ReplayJob, admin: KafkaAdmin, ledger: Ledger) -> Outcome:
        plan = job.status.plan
        if plan is None:  # the status was edited away: the ledger has the plan
            self._running.pop(job.key, None)
            return Outcome(requeue_after=0.0)
        now = self._context.clock()
        running = self._running[job.key]
        name = planning.run_name(_key(job))
        if running.renew_at is not None and now >= running.renew_at:
            cluster = self._context.clusters.resolve(job.spec.cluster_ref, job.namespace)
            running.renew_at = await self._let_in(job, admin, name, await self._access.route(cluster), _objects(job))
        positions = await self._positions(job, admin, name)
        workers = await self._workers(job)
        decision = decide(plan, positions, workers, job.status.start_time, job.spec.active_deadline_seconds, now)
        match decision.step:
            case Step.COMPLETE:
                return await self._complete(job, ledger, plan, positions)
            case Step.FAIL:
                return await self._fail(job, plan, positions, decision)
            case Step.START:
                await fresh(self._context, job)
                shards = 1 + max((p.shard for p in plan.partitions), default=0)
                image = self._context.settings.operator_image
                await self._context.kube.create_if_absent(
                    worker_job(_objects(job), image, shards, job.spec.backoff_limit)
                )
                self._report.tell(job, Reason.RUNNING, f"{shards} {'worker' if shards == 1 else 'workers'} started")
            case Step.WATCH:
                pass
        measured, sample = progress(plan, positions, running.sample, now)
        if await self._report.progress(job, measured):
            running.sample = sample
        return Outcome(requeue_after=_WATCH_SECONDS)

    async def _positions(self, job: ReplayJob, admin: KafkaAdmin, name: str) -> dict[int, Committed]:
        found = await read_positions(admin, name)
        return {place.partition: position for place, position in found.items() if place.topic == job.spec.source.topic}

    async def _workers(self, job: ReplayJob) -> Workers:
        kube, objects = self._context.kube, _objects(job)
        found = await kube.get("batch/v1", "Job", job.namespace, objects.job)
        state = worker_state(found, ())
        if state.failure is None:
            return state
        selector = {"batch.kubernetes.io/job-name": objects.job}
        return worker_state(found, await kube.list("v1", "Pod", job.namespace, selector))

    # -- ends ---------------------------------------------------------------------------------------------------------

    async def _complete(
        self, job: ReplayJob, ledger: Ledger, plan: ReplayPlan, positions: Mapping[int, Committed]
    ) -> Outcome:
        now = self._context.clock()
        entry = await ledger.read(_key(job))
        if entry is None or entry.state is not LedgerState.COMPLETED:
            limit = entry.max_batch_bytes if entry else planning.DEFAULT_MAX_BATCH_BYTES
            records = sum(position.records for position in positions.values())
            size = sum(position.bytes for position in positions.values())
            stamp = conditions.stamp(now)
            done = LedgerEntry(_key(job), LedgerState.COMPLETED, job.uid, plan, limit, stamp, records, size)
            await ledger.write(done)
        measured, _ = progress(plan, positions, None, now)
        await self._report.completed(job, plan, measured)
        self._running.pop(job.key, None)
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
        self, job: ReplayJob, plan: ReplayPlan, positions: Mapping[int, Committed], decision: Decision
    ) -> Outcome:
        found = {p.partition: positions.get(p.partition, Committed(p.start, 0, 0)) for p in plan.partitions}
        measured, _ = progress(plan, found, None, self._context.clock())
        await self._report.failed(job, decision.reason, decision.message, measured)
        self._running.pop(job.key, None)
        return Outcome(requeue_after=0.0)

    async def _ended(self, job: ReplayJob) -> Outcome:
        """Take credentials away, then wait for the TTL."""
        self._running.pop(job.key, None)
        if finalizer_of(self.kind) in job.finalizers:
            if job.status.phase is ReplayPhase.FAILED:
                await self._stop_workers(job)
            await self._revoke(job)
            await let_go(self._context, job)
        return await self._expire(job)

    async def _leave(self, job: ReplayJob) -> Outcome:
        self._running.pop(job.key, None)
        self._report.forget(job.key)
        if finalizer_of(self.kind) not in job.finalizers:
            return Outcome()
        if not await nothing_to_undo(self._context, cluster_key(job.spec.cluster_ref, job.namespace), job.namespace):
            await self._stop_workers(job)
            await self._revoke(job)
        await let_go(self._context, job)
        return Outcome()

    async def _stop_workers(self, job: ReplayJob) -> None:
        await self._context.kube.delete("batch/v1", "Job", job.namespace, _objects(job).job)

    async def _revoke(self, job: ReplayJob) -> None:
        cluster = cluster_key(job.spec.cluster_ref, job.namespace)
        if await nothing_to_undo(self._context, cluster, job.namespace):
            return
        admin = await self._context.clusters.connect(job.spec.cluster_ref, job.namespace)
        await self._access.revoke(admin, planning.run_name(_key(job)))
        await self._context.kube.delete("v1", "Secret", job.namespace, _objects(job).job)

    async def _expire(self, job: ReplayJob) -> Outcome:
        outcome = self._until_ttl(job)
        if outcome.requeue_after == 0.0:
            await self._context.kube.delete("sluice.dev/v1alpha1", self.kind, job.namespace, job.name, uid=job.uid)
            return Outcome()
        return outcome

    def _until_ttl(self, job: ReplayJob) -> Outcome:
        ttl, ended = job.spec.ttl_seconds_after_finished, job.status.completion_time
        if ttl is None or ended is None:
            return Outcome()
        left = (ended + timedelta(seconds=ttl) - self._context.clock()).total_seconds()
        return Outcome(requeue_after=max(0.0, left))


def _key(job: ReplayJob) -> str:
    return planning.ledger_key(job.namespace, job.name, job.spec)


def _objects(job: ReplayJob) -> ReplayObjects:
    return ReplayObjects(job.name, job.namespace, job.uid, job.spec.cluster_ref.name, job.owner_reference())


def _assignment(job: ReplayJob, entry: LedgerEntry, route: Route) -> Assignment:
    """What the workers are told. Within one cluster positions stand under the source topic's own name."""
    plan = entry.plan
    source, target = job.spec.source.topic, job.spec.target.topic
    return Assignment(
        name=f"{job.namespace}/{job.name}",
        source=route.access,
        target=route.access,
        group=planning.run_name(entry.key),
        transactional_id_prefix=planning.run_name(entry.key),
        routes=(TopicRoute(source, plan.source_topic_id, target, plan.target_topic_id, source, entry.max_batch_bytes),),
        slices=tuple(Slice(0, p.partition, p.start, p.end, p.shard) for p in plan.partitions),
        from_ms=planning.milliseconds(plan.from_time),
        to_ms=planning.milliseconds(plan.to_time),
    )
