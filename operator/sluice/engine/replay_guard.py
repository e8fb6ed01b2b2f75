"""Between a replay's plan and its first effect: the plan is audited, and has the approvals that policies ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sluice.api.objects import Cluster, ReplayJob
from sluice.api.replay import ReplayPlan
from sluice.engine.reconciler import Context, Outcome
from sluice.engine.replay_status import ReplayReport
from sluice.engine.replay_trail import ReplayTrail
from sluice.engine.topic_deletion import claimed_name
from sluice.plan.ownership import owners
from sluice.plan.replay_approval import approvals_needed, rule

_WAIT_SECONDS: Final = 60.0
"""Between two looks at a replay that waits: approvals and the cluster's policy wake it at once, a Topic's only so."""


class ReplayGuard:
    """Lets replays begin. What has begun is never asked about again, whatever becomes of policies and annotations."""

    def __init__(self, context: Context, report: ReplayReport, trail: ReplayTrail) -> None:
        self._context = context
        self._report = report
        self._trail = trail

    async def begin(self, job: ReplayJob, plan: ReplayPlan) -> tuple[ReplayJob, Outcome | None]:
        """The job as it begins; or as it waits, and until when.

        Raises:
            KafkaUnreachableError, KafkaRefusedError: the audit can't be written, so nothing begins.
        """
        cluster = self._context.clusters.resolve(job.spec.cluster_ref, job.namespace)
        await self._trail.planned(job, plan)
        await self._trail.approvals(job, plan)
        needed = approvals_needed(cluster, self._topic(cluster, job.spec.target.topic))
        ruling = rule(job.name, job.annotations, needed, plan.hash, job.status.approval)
        if ruling.waits is not None:
            await self._report.awaiting(job, plan, ruling.waits)
            return job, Outcome(requeue_after=_WAIT_SECONDS)
        if ruling.approval is not None and ruling.approval != job.status.approval:
            job = await self._report.approved(job, ruling.approval)
        return job, None

    def _topic(self, cluster: Cluster, name: str) -> Mapping[str, Any] | None:
        """Body of the Topic that a name in Kafka belongs to."""
        bodies = self._context.index.of_cluster(cluster.key, "Topic")
        owner = owners(bodies, cluster, claimed_name).get(name)
        return self._context.index.get(owner) if owner else None
