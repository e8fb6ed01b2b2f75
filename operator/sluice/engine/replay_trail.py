"""What the audit is told of each replay: every fact before what follows from it, so that nothing happens unrecorded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from sluice.api.base import Reason
from sluice.api.objects import Key, ReplayJob
from sluice.api.replay import ReplayPhase, ReplayPlan, ReplayProgress
from sluice.engine import status as conditions
from sluice.engine.reconciler import Context
from sluice.kafka.errors import KafkaRefusedError
from sluice.plan.replay import ledger_key, run_name
from sluice.plan.replay_approval import REQUESTED_BY, approvals, broken_glass
from sluice.plan.replay_control import Act
from sluice.plan.rewind_model import RewindPlan
from sluice.replay.audit import TOPIC as AUDIT
from sluice.replay.audit import Audit, AuditRecord, Fact
from sluice.replay.internal_topic import keep_others_out
from sluice.replay.ledger import TOPIC as LEDGER

logger = logging.getLogger(__name__)

_ASKED: Final = {
    Act.SUSPEND: Fact.SUSPEND,
    Act.RESUME: Fact.RESUME,
    Act.CANCEL: Fact.CANCEL,
    Act.UNDO: Fact.UNDO,
}
_CHOSEN: Final = {"select", "exclude_replayed", "headers", "provenance"}
_ENDS: Final = {
    ReplayPhase.COMPLETED: Fact.COMPLETED,
    ReplayPhase.ALREADY_COMPLETED: Fact.ALREADY_COMPLETED,
    ReplayPhase.FAILED: Fact.FAILED,
    ReplayPhase.REFUSED: Fact.REFUSED,
    ReplayPhase.CANCELLED: Fact.CANCELLED,
    ReplayPhase.UNDONE: Fact.UNDONE,
}


class ReplayTrail:
    """Writes facts to the audit of the replay's cluster. Dry runs move nothing, and nothing is told of them.

    What this process has written it doesn't write again; what another one has, it does, and readers see it once.

    Every method raises what `Audit.write` raises.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._written: dict[Key, set[str]] = {}
        self._guarded: set[Key] = set()

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._written.pop(key, None)

    async def planned(self, job: ReplayJob, plan: ReplayPlan) -> None:
        """The range is frozen."""
        detail = {
            "requestedBy": job.annotations.get(REQUESTED_BY, ""),
            "source": job.spec.source.manifest(),
            "target": job.spec.target.manifest(),
            **job.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=_CHOSEN),
            "offsets": plan.offsets,
            "partitions": [[p.partition, p.start, p.end] for p in plan.partitions],
        }
        await self._write(job, self._record(job, Fact.PLANNED, plan.hash, detail))

    async def rewind_planned(self, job: ReplayJob, plan: RewindPlan) -> None:
        """Where positions go is frozen, or where they go back to."""
        detail = {
            "requestedBy": job.annotations.get(REQUESTED_BY, ""),
            "rewind": job.spec.rewind.manifest(),
            "positions": [[m.place.topic, m.place.partition, m.before, m.after] for m in plan.moved],
        }
        await self._write(job, self._record(job, Fact.PLANNED, plan.hash, detail))

    async def approvals(self, job: ReplayJob, plan_hash: str) -> None:
        """Whoever has approved the plan, or broken the glass, by now."""
        found = [
            self._record(job, Fact.APPROVED, plan_hash, {"by": one.user, "approvedAt": one.at}, one.user)
            for one in approvals(job.annotations)
            if one.plan_hash == plan_hash
        ]
        if (glass := broken_glass(job.annotations)) is not None:
            detail = {"by": glass.user, "reason": glass.reason, "brokenAt": glass.at}
            found.append(self._record(job, Fact.GLASS_BROKEN, plan_hash, detail, f"{glass.user} {glass.at}"))
        await self._write(job, *found)

    async def started(self, job: ReplayJob, plan_hash: str) -> None:
        """Records are about to be copied, or positions to be moved."""
        approval = job.status.approval.manifest() if job.status.approval else None
        detail = {"requestedBy": job.annotations.get(REQUESTED_BY, ""), "approval": approval}
        await self._write(job, self._record(job, Fact.STARTED, plan_hash, detail))

    async def asked(self, job: ReplayJob) -> None:
        """Whatever people asked for while it was there, by the tokens that they wrote."""
        handled = job.status.control.handled if job.status.control else []
        await self._write(
            job,
            *(
                self._record(job, _ASKED[Act(known.partition(":")[0])], "", {"token": known}, known)
                for known in handled
            ),
        )

    async def ended(
        self,
        job: ReplayJob,
        phase: ReplayPhase,
        message: str,
        plan_hash: str | None,
        measured: ReplayProgress | None,
    ) -> None:
        """It has come to an end, one way or the other; ``plan_hash`` unless it is the one in its status."""
        counts = {"records": measured.records, "bytes": measured.bytes} if measured else {}
        await self._write(
            job,
            self._record(job, _ENDS[phase], plan_hash or job.status.plan_hash or "", {**counts, "message": message}),
        )

    async def deleted(self, job: ReplayJob) -> None:
        """The object goes before the replay has ended; it doesn't wait for a cluster that refuses."""
        measured = job.status.progress
        counts = {"records": measured.records, "bytes": measured.bytes} if measured else {}
        try:
            await self._write(job, self._record(job, Fact.DELETED, job.status.plan_hash or "", counts))
        except KafkaRefusedError as error:
            logger.warning("%s is deleted, which the audit isn't told of: %s", job.key, error.message)

    def _record(
        self, job: ReplayJob, fact: Fact, plan_hash: str, detail: Mapping[str, Any], distinct: str = ""
    ) -> AuditRecord:
        return AuditRecord(
            fact=fact,
            at=conditions.stamp(self._context.clock()),
            job=f"{job.namespace}/{job.name}",
            uid=job.uid,
            run=run_name(ledger_key(job.namespace, job.name, job.spec)),
            plan_hash=plan_hash,
            distinct=distinct,
            detail=detail,
        )

    async def _write(self, job: ReplayJob, *records: AuditRecord) -> None:
        written = self._written.setdefault(job.key, set())
        new = [record for record in records if record.id not in written]
        if job.spec.dry_run or not new:
            return
        cluster = self._context.clusters.resolve(job.spec.cluster_ref, job.namespace)
        admin = await self._context.clusters.connect(job.spec.cluster_ref, job.namespace)
        # Once a process and cluster: rights that are there stay, unless an administrator takes them.
        guard = cluster.spec.external is None and cluster.key not in self._guarded
        try:
            if guard:
                await keep_others_out(admin, (AUDIT, LEDGER))
            undone = await Audit(admin, self._context.fence).write(new)
        except KafkaRefusedError as error:
            raise KafkaRefusedError(
                Reason.KAFKA_REFUSED,
                f"nothing is done about a replay that the audit isn't told of, and it can't be: {error.message}",
                code=error.code,
            ) from error
        if guard:
            self._guarded.add(cluster.key)
        written.update(record.id for record in new)
        if undone:
            self._context.events.publish(job, "Warning", Reason.KAFKA_REFUSED, undone, action="Audit")
