"""Between a replay's plan and its first effect: the plan is audited, and has the approvals that policies ask for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from sluice.api.objects import Cluster, ReplayJob
from sluice.api.replay import ReplayPlan
from sluice.api.replay_rewind import RewindStatus
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

    async def begin(
        self, job: ReplayJob, planned: str, topics: Iterable[str], **plan: ReplayPlan | RewindStatus
    ) -> tuple[ReplayJob, Outcome | None]:
        """The job as it begins; or as it waits, and until when.

        Args:
            job: whose plan was audited.
            planned: the plan in words.
            topics: names in Kafka of topics whose policies hold, beside the cluster's.
            plan: the plan, by its place in the status.

        Raises:
            KafkaUnreachableError, KafkaRefusedError: the audit can't be written, so nothing begins.
        """
        cluster = self._context.clusters.resolve(job.spec.cluster_ref, job.namespace)
        (plan_hash,) = (found.hash for found in plan.values())
        await self._trail.approvals(job, plan_hash)
        needed = approvals_needed(cluster, self._bodies(cluster, topics))
        ruling = rule(job.name, job.annotations, needed, plan_hash, job.status.approval)
        if ruling.waits is not None:
            await self._report.awaiting(job, planned, ruling.waits, **plan)
            return job, Outcome(requeue_after=_WAIT_SECONDS)
        if ruling.approval is not None and ruling.approval != job.status.approval:
            job = await self._report.approved(job, ruling.approval)
        return job, None

    def _bodies(self, cluster: Cluster, names: Iterable[str]) -> Iterator[Mapping[str, Any]]:
        """Bodies of the Topics that names in Kafka belong to."""
        owner = owners(self._context.index.of_cluster(cluster.key, "Topic"), cluster, claimed_name)
        for name in names:
            body = self._context.index.get(owner[name]) if name in owner else None
            if body is not None:
                yield body
